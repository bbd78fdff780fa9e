"""The objects found in one image: a mask, a box, a score and a category each, linked child to parent.

A mask is kept as a crop, cut to the object's box, so that memory and time follow the objects, not the image.
Work on pairs (overlap, duplicates, parents) looks only at the masks of pairs whose boxes overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Iterator, Sequence

import numpy as np

from evican_model.categories import CELL, NUCLEUS, are_lines, kind_of, line_of
from evican_model.errors import EvicanError
from evican_model.masks import box_pairs, common, paste_masks, shared_areas, solid_piece, tighten

__all__ = ["Instances", "paste_masks", "shares"]


@dataclass(frozen=True, eq=False, repr=False)
class Instances:
    """The objects of one image, in the order given (``Model.segment`` gives them by descending score).

    Parameters
    ----------
    shape : (int, int)
        Height and width of the image in pixels.
    categories : tuple of str
        Category names; the category of id ``k`` is ``categories[k - 1]``.
    category_ids : int [N]
        The category of each object, from 1.
    all_scores : float [N]
        Confidence of each object, 0 to 1.
    all_boxes : int [N, 4]
        ``y1, x1, y2, x2`` in pixels, half open, inside the image, tight around the mask.
    crops : sequence of bool arrays
        The mask of object ``i`` inside its box, of shape ``(y2 - y1, x2 - x1)``.
    all_lines : sequence of str
        The cell line of each object, from networks that tell lines apart (`grouped_by_kind`); else empty.
    all_line_scores : float [N]
        How sure the network is of the line, 0 to 1, given that the object is one; else empty.

    Raises
    ------
    EvicanError
        When lengths, shapes, types or values do not fit together.

    Examples
    --------
    >>> found = Instances((8, 8), ("Cell", "Nucleus"), [1, 2], [0.9, 0.8],
    ...                   [[0, 0, 6, 6], [1, 1, 3, 4]], [np.ones((6, 6), bool), np.ones((2, 3), bool)])
    >>> found
    Instances(8 x 8 pixels: 1 Cell, 1 Nucleus)
    >>> found.areas("Nucleus"), found.parents("Nucleus", "Cell")
    (array([6]), array([1], dtype=int32))
    """

    shape: tuple[int, ...]
    categories: tuple[str, ...]
    category_ids: np.ndarray
    all_scores: np.ndarray
    all_boxes: np.ndarray
    crops: tuple[np.ndarray, ...]
    all_lines: tuple[str, ...] = ()
    all_line_scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        """Bring the fields to their types and check that they fit together."""
        n = len(self.crops)
        fields = {
            "shape": tuple(int(side) for side in self.shape),
            "categories": tuple(self.categories),
            "category_ids": np.asarray(self.category_ids, np.int32),
            "all_scores": np.asarray(self.all_scores, np.float32),
            "all_boxes": np.asarray(self.all_boxes, np.int32) if n else np.zeros((0, 4), np.int32),
            "crops": tuple(self.crops),
            "all_lines": tuple(self.all_lines),
            "all_line_scores": np.asarray(self.all_line_scores, np.float32),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if len(self.shape) != 2 or min(self.shape) < 0:
            raise EvicanError(f"shape must be (height, width), not {self.shape}")
        for name, expected in (("category_ids", (n,)), ("all_scores", (n,)), ("all_boxes", (n, 4))):
            actual = getattr(self, name).shape
            if actual != expected:
                raise EvicanError(f"{n} masks need {name} of shape {expected}, not {actual}")
        if (len(self.all_lines), *self.all_line_scores.shape) not in ((0, 0), (n, n)):
            raise EvicanError(f"{n} masks need {n} lines and line scores, or none of both")
        if n == 0:
            return
        if self.category_ids.min() < 1 or self.category_ids.max() > len(self.categories):
            raise EvicanError(f"category_ids must be 1 to {len(self.categories)}, the number of categories")
        corners, extents = self.all_boxes[:, :2], self.all_boxes[:, 2:] - self.all_boxes[:, :2]
        if corners.min() < 0 or extents.min() < 0 or (self.all_boxes[:, 2:] > self.shape).any():
            raise EvicanError(f"boxes must be y1, x1, y2, x2 inside the image of {self.shape} pixels")
        for i, (crop, extent) in enumerate(zip(self.crops, extents.tolist())):
            if crop.dtype != bool or crop.shape != (extent[0], extent[1]):
                raise EvicanError(
                    f"mask {i} is {crop.dtype} {crop.shape}; its box needs bool {tuple(extent)}"
                )

    def __len__(self) -> int:
        """Count all objects."""
        return len(self.crops)

    def __repr__(self) -> str:
        """Name the image size and the count of each category."""
        counts = ", ".join(f"{self.count(name)} {name}" for name in self.categories)
        return f"Instances({self.shape[0]} x {self.shape[1]} pixels: {counts})"

    # Making and choosing

    @classmethod
    def empty(cls, shape: tuple[int, ...], categories: Sequence[str]) -> Instances:
        """Return no objects, for an image of this shape."""
        return cls(shape, tuple(categories), np.zeros(0), np.zeros(0), np.zeros((0, 4)), ())

    @classmethod
    def concatenate(cls, parts: Sequence[Instances]) -> Instances:
        """Return the objects of all parts, in order; parts must agree in image shape and categories."""
        if not parts:
            raise EvicanError("nothing to concatenate; use Instances.empty(shape, categories)")
        first = parts[0]
        for part in parts[1:]:
            if (part.shape, part.categories) != (first.shape, first.categories):
                raise EvicanError(f"cannot concatenate {part!r} to {first!r}: shape or categories differ")
        return cls(
            first.shape,
            first.categories,
            np.concatenate([part.category_ids for part in parts]),
            np.concatenate([part.all_scores for part in parts]),
            np.concatenate([part.all_boxes for part in parts]),
            tuple(crop for part in parts for crop in part.crops),
            tuple(line for part in parts for line in part.all_lines),
            np.concatenate([part.all_line_scores for part in parts]),
        )

    def select(self, keep: np.ndarray) -> Instances:
        """Return the objects where ``keep``, bool [N], is true, or those at the indices ``keep``."""
        keep = np.asarray(keep)
        if keep.dtype == bool and keep.shape != (len(self),):
            raise EvicanError(f"keep must hold one bool for each of {len(self)} objects, not {keep.shape}")
        index = np.arange(len(self))[keep] if keep.size else np.zeros(0, int)
        return replace(
            self,
            category_ids=self.category_ids[index],
            all_scores=self.all_scores[index],
            all_boxes=self.all_boxes[index],
            crops=tuple(self.crops[i] for i in index.tolist()),
            **self._lines_of(index),
        )

    def of(self, category: str) -> Instances:
        """Return the objects of one category."""
        return self.select(self._index(category))

    def sorted_by_score(self) -> Instances:
        """Return the objects by descending score; equal scores stay in order."""
        return self.select(self._ranking())

    def shifted(self, y: int, x: int, shape: tuple[int, ...]) -> Instances:
        """Return the objects moved by ``y, x`` pixels into an image of another shape, as a tile's are."""
        return replace(self, shape=shape, all_boxes=self.all_boxes + np.array([y, x, y, x], np.int32))

    # Looking

    def count(self, category: str) -> int:
        """Count the objects of one category."""
        return len(self._index(category))

    def scores(self, category: str | None = None) -> np.ndarray:
        """Return scores, float32 [n], of one category or of all objects."""
        return self.all_scores[self._index(category)]

    def lines(self, category: str | None = None) -> list[str]:
        """Return the cell lines [n] of one category or of all objects; "" where the network tells none."""
        return [self.all_lines[i] if self.all_lines else "" for i in self._index(category)]

    def line_scores(self, category: str | None = None) -> np.ndarray:
        """Return how sure the network is of each line, float32 [n]; NaN where it tells none."""
        index = self._index(category)
        return self.all_line_scores[index] if self.all_lines else np.full(len(index), np.nan, np.float32)

    def boxes(self, category: str | None = None) -> np.ndarray:
        """Return boxes ``y1, x1, y2, x2``, int32 [n, 4], of one category or of all objects."""
        return self.all_boxes[self._index(category)]

    def areas(self, category: str | None = None) -> np.ndarray:
        """Return mask areas in pixels, int [n], of one category or of all objects."""
        return np.array([np.count_nonzero(self.crops[i]) for i in self._index(category)], int)

    def masks(self, category: str | None = None) -> Iterator[np.ndarray]:
        """Yield each object's mask at full image size, bool [height, width]."""
        for i in self._index(category):
            mask = np.zeros(self.shape, bool)
            y1, x1, y2, x2 = self.all_boxes[i]
            mask[y1:y2, x1:x2] = self.crops[i]
            yield mask

    def labels(self, category: str) -> np.ndarray:
        """Return a label image, int32 [height, width].

        0 is background, ``k`` the k-th object of ``scores(category)``. Where masks overlap, the higher
        score wins (of equal scores, the earlier object).
        """
        found = self.of(category)
        labels = np.zeros(self.shape, np.int32)
        for i in found._ranking()[::-1].tolist():
            y1, x1, y2, x2 = found.all_boxes[i]
            labels[y1:y2, x1:x2][found.crops[i]] = i + 1
        return labels

    def parents(
        self, child: str = "Nucleus", parent: str = "Cell", minimum_overlap: float = 0.5
    ) -> np.ndarray:
        """Link each child to the parent that contains most of it.

        Parameters
        ----------
        child, parent : str
            Category names.
        minimum_overlap : float
            The share of the child's pixels that a parent has to contain.

        Returns
        -------
        int32 [n_child]
            The parent's label (from 1, as in ``labels(parent)``); 0 where no parent contains enough. Between
            parents that contain equally much, the higher score wins, then the earlier.
        """
        children, parents = self.of(child), self.of(parent)
        i, j, share = shares(children, parents)
        enough = (share > 0) & (share >= minimum_overlap)
        i, j, share = i[enough], j[enough], share[enough]
        best_last = np.lexsort((-j, parents.all_scores[j], share))
        links = np.zeros(len(children), np.int32)
        links[i[best_last]] = j[best_last] + 1
        return links

    def touching_border(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Tell, bool [N], which objects touch the edge of the image or of a bool mask [height, width]."""
        if mask is None:
            height, width = self.shape
            return (self.all_boxes[:, :2] == 0).any(1) | (self.all_boxes[:, 2:] == (height, width)).any(1)
        inner = np.zeros(self.shape, bool)  # pixels of the mask with all four neighbours in the mask
        mask = self._as_mask(mask)
        inner[1:-1, 1:-1] = (
            mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
        )
        return np.array(
            [
                (crop & ~inner[y1:y2, x1:x2]).any()
                for crop, (y1, x1, y2, x2) in zip(self.crops, self.all_boxes)
            ],
            bool,
        )

    def rivals(self) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs (better, worse) of one category whose boxes overlap, by their ranks."""
        rank = np.empty(len(self), int)
        rank[self._ranking()] = np.arange(len(self))
        i, j = box_pairs(self.all_boxes, self.all_boxes)
        pair = (rank[i] < rank[j]) & (self.category_ids[i] == self.category_ids[j])
        i, j = i[pair], j[pair]
        order = np.lexsort((rank[j], rank[i]))
        return i[order], j[order]

    # Cleaning

    def clip(self, mask: np.ndarray) -> Instances:
        """Return the objects without their pixels outside a bool mask [height, width]; none left: dropped."""
        mask = self._as_mask(mask)
        crops = [crop & mask[y1:y2, x1:x2] for crop, (y1, x1, y2, x2) in zip(self.crops, self.all_boxes)]
        return self._with_crops(np.arange(len(self)), crops)

    def without_duplicates(self, iou: float = 0.5) -> Instances:
        """Drop an object whose mask overlaps a better one of its category by more than ``iou`` (mask NMS)."""
        areas, kept = self.areas(), np.ones(len(self), bool)
        better, worse = self.rivals()
        shared = _shared_areas(self, self, better, worse)
        duplicate = shared > iou * (areas[better] + areas[worse] - shared)
        for i, j in zip(better[duplicate].tolist(), worse[duplicate].tolist()):
            if kept[i]:
                kept[j] = False
        return self.select(kept)

    def grouped_by_kind(self, iou: float = 0.5) -> Instances:
        """Turn the cells and nuclei of several cell lines into cells and nuclei, each with its line and score.

        A network of many lines finds an object once for each line that it may be of. These are one object: of kind
        ``Cell`` or ``Nucleus``, with the mask and line of the best of them. Its score is their sum, at most 1, as it
        is sure to be an object of that kind even where its line is in doubt; its line score is the best one's share.

        Parameters
        ----------
        iou : float
            Masks of one kind that overlap by more are one object.

        Returns
        -------
        Instances
            With the categories ``Cell`` and ``Nucleus``, best first. Where the categories are no lines
            (`categories.are_lines`), the same objects as they are.
        """
        if not are_lines(self.categories):
            return self
        kinds = np.array([(CELL, NUCLEUS).index(str(kind_of(name))) + 1 for name in self.categories], np.int32)
        lines = [line_of(name) for name in self.categories]
        found = replace(self, categories=(CELL, NUCLEUS), category_ids=kinds[self.category_ids - 1])
        areas, total, kept = found.areas(), found.all_scores.astype(float), np.ones(len(found), bool)
        better, worse = found.rivals()
        shared = _shared_areas(found, found, better, worse)
        same = shared > iou * (areas[better] + areas[worse] - shared)
        counted = {(i, line) for i, line in enumerate(self.category_ids.tolist())}
        for i, j in zip(better[same].tolist(), worse[same].tolist()):
            if kept[i] and kept[j]:
                kept[j] = False
                # A second find of a line is a duplicate, not another chance of it.
                if (i, self.category_ids[j]) not in counted:
                    counted.add((i, self.category_ids[j]))
                    total[i] += found.all_scores[j]
        share = found.all_scores / np.maximum(total, 1e-9)
        found = replace(found, all_scores=np.minimum(total, 1), all_line_scores=share,
                        all_lines=tuple(lines[i - 1] for i in self.category_ids.tolist()))  # fmt: skip
        return found.select(kept).sorted_by_score()

    def without_overlaps(self, minimum_share: float = 0.5) -> Instances:
        """Make masks disjoint within each category, and every object one solid piece.

        From the highest score (of equal ones, the earlier) to the lowest, each object gets the pixels of its
        mask that are still free. Of these its largest 8-connected piece is kept, and the piece's holes are
        filled unless another object stands in them. An object whose piece is less than ``minimum_share`` of
        its own mask is dropped and takes nothing.

        Returns
        -------
        Instances
            In the same order, boxes tight.
        """
        better, worse = self.rivals()
        rivals: dict[int, list[int]] = {}
        for i, j in zip(better.tolist(), worse.tolist()):
            rivals.setdefault(j, []).append(i)
        boxes, areas = self.all_boxes.tolist(), self.areas()
        kept: dict[int, np.ndarray] = {}
        for i in self._ranking().tolist():
            taken = np.zeros_like(self.crops[i])
            for rival in rivals.get(i, ()):
                if rival in kept:
                    here, there = common(boxes[i], taken, boxes[rival], kept[rival])
                    here |= there
            piece, own = solid_piece(self.crops[i] & ~taken, taken)
            if own >= max(1, minimum_share * areas[i]):
                kept[i] = piece
        index = np.array(sorted(kept), int)
        return self._with_crops(index, [kept[i] for i in index.tolist()])

    # Inside

    def _index(self, category: str | None) -> np.ndarray:
        """Return the indices of a category's objects, or all of them."""
        if category is None:
            return np.arange(len(self))
        if category not in self.categories:
            raise EvicanError(f"unknown category {category!r}; known are: {', '.join(self.categories)}")
        return np.flatnonzero(self.category_ids == self.categories.index(category) + 1)

    def _ranking(self) -> np.ndarray:
        """Return indices by descending score, equal scores in order."""
        return np.argsort(-self.all_scores, kind="stable")

    def _with_crops(self, index: np.ndarray, crops: Sequence[np.ndarray]) -> Instances:
        """Return the objects at ``index`` with new crops in the same boxes, tightened; empty ones dropped."""
        boxes, tight = tighten(self.all_boxes[index], crops)
        found = np.flatnonzero(boxes[:, 2] > boxes[:, 0])
        index = index[found]
        return replace(
            self,
            category_ids=self.category_ids[index],
            all_scores=self.all_scores[index],
            all_boxes=boxes[found],
            crops=tuple(tight[i] for i in found.tolist()),
            **self._lines_of(index),
        )

    def _lines_of(self, index: np.ndarray) -> dict[str, Any]:
        """Return the lines and their scores of some objects, as fields."""
        if not self.all_lines:
            return {}
        lines = tuple(self.all_lines[i] for i in index.tolist())
        return {"all_lines": lines, "all_line_scores": self.all_line_scores[index]}

    def _as_mask(self, mask: np.ndarray) -> np.ndarray:
        """Check a mask given for the whole image."""
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != self.shape:
            raise EvicanError(f"mask must be bool {self.shape} like the image, not {mask.dtype} {mask.shape}")
        return mask


def shares(inner: Instances, outer: Instances) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs i, j of objects whose boxes meet, and the share of inner object i that lies in outer object j."""
    i, j = box_pairs(inner.all_boxes, outer.all_boxes)
    return i, j, _shared_areas(inner, outer, i, j) / np.maximum(inner.areas()[i], 1)


def _shared_areas(a: Instances, b: Instances, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Count the pixels that objects ``a[i]`` and ``b[j]`` share, int [pairs]."""
    return shared_areas(a.all_boxes, a.crops, b.all_boxes, b.crops, i, j)
