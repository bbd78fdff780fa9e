"""The figures of the report, each with its definition, for all images and for any resampling of them.

Every figure is computed for a table of weights: its first row takes each image once (the figure itself), the others are
bootstrap samples of the images. Intervals, and differences between tools on the same samples, follow from the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from evican_model.evaluate.pooling import Ranking, average_precisions, pool
from evican_model.evaluate.tally import NUCLEUS, CategoryTally, ImageTally

__all__ = ["METRICS", "Interval", "Metric", "interval", "measure", "metrics_for", "sample_weights"]

ALL = "all"


@dataclass(frozen=True)
class Metric:
    """One figure: its key in the files, its heading, and what it is.

    ``unit`` is ``share`` (0 to 1, shown in per cent), ``points`` (a difference of shares) or ``objects``; ``mean`` says
    whether the mean over the categories is a figure, too.
    """

    key: str
    heading: str
    definition: str
    unit: str = "share"
    mean: bool = True
    group: str = ""


_POOLED = "All images pooled, as COCO (pycocotools)"
_BY_IMAGE = "Mean over images"
_FLAT = "After flattening to label images"
_BOXES = "Boxes"
_JACCARD = "TP/(TP+FP+FN) at the working confidence"
_F1 = "F1 at the working confidence"
_PANOPTIC = "Panoptic quality at the working confidence"
_BIOLOGY = "What biologists read off"
_PARTIAL = "Partly annotated images"

# In the order of the report. {cap}: the most detections of an image that are looked at.
METRICS: tuple[Metric, ...] = (
    Metric("AP@{cap}", "AP", "mask average precision, mean over IoU 0.50 to 0.95 in steps of 0.05", group=_POOLED),
    Metric("AP50@{cap}", "AP50", "the same at IoU 0.50", group=_POOLED),
    Metric("AP75@{cap}", "AP75", "the same at IoU 0.75", group=_POOLED),
    Metric("recall@{cap}", "recall", "true objects found at any score, mean over the ten IoUs", group=_POOLED),
    Metric("image_AP@{cap}", "AP", "AP of each image alone; images without a true object of the class have none",
           group=_BY_IMAGE),
    Metric("image_AP50@{cap}", "AP50", "the same at IoU 0.50", group=_BY_IMAGE),
    Metric("image_AP75@{cap}", "AP75", "the same at IoU 0.75", group=_BY_IMAGE),
    Metric("flat_AP@{cap}", "AP", "pooled AP when no two objects of a class may share a pixel", group=_FLAT),
    Metric("flat_AP50@{cap}", "AP50", "the same at IoU 0.50", group=_FLAT),
    Metric("flat_AP75@{cap}", "AP75", "the same at IoU 0.75", group=_FLAT),
    Metric("flattening_AP50@{cap}", "change of AP50", "what flattening adds or costs", unit="points", group=_FLAT),
    Metric("box_AP@{cap}", "box AP", "pooled AP of the boxes around the masks", group=_BOXES),
    Metric("box_AP50@{cap}", "box AP50", "the same at IoU 0.50", group=_BOXES),
    Metric("box_AP75@{cap}", "box AP75", "the same at IoU 0.75", group=_BOXES),
    Metric("jaccard50", "IoU 0.5", "TP / (TP + FP + FN), objects of all images together", group=_JACCARD),
    Metric("jaccard75", "IoU 0.75", "the same at IoU 0.75", group=_JACCARD),
    Metric("jaccard90", "IoU 0.9", "the same at IoU 0.9", group=_JACCARD),
    Metric("image_jaccard50", "IoU 0.5, mean over images",
           "TP / (TP + FP + FN) of each image; images with no object, true or found, have none", group=_JACCARD),
    Metric("F1_50", "F1, IoU 0.5", "2 TP / (2 TP + FP + FN), objects of all images together", group=_F1),
    Metric("F1_75", "F1, IoU 0.75", "the same at IoU 0.75", group=_F1),
    Metric("F1_90", "F1, IoU 0.9", "the same at IoU 0.9", group=_F1),
    Metric("precision50", "precision, IoU 0.5", "TP / (TP + FP)", group=_F1),
    Metric("recall50", "recall, IoU 0.5", "TP / (TP + FN)", group=_F1),
    Metric("PQ", "PQ", "panoptic quality: SQ times F1 at IoU 0.5, objects of all images together", group=_PANOPTIC),
    Metric("SQ", "SQ", "segmentation quality: mean IoU of the pairs at IoU 0.5", group=_PANOPTIC),
    Metric("count_error", "count error", "objects found too many or too few, mean of images", "objects", False,
           _BIOLOGY),
    Metric("count_bias", "count bias", "all objects found over all true ones, less 1", "points", False, _BIOLOGY),
    Metric("area_error", "area error", "difference of the share of the image covered (cells: confluency), mean of "
           "images", "share", False, _BIOLOGY),
    Metric("area_bias", "area bias", "the same with its sign", "points", False, _BIOLOGY),
    Metric("link_matched", "links right", "of the nuclei found, those linked to the right cell, or rightly to none",
           "share", False, _BIOLOGY),
    Metric("link_whole", "nucleus, cell and link found", "of the true nuclei in a cell", "share", False, _BIOLOGY),
    Metric("partial_recall50", "recall 0.5", "outlined objects found at the working confidence", group=_PARTIAL),
    Metric("partial_recall75", "recall 0.75", "the same at IoU 0.75", group=_PARTIAL),
)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % bootstrap interval; NaN where there is none."""

    value: float
    low: float
    high: float


def metrics_for(caps: Sequence[int]) -> list[Metric]:
    """Return all metrics, those of a cap once for each; flattening and boxes only for the largest."""
    listed = []
    for metric in METRICS:
        if "{cap}" not in metric.key:
            listed.append(metric)
            continue
        for cap in caps if metric.group in (_POOLED, _BY_IMAGE) else [max(caps)]:
            group = f"{metric.group}, at most {cap} detections an image"
            listed.append(Metric(metric.key.format(cap=cap), metric.heading, metric.definition, metric.unit,
                                 metric.mean, group))  # fmt: skip
    return listed


def sample_weights(images: int, samples: int, seed: int) -> np.ndarray:
    """Return how often each image is taken, int [1 + samples, images]; the first row takes each once."""
    rng = np.random.default_rng(seed)
    drawn = (
        rng.multinomial(images, np.full(images, 1 / images), size=samples)
        if images
        else np.zeros((samples, 0))
    )
    return np.concatenate([np.ones((1, images), int), drawn.astype(int)])


def interval(rows: np.ndarray) -> Interval:
    """Return the first row's value and the range of the middle 95 % of the others."""
    samples = rows[1:][np.isfinite(rows[1:])]
    if not np.isfinite(rows[0]) or len(samples) < 2:
        return Interval(float(rows[0]), float("nan"), float("nan"))
    low, high = np.percentile(samples, [2.5, 97.5])
    return Interval(float(rows[0]), float(low), float(high))


def measure(
    tallies: Sequence[ImageTally], categories: Sequence[str], weights: np.ndarray, caps: Sequence[int]
) -> dict[tuple[str, str], np.ndarray]:
    """Compute every figure for every weighting of the images.

    Parameters
    ----------
    tallies : sequence of ImageTally
    categories : sequence of str
    weights : int [1 + B, images]
    caps : sequence of int

    Returns
    -------
    dict of (category, metric key) to float [1 + B]
        Category ``"all"`` is the mean over the categories, where two or more have the figure. NaN where nothing can
        be judged.
    """
    figures: dict[tuple[str, str], np.ndarray] = {}
    for category in categories:
        ones = [tally.categories.get(category) for tally in tallies]
        if any(ones):
            rows = {**_precision_rows(ones, weights, caps), **_working_rows(ones, weights)}
            figures.update({(category, key): row for key, row in rows.items()})
        partial = [tally.partial.get(category) for tally in tallies]
        if any(partial):
            true = _column(partial, lambda one: one.true)
            for place, key in ((0, "partial_recall50"), (1, "partial_recall75")):
                hits = _column(partial, lambda one, place=place: one.hits[place])
                figures[category, key] = _ratio(weights @ hits, weights @ true)
    links = [tally.links for tally in tallies]
    if any(links):
        for key, top, bottom in (("link_matched", "right", "matched"), ("link_whole", "whole", "linked")):
            figures[NUCLEUS, key] = _ratio(
                weights @ _column(links, lambda one, top=top: getattr(one, top)),
                weights @ _column(links, lambda one, bottom=bottom: getattr(one, bottom)),
            )
    for metric in metrics_for(caps):
        known = [
            figures[category, metric.key] for category in categories if (category, metric.key) in figures
        ]
        if len(known) > 1 and metric.mean:
            figures[ALL, metric.key] = _mean(known)
    return figures


def _precision_rows(
    ones: Sequence[CategoryTally | None], weights: np.ndarray, caps: Sequence[int]
) -> dict[str, np.ndarray]:
    """AP of masks, flattened masks and boxes, and the mean over images."""
    names = ("AP", "AP50", "AP75", "recall")
    rows: dict[str, np.ndarray] = {}
    most = max((len(one.raw.scores) for one in ones if one), default=0)
    for cap in sorted(caps, reverse=True):
        larger = [other for other in caps if other > cap]
        if larger and most <= cap:  # nothing is cut off: the figures are those of the larger cap
            for name in (*names, *(f"image_{name}" for name in names[:3])):
                rows[f"{name}@{cap}"] = rows[f"{name}@{min(larger)}"]
            continue
        values = average_precisions(pool(_ranked(ones, "raw"), cap), weights)
        rows.update({f"{name}@{cap}": values[:, k] for k, name in enumerate(names)})
        alone = np.array([_alone(one, cap) for one in _ranked(ones, "raw")])
        for k, name in enumerate(names[:3]):
            defined = np.isfinite(alone[:, k])
            total = weights[:, defined] @ alone[defined, k]
            rows[f"image_{name}@{cap}"] = _ratio(total, weights @ defined)
    cap = max(caps)
    for kind in ("flat", "boxes"):
        values = average_precisions(pool(_ranked(ones, kind), cap), weights)
        label = {"flat": "flat", "boxes": "box"}[kind]
        rows.update({f"{label}_{name}@{cap}": values[:, k] for k, name in enumerate(names[:3])})
    rows[f"flattening_AP50@{cap}"] = rows[f"flat_AP50@{cap}"] - rows[f"AP50@{cap}"]
    return rows


def _ranked(ones: Sequence[CategoryTally | None], kind: str) -> list[Ranking | None]:
    return [None if one is None else getattr(one, kind) for one in ones]


def _alone(ranking: Ranking | None, cap: int) -> np.ndarray:
    """AP, AP50, AP75 of one image, NaN without a true object."""
    if ranking is None or ranking.truths == 0:
        return np.full(3, np.nan)
    return average_precisions(pool([ranking], cap), np.ones((1, 1), int))[0, :3]


def _working_rows(ones: Sequence[CategoryTally | None], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Count at the working confidence: what a user gets."""
    outcomes = [None if one is None else one.outcome for one in ones]
    judged = np.array([one is not None for one in outcomes])
    found, true = _column(outcomes, lambda one: one.found), _column(outcomes, lambda one: one.true)
    both = weights @ (found + true)
    rows = {}
    for place, label in enumerate(("50", "75", "90")):
        hits = weights @ _column(outcomes, lambda one, place=place: one.hits[place])
        rows[f"jaccard{label}"] = _ratio(hits, both - hits)
        rows[f"F1_{label}"] = _ratio(2 * hits, both)
    hits = _column(outcomes, lambda one: one.hits[0])
    overlap = weights @ _column(outcomes, lambda one: one.overlap)
    rows["precision50"] = _ratio(weights @ hits, weights @ found)
    rows["recall50"] = _ratio(weights @ hits, weights @ true)
    rows["SQ"] = _ratio(overlap, weights @ hits)
    rows["PQ"] = _ratio(2 * overlap, both)
    any_object = found + true > 0
    shares = hits / np.maximum(found + true - hits, 1)
    rows["image_jaccard50"] = _ratio(weights @ (shares * any_object), weights @ any_object)
    rows["count_error"] = _ratio(weights @ np.abs(found - true), weights @ judged)
    rows["count_bias"] = _ratio(weights @ found, weights @ true) - 1
    covered = _column(outcomes, lambda one: one.found_area - one.true_area)
    rows["area_error"] = _ratio(weights @ np.abs(covered), weights @ judged)
    rows["area_bias"] = _ratio(weights @ covered, weights @ judged)
    return rows


def _column(ones: Sequence, value) -> np.ndarray:
    """One value an image, 0 where there is none."""
    return np.array([0 if one is None else value(one) for one in ones], float)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    bottom = np.asarray(bottom, float)
    return np.divide(top, bottom, out=np.full(len(bottom), np.nan), where=bottom > 0)


def _mean(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over what is defined, row by row."""
    table = np.stack(rows)
    defined = np.isfinite(table)
    return _ratio(np.where(defined, table, 0).sum(0), defined.sum(0))
