"""The end of a run: tables and report of all that is done, a list of all that is not, and the exit code."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import shutil
from pathlib import Path
from typing import IO, Any

import evican_model
from evican_plate.files import disk_full_named, read_json, sync, write_json, write_text
from evican_plate.locking import exclusive
from evican_plate.merge import merge
from evican_plate.plan import FORMAT, Layout, done_images, failures_of, load_plan
from evican_plate.platemap import PlateMap
from evican_plate.plates import Failure, ImageSet
from evican_plate.report import write_report
from evican_plate.saved import publish_saved
from evican_plate.tables import escaped_text

__all__ = ["finish", "outcome_of", "report_again"]

_COLUMNS = ("plate", "well", "site", "time", "file", "stage", "message")


def finish(
    layout: Layout,
    plan: dict[str, Any],
    platemap: PlateMap,
    unplaced: list[str],
    provenance: dict[str, Any],
    output: IO[str],
) -> int:
    """Write failures.csv, and, unless they are there already, tables and report.

    Returns
    -------
    int
        0 when all images are done, 3 when some failed, 1 when none is done.
    """
    last = {"platemap": platemap.to_json(), "unplaced": unplaced, "provenance": provenance}
    write_json(layout.work / "last.json", last)
    done, failures, failed = outcome_of(layout, plan)
    _write_failures(layout.output / "failures.csv", failures)
    write_text(layout.output / "unplaced.txt", "".join(f"{name}\n" for name in unplaced))
    if not done:
        layout.manifest.unlink(missing_ok=True)
        print(f"no image could be used; {layout.output / 'failures.csv'} says why", file=output)
        return 1
    content = _content_key(plan, done, failures, platemap)
    if not _is_current(layout, content):
        layout.manifest.unlink(missing_ok=True)
        partial = layout.output / ".tables.part"
        partial.mkdir()
        print("merging", file=output)
        merged = merge(partial, plan, done, failed, platemap)
        saved = publish_saved(layout, plan, done)
        facts = {**provenance, **_provenance(plan, done)}
        write_report(partial / "report.html", plan, merged, failures, saved, facts, layout.output)
        names = sorted(os.listdir(partial))
        _drop_old_tables(layout)
        for name in names:
            sync(partial / name)
            os.replace(partial / name, layout.output / name)
        partial.rmdir()
        sync(layout.output)
        files = {name: (layout.output / name).stat().st_size for name in names}
        write_json(layout.manifest, {"content": content, "files": files, "rows": merged.rows, **facts})
    rows = ", ".join(f"{count} {name}" for name, count in read_json(layout.manifest)["rows"].items())
    print(f"tables in {layout.output}: {rows}\nreport: {layout.output / 'report.html'}", file=output)
    if failures:
        print(f"{len(failures)} failed: {layout.output / 'failures.csv'}", file=output)
    return 3 if failures else 0


def report_again(folder: Path, output: IO[str]) -> int:
    """Write tables and report anew, of all that is done so far; returns an exit code as `finish` does.

    Raises
    ------
    PlateError
        There was no run in the folder, or one is at work there.
    """
    layout = Layout(folder.absolute())
    plan = load_plan(layout.plan)
    with disk_full_named(layout.output), exclusive(layout.lock):
        last = read_json(layout.work / "last.json")
        platemap = PlateMap.from_json(last["platemap"])
        layout.manifest.unlink(missing_ok=True)
        for part in layout.output.glob(".*.part"):
            shutil.rmtree(part)
        return finish(layout, plan, platemap, last["unplaced"], last["provenance"], output)


def outcome_of(
    layout: Layout, plan: dict[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[Failure], set[int]]:
    """Return what is done (by key), all failures in the order of the plan, and the numbers of failed images."""
    wanted = {image["key"] for image in plan["images"]}
    done = {key: entry for key, entry in done_images(layout).items() if key in wanted}
    said: dict[str, tuple[str, str]] = {}
    present = {shard["id"] for shard in plan["shards"]}
    for path in layout.shards.glob("*/done.json"):
        newest = path.parent.name in present
        for entry in read_json(path)["failures"]:
            if newest or entry["key"] not in said:
                said[entry["key"]] = (entry["stage"], entry["message"])
    failures = failures_of(plan)
    failed = set()
    for image in plan["images"]:
        if image["key"] not in done:
            stage, message = said.get(
                image["key"], ("run", "its shard ended before it was done, see work/snakemake.log; run again")
            )
            place = ImageSet(image["plate"], image["well"], image["site"], image["time"], image["files"])
            failures.append(place.failure(stage, message))
            failed.add(image["number"])
    return done, failures, failed


def _write_failures(path: Path, failures: list[Failure]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for failure in failures:
        writer.writerow([escaped_text(getattr(failure, column)) for column in _COLUMNS])
    write_text(path, text.getvalue())


def _content_key(
    plan: dict[str, Any], done: dict[str, dict[str, Any]], failures: list[Failure], platemap: PlateMap
) -> str:
    """Hash all that the tables depend on; what only says where and how it was run is left out."""
    images = [[image["key"], image["files"], image["key"] in done] for image in plan["images"]]
    wells = sorted((list(key), row) for key, row in (platemap.wells or {}).items())
    what = [FORMAT, evican_model.__version__, images, platemap.columns, wells, platemap.control]
    what += [[vars(failure) for failure in failures]]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _is_current(layout: Layout, content: str) -> bool:
    if not layout.manifest.exists():
        return False
    manifest = read_json(layout.manifest)
    return manifest.get("content") == content and all(
        (layout.output / name).is_file() and (layout.output / name).stat().st_size == size
        for name, size in manifest["files"].items()
    )


def _drop_old_tables(layout: Layout) -> None:
    """Remove tables of an earlier run, which may have had other object sets."""
    for pattern in ("*.parquet", "plate.sqlite", "plate.properties", "report.html"):
        for path in layout.output.glob(pattern):
            path.unlink()
            path.with_suffix(".csv").unlink(missing_ok=True)
    shutil.rmtree(layout.output / ".images.part", ignore_errors=True)


def _provenance(plan: dict[str, Any], done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "plate_folder": plan["folder"],
        "images": len(plan["images"]),
        "images_done": len(done),
        "pipeline": plan["pipeline"],
        "cellprofiler": plan["cellprofiler"],
        "threads": plan["threads"],
        "evican_plate": evican_model.__version__,
        "machine": platform.platform(),
        "python": platform.python_version(),
    }
