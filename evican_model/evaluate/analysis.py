"""Where a tool is good and where it is not: against recall, score, object size, confidence, image and cell line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evican_model.evaluate.evaluation import Judgement
from evican_model.evaluate.metrics import Interval, interval, measure, sample_weights
from evican_model.evaluate.pooling import RECALLS, Pool, average_precisions, curves, pool
from evican_model.evaluate.tally import WORKING_IOUS

__all__ = ["Analysis", "BestConfidence", "Calibration", "Curves", "SizeClass", "analyse"]

_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """How often objects of a score are right, in ten bins of equal width.

    ``score`` and ``right`` are the mean score and the share matched at IoU 0.5 of each bin with objects, ``objects``
    their number, ``error`` the mean gap between the two over all objects (expected calibration error).
    """

    score: np.ndarray
    right: np.ndarray
    objects: np.ndarray
    error: float


@dataclass(frozen=True)
class SizeClass:
    """AP of the true objects of one range of sizes; diameters are those of circles of the same area, in pixels."""

    low: float
    high: float
    objects: int
    ap: float
    ap50: float


@dataclass(frozen=True)
class BestConfidence:
    """The least score that gives the best F1 at IoU 0.5 (on these very images: a little flattering)."""

    confidence: float
    f1: float
    spread: Interval  # of the confidence, over bootstrap samples
    working: float
    working_f1: float


@dataclass(frozen=True)
class Curves:
    """One tool and category on one set of images.

    ``precision_recall`` holds ``recall`` [101] and the precision at IoU ``0.5`` and ``0.75`` there; ``f1`` the scores
    that objects have, descending, and F1 at IoU 0.5 with each as the least. ``calibration`` and ``best`` need scores.
    """

    precision_recall: dict[str, np.ndarray]
    f1: tuple[np.ndarray, np.ndarray]
    calibration: Calibration | None
    sizes: list[SizeClass]
    best: BestConfidence | None


@dataclass(frozen=True)
class Analysis:
    """All of it for one tool on one set: curves by category, and the rows of images.csv and cell_lines.csv."""

    judgement: Judgement
    curves: dict[str, Curves]
    images: list[dict[str, Any]]
    lines: list[dict[str, Any]]


def analyse(judgement: Judgement, cap: int) -> Analysis:
    """Look closer at one tool on one set of images; ``cap`` is that of the AP in the rows."""
    categories = [
        name
        for name in judgement.scenes.categories
        if any(name in one.categories for one in judgement.tallies)
    ]
    found = {name: _curves(judgement, name) for name in categories}
    return Analysis(judgement, found, _image_rows(judgement), _line_rows(judgement, cap))


def _curves(judgement: Judgement, category: str) -> Curves:
    raw, flat = (_pool(judgement, category, kind) for kind in ("raw", "flat"))
    precision, _ = curves(raw)
    return Curves(
        {"recall": RECALLS, "0.5": precision[0], "0.75": precision[5]},
        _f1_curve(flat),
        _calibration(flat) if judgement.results.scored else None,
        _sizes(judgement, category),
        _best_confidence(flat, judgement.tool.confidence[category]) if judgement.results.scored else None,
    )


def _calibration(pooled: Pool) -> Calibration | None:
    """Compare scores with what they promise."""
    scores, right = pooled.scores[pooled.counted[0]], pooled.hit[0][pooled.counted[0]]
    if not len(scores):
        return None
    bins = np.clip((scores * _BINS).astype(int), 0, _BINS - 1)
    objects = np.bincount(bins, minlength=_BINS)
    full = objects > 0
    mean = np.bincount(bins, scores, _BINS)[full] / objects[full]
    share = np.bincount(bins, right, _BINS)[full] / objects[full]
    error = float(np.average(np.abs(mean - share), weights=objects[full]))
    return Calibration(mean, share, objects[full], error)


def _sizes(judgement: Judgement, category: str) -> list[SizeClass]:
    """Compute AP for each class of sizes; found objects of other sizes that match nothing do not count."""
    edges = 2 * np.sqrt(judgement.sizes[category] / np.pi)
    classes = []
    ones = [tally.categories.get(category) for tally in judgement.tallies]
    for number in range(len(edges) - 1):
        pooled = pool([None if one is None else one.by_size[number] for one in ones])
        ap, ap50, _, _ = average_precisions(pooled, np.ones((1, pooled.images), int))[0]
        objects = int(pooled.truths.sum())
        classes.append(
            SizeClass(float(edges[number]), float(edges[number + 1]), objects, float(ap), float(ap50))
        )
    return classes


def _f1_curve(pooled: Pool) -> tuple[np.ndarray, np.ndarray]:
    f1 = _f1(pooled, np.ones(pooled.images, int))
    last = np.append(np.diff(pooled.scores) != 0, True)[: len(f1)]  # of equal scores, all are in or none
    return pooled.scores[last], f1[last]


def _best_confidence(pooled: Pool, working: float, samples: int = 200) -> BestConfidence | None:
    scores, f1 = _f1_curve(pooled)
    if not np.isfinite(f1).any():
        return None
    weights = sample_weights(pooled.images, samples, seed=0)
    rows = np.array([_least_at_best(pooled, weight) for weight in weights])
    # In single precision, as `Model.resolve` compares
    above = np.flatnonzero(scores.astype(np.float32) >= working)
    at_working = float(f1[above[-1]]) if len(above) else 0.0
    best = int(np.nanargmax(f1))
    return BestConfidence(float(scores[best]), float(f1[best]), interval(rows), working, at_working)


def _image_rows(judgement: Judgement) -> list[dict[str, Any]]:
    """Make a row for each image and category."""
    rows = []
    for scene, tally in zip(judgement.scenes.scenes, judgement.tallies):
        for category in judgement.scenes.categories:
            outcome = tally.partial.get(category)
            row: dict[str, Any] = {"set": judgement.scenes.name, "tool": judgement.tool.name, "image": scene.name,
                                   "cell_line": scene.cell_line, "category": category}  # fmt: skip
            if outcome is not None:
                row.update(judged="recall only", true=outcome.true, TP=int(outcome.hits[0]))
            one = tally.categories.get(category)
            if one is not None:
                row.update(judged="yes", true=one.outcome.true, found=one.outcome.found)
                row.update(_image_figures(one))
            if outcome is not None or one is not None:
                rows.append(row)
    return rows


def _image_figures(one) -> dict[str, Any]:
    outcome = one.outcome
    hits = int(outcome.hits[0])
    figures: dict[str, Any] = {"TP": hits, "FP": outcome.found - hits, "FN": outcome.true - hits}
    both = outcome.found + outcome.true
    for iou, count in zip(WORKING_IOUS, outcome.hits.tolist()):
        figures[f"F1_{round(100 * iou)}"] = 2 * count / both if both else float("nan")
    figures["PQ"] = outcome.panoptic_quality if both else float("nan")
    values = average_precisions(pool([one.raw]), np.ones((1, 1), int))[0]
    figures.update(zip(("AP", "AP50", "AP75"), values.tolist()))
    figures.update(true_area=outcome.true_area, found_area=outcome.found_area)
    return figures


def _line_rows(judgement: Judgement, cap: int) -> list[dict[str, Any]]:
    """Make a row for each cell line and category, pooled over the line's images."""
    rows = []
    names = np.array([scene.cell_line or "not stated" for scene in judgement.scenes.scenes])
    for line in sorted(set(names.tolist())):
        tallies = [tally for tally, name in zip(judgement.tallies, names) if name == line]
        weights = np.ones((1, len(tallies)), int)
        figures = measure(tallies, judgement.scenes.categories, weights, [cap])
        for category in judgement.scenes.categories:
            ones = [tally.categories[category] for tally in tallies if category in tally.categories]
            if not ones:
                continue
            row = {"set": judgement.scenes.name, "tool": judgement.tool.name, "cell_line": line, "category": category,
                   "images": len(ones), "true": sum(one.outcome.true for one in ones),
                   "found": sum(one.outcome.found for one in ones)}  # fmt: skip
            for key in (f"AP@{cap}", f"AP50@{cap}", f"AP75@{cap}", "jaccard50", "F1_50", "PQ", "count_error",
                        "area_error"):  # fmt: skip
                row[key] = float(figures[category, key][0])
            rows.append(row)
    return rows


def _pool(judgement: Judgement, category: str, kind: str) -> Pool:
    ones = [tally.categories.get(category) for tally in judgement.tallies]
    return pool([None if one is None else getattr(one, kind) for one in ones])


def _f1(pooled: Pool, weight: np.ndarray) -> np.ndarray:
    """Return F1 at IoU 0.5 when the list of objects ends after each, [D]."""
    mine = weight[pooled.owner]
    right, said = np.cumsum(mine * pooled.hit[0]), np.cumsum(mine * pooled.counted[0])
    both = said + weight @ pooled.truths
    return np.divide(2 * right, both, out=np.full(len(right), np.nan), where=both > 0)


def _least_at_best(pooled: Pool, weight: np.ndarray) -> float:
    f1 = _f1(pooled, weight)
    last = np.append(np.diff(pooled.scores) != 0, True)
    f1[~last] = np.nan
    return float(pooled.scores[np.nanargmax(f1)]) if np.isfinite(f1).any() else float("nan")
