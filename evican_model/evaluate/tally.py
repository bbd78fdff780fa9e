"""What is counted in one image: everything that a figure is later made from, so that masks are looked at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

import numpy as np

from evican_model.evaluate.found import Found
from evican_model.evaluate.ground_truth import Scene
from evican_model.evaluate.matching import THRESHOLDS, Overlaps, mask_and_box_overlaps, mask_overlaps, match
from evican_model.evaluate.pooling import Ranking
from evican_model.instances import Instances

__all__ = ["WORKING_IOUS", "CategoryTally", "ImageTally", "Links", "Outcome", "tally_image"]

WORKING_IOUS = (0.5, 0.75, 0.9)
_AT = [int(np.abs(THRESHOLDS - iou).argmin()) for iou in WORKING_IOUS]
CELL, NUCLEUS = "Cell", "Nucleus"


@dataclass(frozen=True)
class Outcome:
    """What a user gets of one category at the working confidence, against what is there.

    Parameters
    ----------
    hits : int [3]
        Matched pairs at ``WORKING_IOUS``.
    found, true : int
        Objects that count.
    overlap : float
        Sum of the IoU of the pairs at 0.5.
    found_area, true_area : float
        Share of the image that the objects cover together.
    objects : Instances
        What was found.
    matches : int [found objects]
        The place of the true object at IoU 0.5, -1 for none.
    counted : bool [found objects]
        False for what lies in a crowd.
    """

    hits: np.ndarray
    found: int
    true: int
    overlap: float
    found_area: float
    true_area: float
    objects: Instances
    matches: np.ndarray
    counted: np.ndarray

    @property
    def panoptic_quality(self) -> float:
        """Summed IoU of the pairs over TP + FP/2 + FN/2; 1 where nothing is there and nothing was found."""
        return 2 * self.overlap / (self.found + self.true) if self.found + self.true else 1.0


@dataclass(frozen=True)
class CategoryTally:
    """One category of one image.

    ``raw`` and ``boxes`` rank the detections as they are, ``flat`` those of the label image (all of them, also below
    the working confidence), ``by_size`` the raw ones for each range of true areas.
    """

    raw: Ranking
    boxes: Ranking
    flat: Ranking
    by_size: tuple[Ranking, ...]
    outcome: Outcome


@dataclass(frozen=True)
class Links:
    """Nuclei linked to cells, in one image.

    Parameters
    ----------
    right : int
        Found nuclei whose found cell is the one of the true nucleus, or that rightly have none.
    matched : int
        Found nuclei that are true ones (IoU 0.5).
    whole : int
        True nuclei in a true cell for which nucleus, cell and link were found.
    linked : int
        True nuclei in a true cell.
    """

    right: int
    matched: int
    whole: int
    linked: int


@dataclass(frozen=True)
class ImageTally:
    """One image: each category that is annotated and offered, and those that are only partly annotated."""

    categories: dict[str, CategoryTally]
    partial: dict[str, Outcome]  # of these only what is true can be judged: hits and true
    links: Links | None


def tally_image(
    scene: Scene,
    found: Found,
    flat: bool,
    offered: frozenset,
    confidence: Mapping[str, float],
    sizes: Mapping[str, np.ndarray],
) -> ImageTally:
    """Compare what was found in an image with what is there.

    Parameters
    ----------
    scene : Scene
    found : Found
        Of the scene's categories, best first.
    flat : bool
        Whether the objects come from a label image; else they are flattened for what users get.
    offered : frozenset of str
        Categories the tool finds; of them, those annotated in the image are judged.
    confidence : mapping of str to float
        The least score of each category in what users get.
    sizes : mapping of str to float [S + 1]
        Edges of the size classes of each category, areas in pixels.
    """
    labels = found if flat else found.flattened()
    judged = [name for name in scene.image.truth.categories if name in scene.image.annotated & offered]
    outcomes, tallies = {}, {}
    for name in judged:
        truth, crowd = scene.true(name)
        mine = labels.of(name)
        overlaps = mask_overlaps(mine.objects, truth, crowd)
        matches = match(overlaps, THRESHOLDS, crowd=crowd)
        ranking = Ranking.of(mine.scores, matches, crowd)
        outcomes[name] = _outcome(mine, ranking, matches, overlaps, truth, confidence[name])
        if scene.image.dense:
            raw, boxes, by_size = _rankings(found.of(name), truth, crowd, sizes[name])
            tallies[name] = CategoryTally(raw, boxes, ranking, by_size, outcomes[name])
    if not scene.image.dense:
        return ImageTally({}, outcomes, None)
    links = _links(scene, outcomes) if {CELL, NUCLEUS} <= set(outcomes) else None
    return ImageTally(tallies, {}, links)


def _rankings(found: Found, truth: Instances, crowd: np.ndarray, edges: np.ndarray):
    """Rank the detections as they are: by masks, by boxes, and by masks for each class of sizes."""
    overlaps, boxes = mask_and_box_overlaps(found.objects, truth, crowd)
    raw = Ranking.of(found.scores, match(overlaps, THRESHOLDS, crowd=crowd), crowd)
    box_matches = match(boxes, THRESHOLDS, crowd=crowd)
    areas, true_areas = found.objects.areas(), truth.areas()
    by_size = []
    for low, high in zip(edges[:-1], edges[1:]):
        ignored = crowd | (true_areas < low) | (true_areas >= high)
        matches = match(overlaps, THRESHOLDS, ignored, crowd)
        by_size.append(Ranking.of(found.scores, matches, ignored, (areas < low) | (areas >= high)))
    return raw, Ranking.of(found.scores, box_matches, crowd), tuple(by_size)


def _outcome(
    mine: Found, ranking: Ranking, matches: np.ndarray, overlaps: Overlaps, truth: Instances, least: float
) -> Outcome:
    # Matching goes down the scores, so what a higher score took is the same without those below.
    kept = mine.objects.all_scores >= least  # single precision, as `Model.resolve` compares
    counted = ranking.counted[0] & kept
    pairs = (matches[0][overlaps.found] == overlaps.truth) & counted[overlaps.found]
    objects = mine.objects.select(kept)
    return Outcome(
        np.array([np.count_nonzero(ranking.hit[t] & ranking.counted[t] & kept) for t in _AT]),
        int(np.count_nonzero(counted)),
        ranking.truths,
        float(overlaps.iou[pairs].sum()),
        _covered(objects, disjoint=True),
        _covered(truth, disjoint=False),
        objects,
        matches[0][kept],
        ranking.counted[0][kept],
    )


def _covered(objects: Instances, disjoint: bool) -> float:
    """Share of the image that the objects cover together."""
    pixels = objects.shape[0] * objects.shape[1]
    if disjoint:
        return float(objects.areas().sum()) / max(1, pixels)
    covered = np.zeros(objects.shape, bool)
    for crop, (y1, x1, y2, x2) in zip(objects.crops, objects.all_boxes.tolist()):
        covered[y1:y2, x1:x2] |= crop
    return np.count_nonzero(covered) / max(1, pixels)


def _links(scene: Scene, outcomes: Mapping[str, Outcome]) -> Links:
    nuclei, cells = outcomes[NUCLEUS], outcomes[CELL]
    truth = Instances.concatenate([scene.true(CELL)[0], scene.true(NUCLEUS)[0]])
    true_parents = truth.parents(NUCLEUS, CELL) - 1
    found = Instances.concatenate([cells.objects, nuclei.objects])
    parents = found.parents(NUCLEUS, CELL) - 1
    right = whole = 0
    matched = (nuclei.matches >= 0) & nuclei.counted
    for nucleus in np.flatnonzero(matched).tolist():
        parent, true_parent = parents[nucleus], true_parents[nuclei.matches[nucleus]]
        if true_parent < 0:
            right += int(parent < 0)
        elif parent >= 0 and cells.matches[parent] == true_parent:
            right += 1
            whole += 1
    return Links(right, int(matched.sum()), whole, int((true_parents >= 0).sum()))
