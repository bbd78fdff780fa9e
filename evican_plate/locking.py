"""Locks that the system frees when a process ends, whatever ends it, and a way for workers to outlive no run."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Iterator

from evican_plate.errors import OutputInUse

__all__ = ["die_with_parent", "exclusive", "is_locked", "run_token", "run_is_alive"]


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of an output folder.

    Raises
    ------
    OutputInUse
        Another process holds it; the message says which.
    """
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = file.read().strip() or "unknown"
            raise OutputInUse(
                f"{path.parent}: another run works here ({holder}); wait for it or stop it"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8") as file:
        yield file


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock of a file."""
    if not path.exists():
        return False
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def hold(path: Path) -> IO[str]:
    """Take a lock that nobody else wants and keep it as long as the file that is returned is open."""
    file = open(path, "w", encoding="utf-8")  # noqa: SIM115  closed by its owner
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def run_token() -> str:
    """Name this process so that workers, also on other machines, can tell whether it still runs."""
    return json.dumps([socket.gethostname(), os.getpid(), _started(os.getpid())])


def run_is_alive(token: str) -> bool:
    """Whether the run of a token still works; True where this cannot be known (on another machine)."""
    host, process, started = json.loads(token)
    if host != socket.gethostname():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(process) == started


def _started(process: int) -> str:
    """Return the start time of a process in the system's own count, which no change of the clock touches."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    state, *_ = text.rpartition(")")[2].split()
    return "" if state == "Z" else text.rpartition(")")[2].split()[19]


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends (Linux; elsewhere nothing). For ``preexec_fn``."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
