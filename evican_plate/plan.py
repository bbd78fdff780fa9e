"""What has to be run: each image has a key of all that its result depends on; keys without a result go into shards."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import psutil

from evican_model.errors import ImageError
from evican_model.images import read_image
from evican_plate.cellprofiler import CellProfiler
from evican_plate.errors import PlateError
from evican_plate.files import HashCache, read_json, stamp_of, write_json, write_text
from evican_plate.locking import is_locked
from evican_plate.pipeline import Pipeline
from evican_plate.plates import Failure, Found, ImageSet

__all__ = ["Layout", "Resources", "choose_resources", "done_images", "make_plan"]

FORMAT = 1  # of the folder below "work"; another one is not read
# For the choice of shard size and workers only, after benchmarks/plate_speed.md: a shard more cost 20 s of CPU there.
START_SECONDS, SECONDS_PER_IMAGE, SECONDS_PER_MEGAPIXEL = 20.0, 0.6, 3.0
WORKER_GIGABYTES, GIGABYTES_PER_MEGAPIXEL = 1.2, 0.1
SHARD_SECONDS = 180.0


@dataclass(frozen=True)
class Layout:
    """Where things are in an output folder."""

    output: Path

    @property
    def lock(self) -> Path:
        """Held while a run works here; its name marks an output folder."""
        return self.output / "evican_plate.lock"

    @property
    def work(self) -> Path:
        """All that a resumed run goes on from."""
        return self.output / "work"

    @property
    def plan(self) -> Path:
        """The present plan."""
        return self.work / "plan.json"

    @property
    def shards(self) -> Path:
        """A folder for each shard that is done."""
        return self.work / "shards"

    @property
    def progress(self) -> Path:
        """A file for each shard at work, with the number of its images that are done."""
        return self.work / "progress"

    @property
    def stop(self) -> Path:
        """Says why no shard can work, once one has found out."""
        return self.work / "stop.json"

    @property
    def manifest(self) -> Path:
        """Written last: there only when all tables are those of the plan."""
        return self.output / "run.json"

    def make(self) -> None:
        """Make the folders."""
        for folder in (self.work, self.shards, self.progress):
            folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Resources:
    """How the work is cut: results do not depend on it, except on ``threads``."""

    workers: int
    threads: int
    shard_size: int
    memory_mb: int  # of one worker


def choose_resources(
    images: Sequence[ImageSet], workers: int | None, threads: int, shard_size: int | None
) -> Resources:
    """Choose what was not given from the size of the first readable image, the cores and the free memory."""
    megapixels = _megapixels(images)
    gigabytes = WORKER_GIGABYTES + GIGABYTES_PER_MEGAPIXEL * megapixels
    if workers is None:
        try:
            cores = len(os.sched_getaffinity(0))
        except AttributeError:  # macOS
            cores = os.cpu_count() or 1
        free = psutil.virtual_memory().available / 1e9
        workers = max(1, min(cores // threads, int(free / gigabytes)))
    if shard_size is None:
        seconds = SECONDS_PER_IMAGE + SECONDS_PER_MEGAPIXEL * megapixels
        # at least two shards a worker, so that none waits long for another, but not so small that starts dominate
        fair = math.ceil(len(images) / (2 * workers))
        least = math.ceil(2 * START_SECONDS / seconds)
        shard_size = max(1, min(math.ceil(SHARD_SECONDS / seconds), max(fair, least)))
    return Resources(workers, threads, shard_size, math.ceil(1000 * gigabytes))


def _megapixels(images: Sequence[ImageSet]) -> float:
    for image in images[:20]:
        try:
            pixels = read_image(next(iter(image.files.values())))
        except ImageError:
            continue
        return float(np.prod(pixels.shape[:2])) / 1e6
    return 1.0


def make_plan(
    found: Found,
    pipeline: Pipeline,
    cellprofiler: CellProfiler,
    resources: Resources,
    layout: Layout,
    token: str,
) -> dict[str, Any]:
    """Decide what is to be run, and write it to ``work/plan.json``.

    Parameters
    ----------
    token : str
        Names this run, for its workers.

    Returns
    -------
    dict
        ``images`` (all that can be run, in order, each with its ``key``), ``shards`` (what is missing), ``failures``
        (found without running anything), ``token`` and what a worker needs.
    """
    layout.make()
    clean(layout)
    hashes = HashCache(layout.work / "hashes.json").of(
        path for image in found.images for path in image.files.values()
    )
    write_text(layout.work / "pipeline.cppipe", pipeline.text)
    common = json.dumps([FORMAT, pipeline.sha256, cellprofiler.identity, resources.threads], sort_keys=True)
    images: list[dict[str, Any]] = []
    failures = list(found.failures)
    for image in found.images:
        contents = {name: hashes[path] for name, path in image.files.items()}
        broken = [content[1:] for content in contents.values() if content.startswith("!")]
        if broken:
            failures.append(image.failure("read", broken[0]))
            continue
        names = {name: os.path.basename(path) for name, path in image.files.items()}
        place = [image.plate, image.well, image.site, image.time]
        key = hashlib.sha256(
            json.dumps([common, contents, names, place], sort_keys=True).encode()
        ).hexdigest()
        images.append({
            "number": len(images) + 1,
            "plate": image.plate,
            "well": image.well,
            "site": image.site,
            "time": image.time,
            "files": image.files,
            "stamps": {name: stamp_of(path) for name, path in image.files.items()},
            "key": key,
        })  # fmt: skip
    done = done_images(layout)
    _refuse_another_plate(found.folder, layout, {image["key"] for image in images}, done)
    missing = [image for image in images if image["key"] not in done]
    plan = {
        "format": FORMAT,
        "token": token,
        "folder": str(found.folder.absolute()),
        "pipeline": {
            "path": str(pipeline.path),
            "sha256": pipeline.sha256,
            "image": pipeline.image,
            "cells": pipeline.cells,
            "nuclei": pipeline.nuclei,
            "modules": pipeline.modules,
            "segment_module": pipeline.segment_module,
        },
        "cellprofiler": cellprofiler.as_dict(),
        "threads": resources.threads,
        "memory_mb": resources.memory_mb,
        "images": images,
        "failures": [vars(failure) for failure in failures],
        "shards": _shards(missing, resources.shard_size),
    }
    write_json(layout.plan, plan)
    return plan


def _refuse_another_plate(
    folder: Path, layout: Layout, keys: set[str], done: dict[str, dict[str, Any]]
) -> None:
    """Refuse to replace the tables of one plate by those of another; a plate that was only moved is the same."""
    if not layout.plan.exists():
        return
    before = Path(read_json(layout.plan)["folder"])
    if before != folder.absolute() and done and not keys & set(done):
        raise PlateError(f"{layout.output} has the results of {before}; name another --output for {folder}")


def _shards(missing: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Cut a list of images into shards. Saved images are named after their image, so no name may come twice in one."""
    shards: list[list[dict[str, Any]]] = []
    names: set[str] = set()
    for image in missing:
        mine = {os.path.splitext(os.path.basename(path))[0].casefold() for path in image["files"].values()}
        if not shards or len(shards[-1]) >= size or names & mine:
            shards.append([])
            names = set()
        shards[-1].append(image)
        names |= mine
    return [
        {
            "id": hashlib.sha256("".join(image["key"] for image in shard).encode()).hexdigest()[:20],
            "images": [image["number"] for image in shard],
        }
        for shard in shards
    ]


def done_images(layout: Layout) -> dict[str, dict[str, Any]]:
    """Return what is known of every image that has a result, by its key.

    Each entry has ``folder`` (of its tables), ``number`` (in them), ``saved`` (files) and ``quality``.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(layout.shards.glob("*/done.json")):
        record = read_json(path)
        if record.get("format") != FORMAT:
            continue
        for entry in record["images"]:
            found.setdefault(
                entry["key"], {**entry, "folder": str(path.parent / entry["run"]), "shard": path.parent.name}
            )
    return found


def clean(layout: Layout) -> None:
    """Remove what runs that were killed have left, and shards of which nothing is of use."""
    remove_leftovers(layout)
    for path in layout.shards.glob("[!.]*"):
        if not (path / "done.json").exists() or not read_json(path / "done.json")["images"]:
            shutil.rmtree(path)
    parts = [*layout.work.glob(".*.part"), *layout.output.glob(".*.part")]
    for path in [*layout.progress.iterdir(), layout.stop, *parts]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_leftovers(layout: Layout) -> None:
    """Remove the folders of workers that were killed; those at work hold a lock."""
    for path in layout.shards.glob(".*.part"):
        if not is_locked(path / "lock"):
            shutil.rmtree(path, ignore_errors=True)


def remove_unused(layout: Layout, plan: dict[str, Any]) -> None:
    """Remove shards that the plan has no use for (of images, pipelines or settings that are no more)."""
    wanted = {image["key"] for image in plan["images"]}
    used = {entry["shard"] for key, entry in done_images(layout).items() if key in wanted}
    for path in layout.shards.iterdir():
        if path.name not in used and not path.name.startswith("."):
            shutil.rmtree(path)


def load_plan(path: Path) -> dict[str, Any]:
    """Read a plan; PlateError if there is none of this version."""
    if not path.exists():
        raise PlateError(f"{path.parent.parent}: no run was started here ({path.name} is missing)")
    plan = read_json(path)
    if plan.get("format") != FORMAT:
        raise PlateError(f"{path}: of another version of evican_plate; use a new output folder")
    return plan


def failures_of(plan: dict[str, Any]) -> list[Failure]:
    """Return the failures that were found when the plan was made."""
    return [Failure(**failure) for failure in plan["failures"]]
