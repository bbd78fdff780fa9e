"""Precision, recall and F1 (IoU 0.5) against the least score, as a table.

    python benchmarks/confidence.py NAME=annotations.json:images ... [--weights W] [--first N]

It says which working confidence suits the weights. Only images in which a category is completely outlined count for it.
Images the weights were trained on are used as well, and marked: the figure is for choosing a threshold, not for praise.
"""

from __future__ import annotations

import argparse

import _where

import evican_model
from evican_model.dataset import read_dataset
from evican_model.evaluate import trained_on
from evican_model.images import read_image
from evican_model.masks import box_pairs, shared_areas

LEAST = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)


def hits(truth, found) -> int:
    """Count the objects found, best first, that have a true object of IoU 0.5 which none before them took."""
    first, second = box_pairs(found.all_boxes, truth.all_boxes)
    shared = shared_areas(found.all_boxes, found.crops, truth.all_boxes, truth.crops, first, second)
    union = found.areas()[first] + truth.areas()[second] - shared
    taken: set[int] = set()
    count = 0
    for i in range(len(found)):
        mine = [(s / u, j) for s, u, j in zip(shared[first == i], union[first == i], second[first == i])]
        overlap, j = max([(iou, int(j)) for iou, j in mine if j not in taken], default=(0.0, -1))
        if overlap >= 0.5:
            taken.add(j)
            count += 1
    return count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=JSON:IMAGES")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--first", type=int, metavar="N", help="only the first N images of each set")
    options = parser.parse_args()
    model = evican_model.load_model(options.weights)
    print("# Which confidence: F1 (precision / recall) at IoU 0.5, of `Model.segment`\n")
    limit = f", first {options.first} images of each" if options.first else ""
    weights = f"weights SHA-256 {model.info.sha256[:12]}"
    print(f"`python benchmarks/confidence.py`{limit}; commit {_where.commit()}, {weights}.\n")
    print("| set | category | " + " | ".join(map(str, LEAST)) + " |\n" + "| --- " * (len(LEAST) + 2) + "|")
    for one in options.sets:
        name, _, place = one.partition("=")
        annotations, _, images = place.partition(":")
        items = read_dataset(annotations, images, model.config.categories)[: options.first]
        mark = " (trained on)" if trained_on(items, model.info.training) else ""
        detected = [(item, model.detect(read_image(item.path))) for item in items]
        for category in model.config.categories:
            judged = [(i, found) for i, found in detected if category in i.annotated and i.dense]
            if not any(item.truth.count(category) for item, _ in judged):
                continue
            cells = []
            for least in LEAST:
                results = [
                    (i.truth.of(category), model.resolve(f, confidence=least).of(category)) for i, f in judged
                ]
                right = sum(hits(truth, found) for truth, found in results)
                said, true = sum(len(found) for _, found in results), sum(len(truth) for truth, _ in results)
                cells.append(
                    f"{2 * right / (said + true):.3f} ({right / max(said, 1):.2f} / {right / true:.2f})"
                )
            print(f"| {name}{mark} | {category} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
