"""A cell's score, judged once more by the nucleus in it and the cells over it.

The network judges each region by itself. But a cell has a nucleus: an outline in which one is found is more often that
of a whole cell than one without, which may be the end of a long cell, a patch of light, or debris. And of two outlines
of nearly the same pixels at most one is right. A logistic regression weighs both against the network's own score, so
that a cell's score becomes the chance that its outline is right (contextual rescoring: Felzenszwalb et al. 2010).

The weights are a part of the config (`NetworkConfig.rescoring`), fitted to images of the training in which all cells
are outlined:

    python -m evican_model.rescoring my.h5 --dataset train.json --images images/ --output my-rescored.h5
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any, Iterable, Sequence

import numpy as np
from scipy.special import expit, log_expit, logit
from tqdm import tqdm

from evican_model.categories import CELL, NUCLEUS
from evican_model.config import NetworkConfig
from evican_model.dataset import AnnotatedImage, read_dataset
from evican_model.errors import DatasetError, EvicanError
from evican_model.instances import Instances, shares
from evican_model.masks import shared_areas

__all__ = ["evidence", "fit", "least_own", "main", "rescored"]

# A weaker object is no evidence. Scores must not depend on how weak the objects are that a caller asks for.
_FLOOR = 0.2
# How much nucleus cells have where none is seen yet, and the sum of scores of cells that outweighs it.
_USUAL, _USUAL_WEIGHT = 0.7, 5.0
_SURE = 0.5  # least score of the cells by which an image is judged
_CLIP = 1e-3  # scores closer to 0 or 1 count as this close
_PLAIN = NetworkConfig.rescoring


def evidence(found: Instances) -> np.ndarray:
    """Gather what speaks for and against each cell.

    Parameters
    ----------
    found : Instances
        With the network's own scores.

    Returns
    -------
    float [cells, 3]
        The log odds of the cell's own score; its nucleus: the score of the best one times the share of it that lies in
        the cell, less what is usual for the cells of the image, since in some images nuclei are hardly seen; and its
        rival: the highest IoU with a cell of a higher score.
    """
    cells, nuclei = found.of(CELL), found.of(NUCLEUS)
    own, nuclei = cells.all_scores.astype(float), nuclei.select(nuclei.all_scores >= _FLOOR)
    nucleus, rival = np.zeros(len(cells)), np.zeros(len(cells))
    i, j, share = shares(nuclei, cells)
    np.maximum.at(nucleus, j, share * nuclei.all_scores[i])
    sure = np.where(own >= _SURE, own, 0.0)
    usual = (_USUAL_WEIGHT * _USUAL + (sure * nucleus).sum()) / (_USUAL_WEIGHT + sure.sum())
    better, worse = cells.rivals()
    strong = own[better] >= _FLOOR
    better, worse = better[strong], worse[strong]
    shared = shared_areas(cells.all_boxes, cells.crops, cells.all_boxes, cells.crops, better, worse)
    areas = cells.areas()
    np.maximum.at(rival, worse, shared / np.maximum(areas[better] + areas[worse] - shared, 1))
    return np.stack([logit(np.clip(own, _CLIP, 1 - _CLIP)), nucleus - usual, rival], 1)


def rescored(found: Instances, weights: Sequence[float]) -> Instances:
    """Return the same objects, cells with their new scores.

    Parameters
    ----------
    found : Instances
        With the network's own scores, all of `least_own` and more.
    weights : sequence of float
        One for each kind of `evidence`, and a constant. ``(1, 0, 0, 0)`` leaves the scores as they are, and so do
        categories of which none is ``Cell`` or none ``Nucleus``.
    """
    if tuple(weights) == _PLAIN or not {CELL, NUCLEUS} <= set(found.categories):
        return found
    scores = found.all_scores.copy()
    cells = found.category_ids == found.categories.index(CELL) + 1
    scores[cells] = expit(evidence(found) @ weights[:-1] + weights[-1])
    return replace(found, all_scores=scores)


def least_own(score: float, weights: Sequence[float], categories: Sequence[str]) -> tuple[float, ...]:
    """Return the least scores of the network's own that have to be known to find all objects of at least `score`.

    Parameters
    ----------
    score : float
    weights : sequence of float
        As for `rescored`.
    categories : sequence of str

    Returns
    -------
    tuple of float
        One for each category.

    Examples
    --------
    >>> names = ("Cell", "Nucleus")
    >>> least_own(0.6, (1.0, 0.0, 0.0, 0.0), names), np.round(least_own(0.6, (1.0, 2.0, -3.0, 0.0), names), 3).tolist()
    ((0.6, 0.6), [0.169, 0.2])
    """
    if tuple(weights) == _PLAIN or not {CELL, NUCLEUS} <= set(categories):
        return (score,) * len(categories)
    own, nucleus, _, constant = weights
    evident = min(score, _FLOOR)
    helped = expit((logit(score) - max(nucleus, 0.0) - constant) / own)  # a nucleus counts for 1 at most, a rival never
    least = {CELL: min(evident, float(helped)), NUCLEUS: evident}
    return tuple(least.get(name, score) for name in categories)


def fit(samples: Iterable[tuple[np.ndarray, np.ndarray, float]]) -> tuple[float, ...]:
    """Fit the weights to cells of which it is known whether they are right.

    Parameters
    ----------
    samples : iterable of (evidence, right, weight)
        Of each image: what `evidence` gives, float [cells, 3]; whether each is right, bool [cells]; and what each cell
        of the image counts.

    Returns
    -------
    tuple of float
        For `rescored`; logistic regression, the likeliest weights, hardly regularised.

    Raises
    ------
    EvicanError
        If all cells are right, or none is.
    """
    from scipy.optimize import minimize  # only fitting needs it, and it takes its time to load

    parts = list(samples)
    known = np.concatenate([part for part, _, _ in parts])
    known = np.concatenate([known, np.ones((len(known), 1))], 1)
    sign = np.concatenate([np.where(right, 1.0, -1.0) for _, right, _ in parts])
    counts = np.concatenate([np.full(len(right), weight) for _, right, weight in parts])
    if np.unique(sign).size < 2:
        raise EvicanError("Of the cells found, all are right or none is; scores cannot be fitted to them.")
    counts /= counts.sum()

    def loss(weights):
        margin = sign * (known @ weights)
        slope = -(counts * sign * expit(-margin)) @ known
        return -(counts @ log_expit(margin)) + 1e-6 * (weights @ weights), slope + 2e-6 * weights

    return tuple(round(float(value), 3) for value in minimize(loss, np.zeros(known.shape[1]), jac=True).x)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (EvicanError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    """Fit the weights to datasets, tell what they do there, and write them with the network's own."""
    from evican_model import convert, weights
    from evican_model.evaluate import average_precision
    from evican_model.evaluate.matching import mask_overlaps, match
    from evican_model.model import Model, load_model

    if len(options.dataset) != len(options.images):
        raise EvicanError(f"{len(options.dataset)} --dataset and {len(options.images)} --images are given; give each "
                          "dataset the folder of its images.")  # fmt: skip
    output = convert.output_file(options.output, options.weights)
    info = weights.check(options.weights)
    if not {CELL, NUCLEUS} <= set(info.config.categories):
        raise EvicanError(f"{options.weights} knows {list(info.config.categories)}; cells are judged by nuclei here, "
                          f"so it needs {CELL} and {NUCLEUS}.")  # fmt: skip
    sets = [_with_all_cells(*place, info.config.categories) for place in zip(options.dataset, options.images)]
    model = load_model(options.weights)
    model = Model(model.network, replace(model.info, config=replace(info.config, rescoring=_PLAIN)))
    results: list[list[tuple[AnnotatedImage, Instances]]] = []
    samples = []
    for name, items in zip(options.dataset, sets):
        cells = sum(len(item.truth.of(CELL)) for item in items)
        results.append([])
        for item in tqdm(items, desc=name, unit="image", file=sys.stderr):
            found, truth = model.detect(item.grey_levels()), item.truth.of(CELL)
            overlaps = mask_overlaps(found.of(CELL), truth, np.zeros(len(truth), bool))
            samples.append((evidence(found), match(overlaps, [0.5])[0] >= 0, 1 / cells))
            results[-1].append((item, found))
    fitted = fit(samples)
    print("| set | images | cells | AP50 | AP75 | AP50 rescored | AP75 rescored |")
    print("| --- " * 7 + "|")
    for name, pairs in zip(options.dataset, results):
        before = average_precision(pairs, CELL)
        after = average_precision([(item, rescored(found, fitted)) for item, found in pairs], CELL)
        figures = " | ".join(f"{row[key]:.3f}" for row in (before, after) for key in ("AP50", "AP75"))
        print(f"| {name} | {before['images']} | {before['objects']} | {figures} |")
    print(f"\nrescoring: {list(fitted)}")
    record = {**info.training, "rescoring": _record(sets)}
    plain = weights.check(info.path)  # `accurate` is a way to use a file, not another file
    config = replace(plain.config, rescoring=fitted)
    weights.write(output, convert.tensors_of(plain), config, record, half=options.half)
    print(f"weights: {output}")


def _with_all_cells(annotations: str, images: str, categories: Sequence[str]) -> list[AnnotatedImage]:
    """Read the images of a dataset in which every cell is outlined."""
    items = read_dataset(annotations, images, tuple(categories))
    items = [item for item in items if item.dense and CELL in item.annotated]
    if not any(len(item.truth.of(CELL)) for item in items):
        raise DatasetError(f"{annotations} has no image in which all cells are outlined; scores are fitted to such.")
    return items


def _record(sets: Sequence[Sequence[AnnotatedImage]]) -> list[dict[str, Any]]:
    """Say what the weights of the rescoring were fitted to, for the training record."""
    from evican_model.weights import sha256_of

    return [{"images": len(items), "cells": sum(len(item.truth.of(CELL)) for item in items),
             "sha256": [sha256_of(item.path) for item in items]} for items in sets]  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evican_model.rescoring", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("weights", help="bundled, accurate, or a .h5 file; with its views")
    add("--dataset", action="append", required=True, metavar="JSON", help="COCO file; can be repeated, as in training")
    add("--images", action="append", required=True, metavar="DIR", help="its images, once for each --dataset")
    add("--output", required=True, metavar="H5", help="weights file to write, or a folder for it")
    add("--half", action="store_true", help="store float16, as the bundled weights are")
    return parser


if __name__ == "__main__":
    sys.exit(main())
