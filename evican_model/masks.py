"""Pure functions on boxes and mask crops: pasting, pairing, cutting and cleaning.

A box is ``y1, x1, y2, x2`` in pixels, half open; a crop is a bool array of the box's size.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
from scipy import ndimage

from evican_model.errors import EvicanError

_EIGHT = np.ones(
    (3, 3), bool
)  # connectivity of objects; their background, and so their holes, is 4-connected


def paste_masks(
    probabilities: np.ndarray,
    boxes: np.ndarray,
    shape: tuple[int, ...],
    threshold: float = 0.5,
    margin: float = 0.0,
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Turn the mask head's small masks into masks in image pixels.

    A mask of m x m samples covers its box evenly: sample ``i`` stands at ``(i + 0.5) / m`` of the side, pixel
    ``y`` at ``y + 0.5``. Between samples values are bilinear; beyond the outermost ones they stay the same. A
    pixel belongs to the box if its centre does, and to the mask if the value there is at least ``threshold``.

    Parameters
    ----------
    probabilities : float [N, m, m]
    boxes : float [N, 4]
        ``y1, x1, y2, x2`` in pixels; may be fractional and reach beyond the image.
    shape : (int, int)
        Height and width of the image.
    threshold : float
    margin : float
        Pixels nearer than this to an edge of the image have the value of those that far from it: beside nothing, a
        network is wrong about the last few, and an object that the edge cuts would end before it. One that is there
        no wider than twice the margin is not cut, but ends in a tip: it keeps off the edge.

    Returns
    -------
    boxes : int32 [N, 4]
        Tight around the masks.
    crops : tuple of N bool arrays
        A mask without any pixel (its box is thinner than a pixel or outside the image, or its values are low)
        has the box ``0, 0, 0, 0`` and a crop of shape ``(0, 0)``; ``boxes[:, 2] > 0`` finds the others.

    Examples
    --------
    >>> boxes, crops = paste_masks(np.ones((1, 28, 28)), np.array([[2.4, -3, 5.6, 4]]), (10, 10))
    >>> boxes
    array([[2, 0, 6, 4]], dtype=int32)
    """
    probabilities = np.asarray(probabilities, np.float32)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if probabilities.ndim != 3 or len(probabilities) != len(boxes):
        raise EvicanError(f"{len(boxes)} boxes need masks [{len(boxes)}, m, m], not {probabilities.shape}")
    if not np.isfinite(boxes).all():
        raise EvicanError("boxes must be finite numbers")
    # A pixel is in the box if its centre is.
    pixels = np.clip(np.ceil(boxes - 0.5), 0, [*shape, *shape]).astype(np.int32)
    pixels[(pixels[:, :2] >= pixels[:, 2:]).any(1)] = 0
    rows, row_ends = _bilinear_weights(pixels[:, 0::2], boxes[:, 0::2], probabilities.shape[1], shape[0], margin)
    columns, column_ends = _bilinear_weights(pixels[:, 1::2], boxes[:, 1::2], probabilities.shape[2], shape[1], margin)
    y, x, crops = 0, 0, []
    for values, y_end, x_end in zip(probabilities, row_ends, column_ends):
        crops.append(rows[y:y_end] @ values @ columns[x:x_end].T >= threshold)
        y, x = y_end, x_end
    if margin >= 1:
        for crop, box in zip(crops, pixels.tolist()):
            _end_tips(crop, box, shape, margin)
    return tighten(pixels, crops)


def box_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all ``(i, j)`` where box ``a[i]`` and box ``b[j]`` share a pixel, as two index arrays.

    Boxes are int [n, 4]. Sorted strips of ``a`` are compared with what lies at their height in ``b``, so
    neither time nor memory is that of all pairs.

    >>> box_pairs(np.array([[0, 0, 4, 4], [4, 0, 8, 4]]), np.array([[2, 2, 5, 5], [0, 4, 4, 8]]))
    (array([0, 1]), array([0, 0]))
    """
    order = np.argsort(a[:, 0], kind="stable")
    pairs = [(np.zeros(0, int), np.zeros(0, int))]
    for start in range(0, len(a), 128):
        rows = order[start : start + 128]
        strip = a[rows, None]  # [rows, 1, 4]
        columns = np.flatnonzero((b[:, 0] < strip[..., 2].max()) & (b[:, 2] > strip[..., 0].min()))
        other = b[columns]
        low = np.maximum(strip[..., :2], other[:, :2])
        high = np.minimum(strip[..., 2:], other[:, 2:])
        i, j = np.nonzero((low < high).all(-1))
        pairs.append((rows[i], columns[j]))
    i, j = (np.concatenate(side) for side in zip(*pairs))
    order = np.lexsort((j, i))
    return i[order], j[order]


def shared_areas(
    boxes: np.ndarray,
    crops: Sequence[np.ndarray],
    other_boxes: np.ndarray,
    other_crops: Sequence[np.ndarray],
    i: np.ndarray,
    j: np.ndarray,
) -> np.ndarray:
    """Count the pixels that mask ``i[k]`` and the other set's mask ``j[k]`` share, int [pairs]."""
    a, b = boxes.tolist(), other_boxes.tolist()
    counts = [
        np.count_nonzero(np.logical_and(*common(a[p], crops[p], b[q], other_crops[q])))
        for p, q in zip(i.tolist(), j.tolist())
    ]
    return np.array(counts, int)


def common(
    a: Sequence[int], a_crop: np.ndarray, b: Sequence[int], b_crop: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return views of two crops over the rectangle that their boxes share (which must not be empty)."""
    y1, x1, y2, x2 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (
        a_crop[y1 - a[0] : y2 - a[0], x1 - a[1] : x2 - a[1]],
        b_crop[y1 - b[0] : y2 - b[0], x1 - b[1] : x2 - b[1]],
    )


def tighten(boxes: np.ndarray, crops: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Shrink boxes and crops to the masks; a mask without pixels gets the box 0, 0, 0, 0."""
    tight_boxes, tight_crops = [], []
    for crop, (y, x) in zip(crops, boxes[:, :2].tolist()):
        rows = np.flatnonzero(np.bitwise_or.reduce(crop, 1))
        columns = np.flatnonzero(np.bitwise_or.reduce(crop, 0))
        if len(rows) == 0:
            tight_boxes.append((0, 0, 0, 0))
            tight_crops.append(np.zeros((0, 0), bool))
            continue
        y1, y2, x1, x2 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        tight_boxes.append((y + y1, x + x1, y + y2, x + x2))
        tight_crops.append(np.ascontiguousarray(crop[y1:y2, x1:x2]))
    return np.array(tight_boxes, np.int32).reshape(-1, 4), tuple(tight_crops)


def solid_piece(mask: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the largest piece of a mask with its holes filled, and the piece's pixel count before that.

    Pieces are 8-connected; of equal ones it is the first in reading order. A hole in which any pixel is
    ``taken`` (by another object, so never in ``mask``) stays open.

    >>> ring_and_dot = np.array([[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]], bool)
    >>> solid_piece(ring_and_dot, taken=np.zeros((3, 5), bool))
    (array([[ True,  True,  True, False, False],
           [ True,  True,  True, False, False],
           [ True,  True,  True, False, False]]), 8)
    """
    if _is_solid(mask) or _is_solid(mask.T):
        return mask, np.count_nonzero(mask)
    pieces, count = ndimage.label(mask, _EIGHT)
    if count == 0:
        return mask, 0
    piece = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    # A frame of background makes everything outside one region, whose label is then 1; the piece is region 0.
    regions, count = ndimage.label(np.pad(~piece, 1, constant_values=True))
    regions = regions[1:-1, 1:-1]
    fill = np.ones(count + 1, bool)
    fill[1] = False
    fill[regions[taken]] = False
    return fill[regions], np.count_nonzero(piece)


def _is_solid(mask: np.ndarray) -> bool:
    """Tell quickly that a mask is one piece without holes: one run in every row, touching the next row's.

    True is certain, False means look closer. Most cells and nuclei are this simple, and labelling is slow.
    """
    if mask.size == 0:
        return False
    start, stop = mask.argmax(1), mask.shape[1] - mask[:, ::-1].argmax(1)
    return bool(
        (stop - start == mask.sum(1)).all()  # also False for a row without pixels
        and (start[1:] <= stop[:-1]).all()
        and (stop[1:] >= start[:-1]).all()
    )


def _end_tips(crop: np.ndarray, box: Sequence[int], shape: tuple[int, ...], margin: float) -> None:
    """Cut a mask's tips off where they enter the margin of the image; parameters as of `paste_masks`, in place."""
    y1, x1, y2, x2 = box
    rows, columns = (min(int(margin), side) for side in crop.shape)
    for at_edge, strip, edge in (
        (y1 == 0, crop[:rows], crop[:1]),
        (y2 == shape[0], crop[len(crop) - rows :], crop[-1:]),
        (x1 == 0, crop[:, :columns], crop[:, :1]),
        (x2 == shape[1], crop[:, crop.shape[1] - columns :], crop[:, -1:]),
    ):
        width = np.count_nonzero(edge) if at_edge else 0
        # What lies in the margin for the most part is no tip of something, but all there is of it.
        if 0 < width <= 2 * margin and np.count_nonzero(strip) < 0.25 * np.count_nonzero(crop):
            strip[:] = False


def _bilinear_weights(
    pixels: np.ndarray, sides: np.ndarray, samples: int, extent: int, margin: float
) -> tuple[np.ndarray, list[int]]:
    """Weigh the samples of many box sides at their pixels, in one pass.

    Parameters
    ----------
    pixels : int [N, 2]
        First pixel of each side, and the one after the last.
    sides : float [N, 2]
        Where each side starts and ends.
    samples : int
        Samples a side.
    extent : int
        Pixels of the image along this side.
    margin : float
        As of `paste_masks`.

    Returns
    -------
    weights : float32 [sum of pixels, samples]
        One side after another.
    ends : list of int
        Where each side's weights end.
    """
    lengths = pixels[:, 1] - pixels[:, 0]
    ends = np.cumsum(lengths)
    pixel = np.arange(lengths.sum()) + np.repeat(pixels[:, 0] - (ends - lengths), lengths)
    low, high = np.repeat(sides, lengths, axis=0).T
    margin = min(margin, extent / 2)
    centre = np.clip(pixel + 0.5, margin, extent - margin)
    position = np.clip((centre - low) * (samples / (high - low)) - 0.5, 0, samples - 1)
    weights = np.subtract.outer(position.astype(np.float32), np.arange(samples, dtype=np.float32))
    np.abs(weights, out=weights)
    np.subtract(1, weights, out=weights)
    return np.maximum(weights, 0, out=weights), ends.tolist()
