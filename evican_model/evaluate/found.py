"""The form in which everything found is judged, whichever tool found it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from evican_model.instances import Instances

__all__ = ["Found", "Results", "best_first"]


@dataclass(frozen=True)
class Found:
    """The objects that a tool found in one image, best first.

    Parameters
    ----------
    objects : Instances
    scores : float64 [N]
        As the tool gave them; `Instances` keeps only single precision, and AP depends on the order.
    """

    objects: Instances
    scores: np.ndarray

    def select(self, keep: np.ndarray) -> Found:
        """Return the objects at ``keep``, bool [N] or indices."""
        return Found(self.objects.select(keep), self.scores[keep])

    def of(self, category: str) -> Found:
        """Return the objects of one category."""
        return self.select(self.objects.category_ids == self.objects.categories.index(category) + 1)

    def flattened(self) -> Found:
        """Return the objects as a label image can hold them: not doubled, and none over another of its class.

        It is what `Model.resolve` does, and so what users of the module get.
        """
        there = self.select(self.objects.areas() > 0)
        # Places stand in for scores: they come back from the cleaning, and no two are equal.
        places = -np.arange(len(there.scores), dtype=np.float32)
        flat = replace(there.objects, all_scores=places).without_duplicates().without_overlaps()
        kept = (-flat.all_scores).astype(int)
        scores = there.scores[kept]
        return Found(replace(flat, all_scores=scores.astype(np.float32)), scores)


@dataclass(frozen=True)
class Results:
    """All that a tool found in one set of images.

    Parameters
    ----------
    offered : frozenset of str
        The categories that the tool finds at all; it is not judged on others.
    scored : bool
        Whether its objects have scores.
    flat : bool
        Whether they come from label images.
    found : list of Found
        One an image, in the order of the set.
    notes : tuple of str
    """

    offered: frozenset
    scored: bool
    flat: bool
    found: list[Found]
    notes: tuple[str, ...] = ()


def best_first(objects: Instances, scores: np.ndarray) -> Found:
    """Sort by score as pycocotools does: of equal ones, the earlier first."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    return Found(objects.select(order), np.asarray(scores, np.float64)[order])
