"""Large images in overlapping tiles, and one set of objects out of them: none doubled, none cut at a seam."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np

from evican_model.errors import EvicanError
from evican_model.instances import Instances
from evican_model.masks import box_pairs, common, shared_areas

# Two masks are the same object if, where both tiles see, they overlap by at least this IoU ...
_SAME = 0.5
# ... and a remnant at a tile's edge that lies in another tile's object by at least this share belongs to it.
_WITHIN = 0.5


class Tile(NamedTuple):
    """A rectangle of an image: rows ``y1`` to ``y2``, columns ``x1`` to ``x2``, half open."""

    y1: int
    x1: int
    y2: int
    x2: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index an image's tile: ``image[tile.slices]``."""
        return slice(self.y1, self.y2), slice(self.x1, self.x2)


def plan_tiles(shape: tuple[int, ...], tile: int, overlap: int) -> list[Tile]:
    """Cover an image with tiles of one size.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the image.
    tile : int
        Largest side of a tile in pixels.
    overlap : int
        Pixels that neighbours share at least; an object no longer than this is whole in one of them.

    Returns
    -------
    list of Tile
        In reading order. All are equally high and equally wide.

    Raises
    ------
    EvicanError
        ``overlap`` is negative or not smaller than ``tile``, or the image has no pixels.

    Examples
    --------
    >>> plan_tiles((100, 250), tile=100, overlap=20)[:2]
    [Tile(y1=0, x1=0, y2=100, x2=97), Tile(y1=0, x1=76, y2=100, x2=173)]
    """
    if not 0 <= overlap < tile:
        raise EvicanError(f"tiles of {tile} pixels cannot overlap by {overlap}; it must be 0 to {tile - 1}")
    if min(shape) < 1:
        raise EvicanError(f"an image of {shape[0]} x {shape[1]} pixels cannot be tiled")
    rows, columns = (_plan_side(length, tile, overlap) for length in shape)
    return [Tile(y1, x1, y2, x2) for y1, y2 in rows for x1, x2 in columns]


def merge_tiles(
    parts: Sequence[tuple[Tile, Instances]],
    shape: tuple[int, ...],
    categories: Sequence[str],
    margin: int = 2,
) -> Instances:
    """Make one set of objects from those found in overlapping tiles.

    Masks of two tiles show the same object if they agree where both tiles see (IoU at least 0.5 there; one to
    one, the best agreement first). An object is whole in a tile if it keeps off the tile's inner edges by
    ``margin`` pixels and no other tile shows that it goes on beyond them; the image's own edges do not count.
    Of an object that is whole in some tile, the whole mask with the highest score stays. One that is whole in
    none is the union of its pieces, with the score of the largest. A remnant at an inner edge that no other
    tile agrees with is dropped if half of it lies in another tile's object.

    Overlaps of objects found in the same tile are left as they are.

    Parameters
    ----------
    parts : sequence of (Tile, Instances)
        Objects of each tile, in coordinates of the whole image (see ``Instances.shifted``).
    shape : (int, int)
        Height and width of the whole image.
    categories : sequence of str
    margin : int
        An object counts as cut if it comes closer than this to an inner edge; 1 means it touches the edge.

    Returns
    -------
    Instances
        By descending score. Depends on the order of ``parts`` only between equal scores.

    Raises
    ------
    EvicanError
        An object lies outside its tile, or a part belongs to an image of another shape.
    """
    found = Instances.concatenate([Instances.empty(shape, categories), *(part for _, part in parts)])
    areas = found.areas()
    if not areas.any():
        return Instances.empty(shape, categories)
    tile_of = np.repeat(np.arange(len(parts)), [len(part) for _, part in parts])[areas > 0]
    found, areas = found.select(areas > 0), areas[areas > 0]
    tiles = np.array([tile for tile, _ in parts], np.int32)[tile_of]  # [objects, 4], the tile of each
    stray = np.flatnonzero(_outside(found.all_boxes, tiles))
    if len(stray):
        box, tile = found.all_boxes[stray[0]].tolist(), tuple(tiles[stray[0]].tolist())
        raise EvicanError(f"the object in {box} lies outside its tile {tile}; paste in the tile, then shift")

    i, j = _pairs_across_tiles(found, tile_of)
    shared = shared_areas(found.all_boxes, found.crops, found.all_boxes, found.crops, i, j)
    i, j, shared = i[shared > 0], j[shared > 0], shared[shared > 0]
    p, q = _matches(found, tile_of, tiles, i, j, shared)

    whole = ~_cut(found.all_boxes, tiles, shape, margin)
    whole[p[_outside(found.all_boxes[q], tiles[p])]] = False
    whole[q[_outside(found.all_boxes[p], tiles[q])]] = False

    kept = _best_of_the_whole(found, whole, p, q)
    matched_to_whole = np.zeros(len(found), bool)
    matched_to_whole[p[whole[q]]] = True
    matched_to_whole[q[whole[p]]] = True
    pieces = ~whole & ~matched_to_whole
    groups = _groups(np.flatnonzero(pieces), p, q)

    within = np.zeros(len(found), bool)  # pieces of which enough lies in an object of another tile
    for a, b in ((i, j), (j, i)):
        within[a[(shared >= _WITHIN * areas[a]) & (kept | pieces)[b] & (areas[b] > areas[a])]] = True
    groups = [group for group in groups if len(group) > 1 or not within[group[0]]]
    joined = [_join(found, group, areas) for group in groups]
    return Instances.concatenate([found.select(kept), *joined]).sorted_by_score()


def _plan_side(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Cover one side with equal stretches of at most ``tile`` that overlap by at least ``overlap``."""
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    starts = [k * (length - size) // (count - 1) for k in range(count)]
    return [(start, start + size) for start in starts]


def _outside(boxes: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """Tell, bool [n], which boxes reach out of their tiles, both [n, 4]."""
    return (boxes[:, :2] < tiles[:, :2]).any(1) | (boxes[:, 2:] > tiles[:, 2:]).any(1)


def _cut(boxes: np.ndarray, tiles: np.ndarray, shape: tuple[int, ...], margin: int) -> np.ndarray:
    """Tell, bool [n], which boxes come within ``margin`` of an edge of their tile inside the image."""
    low = (tiles[:, :2] > 0) & (boxes[:, :2] < tiles[:, :2] + margin)
    high = (tiles[:, 2:] < shape) & (boxes[:, 2:] > tiles[:, 2:] - margin)
    return (low | high).any(1)


def _pairs_across_tiles(found: Instances, tile_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs i < j of one category, of two tiles, whose boxes overlap."""
    i, j = box_pairs(found.all_boxes, found.all_boxes)
    pair = (i < j) & (tile_of[i] != tile_of[j]) & (found.category_ids[i] == found.category_ids[j])
    return i[pair], j[pair]


def _matches(
    found: Instances, tile_of: np.ndarray, tiles: np.ndarray, i: np.ndarray, j: np.ndarray, shared: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs that show the same object; in each tile an object has at most one match."""
    union = _areas_within(found, i, tiles[j]) + _areas_within(found, j, tiles[i]) - shared
    iou = shared / union
    matched: set[tuple[int, int]] = set()
    pairs = []
    for k in np.argsort(-iou, kind="stable").tolist():
        ends = (int(i[k]), int(tile_of[j[k]])), (int(j[k]), int(tile_of[i[k]]))
        if iou[k] >= _SAME and matched.isdisjoint(ends):
            matched.update(ends)
            pairs.append(k)
    return i[pairs], j[pairs]


def _areas_within(found: Instances, index: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Count the pixels of each object inside its window, int [n]; windows, [n, 4], meet the boxes."""
    areas = np.zeros(len(index), int)
    for k, (i, window) in enumerate(zip(index.tolist(), windows.tolist())):
        y, x, bottom, right = found.all_boxes[i].tolist()
        y1, x1, y2, x2 = max(y, window[0]), max(x, window[1]), min(bottom, window[2]), min(right, window[3])
        areas[k] = np.count_nonzero(found.crops[i][y1 - y : y2 - y, x1 - x : x2 - x])
    return areas


def _best_of_the_whole(found: Instances, whole: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Tell, bool [n], which whole objects stay: of a match the higher score, of equal ones the earlier."""
    kept = whole.copy()
    both = whole[p] & whole[q]
    p, q = p[both], q[both]
    second = found.all_scores[q] > found.all_scores[p]
    better, worse = np.where(second, q, p), np.where(second, p, q)
    for k in np.lexsort((better, -found.all_scores[better])).tolist():
        if kept[better[k]]:
            kept[worse[k]] = False
    return kept


def _groups(index: np.ndarray, p: np.ndarray, q: np.ndarray) -> list[list[int]]:
    """Group objects that pairs p, q connect, directly or through others."""
    group = {i: [i] for i in index.tolist()}
    for a, b in zip(p.tolist(), q.tolist()):
        if a in group and b in group and group[a] is not group[b]:
            group[a].extend(group[b])
            for member in group[b]:
                group[member] = group[a]
    return [members for i, members in group.items() if members[0] == i]


def _join(found: Instances, group: list[int], areas: np.ndarray) -> Instances:
    """Return the union of some objects, as one with the score of the largest."""
    boxes = found.all_boxes[group]
    box = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    crop = np.zeros(box[2:] - box[:2], bool)
    for i in group:
        here, there = common(box, crop, found.all_boxes[i], found.crops[i])
        here |= there
    largest = max(sorted(group), key=lambda i: areas[i])
    one = found.select(np.array([largest]))
    return Instances(found.shape, found.categories, one.category_ids, one.all_scores, box[None], (crop,))
