"""COCO outlines to boxes and crops, and back, without ever making a mask as large as its image.

A cell covers a thousandth of a large image; decoding a hundred thousand masks at image size takes minutes. All masks
of an image are read at once here, in NumPy. Run lengths go down the columns, background first. Their packed form holds
each count in groups of five bits, lowest first, from the fourth count on as the difference to the count two before.
"""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from evican_model.errors import DatasetError

__all__ = ["read_outlines", "write_outline"]


def read_outlines(
    segmentations: Sequence[Any], shape: tuple[int, int]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Read the masks of one image, pixel for pixel as pycocotools does.

    Parameters
    ----------
    segmentations : sequence
        Each a list of polygons (``x, y, x, y, ...``), or a dict of ``size`` [height, width] and ``counts``: packed
        (str or bytes) or a list of run lengths. Polygons of fewer than three corners enclose nothing.
    shape : (int, int)
        Height and width of the image.

    Returns
    -------
    boxes : int32 [N, 4]
        ``y1, x1, y2, x2``, half open, tight; four zeros for a mask without a pixel.
    crops : tuple of N bool arrays
        Each of its box's size.

    Raises
    ------
    DatasetError
        For the first that cannot be read; the sentence begins with its place in the list, from 0.

    Examples
    --------
    >>> boxes, crops = read_outlines([{"size": [4, 3], "counts": [5, 2, 2, 1, 2]}], (4, 3))
    >>> boxes, crops[0].astype(int)
    (array([[1, 1, 3, 3]], dtype=int32), array([[1, 1],
           [1, 0]]))
    """
    packed = [_packed(one, shape, number) for number, one in enumerate(segmentations)]
    lengths, firsts = _unpack(packed)
    counts = np.diff(np.append(firsts, len(lengths)))
    owner = np.repeat(np.arange(len(packed)), counts)  # the mask that each run belongs to
    place = np.arange(len(lengths)) - np.repeat(firsts, counts)
    total = shape[0] * shape[1]
    sums = np.bincount(owner, lengths, len(packed)).astype(np.int64)
    wrong = np.flatnonzero((sums != total) | (np.bincount(owner, lengths < 0, len(packed)) > 0))
    if len(wrong):
        raise DatasetError(
            f"{wrong[0]}: its run lengths cover {sums[wrong[0]]} pixels, the image has {total}"
        )
    # Every mask fills the image exactly, so one running sum serves all of them.
    ends = np.cumsum(lengths) - owner * total
    filled = (place % 2 == 1) & (lengths > 0)
    return _drawn(ends[filled] - lengths[filled], ends[filled], owner[filled], len(packed), shape)


def write_outline(box: Sequence[int], crop: np.ndarray, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return a mask as packed COCO run lengths, ready for JSON.

    Parameters
    ----------
    box : (y1, x1, y2, x2)
    crop : bool array
        The mask in its box.
    shape : (int, int)
        Height and width of the image.

    Examples
    --------
    >>> write_outline((1, 1, 3, 3), np.array([[1, 1], [1, 0]], bool), (4, 3))
    {'size': [4, 3], 'counts': '522O0'}
    """
    from pycocotools import mask as coco_mask

    height, width = (int(side) for side in shape)
    columns, rows = np.nonzero(crop.T)
    pixels = (columns + box[1]) * height + rows + box[0]  # places in the image, ascending
    starts = pixels[np.diff(pixels, prepend=-2) != 1]
    ends = pixels[np.diff(pixels, append=height * width + 1) != 1] + 1
    edges = np.concatenate([[0], np.stack([starts, ends], -1).ravel(), [height * width]])
    lengths = np.diff(edges).tolist()
    plain = {"size": [height, width], "counts": lengths if lengths[-1] else lengths[:-1]}
    packed = coco_mask.frPyObjects(plain, height, width)["counts"]
    return {"size": [height, width], "counts": packed.decode("ascii")}


def _packed(segmentation: Any, shape: tuple[int, int], number: int) -> bytes:
    """Return any COCO outline as packed run lengths."""
    from pycocotools import mask as coco_mask

    try:
        if isinstance(segmentation, list):
            polygons = [part for part in segmentation if len(part) >= 6]
            if not polygons:
                return coco_mask.frPyObjects({"size": shape, "counts": [shape[0] * shape[1]]}, *shape)[
                    "counts"
                ]
            return coco_mask.merge(coco_mask.frPyObjects(polygons, *shape))["counts"]
        size, counts = [int(side) for side in segmentation["size"]], segmentation["counts"]
        if isinstance(counts, list):
            counts = coco_mask.frPyObjects({"size": size, "counts": counts}, *size)["counts"]
        elif isinstance(counts, str):
            counts = counts.encode("ascii")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{number}: it is no COCO outline ({error!r})") from error
    if size != list(shape):
        raise DatasetError(f"{number}: it is made for {size[1]} x {size[0]} pixels, its image has "
                           f"{shape[1]} x {shape[0]}")  # fmt: skip
    if not isinstance(counts, bytes) or not counts or counts[-1] - 48 & 32:
        raise DatasetError(f"{number}: its packed run lengths are cut short")
    return counts


def _unpack(packed: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the run lengths of all masks, one after another, int64 [runs], and where each mask's begin."""
    if not packed:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    groups = np.frombuffer(b"".join(packed), np.uint8).astype(np.int64) - 48
    stops = np.flatnonzero((groups & 32) == 0) + 1  # the sixth bit says that more groups follow
    starts = np.concatenate([[0], stops[:-1]])
    place = np.arange(len(groups)) - np.repeat(starts, stops - starts)
    bad = np.flatnonzero((groups < 0) | (groups > 63) | (place > 10))
    byte_ends = np.cumsum([len(one) for one in packed])
    if len(bad):
        raise DatasetError(
            f"{np.searchsorted(byte_ends, bad[0], 'right')}: its packed run lengths are damaged"
        )
    values = np.add.reduceat((groups & 31) << 5 * place, starts)
    negative = (groups[stops - 1] & 16) != 0
    values[negative] -= np.int64(1) << 5 * (place[stops - 1][negative] + 1)
    firsts = np.searchsorted(starts, np.concatenate([[0], byte_ends[:-1]]))
    sizes = np.diff(np.append(firsts, len(values)))
    order = np.arange(len(values)) - np.repeat(firsts, sizes)
    owner = np.repeat(np.arange(len(packed)), sizes)
    # Differences to the count two before: running sums over every other one, where the first count stands alone.
    for chain in (order % 2 == 1, (order % 2 == 0) & (order > 0)):
        sums = np.cumsum(values[chain])
        of = owner[chain]
        begins = np.searchsorted(of, np.arange(len(packed)))
        before = np.concatenate([[0], sums])[begins]
        values[chain] = sums - before[of]
    return values, firsts


def _drawn(
    starts: np.ndarray, ends: np.ndarray, owner: np.ndarray, count: int, shape: tuple[int, int]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Draw the filled runs (first place, one after the last, their mask) of all masks into one buffer."""
    height = shape[0]
    boxes = np.zeros((count, 4), np.int32)
    crops = [np.zeros((0, 0), bool)] * count
    if len(starts) == 0:
        return boxes, tuple(crops)
    masks, first = np.unique(owner, return_index=True)
    left, right = starts // height, (ends - 1) // height
    top, bottom = starts - left * height, ends - right * height
    # A run that goes on in the next column covers the foot of the one and the head of the other.
    wraps = np.logical_or.reduceat(right > left, first)
    y1 = np.where(wraps, 0, np.minimum.reduceat(top, first))
    y2 = np.where(wraps, height, np.maximum.reduceat(bottom, first))
    x1, x2 = np.minimum.reduceat(left, first), np.maximum.reduceat(right, first) + 1
    boxes[masks] = np.stack([y1, x1, y2, x2], -1)
    stops = np.cumsum((y2 - y1) * (x2 - x1))
    begins = np.concatenate([[0], stops[:-1]])
    which = np.repeat(np.arange(len(masks)), np.diff(np.append(first, len(owner))))
    tall, corner = (y2 - y1)[which], begins[which] - y1[which]
    steps = np.zeros(stops[-1] + 1, np.int8)
    steps[(left - x1[which]) * tall + corner + top] += 1
    steps[(right - x1[which]) * tall + corner + bottom] -= 1
    pixels = np.cumsum(steps[:-1], dtype=np.int8).view(bool)
    for i, mask in enumerate(masks.tolist()):
        crop = pixels[begins[i] : stops[i]].reshape(int(x2[i] - x1[i]), -1).T
        if wraps[i]:
            rows = np.flatnonzero(crop.any(1))
            boxes[mask, 0::2] = rows[0], rows[-1] + 1
            crop = crop[rows[0] : rows[-1] + 1]
        crops[mask] = np.ascontiguousarray(crop)
    return boxes, tuple(crops)
