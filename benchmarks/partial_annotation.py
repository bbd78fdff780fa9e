r"""Three ways to train on images in which most objects are not outlined, at equal compute, as a table.

    python benchmarks/partial_annotation.py --weights imagenet.h5 --output runs/partial \
        --set brifiseg/train.json:brifiseg/images:brifiseg/val.json \
        --set usiigaci/train.json:usiigaci/images:usiigaci/val.json

Of every training image 30 % of the outlines are kept, drawn at random; the rest are hidden from the training. All runs
see the same windows of the same images in the same order, start from the same weights and take the same steps. They
differ in what becomes of the hidden objects: ``background``, ``blur`` (the paper's) or ``ignore`` (loss masking).
``all`` has every outline, to show what the hidden ones are worth. AP is that of completely outlined validation images.
It asks only whether the better finds come first; what a user gets at the working confidence of 0.5 or 0.7 is told by
recall and precision there (IoU 0.5).

A run that is there already (its ``result.json``) is neither done nor judged again: a table is printed from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import _where
import numpy as np
from confidence import hits  # the benchmark beside this one

from evican_model.augment import natural_scale
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.dataset import AnnotatedImage, read_categories, read_dataset
from evican_model.evaluate import average_precision
from evican_model.model import load_model

WAYS = ("background", "blur", "ignore", "all")
CONFIDENCES = (0.5, 0.7)


def thinned(items: list[AnnotatedImage], share: float, seed: int) -> list[AnnotatedImage]:
    """Hide all but a share of each image's outlines, at least one."""
    found = []
    for number, item in enumerate(items):
        count = max(1, round(share * len(item.truth)))
        rng = np.random.default_rng([seed, number])
        keep = np.sort(rng.permutation(len(item.truth))[:count])
        found.append(replace(item, truth=item.truth.select(keep), dense=False))
    return found


def run(way: str, seed: int, sets, network: NetworkConfig, options) -> dict:
    """Train and judge one way; return its figures."""
    output = Path(options.output) / f"{way}-{seed}"
    result = output / "result.json"
    figures = (
        json.loads(result.read_text())
        if result.exists()
        else train(way, seed, sets, network, output, options)
    )
    if "found" not in figures:
        judge(figures, load_model(output / "last.h5"), sets, network, options)
        result.write_text(json.dumps(figures, indent=1))
    return figures


def train(way: str, seed: int, sets, network: NetworkConfig, output: Path, options) -> dict:
    """Train one way; return how long it took."""
    from evican_model.run_folder import start_tensors
    from evican_model.samples import SampleSource
    from evican_model.trainer import Trainer

    output.mkdir(parents=True, exist_ok=True)
    training = TrainConfig(
        steps=options.steps, batch=2, crop=options.crop, seed=seed, average_decay=0.98, warmup_steps=50, rois=64,
        save_every=options.steps, unlabelled="ignore" if way == "all" else way, instances=60, copy_paste=False,
    )  # fmt: skip
    datasets = [items if way == "all" else thinned(items, options.share, 0) for items, _ in sets]
    # The scale of an image is a fact about it, not about what was hidden.
    source = SampleSource(
        datasets, [1.0] * len(datasets), network, training, Path(options.output) / "blurred"
    )
    source.scales = [[natural_scale(item, network) for item in items] for items, _ in sets]
    begin, cpu = time.time(), time.process_time()
    Trainer(network, training, source, output, {}, start_tensors(options.weights, network)).run()
    return {"seconds": time.time() - begin, "cpu_seconds": time.process_time() - cpu}


def judge(figures: dict, model, sets, network: NetworkConfig, options) -> None:
    """Add AP, and recall and precision at two confidences, of each set and category."""
    figures.update(sets={}, found={})
    for (items, val), name in zip(sets, options.names):
        # One scale a set: a young network measures objects badly, and that is not the question here.
        diameter = network.cell_diameter / float(np.median([natural_scale(item, network) for item in items]))
        pairs = [(item, model.detect(item.grey_levels(), cell_diameter=diameter)) for item in val]
        for category in sorted({c for item in val for c in item.annotated}):
            column = f"{name}, {category}"
            figures["sets"][column] = average_precision(pairs, category)
            figures["found"][column] = {}
            for least in CONFIDENCES:
                counts = np.zeros(3)
                for item, found in pairs:
                    kept = model.resolve(found, confidence=least).of(category)
                    counts += hits(item.truth.of(category), kept), len(kept), item.truth.count(category)
                figures["found"][column][str(least)] = [
                    counts[0] / max(1, counts[2]),
                    counts[0] / max(1, counts[1]),
                ]


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", action="append", required=True, metavar="TRAIN.json:IMAGES:VAL.json")
    parser.add_argument("--weights", required=True, help="to start from: no image of the sets may be in them")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--share", type=float, default=0.3, help="of the outlines that are kept")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--val", type=int, default=32, metavar="N", help="validation images of a set, at most"
    )
    options = parser.parse_args()

    from evican_model import weights

    network = weights.check(options.weights).config
    sets, options.names = [], []
    for one in options.set:
        train, images, val = one.split(":")
        categories = network.categories
        if not set(read_categories(train)) <= set(categories):
            parser.error(f"{train} has other categories than the weights")
        items = read_dataset(val, images, categories)
        places = np.linspace(0, len(items) - 1, min(options.val, len(items))).round().astype(int)
        sets.append((read_dataset(train, images, categories), [items[i] for i in places]))
        options.names.append(Path(train).parent.name)
    results: dict = {way: [] for way in options.ways}
    for seed in range(options.seeds):
        for way in options.ways:
            results[way].append(run(way, seed, sets, network, options))
            print(way, seed, json.dumps(results[way][-1]["sets"]), file=sys.stderr)
    print_table(results, sets, options)


def print_table(results: dict, sets, options) -> None:
    """Print the Markdown table: mean over the seeds, and each seed's value."""
    import tensorflow as tf

    print("# What to do with objects that nobody outlined: three ways at equal compute\n")
    print(f"`python benchmarks/partial_annotation.py`; {options.share:.0%} of the outlines kept, {options.steps} steps "
          f"of 2 crops of {options.crop} pixels, {options.seeds} seed(s); start: {Path(options.weights).name}; "
          f"{_where.machine()}, TensorFlow "
          f"{tf.__version__}, commit {_where.commit()}.\n")  # fmt: skip
    print(
        "| training set | images | outlines | of them kept | validation images |\n| --- | --- | --- | --- | --- |"
    )
    for (train, val), name in zip(sets, options.names):
        kept = sum(len(item.truth) for item in thinned(train, options.share, 0))
        print(f"| {name} | {len(train)} | {sum(len(i.truth) for i in train)} | {kept} | {len(val)} |")
    print("\nMask AP50 and AP on validation images, pooled COCO, cap 1000; mean of the seeds (each seed).\n")
    columns = list(results[options.ways[0]][0]["sets"])
    print("| way | " + " | ".join(f"{c}: AP50 | AP" for c in columns) + " | CPU s a run |")
    print("| --- " * (2 + 2 * len(columns)) + "|")
    for way in options.ways:
        cells = []
        for column in columns:
            for key in ("AP50", "AP"):
                values = [figures["sets"][column][key] for figures in results[way]]
                cells.append(f"{np.mean(values):.3f} ({', '.join(f'{v:.3f}' for v in values)})")
        cpu = np.mean([figures["cpu_seconds"] for figures in results[way]])
        print(f"| {way} | " + " | ".join(cells) + f" | {cpu:.0f} |")
    print("\nRecall / precision of `Model.segment` at IoU 0.5, mean of the seeds.\n")
    print(
        "| way | " + " | ".join(f"{c}, confidence {least}" for c in columns for least in CONFIDENCES) + " |"
    )
    print("| --- " * (1 + len(columns) * len(CONFIDENCES)) + "|")
    for way in options.ways:
        cells = []
        for column in columns:
            for least in CONFIDENCES:
                values = np.mean([figures["found"][column][str(least)] for figures in results[way]], 0)
                cells.append(f"{values[0]:.3f} / {values[1]:.3f}")
        print(f"| {way} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
