"""The Dagster instance, whose SQLite files stay open; named in `.dagster/dagster.yaml`.

Every process opens it before the code location, so it is not in the package: that is imported from the current folder.

Dagster opens and closes a file for each event, and compiles its statements anew. 20 materializations with ten checks each take
7.2 s of CPU time that way, and 2.9 s with files that stay open.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import dagster as dg
from dagster._core.event_api import EventHandlerFn
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage, SqliteEventLogStorageWatchdog
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import QueuePool

MAX_FILES = 16
"""The number of files of events that a process keeps open: that of all assets, and one for each of the last runs."""
POLL_SECONDS = 0.5
"""The time after which the page of a run shows what is new."""


class LocalInstance(dg.DagsterInstance):
    """An instance whose storage, unless its settings name one, is an `OpenSqliteStorage`."""

    @classmethod
    def config_schema(cls) -> Mapping[str, Any]:
        return {}

    @classmethod
    def config_defaults(cls, base_dir: str) -> Mapping[str, ConfigurableClassData | None]:
        # By its settings, a storage would get the folder from the environment, where a script may not have it.
        storage = ConfigurableClassData(__name__, OpenSqliteStorage.__name__, f"base_dir: {json.dumps(base_dir)}")
        return {**InstanceRef.config_defaults(base_dir), "storage": storage}


class OpenSqliteStorage(DagsterSqliteStorage):
    """Dagster's default storage in `base_dir`, with the same files, so that processes with either can share them."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None):
        super().__init__(base_dir, inst_data)
        self._run_storage = _RunStorage(self._run_storage._conn_string)
        self._event_log_storage = _EventLogStorage(self._event_log_storage._base_dir)
        self._schedule_storage = _ScheduleStorage(self._schedule_storage._conn_string)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Any) -> "OpenSqliteStorage":
        return cls.from_local(config_value["base_dir"], inst_data)


def _engine(address: str) -> Engine:
    return create_engine(
        address,
        # By default, SQLAlchemy 1 closes a file after each use.
        poolclass=QueuePool,
        max_overflow=-1,
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
    )


class _InOneFile:
    """A storage whose only file is at the `address`."""

    def __init__(self, address: str):
        super().__init__(address)  # type: ignore[call-arg]
        self._engine = _engine(address)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        self._engine.dispose()


class _RunStorage(_InOneFile, SqliteRunStorage):
    pass


class _ScheduleStorage(_InOneFile, SqliteScheduleStorage):
    pass


class _EventLogStorage(SqliteEventLogStorage):
    def __init__(self, base_dir: str):
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._ended: dict[tuple[str, EventHandlerFn], Event] = {}
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        if shard not in self._initialized_dbs:
            # Creates the file and its tables.
            with super()._connect(shard):
                pass
        # One thread at a time, as in Dagster's own: no engine is in use when another one takes its place.
        with self._db_lock:
            if shard not in self._engines:
                self._engines[shard] = _engine(self.conn_string_for_shard(shard))
            self._engines.move_to_end(shard)
            if len(self._engines) > MAX_FILES:
                self._engines.popitem(last=False)[1].dispose()
            with self._engines[shard].begin() as connection:
                yield connection

    def _close(self) -> None:
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()

    def watch(self, run_id: str, cursor: str | None, callback: EventHandlerFn) -> None:
        # Dagster's own waits for a change of the file, but what an open file gains is in the log beside it, and is written there
        # before it can be read.
        ended = self._ended[run_id, callback] = Event()
        new_events = SqliteEventLogStorageWatchdog(self, run_id, callback, cursor)

        def poll() -> None:
            while not ended.wait(POLL_SECONDS):
                new_events._process_log()

        Thread(target=poll, name=f"events of {run_id}", daemon=True).start()

    def end_watch(self, run_id: str, handler: EventHandlerFn) -> None:
        ended = self._ended.pop((run_id, handler), None)
        if ended is not None:
            ended.set()

    def wipe(self) -> None:
        self._close()
        super().wipe()

    def dispose(self) -> None:
        for ended in list(self._ended.values()):
            ended.set()
        super().dispose()
        self._close()
