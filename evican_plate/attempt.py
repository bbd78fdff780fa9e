"""One start of CellProfiler over some images, and what came of it."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Sequence

from evican_plate.checks import IncompleteError, NotSegmentedError, check_run
from evican_plate.errors import DiskFull
from evican_plate.locking import die_with_parent
from evican_plate.plan import Layout

__all__ = ["Attempt", "Killed", "SetupError", "load_data_rows", "try_images"]

STALL_SECONDS = 3600.0  # without a line in the log; the largest images take minutes
_POLL_SECONDS = 0.25
_LEAST_FREE_BYTES = 4 << 20
_NO_SPACE = re.compile(r"No space left on device|errno = 28\b|Errno 28\b|Disk quota exceeded")
_MODULE = re.compile(r"Image # (\d+), module (\w+) # (\d+)")
_ERROR = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt)\b.*$", re.MULTILINE)


class SetupError(Exception):
    """CellProfiler cannot run the pipeline, whatever the image."""


class Killed(Exception):
    """CellProfiler was ended by a signal, or by us because nothing moved."""


@dataclass
class Attempt:
    """What came of a start: complete, or an error and, if it shows, the index of the image at fault."""

    folder: Path
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: Exception | None = None
    suspect: int | None = None
    started: bool = True  # False: it ended before the first image

    @property
    def complete(self) -> bool:
        """Whether all images were segmented and all rows are there."""
        return self.error is None


def try_images(
    plan: dict[str, Any],
    images: Sequence[dict[str, Any]],
    layout: Layout,
    folder: Path,
    watch: Callable[[int], None],
) -> Attempt:
    """Run CellProfiler over images and check what it wrote.

    Parameters
    ----------
    folder : Path
        For the tables; it must not exist. It is removed again unless the attempt is complete.
    watch : callable
        Called several times a second with the number of images segmented so far; may raise to end CellProfiler.

    Raises
    ------
    SetupError
        It failed before the first image and no image is to blame.
    DiskFull
    """
    folder.mkdir()
    log = folder / "cellprofiler.log"
    table = folder / "load_data.csv"
    scratch = folder / "tmp"
    scratch.mkdir()
    write_load_data(table, images, {})
    command = _command(plan, table, layout, folder)
    try:
        code = _run(command, log, scratch, plan["threads"], watch)
        attempt = _judge(plan, images, folder, log, code)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not attempt.complete:
        shutil.rmtree(folder, ignore_errors=True)
    return attempt


def load_data_rows(
    images: Sequence[dict[str, Any]], more: dict[tuple[str, str], dict[str, str]]
) -> list[dict[str, Any]]:
    """Return the rows of a LoadData table: files, plate, well, row, column, site and time, and columns of the wells."""
    rows = []
    for image in images:
        row = {}
        for name, path in image["files"].items():
            row[f"Image_FileName_{name}"] = os.path.basename(path)
            row[f"Image_PathName_{name}"] = os.path.dirname(path)
        letters = image["well"].rstrip("0123456789")
        row.update({
            "Metadata_Plate": image["plate"],
            "Metadata_Well": image["well"],
            "Metadata_Row": letters,
            "Metadata_Column": int(image["well"][len(letters) :]),
            "Metadata_Site": image["site"],
            "Metadata_Time": image["time"],
        })  # fmt: skip
        row.update(more.get((image["plate"], image["well"]), {}))
        rows.append(row)
    return rows


def write_load_data(
    path: Path, images: Sequence[dict[str, Any]], more: dict[tuple[str, str], dict[str, str]]
) -> None:
    """Write a LoadData table."""
    rows = load_data_rows(images, more)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _command(plan: dict[str, Any], table: Path, layout: Layout, folder: Path) -> list[str]:
    from evican_plate.cellprofiler import CellProfiler

    cellprofiler = CellProfiler(**plan["cellprofiler"])
    return cellprofiler.arguments(layout.work / "pipeline.cppipe", table, Path(plan["folder"]), folder)


def _run(command: list[str], log: Path, scratch: Path, threads: int, watch: Callable[[int], None]) -> int:
    """Run a command until it ends; whatever else happens, it does not outlive us."""
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0"}
    # The last digits of scores depend on how sums are split among threads, so their number is part of the plan.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        environment[name] = str(threads)
    environment["TF_NUM_INTEROP_THREADS"] = "1"
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=die_with_parent,
        )
        try:
            return _wait(process, log, watch)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, watch: Callable[[int], None]) -> int:
    read, segmented, rest = 0, 0, b""
    moved = time.monotonic()
    while True:
        code = process.poll()
        with open(log, "rb") as file:
            file.seek(read)
            news = file.read()
        read += len(news)
        lines = (rest + news).split(b"\n")
        rest = lines.pop()
        segmented += sum(b", module SegmentEVICAN # " in line for line in lines)
        watch(segmented)
        if code is not None:
            return code
        if news:
            moved = time.monotonic()
        elif time.monotonic() - moved > STALL_SECONDS:
            process.kill()
            return process.wait()
        time.sleep(_POLL_SECONDS)


def _judge(
    plan: dict[str, Any], images: Sequence[dict[str, Any]], folder: Path, log: Path, code: int
) -> Attempt:
    text = log.read_text(encoding="utf-8", errors="replace")
    if code == 0:
        try:
            return Attempt(folder, tables=check_run(folder, images, plan["pipeline"]))
        except NotSegmentedError as error:
            _check_space(folder, text)
            raise SetupError(str(error)) from error
        except IncompleteError as error:
            _check_space(folder, text)
            return Attempt(folder, error=error)
    _check_space(folder, text)
    modules = _MODULE.findall(text)
    if code < 0 or code == 137:
        number = -code if code < 0 else 9
        message = f"CellProfiler was ended by signal {number}"
        if number == signal.SIGKILL:
            message += ", perhaps for want of memory"
        suspect = _suspect(modules, plan, len(images))
        return Attempt(folder, error=Killed(message), suspect=suspect, started=bool(modules))
    errors = [line.strip() for line in _ERROR.findall(text)]
    message = errors[-1] if errors else (text.strip().splitlines() or ["no message"])[-1]
    named = [
        i
        for i, image in enumerate(images)
        if any(path in line for line in errors for path in image["files"].values())
    ]
    if not modules and len(named) != 1:
        raise SetupError(f"CellProfiler stopped before the first image (exit code {code}): {message}")
    suspect = named[0] if not modules else _suspect(modules, plan, len(images))
    return Attempt(folder, error=IncompleteError(message), suspect=suspect)


def _suspect(modules: list[tuple[str, str, str]], plan: dict[str, Any], images: int) -> int | None:
    """Return the index of the image that was at work when the log ends."""
    if not modules:
        return None
    number, _, module = modules[-1]
    index = int(number) - 1 + (int(module) >= plan["pipeline"]["modules"])
    return index if index < images else None


def _check_space(folder: Path, log: str) -> None:
    if _NO_SPACE.search(log) or shutil.disk_usage(folder).free < _LEAST_FREE_BYTES:
        raise DiskFull(f"the disk of {folder} is full; free some space and run the same command again")
