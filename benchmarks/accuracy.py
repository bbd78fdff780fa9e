"""Average precision of weights on annotated sets, as a table.

    python benchmarks/accuracy.py NAME=annotations.json:images ... [--weights W] [--blank N]

Masks, pooled COCO evaluation, cap 1000 detections, object scale automatic. Images that the weights were trained on are
left out. `--blank N` counts what is found, at the working confidence, in N synthetic empty fields.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

import evican_model
from evican_model.augment import blank_sample
from evican_model.config import TrainConfig
from evican_model.dataset import read_dataset
from evican_model.evaluate import average_precision, trained_on
from evican_model.images import read_image

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=JSON:IMAGES")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--blank", type=int, default=0, metavar="N")
    options = parser.parse_args()
    model = evican_model.load_model(options.weights)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    names = " ".join(one.split("=")[0] for one in options.sets)
    print("# Accuracy of the bundled weights on images they were not trained on\n")
    print(f"`python benchmarks/accuracy.py` on {names}; commit {commit.strip()}, weights {options.weights}, SHA-256 "
          f"{model.info.sha256[:12]}. Masks, pooled COCO, cap 1000, automatic scale.\n")  # fmt: skip
    print("| set | images (left out) | category | objects | AP | AP50 | AP75 | AP50 after flattening |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for one in options.sets:
        name, _, place = one.partition("=")
        annotations, _, images = place.partition(":")
        items = read_dataset(annotations, images, model.config.categories)
        known = trained_on(items, model.info.training)
        items = [item for item in items if item not in known]
        pairs = [(item, model.detect(read_image(item.path))) for item in items]
        flat = [(item, found.without_duplicates().without_overlaps()) for item, found in pairs]
        for category in model.config.categories:
            row = average_precision(pairs, category)
            if row["objects"]:
                print(f"| {name} | {row['images']} ({len(known)}) | {category} | {row['objects']} | {row['AP']:.3f} | "
                      f"{row['AP50']:.3f} | {row['AP75']:.3f} | {average_precision(flat, category)['AP50']:.3f} |",
                      flush=True)  # fmt: skip
    if options.blank:
        training = TrainConfig(crop=512, seed=1)
        found = [
            len(
                model.segment(
                    blank_sample(np.random.default_rng([7, i]), model.config, training)["image"][..., 0]
                )
            )
            for i in range(options.blank)
        ]
        print(f"\nIn {options.blank} synthetic empty fields of 512 x 512 pixels: {sum(found)} false finds, in "
              f"{sum(n > 0 for n in found)} of the fields.")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
