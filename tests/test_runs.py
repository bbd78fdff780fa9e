"""COCO outlines: what pycocotools decodes at image size, we read as boxes and crops, and write back."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from evican_model import runs
from evican_model.errors import DatasetError
from evican_model.runs import read_outlines, write_outline


def outlines(rng, shape):
    """Every kind of outline, with the mask that pycocotools makes of it."""
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    noise = rng.random(shape) < rng.choice([0.02, 0.5, 0.9])
    disc = np.hypot(rows - rng.integers(height), columns - rng.integers(width)) < rng.integers(1, 40)
    for mask in (noise, disc, np.zeros(shape, bool), np.ones(shape, bool)):
        packed = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        yield packed, mask
        yield {"size": list(shape), "counts": packed["counts"].decode()}, mask
        flat = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat)) + 1
        lengths = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        yield {"size": list(shape), "counts": [0] * bool(flat[0]) + lengths}, mask
    for polygons in (
        [rng.uniform(-5, 70, 12).tolist()],
        [[1, 1, 9, 1, 9, 9], [20, 20, 30, 20, 30, 33, 20, 33]],
    ):
        merged = coco_mask.merge(coco_mask.frPyObjects(polygons, *shape))
        yield polygons, coco_mask.decode(merged).astype(bool)
    yield [[3, 3, 4, 4]], np.zeros(shape, bool)  # two corners enclose nothing


def test_outlines_are_those_of_pycocotools_and_tight():
    rng = np.random.default_rng(0)
    for _ in range(40):
        shape = tuple(int(side) for side in rng.integers(1, 60, 2))
        segmentations, masks = zip(*outlines(rng, shape))
        boxes, crops = read_outlines(list(segmentations), shape)
        for box, crop, mask in zip(boxes, crops, masks):
            again = np.zeros(shape, bool)
            again[box[0] : box[2], box[1] : box[3]] = crop
            np.testing.assert_array_equal(again, mask)
            if mask.any():
                assert crop[0].any() and crop[-1].any() and crop[:, 0].any() and crop[:, -1].any()
            else:
                assert box.tolist() == [0, 0, 0, 0] and crop.shape == (0, 0)
            written = write_outline(box, crop, shape)
            assert written["counts"].encode() == coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]


def test_no_outline_at_all():
    boxes, crops = read_outlines([], (5, 5))
    assert boxes.shape == (0, 4) and crops == ()


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ({"size": [4, 5], "counts": [20]}, "1: it is made for 5 x 4 pixels, its image has 6 x 4"),
        ({"size": [4, 6], "counts": [20]}, "1: its run lengths cover 20 pixels, the image has 24"),
        ({"size": [4, 6], "counts": "hello w"}, "1: its packed run lengths are"),
        ({"size": [4, 6], "counts": ""}, "1: its packed run lengths are cut short"),
        ({"size": [4, 6], "counts": 7}, "1: its packed run lengths are cut short"),
        ({"size": [4, 6], "counts": "\u00e4"}, "1: it is no COCO outline"),
        ({"counts": [24]}, "1: it is no COCO outline"),
        ("polygon", "1: it is no COCO outline"),
        (None, "1: it is no COCO outline"),
        ([["a"] * 8], "1: it is no COCO outline"),
    ],
)
def test_damaged_outlines_are_named(segmentation, message):
    good = {"size": [4, 6], "counts": [3, 2, 19]}
    with pytest.raises(DatasetError) as error:
        read_outlines([good, segmentation, good], (4, 6))
    assert str(error.value).startswith(message)


def test_examples():
    assert doctest.testmod(runs).failed == 0
