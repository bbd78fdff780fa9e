"""Weights of different trainings side by side: ``python benchmarks/ablation.py LABEL=weights.h5 ... --set ...``.

A row for each: what it was trained with (from its training record), AP50 and AP75 of every set and category, false
finds in synthetic empty fields, and what an image costs. A set that the weights were trained on, in part or whole, is
marked with a star: its figures say what was learnt by heart as well.
"""

from __future__ import annotations

import argparse
import sys
import time

import _where
import numpy as np
from inference_speed import mirrored
from tqdm import tqdm

import evican_model
from evican_model.augment import blank_sample
from evican_model.config import TrainConfig
from evican_model.dataset import read_categories, read_dataset
from evican_model.evaluate import average_precision
from evican_model.evaluate.ground_truth import read_scenes, split_trained
from evican_model.images import read_image


def training_of(record: dict) -> str:
    """Say in a few words how weights were trained."""
    settings = record.get("training", {})
    images = sum(len(one["sha256"]) for one in record.get("datasets", []))
    rate = f"rate {settings.get('learning_rate', 0):g} x {settings.get('backbone_rate', 1):g} in the backbone"
    size = f"{settings.get('batch', 0)} x {settings.get('crop', 0)}²"
    return f"{record.get('step', 0)} steps of {size}, {rate}, {images} images"


def false_finds(model, fields: int) -> str:
    """Count what is found at the working confidence in empty fields."""
    training, found = TrainConfig(crop=512, seed=1), []
    for i in range(fields):
        sample = blank_sample(np.random.default_rng([7, i]), model.config, training)
        found.append(len(model.segment(sample["image"][..., 0])))
    return f"{sum(found)} in {sum(n > 0 for n in found)} of {fields}"


def costs(models: list, turns: int = 5) -> list[float]:
    """Measure CPU seconds of an image of 1024 x 1024 pixels: the median of turns in which all models have one."""
    image = mirrored(1024)
    taken = []
    for _ in range(turns + 1):  # the first is not counted
        taken.append([])
        for model in models:
            begin = time.process_time()
            model.segment(image, cell_diameter=model.config.cell_diameter)
            taken[-1].append(time.process_time() - begin)
    return np.median(taken[1:], 0).tolist()


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", nargs="+", metavar="LABEL=H5")
    parser.add_argument("--set", action="append", required=True, dest="sets", metavar="NAME=JSON:IMAGES")
    parser.add_argument("--images", type=int, default=24, help="of each set, evenly spread (default: 24)")
    parser.add_argument("--blank", type=int, default=24, help="empty fields (default: 24)")
    options = parser.parse_args()
    rows, heads = [], None
    labels, paths = zip(*(one.split("=", 1) for one in options.weights))
    models = [evican_model.load_model(path) for path in paths]
    for label, model, cost in zip(labels, models, costs(models)):
        cells, names = [], []
        for place in options.sets:
            name, _, where = place.partition("=")
            annotations, images = where.split(":")
            items = read_dataset(annotations, images, read_categories(annotations))
            items = items[:: max(1, len(items) // options.images)][: options.images]
            scenes = read_scenes(annotations, images).scenes
            star = "*" if split_trained(scenes, [model.info.training])[1] else ""
            pairs = [(item, model.detect(read_image(item.path))) for item in tqdm(items, desc=f"{label}, {name}")]
            for category in items[0].truth.categories:
                if any(item.truth.count(category) for item in items):
                    figures = average_precision(pairs, category)
                    cells.append(f"{figures['AP50']:.3f} / {figures['AP75']:.3f}{star}")
                    names.append(f"{name} {category}")
        heads = heads or names
        rows.append([label, training_of(model.info.training), *cells, false_finds(model, options.blank), f"{cost:.2f}"])
    print(f"`python benchmarks/ablation.py --images {options.images} --blank {options.blank}`; commit "
          f"{_where.commit()}. AP50 / AP75 of masks, pooled COCO, at most 1000 detections an image, automatic "
          "scale. CPU s: of segment() on 1024 x 1024 pixels, all in turn.\n")  # fmt: skip
    heads = ["weights", "trained", *(heads or []), "false finds", "CPU s"]
    print(f"| {' | '.join(heads)} |\n" + "| --- " * len(heads) + "|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
