"""Average precision of weights on annotated images: ``python -m evican_model.evaluate --dataset a.json --images a/``.

Pooled COCO evaluation of masks (pycocotools): all images together, IoU 0.50 to 0.95. A category is judged only on
images in which all its objects are outlined. Images that the weights were trained on are left out, and named.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from typing import Iterable

import numpy as np

from evican_model.dataset import AnnotatedImage, read_dataset
from evican_model.errors import DatasetError, EvicanError
from evican_model.images import read_image
from evican_model.instances import Instances

__all__ = ["average_precision", "main", "trained_on"]


def average_precision(
    pairs: Iterable[tuple[AnnotatedImage, Instances]], category: str, cap: int = 1000
) -> dict[str, float]:
    """Pooled mask average precision of one category.

    Parameters
    ----------
    pairs : iterable of (AnnotatedImage, Instances)
        Images and what was found in them (overlapping, with scores down to the lowest).
    category : str
    cap : int
        The most detections of an image that count, best first.

    Returns
    -------
    dict
        ``images``, ``objects``, and ``AP`` (0.50:0.95), ``AP50``, ``AP75`` as shares of 1 (NaN without objects).
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images: list[dict] = []
    truths: list[dict] = []
    results: list[dict] = []
    for number, (item, found) in enumerate(pairs, start=1):
        if category not in item.annotated or not item.dense:
            continue
        images.append({"id": number, "height": item.shape[0], "width": item.shape[1]})
        truths += _coco_annotations(item.truth.of(category), number, first_id=len(truths) + 1)
        results += _coco_annotations(found.of(category), number, first_id=len(results) + 1)
    counts = {"images": len(images), "objects": len(truths)}
    if not truths or not results:
        value = 0.0 if truths else float("nan")
        return {**counts, "AP": value, "AP50": value, "AP75": value}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": images,
            "annotations": truths,
            "categories": [{"id": 1, "name": category}],
            "info": {},
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.maxDets = [cap]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, 0]  # [IoU thresholds, recalls]: all areas
    return {
        **counts,
        "AP": float(precision.mean()),
        "AP50": float(precision[0].mean()),
        "AP75": float(precision[5].mean()),
    }


def trained_on(items: Iterable[AnnotatedImage], record: dict) -> list[AnnotatedImage]:
    """Return the images whose SHA-256 stands in a training record."""
    seen: set[str] = set()
    while record:  # weights that were trained further have also seen what the weights before them have
        seen.update(digest for dataset in record.get("datasets", []) for digest in dataset.get("sha256", []))
        record = record.get("start", {}).get("training", {})
    return [item for item in items if item.sha256 in seen]


def _coco_annotations(instances: Instances, image_id: int, first_id: int) -> list[dict]:
    from pycocotools import mask as coco_mask

    annotations = []
    scores, areas = instances.scores(), instances.areas()
    for i, mask in enumerate(instances.masks()):
        runs = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        y1, x1, y2, x2 = (int(v) for v in instances.all_boxes[i])
        annotations.append({"id": first_id + i, "image_id": image_id, "category_id": 1, "segmentation": runs,
                            "bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(areas[i]), "iscrowd": 0,
                            "score": float(scores[i])})  # fmt: skip
    return annotations


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m evican_model.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--dataset", required=True, metavar="JSON", help="COCO file")
    parser.add_argument("--images", required=True, metavar="DIR", help="its images")
    parser.add_argument("--weights", default="bundled", help="bundled, or a .h5 file")
    parser.add_argument(
        "--cap", type=int, default=1000, help="detections an image that count (default: %(default)s)"
    )
    parser.add_argument(
        "--cell-diameter", type=float, help="of a typical cell, in pixels (default: automatic)"
    )
    parser.add_argument("--first", type=int, metavar="N", help="only the first N images")
    parser.add_argument(
        "--include-trained", action="store_true", help="also images that the weights were trained on"
    )
    options = parser.parse_args(arguments)
    try:
        _evaluate(options)
    except EvicanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _evaluate(options) -> None:
    from tqdm import tqdm

    from evican_model.model import load_model

    model = load_model(options.weights)
    items = read_dataset(options.dataset, options.images, model.config.categories)[: options.first]
    known = trained_on(items, model.info.training)
    if known and not options.include_trained:
        print(f"left out, as the weights were trained on them: {', '.join(item.path.name for item in known)}")
        items = [item for item in items if item not in known]
    if not items:
        raise DatasetError(f"{options.dataset}: no image is left to evaluate (--include-trained keeps all).")
    pairs = [
        (item, model.detect(read_image(item.path), cell_diameter=options.cell_diameter))
        for item in tqdm(items)
    ]
    print(
        f"{'category':<10}{'images':>8}{'objects':>9}{'AP':>8}{'AP50':>8}{'AP75':>8}   pooled COCO, cap {options.cap}"
    )
    for category in model.config.categories:
        row = average_precision(pairs, category, options.cap)
        print(f"{category:<10}{row['images']:>8}{row['objects']:>9}"
              f"{row['AP']:>8.3f}{row['AP50']:>8.3f}{row['AP75']:>8.3f}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
