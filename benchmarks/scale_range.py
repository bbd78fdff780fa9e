"""In which range of sizes weights find objects: ``python benchmarks/scale_range.py NAME=annotations.json:images ...``.

Every image is made larger or smaller as a whole, and segmented with automatic scale; what is found is brought back to
the size of the outlines. The table has the median diameter of the objects in the images as they were segmented.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import _where
import numpy as np
from PIL import Image
from tqdm import tqdm

import evican_model
from evican_model.dataset import read_categories, read_dataset
from evican_model.evaluate import average_precision
from evican_model.images import read_image
from evican_model.instances import Instances
from evican_model.scaling import resize, to_grey

FACTORS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)


def brought_back(found: Instances, shape: tuple[int, int]) -> Instances:
    """Return detections of a resized image in the size of the original."""
    scale = np.array([shape[0] / found.shape[0], shape[1] / found.shape[1]] * 2)
    boxes, crops = [], []
    for box, crop in zip(found.all_boxes, found.crops):
        y1, x1, y2, x2 = np.round(box * scale).astype(int).tolist()
        y2, x2 = max(y2, y1 + 1), max(x2, x1 + 1)
        drawn = Image.fromarray(crop.astype(np.uint8) * 255).resize((x2 - x1, y2 - y1), Image.BILINEAR)
        crop = np.asarray(drawn)[: shape[0] - y1, : shape[1] - x1] >= 128
        boxes.append([y1, x1, y1 + crop.shape[0], x1 + crop.shape[1]])
        crops.append(crop)
    boxes = np.array(boxes, found.all_boxes.dtype).reshape(-1, 4)
    return replace(found, shape=shape, all_boxes=boxes, crops=tuple(crops))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=JSON:IMAGES")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--images", type=int, default=8, help="of each set, evenly spread (default: 8)")
    options = parser.parse_args()
    model = evican_model.load_model(options.weights)
    print(f"# Range of sizes\n\n`python benchmarks/scale_range.py --images {options.images}`; commit "
          f"{_where.commit()}, weights {options.weights}, SHA-256 {model.info.sha256[:12]}. Masks, pooled COCO, "
          "at most 1000 detections an image, automatic scale.\n\n"
          "| set | category | images resized by | median diameter, pixels | AP50 | AP75 |\n"
          "| --- | --- | --- | --- | --- | --- |")  # fmt: skip
    for one in options.sets:
        name, _, place = one.partition("=")
        annotations, folder = place.split(":")
        items = read_dataset(annotations, folder, read_categories(annotations))
        items = items[:: max(1, len(items) // options.images)][: options.images]
        for factor in tqdm(FACTORS, desc=name):
            pairs = []
            for item in items:
                grey = to_grey(read_image(item.path)).astype(np.float32)
                sides = [max(1, round(side * factor)) for side in grey.shape]
                found = model.detect(resize(grey, *sides))
                pairs.append((item, brought_back(found, grey.shape)))
            for category in items[0].truth.categories:
                areas = np.concatenate([item.truth.areas(category) for item in items])
                if len(areas):
                    figures = average_precision(pairs, category)
                    diameter = 2 * np.sqrt(float(np.median(areas)) / np.pi) * factor
                    print(f"| {name} | {category} | {factor} | {diameter:.0f} | {figures['AP50']:.3f} | "
                          f"{figures['AP75']:.3f} |", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
