"""CPU seconds of a whole evaluation, as a table: ``python benchmarks/evaluation_speed.py``.

Synthetic: 1,000 images of 1024 x 1024 pixels with 50 cells and 50 nuclei each, of the size that the network takes for
typical (64 and 32 pixels across), and results of a made-up tool that misses some, doubles some and finds false ones.
The command is run as a user runs it, from reading the JSON files to the finished report; seconds are those of the CPU,
so that other load on the machine matters less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import _where
import numpy as np
from PIL import Image

from evican_model.runs import write_outline

SIDE = 1024
RADII = {1: 32.0, 2: 16.0}  # of cells and nuclei, pixels


def ellipse(rng: np.random.Generator, y: float, x: float, radius: float) -> tuple[list[int], np.ndarray]:
    """Return the box and mask of an ellipse near a place, cut to the image."""
    tall, wide = radius * rng.uniform(0.7, 1.3, 2)
    y1, x1 = max(0, int(y - tall)), max(0, int(x - wide))
    y2, x2 = min(SIDE, int(y + tall) + 1), min(SIDE, int(x + wide) + 1)
    rows, columns = np.mgrid[y1:y2, x1:x2]
    return [y1, x1, y2, x2], ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 <= 1


def make_data(folder: Path, images: int) -> tuple[int, int]:
    """Write images, annotations.json and results.json; returns the number of true and of found objects."""
    rng = np.random.default_rng(0)
    content: dict[str, list] = {"images": [], "annotations": [],
                                "categories": [{"id": 1, "name": "Cell"}, {"id": 2, "name": "Nucleus"}]}  # fmt: skip
    results = []
    for number in range(1, images + 1):
        name = f"{number:04d}.png"
        shade = np.add.outer(np.arange(SIDE), np.arange(SIDE) * (1 + number % 5)) // 24 + number
        Image.fromarray(shade.astype(np.uint8)).save(folder / name, compress_level=1)
        content["images"].append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        places = rng.permutation([(y, x) for y in range(80, 1000, 124) for x in range(80, 1000, 124)])[:50]
        for y, x in places + rng.normal(0, 12, (50, 2)):
            for category, radius in RADII.items():
                box, crop = ellipse(rng, y, x, radius)
                outline = write_outline(box, crop, (SIDE, SIDE))
                content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": number,
                                               "category_id": category, "iscrowd": 0,
                                               "segmentation": outline})  # fmt: skip
                for _ in range(rng.choice([0, 1, 2], p=[0.1, 0.7, 0.2])):
                    moved = np.array([y, x]) + rng.normal(0, radius / 8, 2)
                    results.append(_result(rng, number, category, moved, radius, rng.beta(5, 1)))
        for _ in range(15):
            category = int(rng.integers(1, 3))
            place = rng.uniform(60, 960, 2)
            results.append(_result(rng, number, category, place, RADII[category], rng.beta(1, 2)))
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))
    return len(content["annotations"]), len(results)


def _result(rng, image_id: int, category_id: int, place: np.ndarray, radius: float, score: float) -> dict:
    box, crop = ellipse(rng, place[0], place[1], radius)
    return {"image_id": image_id, "category_id": category_id, "score": float(score),
            "segmentation": write_outline(box, crop, (SIDE, SIDE))}  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    print("# Speed of `python -m evican_model.evaluate`\n")
    print(f"`python {' '.join(sys.argv)}`; {_where.machine()}, NumPy "
          f"{np.__version__}, commit {_where.commit()}; load of the machine before "
          f"{os.getloadavg()[0]:.1f}.\n")  # fmt: skip
    print(
        "| images | true objects | found | bootstrap samples | CPU s | peak GB |\n| --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        true, found = make_data(folder, options.images)
        for samples in (0, 1000):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-m", "evican_model.evaluate", "--annotations", folder / "annotations.json",
                            "--images", folder, "--results", folder / "results.json", "--bootstrap", str(samples),
                            "--output", folder / "report"], check=True, stdout=subprocess.DEVNULL,
                           env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"| {options.images} | {true} | {found} | {samples} | {spent:.1f} | {after.ru_maxrss / 2**20:.2f} |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
