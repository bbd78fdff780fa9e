"""Weak labels: the model's own objects of the category that an image leaves out, if the other one vouches for them.

``python -m evican_model.weak_labels --dataset a.json --images a/ --output weak.json`` adds cells to images in which
only nuclei are outlined, and nuclei to images in which only cells are. A cell is taken if it holds exactly one known
nucleus, whole, and a watershed from the known nuclei finds about the same; a nucleus, if it lies in one known cell and
has a nucleus's share of it. The added annotations carry ``"weak": true`` and their score, and their category stays out
of ``annotated_classes``: training learns from them, and where another object may be, the image stays unknown, not
background (`nesting`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from evican_model.dataset import AnnotatedImage, read_dataset
from evican_model.errors import DatasetError, EvicanError
from evican_model.instances import Instances, shares
from evican_model.weights import check

__all__ = ["add_weak_labels", "grow_from_nuclei", "main", "weak_cells", "weak_nuclei"]

# Measured on simulated and EVICAN images, where both categories are known.
CELL_SCORE = 0.3  # a known nucleus inside says more than the score does
NUCLEUS_SCORE = 0.6
AGREEMENT = 0.5  # least IoU of a cell and of what the watershed grows from its nucleus
_WHOLE, _CUT = (
    0.85,
    0.15,
)  # share of a nucleus in a cell from which it lies in it; and up to which it lies outside
_LEAST_CELL = 1.3  # area of a cell, in areas of its nucleus: with less, it is the nucleus that was outlined
_NUCLEUS_SHARE = (0.04, 0.65)  # least and largest area of a nucleus, in areas of its cell
_WORKING_DIAMETER = 32.0  # of the median nucleus, in pixels, at which the watershed works


def weak_cells(
    levels: np.ndarray,
    known: Instances,
    found: Instances,
    least: float = CELL_SCORE,
    agreement: float = AGREEMENT,
) -> Instances:
    """Choose the detected cells that the known nuclei vouch for.

    Parameters
    ----------
    levels : uint8 array [height, width]
        The image.
    known : Instances
        Its nuclei, all of them.
    found : Instances
        What the model detects, overlaps and weak scores included.
    least : float
        Least score of a cell.
    agreement : float
        Least IoU with what `grow_from_nuclei` makes of the cell's nucleus; 0 asks for none.

    Returns
    -------
    Instances
        Cells that do not overlap, best first, at most one around each nucleus.
    """
    nuclei = known.of("Nucleus")
    cells = found.of("Cell")
    cells = cells.select(cells.all_scores >= least)
    i, j, share = shares(nuclei, cells)
    whole = share >= _WHOLE
    held = np.bincount(j[whole], minlength=len(cells))
    cut = np.bincount(j[(share > _CUT) & ~whole], minlength=len(cells))
    area = np.zeros(len(cells))
    area[j[whole]] = nuclei.areas()[i[whole]]  # of the one nucleus, where there is one
    own = np.full(len(cells), -1)
    own[j[whole]] = i[whole]
    good = (held == 1) & (cut == 0) & (cells.areas() >= _LEAST_CELL * area)
    if agreement > 0 and good.any():
        grown = grow_from_nuclei(levels, nuclei)
        good[good] = [_agreement(cells, k, grown, own[k] + 1) >= agreement for k in np.flatnonzero(good)]
    best = _best_for_each(own, cells.all_scores, good)
    return cells.select(best).without_overlaps().sorted_by_score()


def weak_nuclei(known: Instances, found: Instances, least: float = NUCLEUS_SCORE) -> Instances:
    """Choose the detected nuclei that lie in one known cell and have a fitting size.

    Parameters
    ----------
    known : Instances
        Cells of the image; they need not be all.
    found : Instances
        What the model detects, overlaps and weak scores included.
    least : float
        Least score of a nucleus.

    Returns
    -------
    Instances
        Nuclei, best first, at most one in each cell.
    """
    cells = known.of("Cell")
    nuclei = found.of("Nucleus")
    nuclei = nuclei.select(nuclei.all_scores >= least)
    i, j, share = shares(nuclei, cells)
    size = nuclei.areas()[i] / np.maximum(cells.areas()[j], 1)
    fits = (share >= 0.9) & (size >= _NUCLEUS_SHARE[0]) & (size <= _NUCLEUS_SHARE[1])
    own = np.full(len(nuclei), -1)
    own[i[fits]] = j[fits]
    best = _best_for_each(own, nuclei.all_scores, own >= 0)
    return nuclei.select(best).without_overlaps().sorted_by_score()


def grow_from_nuclei(levels: np.ndarray, nuclei: Instances) -> np.ndarray:
    """Divide what is not flat background among the nuclei: a seeded watershed on the gradient.

    Parameters
    ----------
    levels : uint8 array [height, width]
    nuclei : Instances
        Nuclei only; the seeds.

    Returns
    -------
    int32 array [height, width]
        ``k + 1`` around nucleus ``k``; 0 where the image is flat, or no nucleus reaches.

    Raises
    ------
    EvicanError
        If scikit-image is missing.
    """
    try:
        from skimage.filters import threshold_otsu
        from skimage.segmentation import watershed
    except ImportError as error:
        raise EvicanError(
            f"the watershed needs scikit-image (pip install scikit-image), or --agreement 0: {error}"
        ) from error
    if len(nuclei) == 0:
        return np.zeros(levels.shape, np.int32)
    scale = _WORKING_DIAMETER / (2 * float(np.sqrt(np.median(nuclei.areas()) / np.pi)))
    size = tuple(max(16, round(side * scale)) for side in reversed(levels.shape))
    x = np.asarray(Image.fromarray(levels.astype(np.float32)).resize(size, Image.BILINEAR))
    seeds = np.asarray(Image.fromarray(nuclei.labels("Nucleus")).resize(size, Image.NEAREST))

    mean = ndimage.gaussian_filter(x, 2.0)
    texture = np.sqrt(np.maximum(ndimage.gaussian_filter(x * x, 2.0) - mean**2, 0))
    # Flat: up to three times the texture of the flattest tenth, unless cells and background part below that.
    limit = max(3 * float(np.percentile(texture, 10)), 1.0)
    limit = min(limit, float(np.exp(threshold_otsu(np.log(texture + 0.5)))))
    cellular = ndimage.binary_closing(np.pad(texture > limit, 8, mode="edge"), iterations=4)[8:-8, 8:-8]
    cellular = ndimage.binary_fill_holes(cellular)
    # The window of the texture reaches two pixels beyond the edge of a cell.
    cellular = ndimage.binary_erosion(cellular, iterations=2, border_value=1)
    cellular = ndimage.binary_opening(cellular, iterations=2) | (seeds > 0)

    gradient = ndimage.gaussian_filter(ndimage.gaussian_gradient_magnitude(x, 1.0), 1.0)
    # A little of the distance: where no border shows, the nearer nucleus has the better claim.
    cost = gradient / (gradient.std() + 1e-6) + 0.05 * ndimage.distance_transform_edt(seeds == 0)
    grown = watershed(cost, seeds, mask=cellular).astype(np.int32)
    return np.asarray(Image.fromarray(grown).resize(levels.shape[::-1], Image.NEAREST))


def add_weak_labels(
    annotations: str | Path,
    images: str | Path,
    weights: str | Path = "bundled",
    *,
    cell_score: float = CELL_SCORE,
    nucleus_score: float = NUCLEUS_SCORE,
    agreement: float = AGREEMENT,
) -> dict[str, Any]:
    """Return the content of a COCO file with weak annotations added.

    Images in which both categories are complete stay as they are, and so do images with some nuclei only
    (``dense`` false): a cell there may hold a nucleus that nobody outlined.

    Parameters
    ----------
    annotations, images : str or Path
        As for `evican_model.dataset.read_dataset`.
    weights : str or Path
        As for `evican_model.load_model`.
    cell_score, nucleus_score, agreement : float
        See `weak_cells` and `weak_nuclei`.

    Returns
    -------
    dict
        ``info.weak_labels`` says how many were added, by which weights and settings.

    Raises
    ------
    WeightsError, DatasetError
        If weights or dataset cannot be read, it has weak annotations already, or none of its images lacks one category.
    """
    from tqdm import tqdm

    from evican_model.model import load_model

    for name, value in (
        ("cell_score", cell_score),
        ("nucleus_score", nucleus_score),
        ("agreement", agreement),
    ):
        if not 0 <= value <= 1:
            raise EvicanError(f"{name} is {value:g}; expected 0 to 1.")
    items = read_dataset(annotations, images, check(weights).config.categories)
    content = json.loads(Path(annotations).read_text(encoding="utf-8"))
    if any(entry.get("weak") for entry in content["annotations"]):
        raise DatasetError(
            f"{annotations} has weak annotations already; give the file that they were added to."
        )
    wanted = [(item, missing) for item in items for missing in [_missing(item)] if missing]
    if not wanted:
        raise DatasetError(f"{annotations}: no image has exactly one of the two categories in annotated_classes; "
                           "there is nothing to add.")  # fmt: skip
    model = load_model(weights)
    ids = {category["name"]: category["id"] for category in content["categories"]}
    next_id = max((entry["id"] for entry in content["annotations"]), default=0) + 1
    added = {"Cell": 0, "Nucleus": 0}
    for item, missing in tqdm(wanted, unit="image", file=sys.stderr):
        levels = item.grey_levels()
        least = cell_score if missing == "Cell" else nucleus_score
        found = model.detect(levels, minimum_score=least)
        if missing == "Cell":
            weak = weak_cells(levels, item.truth, found, cell_score, agreement)
        else:
            weak = weak_nuclei(item.truth, found, nucleus_score)
        weak = _beside(weak, item.truth.of(missing))
        new = _annotations(weak, item, ids.setdefault(missing, max(ids.values()) + 1), next_id)
        content["annotations"] += new
        added[missing] += len(new)
        next_id += len(new)
    listed = {category["name"] for category in content["categories"]}
    content["categories"] += [{"id": i, "name": name, "supercategory": name} for name, i in ids.items()
                              if name not in listed]  # fmt: skip
    info = content.get("info") or {}
    record = {"added": added, "images": len(wanted), "weights_sha256": model.info.sha256,
              "cell_score": cell_score, "nucleus_score": nucleus_score, "agreement": agreement}  # fmt: skip
    return {**content, "info": {**info, "weak_labels": record}}


def _missing(item: AnnotatedImage) -> str | None:
    """Name the category that can be added to an image, if one can."""
    if item.annotated == {"Nucleus"} and item.dense:
        return "Cell"
    return "Nucleus" if item.annotated == {"Cell"} else None


def _agreement(cells: Instances, k: int, grown: np.ndarray, label: int) -> float:
    y1, x1, y2, x2 = cells.all_boxes[k]
    shared = int((cells.crops[k] & (grown[y1:y2, x1:x2] == label)).sum())
    return shared / max(int(cells.crops[k].sum()) + int((grown == label).sum()) - shared, 1)


def _best_for_each(own: np.ndarray, scores: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """Return indices: of the eligible objects of each owner the one with the highest score, best first."""
    order = np.flatnonzero(eligible)
    order = order[np.argsort(-scores[order], kind="stable")]
    _, first = np.unique(own[order], return_index=True)
    return order[np.sort(first)]


def _beside(weak: Instances, there: Instances) -> Instances:
    """Leave out weak objects where a person outlined one of the category."""
    i, _, share = shares(weak, there)
    clear = np.ones(len(weak), bool)
    clear[i[share > 0.2]] = False
    return weak.select(clear)


def _annotations(
    weak: Instances, item: AnnotatedImage, category_id: int, first_id: int
) -> list[dict[str, Any]]:
    from evican_model.predict import coco_results

    areas = weak.areas().tolist()
    return [
        {"id": first_id + k, "image_id": item.image_id, "category_id": category_id, "area": areas[k],
         "bbox": entry["bbox"], "segmentation": entry["segmentation"], "iscrowd": 0, "weak": True,
         "score": entry["score"]}
        for k, entry in enumerate(coco_results(item.image_id, item.path.name, weak))
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.output.exists():
            raise EvicanError(f"{options.output} exists; name another file, or remove it.")
        content = add_weak_labels(
            options.dataset, options.images, options.weights, cell_score=options.cell_score,
            nucleus_score=options.nucleus_score, agreement=options.agreement,
        )  # fmt: skip
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(content), encoding="utf-8")
    except (EvicanError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = content["info"]["weak_labels"]
    print(f"{options.output}: {record['added']['Cell']} weak cells and {record['added']['Nucleus']} weak nuclei "
          f"in {record['images']} images")  # fmt: skip
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evican_model.weak_labels", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--dataset", required=True, metavar="JSON", help="COCO file")
    add("--images", required=True, metavar="DIR", help="its images")
    add("--weights", default="bundled", help="bundled, or a .h5 file")
    add("--output", required=True, type=Path, metavar="JSON", help="COCO file to write")
    add(
        "--cell-score", type=float, default=CELL_SCORE, metavar="F", help="least score (default: %(default)s)"
    )
    add("--nucleus-score", type=float, default=NUCLEUS_SCORE, metavar="F",
        help="least score (default: %(default)s)")  # fmt: skip
    add("--agreement", type=float, default=AGREEMENT, metavar="F",
        help="least IoU of a cell with a watershed from its nucleus; 0: none (default: %(default)s)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
