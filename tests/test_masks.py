"""Pasting, pairing and cleaning of masks, against plain references."""

import doctest

import numpy as np
import pytest
from scipy import ndimage

from evican_model import masks
from evican_model.errors import EvicanError
from evican_model.instances import paste_masks


def paste_by_definition(values, box, shape, threshold):
    """Paste one mask pixel by pixel, as the docstring of paste_masks words it."""
    m, (top, left, bottom, right) = len(values), box
    pasted = np.zeros(shape, bool)
    for y in range(shape[0]):
        for x in range(shape[1]):
            if not (top <= y + 0.5 < bottom and left <= x + 0.5 < right):
                continue
            v = min(max((y + 0.5 - top) / (bottom - top) * m - 0.5, 0), m - 1)
            u = min(max((x + 0.5 - left) / (right - left) * m - 0.5, 0), m - 1)
            j, i = min(int(v), m - 2), min(int(u), m - 2)
            dv, du = v - j, u - i
            value = (1 - dv) * ((1 - du) * values[j, i] + du * values[j, i + 1]) + dv * (
                (1 - du) * values[j + 1, i] + du * values[j + 1, i + 1]
            )
            pasted[y, x] = value >= threshold
    return pasted


def at_full_size(box, crop, shape):
    full = np.zeros(shape, bool)
    full[box[0] : box[2], box[1] : box[3]] = crop
    return full


def test_paste_equals_the_definition():
    rng = np.random.default_rng(0)
    shape, count = (40, 50), 60
    values = rng.random((count, 7, 7)).astype(np.float32)
    corners = rng.uniform(-15, 45, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(0.2, 30, (count, 2))])
    boxes[:20] = boxes[:20].round()
    found, crops = paste_masks(values, boxes, shape, threshold=0.6)
    for i in range(count):
        expected = paste_by_definition(values[i].astype(float), boxes[i], shape, 0.6)
        np.testing.assert_array_equal(at_full_size(found[i], crops[i], shape), expected)
        if expected.any():
            assert crops[i].any(0)[[0, -1]].all() and crops[i].any(1)[[0, -1]].all(), "box is not tight"


def test_paste_of_a_full_mask_fills_exactly_its_box():
    found, crops = paste_masks(np.ones((1, 28, 28)), np.array([[3, 4, 9, 30]]), (20, 40))
    assert found.tolist() == [[3, 4, 9, 30]]
    assert crops[0].shape == (6, 26) and crops[0].all()


@pytest.mark.parametrize(
    "box",
    [[5, 5, 5, 9], [9, 9, 5, 5], [5.6, 5, 6.4, 9], [-9, -9, -1, -1], [30, 30, 40, 40], [-1e12, 0, -1e11, 9]],
    ids=["no height", "reversed", "between pixel centres", "above", "below", "far away"],
)
def test_paste_keeps_the_place_of_masks_without_pixels(box):
    found, crops = paste_masks(np.ones((2, 4, 4)), np.array([box, [0, 0, 2, 2]]), (20, 20))
    assert found.tolist() == [[0, 0, 0, 0], [0, 0, 2, 2]]
    assert [crop.shape for crop in crops] == [(0, 0), (2, 2)]


def test_paste_of_low_values_and_of_nothing():
    found, crops = paste_masks(np.full((1, 4, 4), 0.4), np.array([[0, 0, 9, 9]]), (20, 20))
    assert found.tolist() == [[0, 0, 0, 0]] and crops[0].shape == (0, 0)
    found, crops = paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (20, 20))
    assert found.shape == (0, 4) and crops == ()


def test_paste_of_a_huge_box_stays_in_the_image():
    found, _ = paste_masks(np.ones((1, 28, 28)), np.array([[-1e9, -5, 1e9, 5]]), (20, 30))
    assert found.tolist() == [[0, 0, 20, 5]]


def test_an_object_that_the_edge_cuts_reaches_the_edge():
    """Beside the edge the network sees nothing; the samples there must not shorten the mask."""
    values = np.zeros((1, 8, 8), np.float32)
    values[:, :, 3:] = 1  # the samples stand 10 pixels apart, the third at 5
    box = np.array([[5.0, -20, 35, 60]])
    assert paste_masks(values, box, (40, 100))[0].tolist() == [[5, 10, 35, 60]]
    assert paste_masks(values, box, (40, 100), margin=12)[0].tolist() == [[5, 0, 35, 60]]
    assert paste_masks(values, box, (40, 100), margin=8)[0].tolist() == [[5, 10, 35, 60]]


@pytest.mark.parametrize("turns", range(4))
def test_a_tip_that_ends_beside_the_edge_keeps_off_it_and_an_object_that_is_cut_does_not(turns):
    """A disc with a bar that reaches to the edge: thin, it is a tip; wide, or all there is, it is cut."""
    y, x = np.mgrid[:28, :28] + 0.5
    disc = np.hypot(y - 14, x - 20) < 8
    box, margin = np.array([[10.0, 0, 66, 56]]), 4  # two pixels a sample
    for bar, touches in ((np.abs(y - 14) < 1.2, False), (np.abs(y - 14) < 4, True)):
        values = np.rot90((disc | (bar & (x < 20))).astype(float), turns)[None]
        turned = {0: box, 1: [[20, 10, 76, 66]], 2: [[10, 20, 66, 76]], 3: [[0, 10, 56, 66]]}[turns]
        (edges,), (crop,) = paste_masks(values, np.array(turned, float), (76, 76), margin=margin)
        assert (min(edges[:2]) == 0 or max(edges[2:]) == 76) == touches, (edges, bar.sum())
        assert crop.sum() > 4 * disc.sum() - 16  # the disc is whole
    (edges,), _ = paste_masks(np.ones((1, 28, 28)), np.array([[10.0, 0, 16, 9]]), (76, 76), margin=margin)
    assert edges.tolist() == [10, 0, 16, 9]  # small, and no tip of anything


def test_paste_refuses_what_does_not_fit():
    with pytest.raises(EvicanError, match="2 boxes need masks"):
        paste_masks(np.ones((1, 4, 4)), np.zeros((2, 4)), (20, 20))
    with pytest.raises(EvicanError, match="finite"):
        paste_masks(np.ones((1, 4, 4)), np.array([[0, 0, np.nan, 4]]), (20, 20))


def test_box_pairs_equals_all_against_all():
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 300, (700, 2))
    a = np.hstack([corners, corners + rng.integers(0, 40, (700, 2))])
    b = a[::-2] + 3
    i, j = masks.box_pairs(a, b)
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    expected = np.nonzero((low < high).all(-1))
    np.testing.assert_array_equal((i, j), expected)


def test_box_pairs_of_nothing():
    i, j = masks.box_pairs(np.zeros((0, 4), int), np.array([[0, 0, 3, 3]]))
    assert len(i) == len(j) == 0


def test_holes_are_filled_unless_somebody_stands_in_them():
    mask = np.ones((7, 12), bool)
    mask[2:5, 2:5] = False
    mask[2:5, 7:10] = False
    taken = np.zeros_like(mask)
    taken[3, 3] = True
    filled, own = masks.solid_piece(mask, taken)
    assert own == 7 * 12 - 18
    assert not filled[2:5, 2:5].any() and filled[2:5, 7:10].all()
    open_bay = mask.copy()
    open_bay[:3, 8] = False
    assert not masks.solid_piece(open_bay, taken)[0][2:5, 7:10].any()


def test_largest_piece_counts_diagonal_neighbours():
    mask = np.eye(4, dtype=bool)
    mask[0, 3] = True
    piece, own = masks.solid_piece(mask, np.zeros_like(mask))
    np.testing.assert_array_equal(piece, np.eye(4, dtype=bool))
    assert own == 4


def test_solid_piece_equals_scipy_on_random_masks():
    rng = np.random.default_rng(2)
    solid = 0
    for _ in range(300):
        mask = rng.random(rng.integers(1, 7, 2)) < 0.8
        piece, own = masks.solid_piece(mask, np.zeros_like(mask))
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())[1:]
        expected = labels == sizes.argmax() + 1 if count else mask
        assert own == expected.sum()
        np.testing.assert_array_equal(piece, ndimage.binary_fill_holes(expected))
        solid += masks._is_solid(mask)
    assert 20 < solid < 280, "both the quick and the thorough way must be tried"


def test_examples_in_the_docstrings():
    assert doctest.testmod(masks).failed == 0
