"""Overlays: lines of the right colour and width, inside the objects, over a visible image."""

import doctest

import numpy as np
import pytest

from evican_model import overlay
from evican_model.errors import EvicanError, ImageError
from evican_model.instances import Instances
from evican_model.overlay import COLORS, draw_outlines

CATEGORIES = ("Cell", "Nucleus")


def found(shape, *boxes, category_ids=None):
    """Return full rectangles."""
    crops = [np.ones((y2 - y1, x2 - x1), bool) for y1, x1, y2, x2 in boxes]
    return Instances(
        shape, CATEGORIES, category_ids or [1] * len(boxes), np.ones(len(boxes)), list(boxes), crops
    )


def test_cells_and_nuclei_have_their_colours_and_the_rest_stays_grey():
    image = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)
    drawn = draw_outlines(image, found((40, 50), (2, 2, 30, 30), (10, 10, 20, 20), category_ids=[1, 2]))
    assert drawn.dtype == np.uint8 and drawn.shape == (40, 50, 3)
    assert tuple(drawn[2, 15]) == COLORS["Cell"] and tuple(drawn[10, 15]) == COLORS["Nucleus"]
    coloured = (drawn != drawn[..., :1]).any(-1)
    assert coloured.sum() == (28 * 28 - 26 * 26) + (100 - 64)


def test_nuclei_are_drawn_over_cells_whatever_their_order():
    both = found((40, 50), (5, 5, 15, 15), (5, 5, 20, 20), category_ids=[2, 1])
    assert tuple(draw_outlines(np.zeros((40, 50)), both)[5, 8]) == COLORS["Nucleus"]


def test_objects_at_the_edge_of_the_image_are_closed():
    drawn = draw_outlines(np.zeros((10, 10)), found((10, 10), (0, 0, 10, 10)))
    assert (drawn[[0, -1]] == COLORS["Cell"]).all() and (drawn[:, [0, -1]] == COLORS["Cell"]).all()


@pytest.mark.parametrize("side, width", [(1500, 1), (1501, 2)])
def test_large_images_get_wider_lines(side, width):
    drawn = draw_outlines(np.zeros((30, side), np.uint16), found((30, side), (5, 5, 25, 25)))
    line = (drawn[15, 5:25] == COLORS["Cell"]).all(-1)
    assert line.sum() == 2 * width and line[:width].all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_dim_images_are_stretched_and_constant_ones_are_legal(dtype):
    dim = (100 + np.arange(60 * 60).reshape(60, 60) % 20).astype(dtype)
    drawn = draw_outlines(dim, Instances.empty((60, 60), CATEGORIES))
    assert drawn.min() == 0 and drawn.max() == 255
    assert np.ptp(draw_outlines(np.full((9, 9), 7, dtype), Instances.empty((9, 9), CATEGORIES))) == 0


def test_own_colours():
    drawn = draw_outlines(np.zeros((9, 9)), found((9, 9), (1, 1, 8, 8)), colors={"Cell": (1, 2, 3)})
    assert tuple(drawn[1, 1]) == (1, 2, 3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(EvicanError, match="do not fit"):
        draw_outlines(np.zeros((9, 9)), Instances.empty((9, 10), CATEGORIES))
    with pytest.raises(ImageError):
        draw_outlines(np.zeros((4, 9, 9)), Instances.empty((9, 9), CATEGORIES))


def test_examples_in_the_docstrings():
    assert doctest.testmod(overlay).failed == 0
