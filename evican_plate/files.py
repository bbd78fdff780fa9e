"""Files that are whole or not there: written beside their place, forced to the disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Iterable, Iterator

from evican_plate.errors import DiskFull, PlateError

__all__ = ["HashCache", "disk_full_named", "read_json", "replace_folder", "sync", "write_json", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Write a file that takes its name only when all of it is on the disk."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_text` does."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; PlateError where there is none or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlateError(f"{path}: cannot be read: {error}") from error


def sync(path: Path) -> None:
    """Force a file or the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network folders cannot
            raise
    finally:
        os.close(descriptor)


def replace_folder(partial: Path, final: Path) -> bool:
    """Let a folder take its final name; False where another process was first (its content is the same)."""
    for root, _, names in os.walk(partial):
        for name in names:
            sync(Path(root) / name)
        sync(Path(root))
    try:
        os.replace(partial, final)  # over an empty folder too
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    sync(final.parent)
    return True


@contextmanager
def disk_full_named(folder: Path) -> Iterator[None]:
    """Turn the system's 'no space left' into `DiskFull`, which says what to do."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(error):
            raise DiskFull(
                f"the disk of {folder} is full; free some space and run the same command again"
            ) from error
        raise


class HashCache:
    """SHA-256 of files, remembered as long as size, times and inode of a file stay the same.

    Nothing is taken for older or newer than anything else, so a clock that was set back does no harm.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, list[Any]] = {}
        self._lock = threading.Lock()
        if path.exists():
            try:
                self._known = read_json(path)
            except PlateError:
                self._known = {}  # only a memory; everything is read again

    def of(self, paths: Iterable[str]) -> dict[str, str]:
        """Return the hash of each file; the message of the error, after ``"!"``, for one that cannot be read."""
        paths = sorted(set(paths))
        with ThreadPoolExecutor(4) as pool:
            hashes = dict(zip(paths, pool.map(self._hash, paths)))
        self._known = {path: self._known[path] for path in paths if path in self._known}
        write_json(self.path, self._known)
        return hashes

    def _hash(self, path: str) -> str:
        try:
            stamp = stamp_of(path)
            with self._lock:
                known = self._known.get(path)
            if known and known[0] == stamp:
                return known[1]
            digest = sha256()
            with open(path, "rb") as file:
                while True:
                    block = file.read(1 << 20)
                    if not block:
                        break
                    digest.update(block)
        except OSError as error:
            return f"!cannot be read: {error.strerror or error}"
        with self._lock:
            self._known[path] = [stamp, digest.hexdigest()]
        return digest.hexdigest()


def stamp_of(path: str) -> list[int]:
    """Return what changes whenever a file does."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
