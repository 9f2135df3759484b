"""Starts PostgreSQL, moto's S3 server and Redis in a folder, on free ports of this machine, and ends them.

The data is not kept, and the passwords protect nothing: these are for tests and for trying the cluster out.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

PASSWORD = "secret-of-the-local-cluster"
START_SECONDS = 60


class ServerError(Exception):
    """A server is not installed, or does not start."""


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server on this machine."""

    port: int

    def url(self, database: str) -> str:
        return f"postgresql://lake:{PASSWORD}@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgres(folder: Path, databases: tuple[str, ...] = ("lake",)) -> Iterator[Postgres]:
    """Run a new PostgreSQL in `folder`, with a user `lake` who owns the `databases`.

    Raises:
        ServerError: it is not installed, or does not start.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not programs and (found := shutil.which("initdb")):
        programs = [Path(found).parent]
    if not programs:
        raise ServerError("PostgreSQL is not installed. On Debian: apt-get install postgresql")
    bin_folder = programs[-1]
    folder.mkdir(parents=True)
    as_user = []
    # PostgreSQL refuses to run as root. Debian's package has made this user.
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    data, password_file, port = folder / "data", folder / "password", free_port()
    password_file.write_text(PASSWORD)
    control = [*as_user, bin_folder / "pg_ctl", "-D", data]
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": 200,
    }
    initdb = f"-U lake -A scram-sha-256 -E UTF8 --locale=C --no-sync --pwfile={password_file}"
    _run([*as_user, bin_folder / "initdb", "-D", data, *initdb.split()], folder)
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    _run([*control, "-l", folder / "log", "-o", options, "-w", "start"], folder)
    try:
        for database in databases:
            _run([bin_folder / "createdb", "-h", "127.0.0.1", "-p", port, "-U", "lake", database], folder)
        yield Postgres(port)
    finally:
        _run([*control, "-m", "immediate", "-w", "stop"], folder)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run Redis with its data in `folder`; the block gets its URL.

    Raises:
        ServerError: it is not installed, or does not start.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise ServerError("Redis is not installed. On Debian: apt-get install redis-server")
    folder.mkdir(parents=True)
    port = free_port()
    options = ["--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
    with running([program, *map(str, options)], folder / "log", lambda: accepts(port)):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def s3(folder: Path, bucket: str) -> Iterator[dict[str, str]]:
    """Run moto's S3 server with an empty `bucket`; the block gets the environment variables that lead to it.

    Raises:
        ServerError: it does not start.
    """
    folder.mkdir(parents=True)
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, folder / "log", lambda: accepts(port)):
        with urlopen(Request(f"{endpoint}/{bucket}", method="PUT"), timeout=10):
            pass
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_REGION": "us-east-1",
        }


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(command: Sequence[object], folder: Path) -> None:
    environ = {**os.environ, "PGPASSWORD": PASSWORD}
    # To a file: the server would keep a pipe open for ever.
    with (folder / "commands.log").open("a+") as log:
        done = subprocess.run(list(map(str, command)), cwd="/", env=environ, stdout=log, stderr=log, check=False)
        if done.returncode:
            log.seek(0)
            raise ServerError(f"{' '.join(map(str, command))} failed:\n{log.read()[-2000:]}")


@contextmanager
def running(
    command: Sequence[str], log: Path, is_ready: Callable[[], bool], **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process, with its output in `log`, from when it `is_ready` to the end of the block.

    Raises:
        ServerError: it did not start.
    """
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        # In a group of its own: Ctrl-C is for this process, which ends the others in their order.
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **options)
        stack.callback(_end, process)
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"{' '.join(command)} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield process


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # What it started and left.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def accepts(port: int) -> bool:
    """True if something listens on `port` of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
