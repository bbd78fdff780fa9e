"""Check what CellProfiler wrote for the example plate, and print it as a table.

    python script/demo_table.py OUTPUT IMAGES

OUTPUT is the folder with Image.csv and cellprofiler.log, IMAGES the number of images that must be in it.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

OBJECTS = ("Cells", "Nuclei", "Cytoplasm")


class DemoError(Exception):
    """A result that is missing or wrong."""


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; DemoError where there is none."""
    if not path.is_file():
        raise DemoError(f"CellProfiler wrote no {path.name}; {path.parent / 'cellprofiler.log'} says why")
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check(output: Path, rows: list[dict[str, str]], images: int) -> None:
    """Raise DemoError unless every image has its row, objects, overlay and label images."""
    if len(rows) != images:
        raise DemoError(f"{output / 'Image.csv'} has {len(rows)} rows; there are {images} images")
    for row in rows:
        for column, value in row.items():
            if column.startswith("ModuleError_") and value not in ("0", "0.0"):
                raise DemoError(f"{row['FileName_Unstained']}: {column} is {value!r}; expected 0")
    for name in OBJECTS:
        written, counted = len(read_table(output / f"{name}.csv")), sum(count(row, name) for row in rows)
        if written != counted:
            raise DemoError(f"{output / name}.csv has {written} rows; Image.csv counts {counted}")
    if not sum(count(row, "Cells") for row in rows):
        raise DemoError(f"no cell was found in any image of {output / 'Image.csv'}")
    read_table(output / "Experiment.csv")
    for pattern in ("overlays/*_overlay.png", "labels/*_cells.tiff", "labels/*_nuclei.tiff"):
        found = len(list(output.glob(pattern)))
        if found != images:
            raise DemoError(f"{output / pattern}: {found} files; there are {images} images")


def count(row: dict[str, str], objects: str) -> int:
    """Return the number of objects of an image; Image.csv writes it as a float."""
    return int(float(row[f"Count_{objects}"]))


def seconds_of_images(log: Path) -> dict[int, float]:
    """Return, by image number, the wall time that SegmentEVICAN took. Image.csv has CPU time only."""
    line = re.compile(r"Image # (\d+), module SegmentEVICAN # \d+: .*Wall_time = ([\d.]+) secs")
    return {int(number): float(seconds) for number, seconds in line.findall(log.read_text(errors="replace"))}


def print_table(rows: list[dict[str, str]], seconds: dict[int, float]) -> None:
    """Print a line an image and a line of totals."""
    width = max(len(row["FileName_Unstained"]) for row in rows)
    print(f"\n{'image':<{width}}  {'cells':>6}  {'nuclei':>6}  {'seconds':>7}")
    for row in rows:
        taken = seconds.get(int(row["ImageNumber"]))
        shown = "-" if taken is None else f"{taken:.2f}"
        cells, nuclei = count(row, "Cells"), count(row, "Nuclei")
        print(f"{row['FileName_Unstained']:<{width}}  {cells:>6}  {nuclei:>6}  {shown:>7}")
    cells, nuclei = (sum(count(row, name) for row in rows) for name in ("Cells", "Nuclei"))
    print(f"{f'{len(rows)} images':<{width}}  {cells:>6}  {nuclei:>6}  {sum(seconds.values()):>7.2f}")
    print("(seconds in SegmentEVICAN; the first image includes starting TensorFlow)\n")


def main() -> int:
    """Run as a command: 0 when all results are there, 1 otherwise."""
    output, images = Path(sys.argv[1]), int(sys.argv[2])
    try:
        rows = read_table(output / "Image.csv")
        check(output, rows, images)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_table(rows, seconds_of_images(output / "cellprofiler.log"))
    print(f"tables    {output}/Image.csv, Cells.csv, Nuclei.csv, Cytoplasm.csv, Experiment.csv")
    print(f"outlines  {output}/overlays/   (cells orange, nuclei blue)")
    print(f"labels    {output}/labels/     (TIFF: 0 is background, 1, 2, 3 ... are the objects)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
