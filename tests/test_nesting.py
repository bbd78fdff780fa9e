"""What outlines of cells tell of nuclei, and those of nuclei of cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from evican_model.augment import make_sample, natural_scale
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.dataset import AnnotatedImage
from evican_model.instances import Instances
from evican_model.masks import tighten
from evican_model.nesting import known_by_nesting

NETWORK = NetworkConfig()
CELLS, NUCLEI = frozenset({"Cell"}), frozenset({"Nucleus"})
SHAPE = (240, 320)


def annotated(cells=(), nuclei=(), annotated=CELLS, dense=True, categories=("Cell", "Nucleus"), ids=(1, 2)):
    """An image with discs (y, x, radius) for cells and nuclei."""
    y, x = np.indices(SHAPE)
    discs = [*cells, *nuclei]
    masks = [np.hypot(y - cy, x - cx) < radius for cy, cx, radius in discs]
    boxes = np.tile(np.array([0, 0, *SHAPE], np.int32), (len(masks), 1))
    boxes, crops = tighten(boxes, masks)
    category_ids = np.array([ids[0]] * len(cells) + [ids[1]] * len(nuclei), int)
    truth = Instances(SHAPE, categories, category_ids, np.ones(len(masks)), boxes, crops)
    return AnnotatedImage(Path("discs.png"), 1, SHAPE, truth, annotated, dense, sha256="")


def distance(y, x, stride=1):
    rows, columns = (np.arange(stride // 2, extent, stride) for extent in SHAPE)
    return np.hypot(rows[:, None] - y, columns[None] - x)


@pytest.mark.parametrize("stride", [1, 4])
def test_no_nucleus_is_outside_of_all_cells_nor_a_second_one_in_a_cell(stride):
    item = annotated([(80, 80, 40), (150, 240, 40)], [(85, 75, 12)])
    cells, nuclei = np.moveaxis(known_by_nesting(item, stride), -1, 0)
    first, second = distance(80, 80, stride), distance(150, 240, stride)
    assert nuclei[first < 38].all()  # its nucleus is outlined
    assert not nuclei[second < 44].any()  # its nucleus may be anywhere, up to beyond the outline's end
    assert nuclei[(first > 55) & (second > 55)].all()
    assert cells[(first < 38) | (second < 38)].all()  # no cell lies in another
    assert not cells[(first > 42) & (second > 42)].any()


def test_no_cell_is_far_from_all_nuclei():
    cells, nuclei = np.moveaxis(known_by_nesting(annotated(nuclei=[(120, 90, 15)], annotated=NUCLEI), 2), -1, 0)
    away = distance(120, 90, 2)
    rows, columns = (np.arange(1, extent, 2) for extent in SHAPE)
    edge = np.minimum(np.minimum(rows, SHAPE[0] - rows)[:, None], np.minimum(columns, SHAPE[1] - columns)[None])
    assert not cells[away < 15 + 1.4 * 30].any()
    assert not cells[edge < 1.4 * 30].any()  # a nucleus beyond the edge may have its cell here
    assert cells[(away > 15 + 1.6 * 30) & (edge > 1.6 * 30)].all()
    assert not nuclei.any()  # all are outlined: `annotated` says so, and needs no nesting


def test_outlines_that_are_not_all_tell_of_their_own_cells_only():
    item = annotated([(80, 80, 40)], [(85, 75, 12)], annotated=CELLS | NUCLEI, dense=False)
    cells, nuclei = np.moveaxis(known_by_nesting(item, 1), -1, 0)
    inside = distance(80, 80) < 40
    np.testing.assert_array_equal(cells, inside)
    np.testing.assert_array_equal(nuclei, inside)
    # A nucleus that is for the most part elsewhere is none of the cell's.
    item = annotated([(80, 80, 40)], [(80, 125, 12)], annotated=CELLS, dense=False)
    assert not known_by_nesting(item, 1)[..., 1].any()


def test_a_field_without_any_cell_holds_no_nucleus_and_without_any_nucleus_tells_nothing():
    assert known_by_nesting(annotated(), 4)[..., 1].all()
    assert not known_by_nesting(annotated(annotated=NUCLEI), 4).any()


def test_cell_lines_count_as_cells_and_nuclei():
    names = ("Cell_HeLa", "Nucleus_HeLa", "Cell_MCF7", "Nucleus_MCF7")
    some = annotated([(80, 80, 40)], annotated=frozenset({"Cell_HeLa"}), categories=names, ids=(1, 2))
    assert not known_by_nesting(some, 4)[..., 1].any()  # cells of the other line are not outlined
    cells = frozenset({"Cell_HeLa", "Cell_MCF7"})
    known = known_by_nesting(annotated([(80, 80, 40)], annotated=cells, categories=names, ids=(1, 2)), 1)
    outside = distance(80, 80) > 50
    assert known[..., 1][outside].all() and known[..., 3][outside].all()


def test_categories_without_cells_tell_nothing_of_nuclei():
    names = ("Vacuole", "Nucleus")
    item = annotated([(80, 80, 40)], annotated=frozenset({"Vacuole"}), categories=names, ids=(1, 2))
    assert not known_by_nesting(item, 4).any()


@pytest.mark.parametrize("seed", range(6))
def test_training_learns_of_nuclei_where_there_can_be_none(seed):
    """Every pixel of a cell without outlined nucleus stays unknown, however the window is turned and scaled."""
    item = annotated([(80, 80, 40), (150, 240, 40)], [(80, 80, 12)])
    # Levels that tell where a pixel is from: first cell, second cell, elsewhere.
    first, second = distance(80, 80) < 40, distance(150, 240) < 40
    levels = np.where(first, 200, np.where(second, 100, 30)).astype(np.uint8)
    light = ("contrast", "invert", "relief", "halo", "illumination", "patches", "defocus", "noise", "texture", "jpeg")
    plain = TrainConfig(crop=256, copy_paste=False, scale_low=0.8, scale_high=1.2, **dict.fromkeys(light, False))
    scale = natural_scale(item, NETWORK)
    on, off = (
        make_sample(item, levels, scale, np.random.default_rng(seed), NETWORK, training)
        for training in (plain, TrainConfig(**{**plain.to_dict(), "nesting": False}))
    )
    np.testing.assert_array_equal(on["image"], off["image"])
    known, before = on["known"][..., 1], off["known"][..., 1]
    first, second, neither = (
        ndimage.binary_erosion(np.abs(on["image"][2::4, 2::4, 0] - level) < 2, iterations=5) for level in (200, 100, 30)
    )
    assert first.any() or second.any()
    assert not known[second].any()
    assert known[first].all() and known[neither].all()
    assert not before[first | second | neither].any()


def test_copies_end_what_nesting_tells():
    """A copied cell brings its nucleus, which nobody outlined, to where there was none."""
    item = annotated([(80, 80, 30), (150, 240, 30)])
    levels = np.full(SHAPE, 100, np.uint8)
    training = TrainConfig(crop=192, warp=False, scale_low=1.0, scale_high=1.0)
    known: dict[bool, list] = {True: [], False: []}
    for seed in range(40):
        sample = make_sample(item, levels, 1.0, np.random.default_rng(seed), NETWORK, training)
        known[np.count_nonzero(sample["category_ids"]) > 2].append(sample["known"][..., 1].mean())
    assert known[True] and max(known[True]) == 0
    assert np.median(known[False]) > 0.5
