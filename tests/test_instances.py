"""Instances: construction, label images, links, and the cleaning of overlaps."""

import doctest
import time

import numpy as np
import pytest
from scipy import ndimage

from evican_model import instances as instances_module
from evican_model.errors import EvicanError
from evican_model.instances import Instances

CATEGORIES = ("Cell", "Nucleus")


def from_masks(masks, scores=None, category_ids=None):
    """Make Instances from full-size masks."""
    boxes, crops = [], []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
        crops.append(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    n = len(crops)
    scores = np.linspace(0.9, 0.1, n) if scores is None else scores
    return Instances(
        masks[0].shape, CATEGORIES, [1] * n if category_ids is None else category_ids, scores, boxes, crops
    )


def rectangle(y1, x1, y2, x2, shape=(20, 30)):
    mask = np.zeros(shape, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def random_blobs(count, seed=0, shape=(120, 160)):
    """Overlapping ellipses of both categories."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    masks = []
    for _ in range(count):
        cy, cx, ry, rx = *(rng.random(2) * shape), *rng.uniform(3, 20, 2)
        mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        masks.append(mask if mask.any() else rectangle(0, 0, 2, 2, shape))
    return from_masks(masks, rng.random(count).round(1), rng.integers(1, 3, count))


class TestConstruction:
    def test_types(self):
        found = from_masks([rectangle(1, 1, 5, 5)])
        assert found.category_ids.dtype == np.int32 and found.all_boxes.dtype == np.int32
        assert found.all_scores.dtype == np.float32
        assert repr(found) == "Instances(20 x 30 pixels: 1 Cell, 0 Nucleus)"

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"category_ids": [1]}, r"category_ids of shape \(2,\), not \(1,\)"),
            ({"all_scores": [[1, 1]]}, "all_scores"),
            ({"all_boxes": [[0, 0, 2, 2]]}, "all_boxes"),
            ({"category_ids": [0, 1]}, "1 to 2"),
            ({"category_ids": [1, 3]}, "1 to 2"),
            ({"all_boxes": [[0, 0, 2, 2], [9, 9, 11, 11]]}, "inside the image"),
            ({"all_boxes": [[0, 0, 2, 2], [-1, 0, 1, 2]]}, "inside the image"),
            ({"all_boxes": [[0, 0, 2, 2], [0, 0, 3, 2]]}, "mask 1"),
            ({"crops": [np.ones((2, 2), bool), np.ones((2, 2))]}, "mask 1 is float64"),
            ({"shape": (10, 10, 3)}, "height, width"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, change, message):
        fields = {
            "shape": (10, 10),
            "categories": CATEGORIES,
            "category_ids": [1, 2],
            "all_scores": [0.5, 0.6],
            "all_boxes": [[0, 0, 2, 2], [3, 3, 5, 5]],
            "crops": [np.ones((2, 2), bool)] * 2,
        }
        Instances(**fields)
        with pytest.raises(EvicanError, match=message):
            Instances(**{**fields, **change})

    def test_unknown_category_names_the_known_ones(self):
        with pytest.raises(EvicanError, match="'Cells'; known are: Cell, Nucleus"):
            from_masks([rectangle(1, 1, 5, 5)]).labels("Cells")

    def test_empty_answers_everything(self):
        none = Instances.empty((20, 30), CATEGORIES)
        assert len(none) == len(none.of("Cell")) == none.count("Nucleus") == 0
        assert none.labels("Cell").shape == (20, 30) and not none.labels("Cell").any()
        assert none.boxes().shape == (0, 4) and none.scores("Cell").shape == none.areas().shape == (0,)
        assert none.parents().shape == none.touching_border().shape == (0,)
        assert none.touching_border(np.ones((20, 30), bool)).shape == (0,)
        whole = np.ones((20, 30), bool)
        for same in (
            none.select([]),
            none.clip(whole),
            none.without_overlaps(),
            none.without_duplicates(),
            none.sorted_by_score(),
            Instances.concatenate([none, none]),
        ):
            assert len(same) == 0 and same.shape == (20, 30)
        assert list(none.masks("Cell")) == []


class TestChoosing:
    def test_select_by_bools_and_by_indices(self):
        found = random_blobs(10)
        keep = found.all_scores > 0.5
        np.testing.assert_array_equal(found.select(keep).scores(), found.all_scores[keep])
        assert found.select([3, 1]).scores().tolist() == found.all_scores[[3, 1]].tolist()
        with pytest.raises(EvicanError, match="one bool for each of 10"):
            found.select(np.ones(9, bool))

    def test_concatenate(self):
        found = random_blobs(10)
        both = Instances.concatenate([found.of("Cell"), found.of("Nucleus")])
        assert both.count("Cell") == found.count("Cell") and len(both) == 10
        with pytest.raises(EvicanError, match="differ"):
            Instances.concatenate([found, Instances.empty((5, 5), CATEGORIES)])
        with pytest.raises(EvicanError, match="nothing"):
            Instances.concatenate([])

    def test_sorted_by_score_leaves_equal_scores_in_order(self):
        found = from_masks([rectangle(0, x, 5, x + 5) for x in (0, 6, 12)], [0.5, 0.7, 0.5])
        assert found.sorted_by_score().boxes()[:, 1].tolist() == [6, 0, 12]

    def test_shifted(self):
        found = from_masks([rectangle(1, 2, 5, 7)]).shifted(100, 200, (300, 400))
        assert found.shape == (300, 400) and found.boxes().tolist() == [[101, 202, 105, 207]]


class TestLabels:
    def test_label_k_is_the_kth_score(self):
        found = random_blobs(12).without_overlaps()
        for category in CATEGORIES:
            labels = found.labels(category)
            assert labels.dtype == np.int32
            assert labels.max() == found.count(category) == len(found.scores(category))
            for k, (mask, area) in enumerate(zip(found.masks(category), found.areas(category)), 1):
                np.testing.assert_array_equal(labels == k, mask)
                assert mask.sum() == area

    def test_the_higher_score_wins_and_of_equal_ones_the_earlier(self):
        masks = [rectangle(0, 0, 9, 9), rectangle(5, 5, 12, 12), rectangle(8, 8, 15, 15)]
        labels = from_masks(masks, [0.5, 0.9, 0.9]).labels("Cell")
        assert labels[6, 6] == 2 and labels[8, 8] == 2 and labels[11, 11] == 2 and labels[13, 13] == 3


class TestParents:
    def test_equals_the_plain_count_with_overlapping_masks(self):
        found = random_blobs(80, seed=3)
        cells, nuclei = list(found.masks("Cell")), list(found.masks("Nucleus"))
        for share in (0.1, 0.5, 1.0):
            expected = []
            for nucleus in nuclei:
                inside = [(cell & nucleus).sum() for cell in cells]
                order = sorted(range(len(cells)), key=lambda k: (-inside[k], -found.scores("Cell")[k], k))
                best = order[0]
                expected.append(best + 1 if inside[best] > 0 and inside[best] >= share * nucleus.sum() else 0)
            np.testing.assert_array_equal(found.parents(minimum_overlap=share), expected)
            assert any(expected) and not all(expected)

    def test_half_is_enough_and_touching_is_not(self):
        masks = [
            rectangle(0, 0, 10, 10),
            rectangle(2, 8, 4, 12),
            rectangle(4, 9, 6, 12),
            rectangle(0, 10, 3, 13),
        ]
        found = from_masks(masks, category_ids=[1, 2, 2, 2])
        assert found.parents().tolist() == [1, 0, 0]
        assert found.parents(minimum_overlap=0).tolist() == [1, 1, 0]

    def test_the_other_way_round(self):
        found = from_masks([rectangle(0, 0, 4, 4), rectangle(0, 0, 9, 9)], category_ids=[1, 2])
        assert found.parents(child="Cell", parent="Nucleus").tolist() == [1]


class TestBorder:
    def test_image_edge(self):
        masks = [
            rectangle(0, 5, 3, 8),
            rectangle(1, 1, 3, 3),
            rectangle(17, 5, 20, 8),
            rectangle(9, 27, 12, 30),
        ]
        assert from_masks(masks).touching_border().tolist() == [True, False, True, True]

    def test_mask_edge(self):
        mask = rectangle(2, 2, 12, 20)
        masks = [
            rectangle(3, 3, 6, 6),
            rectangle(2, 8, 6, 11),
            rectangle(9, 9, 15, 12),
            rectangle(0, 25, 3, 28),
        ]
        assert from_masks(masks).touching_border(mask).tolist() == [False, True, True, True]
        whole = np.ones((20, 30), bool)
        np.testing.assert_array_equal(
            from_masks(masks).touching_border(whole), from_masks(masks).touching_border()
        )

    def test_clip(self):
        masks = [rectangle(1, 1, 5, 5), rectangle(3, 8, 9, 12), rectangle(8, 0, 12, 4)]
        clipped = from_masks(masks).clip(rectangle(0, 0, 6, 30))
        assert clipped.boxes().tolist() == [[1, 1, 5, 5], [3, 8, 6, 12]]
        assert clipped.scores().tolist() == from_masks(masks).scores()[:2].tolist()

    @pytest.mark.parametrize("mask", [np.ones((20, 30)), np.ones((5, 5), bool)])
    def test_a_mask_that_does_not_fit_is_refused(self, mask):
        with pytest.raises(EvicanError, match="mask must be bool"):
            from_masks([rectangle(1, 1, 5, 5)]).clip(mask)


class TestDuplicates:
    def test_equals_plain_suppression(self):
        found = random_blobs(150, seed=5)
        masks, kept = list(found.masks()), []
        for i in np.argsort(-found.all_scores, kind="stable"):
            if all(
                found.category_ids[i] != found.category_ids[j]
                or (masks[i] & masks[j]).sum() <= 0.3 * (masks[i] | masks[j]).sum()
                for j in kept
            ):
                kept.append(i)
        result = found.without_duplicates(0.3)
        assert 0 < len(result) < 150
        np.testing.assert_array_equal(result.boxes(), found.boxes()[sorted(kept)])

    def test_other_categories_do_not_count(self):
        same = [rectangle(0, 0, 9, 9)] * 2
        assert len(from_masks(same, category_ids=[1, 2]).without_duplicates()) == 2
        assert from_masks(same, [0.5, 0.6]).without_duplicates().scores().tolist() == [np.float32(0.6)]


class TestOverlaps:
    def test_invariants_on_random_objects(self):
        found = random_blobs(120, seed=7)
        result = found.without_overlaps()
        assert 0 < len(result) < 120
        for category in CATEGORIES:
            assert sum(mask.astype(int) for mask in result.masks(category)).max() == 1
        for crop in result.crops:
            assert ndimage.label(crop, np.ones((3, 3)))[1] == 1
            assert crop.any(0)[[0, -1]].all() and crop.any(1)[[0, -1]].all()
        again = result.without_overlaps()
        np.testing.assert_array_equal(again.boxes(), result.boxes())
        np.testing.assert_array_equal(again.areas(), result.areas())

    def test_pixels_go_to_the_higher_score(self):
        masks = [rectangle(0, 0, 10, 10), rectangle(0, 8, 10, 20)]
        assert from_masks(masks, [0.5, 0.9]).without_overlaps().boxes().tolist() == [
            [0, 0, 10, 8],
            [0, 8, 10, 20],
        ]
        assert from_masks(masks, [0.5, 0.5]).without_overlaps().boxes().tolist() == [
            [0, 0, 10, 10],
            [0, 10, 10, 20],
        ]

    def test_categories_may_overlap_each_other(self):
        masks = [rectangle(0, 0, 10, 10), rectangle(2, 2, 6, 6)]
        assert from_masks(masks, category_ids=[1, 2]).without_overlaps().areas().tolist() == [100, 16]

    def test_what_is_dropped_takes_nothing(self):
        # The second loses most of itself to the first and is dropped; the third then keeps all it wanted.
        masks = [rectangle(0, 0, 10, 10), rectangle(0, 4, 10, 12), rectangle(0, 10, 10, 16)]
        result = from_masks(masks).without_overlaps()
        assert result.boxes().tolist() == [[0, 0, 10, 10], [0, 10, 10, 16]]
        assert result.scores().tolist() == from_masks(masks).scores()[[0, 2]].tolist()
        assert len(from_masks(masks).without_overlaps(minimum_share=0.2)) == 3

    def test_exactly_the_share_is_enough(self):
        masks = [rectangle(0, 0, 10, 10), rectangle(0, 5, 10, 15)]
        assert len(from_masks(masks).without_overlaps(0.5)) == 2
        assert len(from_masks(masks).without_overlaps(0.51)) == 1

    def test_only_the_largest_piece_stays(self):
        bar = rectangle(4, 0, 8, 30)
        result = from_masks([rectangle(0, 20, 20, 23), bar], [0.9, 0.8]).without_overlaps()
        assert result.boxes().tolist()[1] == [4, 0, 8, 20]

    def test_a_hole_is_filled_but_not_over_another_object(self):
        ring = rectangle(0, 0, 12, 12) & ~rectangle(3, 3, 9, 9)
        inside = rectangle(5, 5, 7, 7)
        assert from_masks([ring]).without_overlaps().areas().tolist() == [144]
        assert from_masks([inside, ring]).without_overlaps().areas().tolist() == [4, 144 - 36]
        # The ring comes first and is filled: nothing is left for the lower score inside.
        assert from_masks([ring, inside]).without_overlaps().areas().tolist() == [144]

    def test_objects_without_pixels_are_dropped(self):
        found = Instances(
            (5, 5),
            CATEGORIES,
            [1, 1],
            [0.9, 0.8],
            [[0, 0, 0, 0], [1, 1, 2, 2]],
            [np.zeros((0, 0), bool), np.ones((1, 1), bool)],
        )
        assert len(found.without_overlaps()) == len(found.clip(np.ones((5, 5), bool))) == 1
        assert found.labels("Cell").max() == 2 and found.areas().tolist() == [0, 1]
        assert len(found.without_duplicates()) == 2


def test_five_thousand_objects_take_about_a_second():
    """A slow machine gets ten: what must not happen is time that grows with all pairs."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 4000, (5000, 2))
    disk = np.hypot(*np.mgrid[-30:31, -30:31]) < 30
    found = Instances(
        (4096, 4096), CATEGORIES, rng.integers(1, 3, 5000), rng.random(5000),
        np.hstack([corners, corners + 61]), [disk] * 5000,
    )  # fmt: skip
    start = time.process_time()
    found.without_overlaps().parents()
    assert time.process_time() - start < 10


def test_examples_in_the_docstrings():
    assert doctest.testmod(instances_module).failed == 0
