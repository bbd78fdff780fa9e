"""A run: plan, Snakemake over the shards, then tables and report."""

from __future__ import annotations

import datetime
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from evican_plate.attempt import write_load_data
from evican_plate.cellprofiler import find_cellprofiler
from evican_plate.errors import DiskFull, PlateError
from evican_plate.files import disk_full_named, read_json
from evican_plate.finish import finish
from evican_plate.locking import die_with_parent, exclusive, run_token
from evican_plate.pipeline import DEFAULT_PIPELINE, Pipeline, read_pipeline
from evican_plate.plan import (
    Layout,
    choose_resources,
    done_images,
    make_plan,
    remove_leftovers,
    remove_unused,
)
from evican_plate.platemap import PlateMap, read_platemap
from evican_plate.plates import Found, draw, scan
from evican_plate.progress import Progress

__all__ = ["Options", "run"]

_WORKFLOW = Path(__file__).parent / "workflow"
_POLL_SECONDS = 0.5
_GOODBYE_SECONDS = 30


@dataclass(frozen=True)
class Options:
    """What the command line says of a run."""

    folder: Path
    output: Path
    pipeline: Path = DEFAULT_PIPELINE
    pattern: str | None = None
    channels: tuple[str, ...] = ()
    z: str | None = None
    platemap: Path | None = None
    controls: str | None = None
    workers: int | None = None
    threads: int = 1
    shard_size: int | None = None
    profile: str | None = None
    cellprofiler: str | None = None
    plugins: Path | None = None
    clean: bool = False
    command: str = ""


def run(options: Options, output: IO[str]) -> int:
    """Run a plate, or go on with it.

    Returns
    -------
    int
        0 when all images are done, 3 when some failed, 1 when none is done.

    Raises
    ------
    PlateError
        Something is wrong with the input or the machine as a whole. What is done stays done.
    """
    pipeline = read_pipeline(options.pipeline, options.folder.absolute())
    found = scan(options.folder, _channels(options.channels, pipeline.image), options.pattern, options.z)
    platemap = read_platemap(options.platemap, options.controls) if options.platemap else PlateMap()
    print(f"file names as {found.pattern.name}: {found.pattern.example}\n{draw(found)}", file=output)
    _tell_left_out(found, output)
    layout = Layout(options.output.absolute())
    with disk_full_named(layout.output):
        layout.output.mkdir(parents=True, exist_ok=True)
        with exclusive(layout.lock):
            return _run_locked(options, pipeline, found, platemap, layout, output)


def _run_locked(
    options: Options, pipeline: Pipeline, found: Found, platemap: PlateMap, layout: Layout, output: IO[str]
) -> int:
    """Do all that changes the output folder; returns the exit code."""
    cellprofiler = find_cellprofiler(options.cellprofiler, options.plugins, pipeline.weights)
    resources = choose_resources(found.images, options.workers, options.threads, options.shard_size)
    plan = make_plan(found, pipeline, cellprofiler, resources, layout, run_token())
    wells = {(image["plate"], image["well"]) for image in plan["images"]}
    if plan["images"]:
        more = {well: platemap.of(*well) for well in wells}
        write_load_data(layout.output / "load_data.csv", plan["images"], more)
    start = time.monotonic()
    if plan["shards"]:
        missing = sum(len(shard["images"]) for shard in plan["shards"])
        workers = options.profile or f"{resources.workers} worker{'s' * (resources.workers > 1)}"
        shards = f"{len(plan['shards'])} shard{'s' * (len(plan['shards']) > 1)}"
        print(f"{missing} of {len(plan['images'])} images to run, {shards}, {workers}", file=output)
        _run_shards(layout, plan, resources.workers, options.profile, output)
        remove_leftovers(layout)
    provenance = {
        "command": options.command,
        "finished": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - start, 1),
        "workers": options.profile or resources.workers,
    }
    code = finish(layout, plan, platemap, found.unplaced, provenance, output)
    if options.clean:
        remove_unused(layout, plan)
    return code


def _channels(given: tuple[str, ...], image: str) -> dict[str, str | None]:
    """Return the channel for each image that the pipeline loads: ``1`` or ``Name=1``."""
    channels: dict[str, str | None] = {image: None}
    for text in given:
        name, equals, channel = text.rpartition("=")
        channels[name if equals else image] = channel
    return channels


def _tell_left_out(found: Found, output: IO[str]) -> None:
    if found.unplaced:
        names = ", ".join(found.unplaced[:5]) + (", ..." if len(found.unplaced) > 5 else "")
        print(f"not placed, and left out: {len(found.unplaced)} files ({names})", file=output)
    for failure in found.failures[:10]:
        print(f"left out: {failure.file}: {failure.message}", file=output)


def _run_shards(
    layout: Layout, plan: dict[str, Any], workers: int, profile: str | None, output: IO[str]
) -> None:
    """Let Snakemake run the shards, and show how far it is."""
    before = len(done_images(layout).keys() & {image["key"] for image in plan["images"]})
    total = len(plan["images"])
    progress = Progress(layout.progress, total, before, 0, output)
    log = layout.work / "snakemake.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            _snakemake(layout, workers, profile, plan),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
        try:
            while process.poll() is None:
                progress.show()
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()  # cancels what runs on a cluster; local workers end when we do
                try:
                    process.wait(_GOODBYE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
    progress.show(last=True)
    if layout.stop.exists():
        stop = read_json(layout.stop)
        raise (DiskFull if stop["kind"] == "DiskFull" else PlateError)(stop["message"])
    said = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode and "No space left on device" in said:
        raise DiskFull(f"the disk of {layout.output} is full; free some space and run the same command again")
    if process.returncode < 0:
        raise PlateError(
            f"the workflow was ended by signal {-process.returncode}; run the same command again"
        )
    if process.returncode and not any(layout.shards.glob("*/done.json")):
        raise PlateError("the workflow could not be run:\n" + "\n".join(said.strip().splitlines()[-15:]))


def _snakemake(layout: Layout, workers: int, profile: str | None, plan: dict[str, Any]) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(_WORKFLOW / "Snakefile")]
    command += ["--directory", str(layout.work), "--nolock", "--keep-going", "--ignore-incomplete"]
    command += ["--rerun-triggers", "mtime", "--quiet", "rules"]
    # The lock is ours, and what has to be run is decided by content hashes.
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    if profile is None:
        command += ["--cores", str(workers * plan["threads"])]
    else:
        shipped = _WORKFLOW / profile
        folder = shipped if (shipped / "config.yaml").exists() else Path(profile)
        if not any((folder / name).exists() for name in ("config.yaml", "config.v8+.yaml")):
            raise PlateError(
                f"--profile {profile}: neither a profile of evican_plate nor a folder with config.yaml"
            )
        command += ["--workflow-profile", str(folder.absolute())]
        if _slurm_keeps_no_accounts():
            # the executor asks sacct otherwise, which knows of no job then
            command += ["--slurm-status-command", "squeue"]
    return [*command, "--config", f"plan={layout.plan}", f"python={sys.executable}", f"path={path}"]


def _slurm_keeps_no_accounts() -> bool:
    try:
        shown = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=30
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return (
        re.search(r"^AccountingStorageType\s*=\s*(accounting_storage/none|\(null\))", shown, re.MULTILINE)
        is not None
    )


def command_line(arguments: list[str]) -> str:
    """Return the command as it could be typed again."""
    return shlex.join(["python", "-m", "evican_plate", *arguments])
