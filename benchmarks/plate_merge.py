"""Time and memory of merging against the number of cells: ``python benchmarks/plate_merge.py``.

The shards are generated (three object tables with as many columns as the morphology pipeline writes), so nothing is
segmented. Each size is merged in a process of its own, so that its peak memory is its own. Run it in the environment
of evican_plate (.venv/plate).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _where

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "plate")]
# images and mean number of cells in one: the last is a plate of 384 wells with 24 sites
SIZES = ((384, 50), (384, 500), (2304, 217), (9216, 217))
FEATURES = 60


def measure(images: int, cells: int, folder: Path) -> dict[str, float]:
    """Generate and merge one size in this process."""
    from generated import make_output

    from evican_plate.finish import finish
    from evican_plate.platemap import PlateMap

    wells = [f"{row}{column:02d}" for row in "ABCDEFGHIJKLMNOP" for column in range(1, 25)]
    if not (folder / "work").exists():
        make_output(folder, wells, sites=images // 384, cells=cells, features=FEATURES, shard_size=48)
        return {}
    from evican_plate.plan import Layout, load_plan

    layout = Layout(folder)
    plan = load_plan(layout.plan)
    about = {"command": "benchmark", "finished": "", "seconds": 0, "workers": 1}
    start, cpu = time.perf_counter(), time.process_time()
    with open(os.devnull, "w") as nowhere:
        finish(layout, plan, PlateMap(), [], about, nowhere)
    manifest = json.loads(layout.manifest.read_text(encoding="utf-8"))
    return {
        "cells": manifest["rows"]["cells"],
        "rows": sum(manifest["rows"].values()),
        "wall": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        **{
            name: (folder / name).stat().st_size / 1e6
            for name in ("cells.parquet", "cells.csv", "plate.sqlite")
        },
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--one", nargs=3, metavar=("IMAGES", "CELLS", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many of the sizes (default: all)")
    parser.add_argument("--load", default="unknown", help="what else the machine did, for the first line")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(int(options.one[0]), int(options.one[1]), Path(options.one[2]))))
        return 0
    print(
        f"# Merging a plate\n\n`python benchmarks/plate_merge.py`; {_where.machine()}, "
        f"commit {_where.commit()}. Other load: {options.load}. Merging uses one core.\n\n"
        "Three object tables of each number of cells (cells, nuclei, cytoplasm), each to Parquet, CSV and SQLite; "
        "wells, images and report are in the time.\n\n"
        "| images | cells | rows of all tables | wall s | CPU s | peak GB | cells.parquet MB | cells.csv MB | "
        "plate.sqlite MB |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for images, cells in SIZES[: options.sizes]:
        folder = Path(tempfile.mkdtemp(prefix="merge"))
        try:
            one = [sys.executable, __file__, "--one", str(images), str(cells), str(folder)]
            subprocess.run(one, check=True, capture_output=True)  # makes the shards
            found = json.loads(subprocess.run(one, check=True, capture_output=True, text=True).stdout)
        finally:
            shutil.rmtree(folder)
        print(
            f"| {images:,} | {found['cells']:,} | {found['rows']:,} | {found['wall']:.0f} | {found['cpu']:.0f} | "
            f"{found['peak']:.2f} | {found['cells.parquet']:,.0f} | {found['cells.csv']:,.0f} | "
            f"{found['plate.sqlite']:,.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
