"""Processes that never outlive the block that started them."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from fedsim.engines.app import EngineError

GRACE = 3.0
"""Seconds between asking a process to end and ending it."""


class Processes:
    """Processes of one run, each the leader of a group of its own, with its output in a log of its own."""

    def __init__(self, logs: Path, env: Mapping[str, str]) -> None:
        self._logs = logs
        self._env = dict(env)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str, **env: str) -> "subprocess.Popen[bytes]":
        """Start a command under this name, with further environment variables."""
        path = self._env.get("PATH")
        executable = shutil.which(command[0], path=path)
        if executable is None:
            raise EngineError(f"{command[0]}: not found; is flwr installed in {sys.prefix}?")
        # An interruption between the fork and the entry would leave a process that nobody knows of.
        with self.log(name).open("wb") as log, _uninterrupted():
            self._running[name] = subprocess.Popen(
                [executable, *command[1:]],
                env={**self._env, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._running[name]

    def log(self, name: str) -> Path:
        """Return the file that holds what the process has printed."""
        return self._logs / f"{name}.log"

    def tail(self, name: str, lines: int = 30) -> str:
        """Return the last lines of a process's log."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.log(name).read_text(errors="replace"))
        return "\n".join(text.splitlines()[-lines:])

    def last(self, name: str) -> str:
        """Return the line of the log that says most: the last exception, or else the last one."""
        lines = [line.strip() for line in self.tail(name).splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Stopped)\b.*:", line)]
        return (errors or lines or ["it printed nothing"])[-1]

    def check(self, *names: str) -> None:
        """Raise EngineError if one of these processes has ended."""
        for name in names:
            code = self._running[name].poll()
            if code is not None:
                raise EngineError(f"{name} ended with exit code {code}: {self.last(name)}", self.tail(name))

    def end(self) -> None:
        """End all processes and what they started: politely, then for good."""
        for process in self._running.values():
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
        for process in self._running.values():
            _signal_group(process, signal.SIGKILL)  # the leader's children as well, where it left any
            process.wait()
        self._running.clear()


@contextmanager
def processes(logs: Path, env: Mapping[str, str]) -> Iterator[Processes]:
    """Yield Processes, all of which end with the block, also where SIGINT or SIGTERM ends it."""
    started = Processes(logs, env)
    with _terminable():
        try:
            yield started
        finally:
            with _uninterrupted():
                started.end()


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that `finally` runs; only the main thread may."""
    if not _in_main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block has ended; only the main thread receives any."""
    if not _in_main_thread():
        yield
        return
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in held:
            signal.raise_signal(each)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def python_environment() -> dict[str, str]:
    """Return the environment in which a process finds this Python's scripts and what we can import."""
    paths = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join(paths),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
