"""Which found object is which true one: overlaps once for each image and category, matches from them. Pure functions.

Overlaps and matches are those of pycocotools, to the last bit, crowds included. Its own matching goes through all
pairs in Python, for each of ten thresholds; here only pairs that overlap enough are looked at, and only those with a
rival one by one. A thousand dense images take seconds, and the matches are there to resample for the bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from evican_model.instances import Instances
from evican_model.masks import box_pairs, shared_areas

__all__ = ["THRESHOLDS", "Overlaps", "mask_and_box_overlaps", "mask_overlaps", "match"]

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the IoU, made as pycocotools makes them


@dataclass(frozen=True)
class Overlaps:
    """The pairs of found and true objects of one category that share pixels.

    Parameters
    ----------
    found, truth : int [P]
        The places of each pair's objects, ordered by ``found``, then by ``truth``.
    iou : float64 [P]
        Intersection over union; with a crowd, over the found object alone.
    founds, truths : int
        How many objects there are.
    """

    found: np.ndarray
    truth: np.ndarray
    iou: np.ndarray
    founds: int
    truths: int


def mask_overlaps(found: Instances, truth: Instances, crowd: np.ndarray) -> Overlaps:
    """Return the overlaps of masks; all objects count as one category.

    Parameters
    ----------
    found, truth : Instances
        Of one category and one image.
    crowd : bool [truth]
        True for an outline around several objects.
    """
    i, j = box_pairs(found.all_boxes, truth.all_boxes)
    return _mask_overlaps(found, truth, crowd, i, j)


def mask_and_box_overlaps(found: Instances, truth: Instances, crowd: np.ndarray) -> tuple[Overlaps, Overlaps]:
    """Return the overlaps of masks, and of the boxes around them; parameters as for `mask_overlaps`."""
    i, j = box_pairs(found.all_boxes, truth.all_boxes)
    low = np.maximum(found.all_boxes[i, :2], truth.all_boxes[j, :2])
    high = np.minimum(found.all_boxes[i, 2:], truth.all_boxes[j, 2:])
    shared = np.prod(high - low, axis=1, dtype=np.int64)
    areas = [
        np.prod(one.all_boxes[:, 2:] - one.all_boxes[:, :2], axis=1, dtype=np.int64) for one in (found, truth)
    ]
    boxes = _overlaps(i, j, shared, areas[0], areas[1], crowd)
    return _mask_overlaps(found, truth, crowd, i, j), boxes


def match(
    overlaps: Overlaps,
    thresholds: Sequence[float] | np.ndarray,
    ignored: np.ndarray | None = None,
    crowd: np.ndarray | None = None,
) -> np.ndarray:
    """Match found objects to true ones as COCO does: the best score chooses first, the best overlap that is left.

    Parameters
    ----------
    overlaps : Overlaps
        Found objects best first.
    thresholds : sequence of float
        The least IoU, one matching for each.
    ignored : bool [truths], optional
        True objects that count neither as found nor as missed; they are chosen only where no other fits.
    crowd : bool [truths], optional
        Crowds, which are ignored and can be chosen by any number of objects.

    Returns
    -------
    int [thresholds, founds]
        The place of the true object, -1 for none.

    Notes
    -----
    Where objects of one kind do not overlap each other, as in label images, at most one pair can have an IoU above
    0.5: the matching then does not depend on scores, and equals that of StarDist and Cellpose.

    Examples
    --------
    >>> pairs = Overlaps(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.6, 0.7, 0.9]), 2, 2)
    >>> match(pairs, [0.5, 0.8])
    array([[ 1,  0],
           [-1,  0]])
    """
    crowd = np.zeros(overlaps.truths, bool) if crowd is None else crowd
    ignored = crowd if ignored is None else ignored | crowd
    least = np.minimum(np.asarray(thresholds, float), 1 - 1e-10)  # so that 1.0 is reached by equal masks
    near = overlaps.iou >= least.min()
    found, truth, iou = overlaps.found[near], overlaps.truth[near], overlaps.iou[near]
    matches = np.full((len(least), overlaps.founds), -1)
    alone = (np.bincount(found, minlength=overlaps.founds)[found] == 1) & (
        np.bincount(truth, minlength=overlaps.truths)[truth] == 1
    )
    matches[:, found[alone]] = np.where(iou[alone] >= least[:, None], truth[alone], -1)
    if alone.all():
        return matches
    choices: dict[int, list[tuple[bool, int, float]]] = {}
    for i, j, overlap in zip(found[~alone].tolist(), truth[~alone].tolist(), iou[~alone].tolist()):
        choices.setdefault(i, []).append((bool(ignored[j]), j, overlap))
    ordered = [(i, sorted(choices[i], key=lambda choice: choice[:2])) for i in sorted(choices)]
    for t, threshold in enumerate(least.tolist()):
        taken: set[int] = set()
        for i, its_choices in ordered:
            best, chosen, regular = threshold, -1, False
            for is_ignored, j, overlap in its_choices:
                if is_ignored and regular:
                    break
                if overlap >= best and (j not in taken or crowd[j]):
                    best, chosen, regular = overlap, j, not is_ignored
            if chosen >= 0:
                taken.add(chosen)
                matches[t, i] = chosen
    return matches


def _mask_overlaps(found: Instances, truth: Instances, crowd: np.ndarray, i, j) -> Overlaps:
    """Return the overlaps of masks among pairs whose boxes overlap."""
    shared = shared_areas(found.all_boxes, found.crops, truth.all_boxes, truth.crops, i, j)
    i, j, shared = i[shared > 0], j[shared > 0], shared[shared > 0]
    return _overlaps(i, j, shared, found.areas(), truth.areas(), crowd)


def _overlaps(i, j, shared, found_areas, truth_areas, crowd) -> Overlaps:
    union = found_areas[i] + np.where(crowd[j], 0, truth_areas[j] - shared)
    return Overlaps(i, j, shared / np.maximum(union, 1), len(found_areas), len(truth_areas))
