"""``python -m evican_plate status RESULTS``: how far a run is, from what lies in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from evican_plate.errors import PlateError
from evican_plate.files import read_json
from evican_plate.finish import outcome_of
from evican_plate.locking import is_locked
from evican_plate.plan import Layout, load_plan
from evican_plate.progress import Progress

__all__ = ["status"]


def status(output_folder: Path, output: IO[str]) -> int:
    """Print how far a run is.

    Returns
    -------
    int
        0 when all is done, 3 when images failed, 1 when images are still to be run.

    Raises
    ------
    PlateError
        There was no run in the folder.
    """
    layout = Layout(output_folder.absolute())
    if not layout.lock.exists():
        raise PlateError(f"{output_folder}: is no output folder of evican_plate")
    plan = load_plan(layout.plan)
    running = is_locked(layout.lock)
    done, failures, _ = outcome_of(layout, plan)
    total = len(plan["images"])
    print(f"plate folder   {plan['folder']}", file=output)
    if running:
        known = {image["key"] for shard in plan["shards"] for image in plan["images"]
                 if image["number"] in set(shard["images"])}  # fmt: skip
        before = sum(image["key"] not in known for image in plan["images"])
        at_work, failed = Progress(layout.progress, total, before, 0, output).counts()
        print(f"running        {at_work} of {total} images done, {failed} failed", file=output)
        return 1
    if layout.stop.exists():
        print(f"stopped        {read_json(layout.stop)['message']}", file=output)
    waiting = sum(failure.stage == "run" for failure in failures)
    print(f"images         {len(done)} of {total} done", file=output)
    for failure in [failure for failure in failures if failure.stage != "run"][:20]:
        print(f"failed         {failure.file}: {failure.stage}: {failure.message}", file=output)
    complete = layout.manifest.exists()
    if waiting or not complete:
        print("not finished   run the same command again", file=output)
        return 1
    print(f"tables         complete, {read_json(layout.manifest)['finished']}", file=output)
    return 3 if failures else 0
