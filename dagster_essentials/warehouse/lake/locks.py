"""The locks of a lake: advisory locks in the PostgreSQL that has its catalogue, so they hold for every process that uses it.

PostgreSQL frees them when the connection that took them ends, also if its process was killed. DuckLake itself reports a
conflict only when one transaction deletes: of four that loaded the same new month at once, all four were committed.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2

from dagster_essentials.errors import ConnectionLostError, DatabaseBusyError

_KEY = "hashtextextended(%s, 0)"
# A machine that is gone without closing its connections keeps its locks for a minute.
_KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
CONNECTION_OPTIONS: Mapping[str, int] = {"connect_timeout": 10, **_KEEPALIVES}
"""Of each connection to the catalogue, for libpq. Without them, one that was cut off is waited for without an end."""


def connect_catalog(catalog: str) -> Any:
    """A connection to PostgreSQL, in autocommit mode.

    Raises:
        psycopg2.Error: it cannot be reached, does not accept the user, or the connection string is invalid.
    """
    name = f"taxi trips, process {os.getpid()} on {socket.gethostname()}"[:63]
    session = psycopg2.connect(catalog, application_name=name, **CONNECTION_OPTIONS)
    session.autocommit = True
    with session.cursor() as cursor:
        for setting, seconds in _KEEPALIVES.items():
            cursor.execute(f"SET tcp_{setting} = {seconds}")
        # Looks for an interrupt and a lost connection every second.
        cursor.execute("SET lock_timeout = '1s'")
    return session


class CatalogLocks:
    """The locks of one connection to a lake, taken by a `session` of its own in the catalogue's PostgreSQL."""

    def __init__(self, session: Any, wait_seconds: float, log: Callable[[str], object]):
        self._session, self._wait_seconds, self._log = session, wait_seconds, log

    def hold(self, name: str) -> None:
        """Wait until no other session has the lock `name`, and keep it until this one is closed. It may be taken again.

        Raises:
            DatabaseBusyError: another process has had it for `wait_seconds`.
            ConnectionLostError: the session was lost.
        """
        deadline = time.monotonic() + self._wait_seconds
        is_logged = False
        while True:
            try:
                self._query(f"SELECT pg_advisory_lock({_KEY})", name)
                return
            except psycopg2.errors.LockNotAvailable:
                holder = self._holder(name)
            if time.monotonic() >= deadline:
                raise DatabaseBusyError(
                    f"Another process ({holder}) was at work on {name} in the lake for the {self._wait_seconds:.0f} seconds "
                    "that DUCKDB_WAIT_SECONDS allows, and nothing was changed. Wait until it ends, or end it, and "
                    "materialize again."
                )
            if not is_logged:
                self._log(f"waiting for {name}: {holder} is at work on it; {self._wait_seconds:.0f} seconds at most.")
                is_logged = True

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Wait for the lock `name` as `hold` does, with its errors, and keep it for the block."""
        self.hold(name)
        try:
            yield
        finally:
            # If the session was lost, so was the lock. What is committed by now was confirmed before.
            with suppress(ConnectionLostError):
                self._query(f"SELECT pg_advisory_unlock({_KEY})", name)

    def confirm(self) -> None:
        """Check that the session, and so each of its locks, was not lost.

        Raises:
            ConnectionLostError: it was.
        """
        self._query("SELECT 1")

    def _holder(self, name: str) -> str:
        found = self._query(
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' "
            # A server may have several lakes, each with a lock of this name.
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            f"AND granted AND (classid::bigint << 32 | objid::bigint) = {_KEY}",
            name,
        )
        return found[0][0] if found and found[0][0] else "another process"

    def _query(self, sql: str, *values: str) -> Sequence[Any]:
        try:
            with self._session.cursor() as cursor:
                cursor.execute(sql, values or None)
                return list(cursor.fetchall())
        except psycopg2.errors.LockNotAvailable:
            raise
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise ConnectionLostError(str(error).strip().partition("\n")[0] or "no answer") from None
