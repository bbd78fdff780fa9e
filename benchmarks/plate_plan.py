"""What 1,000 plates take, from what was measured: ``python benchmarks/plate_plan.py``.

It reads plate_speed.md and plate_merge.md and scales by pixels and by rows. CPU seconds are used, as they depend little
on what else a machine does.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLATES, IMAGES, CELLS, SIDE = 1000, 9216, 2_000_000, 1080
CORES = 256


def cells_of(text: str, first: str) -> list[str]:
    """Return the cells of the last row of a table that starts with a text."""
    rows = [line for line in text.splitlines() if line.startswith(f"| {first}")]
    return [cell.strip() for cell in rows[-1].strip("|").split("|")]


def main() -> int:
    """Print the table."""
    speed, merge = ((HERE / f"plate_{name}.md").read_text(encoding="utf-8") for name in ("speed", "merge"))
    measured = int(re.search(r"^(\d+) images \(", speed, re.MULTILINE)[1])
    cpu = float(cells_of(speed, "evican_plate, 2 workers")[4])
    size = float(re.search(r"Mean size of an image: ([\d.]+)", speed)[1])
    kept, files = map(float, re.search(r"Kept of an image: ([\d.]+) MB in ([\d.]+) files", speed).groups())
    last = cells_of(merge, "9,216")
    rows, merging = float(last[1].replace(",", "")), float(last[4])
    parquet, csv, sqlite = (float(cell.replace(",", "")) for cell in last[6:9])
    # Cells, nuclei and cytoplasm are alike; the SQLite file holds all three.
    tables = (parquet + csv) * 3 + sqlite
    larger = SIDE * SIDE / 1e6 / size
    segmenting = cpu / measured * larger * IMAGES / 3600
    merging_hours = merging * CELLS / rows / 3600
    disk = kept * larger * IMAGES / 1000
    raw = SIDE * SIDE * 2 / 1e9 * IMAGES
    print(
        f"# A plan for {PLATES:,} plates\n\n`python benchmarks/plate_plan.py`: {IMAGES:,} images of {SIDE} x {SIDE} "
        f"pixels (16 bit) and {CELLS:,} cells each; scaled by pixels and rows from plate_speed.md and "
        f"plate_merge.md. Nothing of this size was run.\n\n| | a plate | {PLATES:,} plates |\n| --- | --- | --- |"
    )
    for what, one, unit in [
        ("core hours of CellProfiler", segmenting, ""),
        (f"hours on {CORES} cores", segmenting / CORES, ""),
        ("hours of merging, one core", merging_hours, ""),
        ("GB of images", raw, ""),
        ("GB kept in work/ (overlays and label images above all)", disk, ""),
        ("GB of final tables", tables / 1000 * CELLS / rows, ""),
        ("files in work/", files * IMAGES, ""),
    ]:
        print(f"| {what} | {one:,.{0 if one >= 100 else 1}f}{unit} | {one * PLATES:,.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
