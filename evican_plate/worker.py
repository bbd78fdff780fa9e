"""One shard: ``python -m evican_plate.worker PLAN SHARD``, started by Snakemake, on any machine that sees the folders.

It works in a folder of its own and gives it its final name when all of it is checked and on the disk.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from evican_model.errors import ImageError
from evican_model.images import check_complete
from evican_plate.attempt import Attempt, Killed, SetupError, try_images
from evican_plate.errors import DiskFull, PlateError
from evican_plate.files import disk_full_named, replace_folder, stamp_of, write_json
from evican_plate.locking import hold, run_is_alive
from evican_plate.plan import FORMAT, Layout, load_plan
from evican_plate.quality import image_quality

__all__ = ["main", "run_shard"]


@dataclass
class _Shard:
    """The state of a shard at work."""

    layout: Layout
    plan: dict[str, Any]
    id: str
    folder: Path
    done: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    tables: dict[str, dict[str, Any]]
    runs: int = 0

    def fail(self, image: dict[str, Any], stage: str, message: str) -> None:
        self.failed.append({"key": image["key"], "stage": stage, "message": message})
        self.show(0)

    def show(self, at_work: int) -> None:
        """Tell the progress line how many images are done and failed."""
        path = self.layout.progress / self.id
        path.write_text(f"{len(self.done) + at_work} {len(self.failed)}", encoding="ascii")


def run_shard(plan_path: Path, shard_id: str) -> None:
    """Run a shard of a plan and publish its folder.

    Raises
    ------
    PlateError
        The shard cannot be done now: the run that wants it has ended, the disk is full, or CellProfiler cannot work
        at all. Nothing is published then.
    """
    layout = Layout(plan_path.parent.parent)
    plan = load_plan(plan_path)
    wanted = next((shard["images"] for shard in plan["shards"] if shard["id"] == shard_id), None)
    if wanted is None:
        raise PlateError(f"{plan_path}: has no shard {shard_id}; a newer run has replaced the plan")
    if layout.stop.exists():
        raise PlateError("another shard has found that CellProfiler cannot work")
    folder = layout.shards / f".{shard_id}.{socket.gethostname()}.{os.getpid()}.part"
    folder.mkdir(parents=True)
    try:
        with disk_full_named(layout.output), hold(folder / "lock"):
            shard = _Shard(layout, plan, shard_id, folder, [], [], {})
            numbers = set(wanted)
            _work(shard, [image for image in plan["images"] if image["number"] in numbers])
            _publish(shard)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _work(shard: _Shard, images: list[dict[str, Any]]) -> None:
    """Leave out what cannot be read, run the rest, and divide what fails until the image at fault is alone."""
    readable = []
    for image in images:
        problem = _unreadable(image)
        if problem:
            shard.fail(image, "read", problem)
        else:
            readable.append(image)
    waiting = [(readable, 1)] if readable else []
    while waiting:
        batch, tries = waiting.pop()
        outcome = _attempt(shard, batch)
        if outcome.complete:
            _keep(shard, batch, outcome)
            continue
        changed = [image for image in batch if _unreadable(image)]
        if isinstance(outcome.error, Killed) and tries < 2 and not changed:
            waiting.append((batch, tries + 1))  # a kill need not be an image's fault
        elif not outcome.started:
            raise PlateError(f"{outcome.error}, twice before its first image")
        elif len(batch) == 1:
            shard.fail(batch[0], "segment", str(outcome.error))
        else:
            waiting += [(part, 1) for part in reversed(_divide(batch, outcome.suspect))]


def _divide(batch: list[dict[str, Any]], suspect: int | None) -> list[list[dict[str, Any]]]:
    """Cut a batch around the image that seems to be at fault, or into halves."""
    if suspect is None:
        middle = len(batch) // 2
        return [batch[:middle], batch[middle:]]
    parts = [batch[:suspect], batch[suspect : suspect + 1], batch[suspect + 1 :]]
    return [part for part in parts if part]


def _unreadable(image: dict[str, Any]) -> str:
    """Say what is wrong with the files of an image, or nothing."""
    for name, path in image["files"].items():
        try:
            check_complete(path)
            if stamp_of(path) != image["stamps"][name]:
                return f"{path}: changed while the plate was run; run again"
        except (ImageError, OSError) as error:
            return str(error)
    return ""


def _attempt(shard: _Shard, batch: list[dict[str, Any]]) -> Attempt:
    shard.runs += 1
    token = shard.plan["token"]

    def watch(images: int) -> None:
        shard.show(images)
        if not run_is_alive(token):
            raise PlateError("the run that started this shard has ended")

    return try_images(shard.plan, batch, shard.layout, shard.folder / f"run{shard.runs}", watch)


def _keep(shard: _Shard, batch: list[dict[str, Any]], outcome: Attempt) -> None:
    """Take over the images of an attempt that is complete."""
    files = _saved_files(outcome.folder, batch)
    name = shard.plan["pipeline"]["image"]
    for number, image in enumerate(batch, 1):
        problem = _unreadable(image)
        if problem:
            shard.fail(image, "read", problem)
            continue
        shard.done.append({
            "key": image["key"],
            "run": outcome.folder.name,
            "number": number,
            "saved": files.get(image["number"], []),
            "quality": image_quality(Path(image["files"][name])),
        })  # fmt: skip
    for table, description in outcome.tables.items():
        known = shard.tables.setdefault(table, {"columns": [], "text": []})
        for what in ("columns", "text"):
            known[what] += [column for column in description[what] if column not in known[what]]
    shard.show(0)


def _saved_files(folder: Path, batch: Sequence[dict[str, Any]]) -> dict[int, list[str]]:
    """Return, by image number, the files that the pipeline saved: their names begin with that of the image."""
    stems = {
        os.path.splitext(os.path.basename(path))[0]: image
        for image in batch
        for path in image["files"].values()
    }
    saved: dict[int, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() not in (".csv", ".log", ".txt"):
            fitting = [stem for stem in stems if path.name.startswith(stem)]
            if fitting:
                image = stems[max(fitting, key=len)]
                saved.setdefault(image["number"], []).append(path.relative_to(folder).as_posix())
    return saved


def _publish(shard: _Shard) -> None:
    record = {
        "format": FORMAT,
        "id": shard.id,
        "images": shard.done,
        "failures": shard.failed,
        "tables": shard.tables,
    }
    write_json(shard.folder / "done.json", record)
    (shard.folder / "lock").unlink()
    replace_folder(shard.folder, shard.layout.shards / shard.id)


def main(arguments: Sequence[str]) -> int:
    """Run as a command: 0 when the shard is done (failed images included), 1 otherwise."""
    # so that CellProfiler is ended too, and the folder removed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan, shard = Path(arguments[0]), arguments[1]
    try:
        run_shard(plan, shard)
    except (PlateError, SetupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, (SetupError, DiskFull)):
            # No other shard can do better. The folder is gone by now, so there is room for a line even on a full disk.
            write_json(Layout(plan.parent.parent).stop, {"kind": type(error).__name__, "message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
