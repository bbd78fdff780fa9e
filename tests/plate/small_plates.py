"""Small plates made of the example images, and the real command on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "pipelines" / "example_plate").glob("*.jpg"))
# with a space and letters that are not ASCII, as people name things
PLATE = "Plättchen 7"
WELLS = ["A01", "A02", "B01", "B02"]


def make_plate(folder, wells, size=160):
    """Write a small TIFF for each well: a piece of an example image that has cells in it."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, well in enumerate(wells):
        with Image.open(EXAMPLES[i % len(EXAMPLES)]) as image:
            gray = image.convert("L")
        x, y = (gray.width - size) // 2, (gray.height - size) // 2
        gray.crop((x, y, x + size, y + size)).save(folder / f"{PLATE}_{well}_s1_w1.tif")
    return folder


def environment():
    """Return the variables with which commands find this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def evican_plate(*arguments, timeout=900):
    """Run the command; return its exit code and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "evican_plate", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    return done.returncode, done.stdout


def run(plate, output, cellprofiler, *options):
    """Run a plate; return its exit code and all that it printed."""
    return evican_plate("run", plate, "--output", output, "--cellprofiler", cellprofiler, *options)


def tables(output):
    """Return the content of all final tables, which must be the same to the byte."""
    names = [
        path.name
        for path in output.iterdir()
        if path.suffix in (".parquet", ".csv", ".sqlite", ".properties")
    ]
    return {name: (output / name).read_bytes() for name in sorted(names)}
