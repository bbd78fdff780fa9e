"""Average precision from cached matches, for all images at once and for any resampling of them.

The pooled figure is pycocotools' (`COCOeval.accumulate`), to the last bit. What pycocotools has not, and what this
file is for: the same figure for thousands of weightings of the images, from matches that are made once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

import numpy as np

__all__ = ["RECALLS", "Pool", "Ranking", "average_precisions", "curves", "pool"]

RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO reads the precision
_SPACING = np.spacing(1)  # COCO adds it to the number of detections


@dataclass(frozen=True)
class Ranking:
    """What became of the objects found in one image, of one category, best first.

    Parameters
    ----------
    scores : float64 [D]
    hit : bool [T, D]
        At each IoU threshold: a true object is matched.
    counted : bool [T, D]
        False where the match, or the lack of one, counts neither for nor against.
    truths : int
        True objects that count.
    """

    scores: np.ndarray
    hit: np.ndarray
    counted: np.ndarray
    truths: int

    @classmethod
    def of(
        cls,
        scores: np.ndarray,
        matches: np.ndarray,
        ignored: np.ndarray,
        outside: np.ndarray | None = None,
    ) -> Ranking:
        """Make it from the result of `matching.match`.

        Parameters
        ----------
        scores : float [D]
        matches : int [T, D]
        ignored : bool [truths]
            True objects that do not count.
        outside : bool [D], optional
            Found objects that, without a match, do not count (their size is not the one looked at).
        """
        hit = matches >= 0
        counted = ~(hit & np.append(ignored, False)[matches])
        if outside is not None:
            counted &= hit | ~outside
        return cls(scores, hit, counted, int(np.count_nonzero(~ignored)))


@dataclass(frozen=True)
class Pool:
    """The rankings of many images in one, best first; what `average_precisions` looks at again and again."""

    images: int
    truths: np.ndarray  # int [images]
    scores: np.ndarray  # [D]
    owner: np.ndarray  # int [D], the image of each found object
    hit: np.ndarray  # bool [T, D], hits that count
    counted: np.ndarray  # bool [T, D]


def pool(rankings: Sequence[Ranking | None], cap: int | None = None) -> Pool:
    """Put images together; equal scores stay in the order of the images.

    Parameters
    ----------
    rankings : sequence of Ranking or None
        None for an image that is not judged.
    cap : int, optional
        The most objects of an image that are looked at, best first (pycocotools' ``maxDets``).
    """
    there = [(number, one) for number, one in enumerate(rankings) if one is not None]
    truths = np.zeros(len(rankings), int)
    if not there:
        none = np.zeros((1, 0), bool)
        return Pool(len(rankings), truths, np.zeros(0), np.zeros(0, int), none, none)
    for number, one in there:
        truths[number] = one.truths
    scores = np.concatenate([one.scores[:cap] for _, one in there])
    order = np.argsort(-scores, kind="stable")
    owner = np.concatenate([np.full(len(one.scores[:cap]), number) for number, one in there])[order]
    hit = np.concatenate([one.hit[:, :cap] for _, one in there], axis=1)[:, order]
    counted = np.concatenate([one.counted[:, :cap] for _, one in there], axis=1)[:, order]
    return Pool(len(rankings), truths, scores[order], owner, hit & counted, counted)


def curves(pooled: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Return the precision at each of ``RECALLS`` [T, 101] and the recall that is reached [T]; NaN without truths."""
    precision, recall = next(_weighted(pooled, np.ones((1, pooled.images), int)))
    return precision, recall


def average_precisions(pooled: Pool, weights: np.ndarray) -> np.ndarray:
    """Return AP, AP50, AP75 and the mean recall, as shares of 1, for each weighting of the images.

    Parameters
    ----------
    pooled : Pool
        Of matches at the ten COCO thresholds.
    weights : int [B, images]
        How often each image is taken.

    Returns
    -------
    float [B, 4]
        NaN where a weighting leaves no true object.
    """
    rows = np.full((len(weights), 4), np.nan)
    for row, (precision, recall) in zip(rows, _weighted(pooled, weights)):
        if len(precision) == 10:
            row[:] = precision.ravel().mean(), precision[0].mean(), precision[5].mean(), recall.mean()
    return rows


def _weighted(pooled: Pool, weights: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield precision [T, 101] and recall [T] for each weighting."""
    # Precision can only rise at a hit, so the hits are all that has to be looked at.
    hits = [np.flatnonzero(row) for row in pooled.hit]
    hit_owners = [pooled.owner[places] for places in hits]
    if pooled.counted.all():
        counted, places = [pooled.owner], [(0, one) for one in hits]
    else:
        counted = [pooled.owner[row] for row in pooled.counted]
        places = [(t, (np.cumsum(row) - 1)[one]) for t, (row, one) in enumerate(zip(pooled.counted, hits))]
    for weight in weights.astype(np.int32):  # half the bytes of the default, and this is where the time goes
        truths = int(weight @ pooled.truths)
        precision, recall = np.zeros((len(hits), len(RECALLS))), np.zeros(len(hits))
        if truths == 0:
            yield np.full_like(precision, np.nan), np.full_like(recall, np.nan)
            continue
        needed = _least_hits(truths)
        said = [np.cumsum(weight[owner], dtype=np.int32) + _SPACING for owner in counted]
        for t, owner in enumerate(hit_owners):
            right = np.cumsum(weight[owner], dtype=np.int32)
            at = np.searchsorted(right, needed, side="left")
            at = at[at < len(right)]
            if len(at):
                which, where = places[t]
                # The best precision from each of these hits on: of the stretch to the next, then of all that follow.
                best = np.maximum.reduceat(right / said[which][where], at)
                precision[t, : len(at)] = np.maximum.accumulate(best[::-1])[::-1]
                recall[t] = right[-1] / truths
        yield precision, recall


def _least_hits(truths: int) -> np.ndarray:
    """Return how many hits it takes to reach each of ``RECALLS``, int [101], by the division that COCO makes."""
    needed = np.ceil(RECALLS * truths).astype(int)
    needed += needed / truths < RECALLS
    needed -= (needed > 0) & ((needed - 1) / truths >= RECALLS)
    return needed
