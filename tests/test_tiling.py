"""Tiles cover everything, and objects come out of them whole, single and unchanged."""

import doctest

import numpy as np
import pytest
from scipy import ndimage

from evican_model import tiling
from evican_model.errors import EvicanError
from evican_model.instances import Instances
from evican_model.masks import tighten
from evican_model.tiling import Tile, merge_tiles, plan_tiles

CATEGORIES = ("Cell", "Nucleus")


def seen_in(tile, whole):
    """Return what a perfect detector sees of the objects in a tile, in whole-image coordinates."""
    window = np.zeros(whole.shape, bool)
    window[tile.slices] = True
    return whole.clip(window)


def cut_and_merge(whole, tile, overlap):
    tiles = plan_tiles(whole.shape, tile, overlap)
    return merge_tiles([(tile, seen_in(tile, whole)) for tile in tiles], whole.shape, whole.categories)


def as_set(found):
    """Describe objects independently of their order."""
    return sorted(
        (category, round(score, 6), tuple(box), crop.tobytes())
        for category, score, box, crop in zip(
            found.category_ids.tolist(), found.all_scores.tolist(), found.all_boxes.tolist(), found.crops
        )
    )


def from_masks(masks, scores=None, category_ids=None):
    n, shape = len(masks), masks[0].shape
    boxes, crops = tighten(np.tile([0, 0, *shape], (n, 1)), masks)
    scores = np.linspace(0.9, 0.5, n) if scores is None else scores
    return Instances(shape, CATEGORIES, category_ids or [1] * n, scores, boxes, crops)


def rectangle(y1, x1, y2, x2, shape=(100, 180)):
    mask = np.zeros(shape, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def ellipses(count, seed, shape, largest, disjoint):
    """Random ellipses of both categories, disjoint in each category or overlapping at will."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    free = np.ones((2, *shape), bool)
    masks, ids = [], []
    while len(masks) < count:
        (cy, cx), (ry, rx), turn = rng.random(2) * shape, rng.uniform(3, largest, 2), rng.random() * np.pi
        v, u = (
            (y - cy) * np.cos(turn) + (x - cx) * np.sin(turn),
            (x - cx) * np.cos(turn) - (y - cy) * np.sin(turn),
        )
        mask = (v / ry) ** 2 + (u / rx) ** 2 <= 1
        category = int(rng.integers(2))
        if disjoint:
            mask &= free[category]
            if ndimage.label(mask, np.ones((3, 3)))[1] != 1:
                continue
            free[category] &= ~mask
        if mask.sum() > 9:
            masks.append(mask)
            ids.append(category + 1)
    return from_masks(masks, rng.permutation(count) / count, ids)


class TestPlan:
    def test_covers_everything_with_enough_overlap(self):
        rng = np.random.default_rng(0)
        for _ in range(300):
            tile = int(rng.integers(1, 60))
            overlap = int(rng.integers(0, tile))
            shape = tuple(rng.integers(1, 200, 2).tolist())
            if (200 / (tile - overlap)) ** 2 > 3000:
                continue
            tiles = plan_tiles(shape, tile, overlap)
            seen = np.zeros(shape, int)
            for part in tiles:
                assert 0 <= part.y1 < part.y2 <= shape[0] and 0 <= part.x1 < part.x2 <= shape[1]
                seen[part.slices] += 1
            assert seen.min() >= 1
            assert len({(part.y2 - part.y1, part.x2 - part.x1) for part in tiles}) == 1
            assert max(tiles[0].y2 - tiles[0].y1, tiles[0].x2 - tiles[0].x1) <= tile
            for axis in (0, 1):
                sides = sorted({(part[axis], part[axis + 2]) for part in tiles})
                assert all(a[1] - b[0] >= overlap for a, b in zip(sides, sides[1:]))

    def test_a_small_image_is_one_tile(self):
        assert plan_tiles((30, 40), 1024, 128) == [Tile(0, 0, 30, 40)]

    @pytest.mark.parametrize("tile, overlap", [(100, 100), (100, -1), (0, 0)])
    def test_impossible_overlap_is_refused(self, tile, overlap):
        with pytest.raises(EvicanError, match="cannot overlap"):
            plan_tiles((300, 300), tile, overlap)

    def test_no_pixels(self):
        with pytest.raises(EvicanError, match="0 x 5"):
            plan_tiles((0, 5), 100, 10)


class TestMerge:
    @pytest.mark.parametrize("seed", range(2))
    def test_disjoint_objects_equal_the_untiled_set(self, seed):
        whole = ellipses(220, seed, (500, 640), largest=20, disjoint=True)
        assert as_set(cut_and_merge(whole, 160, 50)) == as_set(whole)

    @pytest.mark.parametrize("seed", range(2))
    def test_objects_longer_than_the_overlap_are_joined(self, seed):
        whole = ellipses(40, seed, (500, 640), largest=120, disjoint=True)
        for tile, overlap in ((160, 30), (200, 60), (90, 8)):
            assert as_set(cut_and_merge(whole, tile, overlap)) == as_set(whole)

    @pytest.mark.parametrize("seed", range(2))
    def test_overlapping_objects_equal_the_untiled_set(self, seed):
        whole = ellipses(120, seed, (400, 500), largest=22, disjoint=False)
        assert as_set(cut_and_merge(whole, 160, 60)) == as_set(whole)

    def test_an_object_across_a_corner_of_four_tiles(self):
        tiles = plan_tiles((180, 180), 100, 20)
        assert len(tiles) == 4
        small, large = rectangle(82, 82, 98, 98, (180, 180)), rectangle(30, 40, 150, 160, (180, 180))
        for mask in (small, large):
            merged = cut_and_merge(from_masks([mask]), 100, 20)
            assert as_set(merged) == as_set(from_masks([mask]))

    @pytest.mark.parametrize("seam", range(76, 104))
    def test_touching_objects_near_a_seam_stay_two(self, seam):
        whole = from_masks([rectangle(20, 50, 60, seam), rectangle(20, seam, 60, 130)])
        assert as_set(cut_and_merge(whole, 100, 20)) == as_set(whole)

    def test_touching_objects_that_both_cross_a_seam_stay_two(self):
        whole = from_masks([rectangle(20, 10, 40, 170), rectangle(40, 10, 60, 170)])
        assert as_set(cut_and_merge(whole, 100, 20)) == as_set(whole)

    def test_a_nucleus_and_its_cell_stay_two(self):
        whole = from_masks([rectangle(20, 60, 60, 120), rectangle(22, 62, 58, 118)], category_ids=[1, 2])
        assert as_set(cut_and_merge(whole, 100, 20)) == as_set(whole)

    def test_the_joined_object_has_the_score_of_the_larger_piece(self):
        left, right = plan_tiles((100, 180), 100, 20)
        pieces = [
            (left, from_masks([rectangle(20, 10, 40, 100)], [0.6])),
            (right, from_masks([rectangle(20, 80, 40, 120)], [0.9])),
        ]
        merged = merge_tiles(pieces, (100, 180), CATEGORIES)
        assert merged.boxes().tolist() == [[20, 10, 40, 120]]
        assert merged.scores().tolist() == [np.float32(0.6)]

    def test_the_whole_object_is_preferred_to_a_piece_of_higher_score(self):
        left, right = plan_tiles((100, 180), 100, 20)
        merged = merge_tiles(
            [
                (left, from_masks([rectangle(20, 82, 40, 100)], [0.95])),
                (right, from_masks([rectangle(20, 83, 40, 110)], [0.6])),
            ],
            (100, 180),
            CATEGORIES,
        )
        assert merged.boxes().tolist() == [[20, 83, 40, 110]]

    def test_predictions_that_stop_short_of_the_edge_are_joined(self):
        left, right = plan_tiles((100, 180), 100, 20)
        merged = merge_tiles(
            [
                (left, from_masks([rectangle(20, 10, 40, 95)], [0.8])),
                (right, from_masks([rectangle(21, 84, 41, 150)], [0.7])),
            ],
            (100, 180),
            CATEGORIES,
        )
        assert merged.boxes().tolist() == [[20, 10, 41, 150]]

    def test_a_misjudged_remnant_is_dropped_and_a_lone_piece_is_kept(self):
        left, right = plan_tiles((100, 180), 100, 20)
        cell, remnant = rectangle(20, 30, 60, 85), rectangle(25, 80, 63, 89)
        alone = rectangle(70, 90, 90, 100)
        parts = [(left, from_masks([cell, alone])), (right, from_masks([remnant]))]
        assert as_set(merge_tiles(parts, (100, 180), CATEGORIES)) == as_set(from_masks([cell, alone]))

    def test_a_piece_that_covers_two_whole_objects_does_not_swallow_them(self):
        left, right = plan_tiles((100, 180), 100, 20)
        two = [rectangle(20, 70, 40, 96), rectangle(40, 70, 60, 96)]
        parts = [(left, from_masks(two)), (right, from_masks([rectangle(20, 80, 60, 96)]))]
        assert as_set(merge_tiles(parts, (100, 180), CATEGORIES)) == as_set(from_masks(two))

    def test_overlaps_within_a_tile_are_left_alone(self):
        tile = Tile(0, 0, 100, 180)
        found = from_masks([rectangle(20, 20, 60, 60), rectangle(20, 22, 60, 60)])
        assert as_set(merge_tiles([(tile, found)], (100, 180), CATEGORIES)) == as_set(found)

    def test_nothing_found(self):
        tiles = plan_tiles((100, 180), 100, 20)
        parts = [(tile, Instances.empty((100, 180), CATEGORIES)) for tile in tiles]
        assert len(merge_tiles(parts, (100, 180), CATEGORIES)) == 0
        assert len(merge_tiles([], (100, 180), CATEGORIES)) == 0

    def test_order_of_tiles_does_not_matter(self):
        whole = ellipses(60, 9, (300, 300), largest=40, disjoint=True)
        tiles = plan_tiles(whole.shape, 160, 60)
        parts = [(tile, seen_in(tile, whole)) for tile in tiles]
        forth = merge_tiles(parts, whole.shape, CATEGORIES)
        back = merge_tiles(parts[::-1], whole.shape, CATEGORIES)
        assert as_set(forth) == as_set(back)
        np.testing.assert_array_equal(forth.scores(), np.sort(forth.scores())[::-1])

    def test_tile_coordinates_are_refused(self):
        found = from_masks([rectangle(20, 20, 60, 60)])
        with pytest.raises(EvicanError, match="outside its tile"):
            merge_tiles([(Tile(0, 80, 100, 180), found)], (100, 180), CATEGORIES)
        with pytest.raises(EvicanError, match="differ"):
            merge_tiles([(Tile(0, 0, 100, 180), found)], (200, 200), CATEGORIES)


def test_examples_in_the_docstrings():
    assert doctest.testmod(tiling).failed == 0
