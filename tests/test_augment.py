"""Training samples: outlines stay on their objects, and nothing unlabelled is called background."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from evican_model.augment import (
    _grains,
    _patches,
    _texture,
    blank_sample,
    make_sample,
    natural_scale,
    vary_light,
)
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.copy_paste import paste_copies
from evican_model.dataset import AnnotatedImage
from evican_model.instances import Instances

NETWORK = NetworkConfig()
PLAIN = TrainConfig(
    crop=128,
    instances=10,
    contrast=False,
    invert=False,
    relief=False,
    illumination=False,
    patches=False,
    defocus=False,
    noise=False,
    texture=False,
    jpeg=False,
    halo=False,
    copy_paste=False,
)


def bright_discs(centres, radius, shape=(200, 260), **known):
    """An image whose every bright pixel belongs to a disc, and its annotation as cells."""
    y, x = np.indices(shape)
    masks = [np.hypot(y - cy, x - cx) < radius for cy, cx in centres]
    levels = (np.any(masks, 0) * 200 + 30).astype(np.uint8) if masks else np.full(shape, 30, np.uint8)
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
    crops = tuple(m[b[0] : b[2], b[1] : b[3]] for m, b in zip(masks, boxes))
    n = len(masks)
    truth = Instances(
        shape, NETWORK.categories, np.ones(n, int), np.ones(n), np.array(boxes).reshape(-1, 4), crops
    )
    known = {"annotated": frozenset(NETWORK.categories), "dense": True, **known}
    return AnnotatedImage(Path("discs.png"), 1, shape, truth, sha256="", **known), levels


@pytest.mark.parametrize("seed", range(12))
def test_masks_and_boxes_lie_on_their_objects(seed):
    item, levels = bright_discs([(40, 60), (120, 130), (150, 220)], 26)
    sample = make_sample(
        item, levels, natural_scale(item, NETWORK), np.random.default_rng(seed), NETWORK, PLAIN
    )
    assert {k: v.shape for k, v in sample.items()} == {
        "image": (128, 128, 1),
        "boxes": (10, 4),
        "category_ids": (10,),
        "masks": (10, 128, 128),
        "known": (32, 32, 2),
    }
    bright = sample["image"][..., 0] > 130  # the padding is 127
    drawn = sample["masks"].any(0)
    edge = ndimage.binary_dilation(bright, iterations=2) & ~ndimage.binary_erosion(bright, iterations=2)
    assert (bright == drawn)[~edge].all()
    for mask, box, category in zip(sample["masks"], sample["boxes"], sample["category_ids"]):
        if category:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            np.testing.assert_array_equal(box, [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
        else:
            assert not mask.any() and not box.any()
    assert sample["known"].all()


def test_warped_windows_turn_and_stretch_their_objects():
    item, levels = bright_discs([(100, 130)], 30)
    axes = []
    for seed in range(80):
        training = replace(PLAIN, scale_low=1, scale_high=1)
        sample = make_sample(item, levels, 1.0, np.random.default_rng(seed), NETWORK, training)
        mask = sample["masks"][0].astype(bool)
        if mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any():
            continue
        axes.append(np.sqrt(np.linalg.eigvalsh(np.cov(np.nonzero(mask)))) * 2)
    axes = np.array(axes)
    assert len(axes) > 20
    np.testing.assert_allclose(axes.prod(1), 30**2, rtol=0.03)  # neither larger nor smaller
    stretch = np.log(axes[:, 1] / axes[:, 0]) / 2
    assert 0.2 < stretch.max() < 0.41 and (stretch < 0.01).mean() > 0.25  # some are left as they are ...
    assert (stretch < 0.16).mean() > 0.75  # ... most stretched a little, some far


def test_natural_scale_brings_the_median_object_to_the_typical_diameter():
    item, _ = bright_discs([(40, 60), (120, 130)], 16)
    assert natural_scale(item, NETWORK) == pytest.approx(NETWORK.cell_diameter / 32, rel=0.05)
    assert natural_scale(bright_discs([], 1)[0], NETWORK) == 1


def test_a_category_that_is_not_annotated_is_unknown_inside_the_image():
    item, levels = bright_discs([(100, 130)], 40, annotated=frozenset(["Cell"]))
    upright = replace(PLAIN, flip=False, turn=False, nesting=False)
    sample = make_sample(item, levels, 0.4, np.random.default_rng(0), NETWORK, upright)
    inside = sample["image"][2::4, 2::4, 0] != 127
    assert sample["known"][..., 0].all()
    np.testing.assert_array_equal(sample["known"][..., 1] == 0, inside)


def test_a_partly_annotated_image_is_known_only_around_its_objects():
    item, levels = bright_discs([(100, 130)], 30, dense=False)
    sample = make_sample(item, levels, 1.0, np.random.default_rng(1), NETWORK, PLAIN)
    known = sample["known"][..., 0] > 0
    drawn = sample["masks"].any(0)[2::4, 2::4]
    assert drawn.any() and known[drawn].all()
    assert 0.05 < known.mean() < 0.9


def test_objects_past_the_limit_are_unknown_not_background():
    centres = [(y, x) for y in range(20, 200, 40) for x in range(20, 260, 40)]
    item, levels = bright_discs(centres, 12)
    training = TrainConfig(**{**PLAIN.to_dict(), "instances": 3, "frozen": ()})
    sample = make_sample(item, levels, 1.0, np.random.default_rng(0), NETWORK, training)
    drawn = sample["masks"].any(0)
    missed = ndimage.binary_erosion((sample["image"][..., 0] > 130) & ~drawn, iterations=2)[2::4, 2::4]
    assert missed.any() and not sample["known"][..., 0][missed].any()


def test_an_image_without_objects_is_pure_background():
    item, levels = bright_discs([], 1)
    sample = make_sample(item, levels, 1.0, np.random.default_rng(0), NETWORK, PLAIN)
    assert not sample["category_ids"].any() and sample["known"].all()


def test_a_sample_depends_on_its_seed_alone():
    item, levels = bright_discs([(40, 60), (120, 130)], 26)
    everything = TrainConfig(crop=128, instances=10)
    a, b = (
        make_sample(item, levels, 1.0, np.random.default_rng([3, 5]), NETWORK, everything) for _ in range(2)
    )
    c = make_sample(item, levels, 1.0, np.random.default_rng([3, 6]), NETWORK, everything)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
    assert (a["image"] != c["image"]).any()


def test_light_varies_within_the_grey_levels_and_each_step_can_be_switched_off():
    image = np.random.default_rng(0).uniform(0, 255, (64, 64)).astype(np.float32)
    for seed in range(40):
        varied = vary_light(image, np.random.default_rng(seed), TrainConfig())
        assert varied.shape == image.shape and varied.min() >= 0 and varied.max() <= 255
        np.testing.assert_allclose(vary_light(image, np.random.default_rng(seed), PLAIN), image, rtol=1e-5)


def test_blank_fields_have_full_contrast_and_no_object():
    for seed in range(5):
        sample = blank_sample(np.random.default_rng(seed), NETWORK, PLAIN)
        assert not sample["category_ids"].any() and not sample["masks"].any() and sample["known"].all()
        assert sample["image"].shape == (128, 128, 1)
        assert sample["image"].min() == 0 and sample["image"].max() == pytest.approx(255)


def nested(side=200):
    """A window with two bright cells on dark ground, the first with a brighter nucleus in it."""
    y, x = np.indices((side, side))
    masks = [np.hypot(y - 60, x - 60) < 26, np.hypot(y - 60, x - 60) < 10, np.hypot(y - 150, x - 150) < 20]
    image = np.full((side, side), 40, np.float32)
    for mask, level in zip(masks, (120, 200, 120)):
        image[mask] = level
    return image, masks, [1, 2, 1]


@pytest.mark.parametrize("seed", range(8))
def test_copies_carry_their_outlines_and_leave_the_others_alone(seed):
    image, masks, ids = nested()
    inside = np.ones(image.shape, bool)
    new, new_masks, new_ids = paste_copies(image, inside, masks, ids, np.random.default_rng(seed), limit=20)
    copies, copy_ids = new_masks[len(masks) :], new_ids[len(ids) :]
    assert all((a == b).all() for a, b in zip(new_masks, masks)) and new_ids[:3] == ids
    old = np.any(masks, 0)
    np.testing.assert_array_equal(new[ndimage.binary_erosion(old)], image[ndimage.binary_erosion(old)])
    for mask, category in zip(copies, copy_ids):
        assert new[ndimage.binary_erosion(mask, iterations=3)].mean() > (180 if category == 2 else 110)
        assert not (mask & old).any()
    # A cell comes with its nucleus, a nucleus never without its cell.
    cells = [m for m, c in zip(copies, copy_ids) if c == 1]
    for nucleus in (m for m, c in zip(copies, copy_ids) if c == 2):
        assert any((nucleus & cell).sum() == nucleus.sum() for cell in cells)


def test_copies_are_made_at_all_and_never_more_than_there_is_room_for():
    image, masks, ids = nested()
    inside = np.ones(image.shape, bool)
    counts = []
    for seed in range(10):
        counts.append(len(paste_copies(image, inside, masks, ids, np.random.default_rng(seed), limit=20)[1]))
    assert max(counts) > 4
    assert len(paste_copies(image, inside, masks, ids, np.random.default_rng(0), limit=3)[1]) == 3
    nowhere = paste_copies(image, ~inside, masks, ids, np.random.default_rng(0), limit=20)
    np.testing.assert_array_equal(nowhere[0], image)


@pytest.mark.parametrize(
    "name", ["contrast", "invert", "relief", "halo", "illumination", "patches", "defocus", "noise", "texture", "jpeg"]
)
def test_each_variation_of_light_can_be_switched_by_itself(name):
    image = np.random.default_rng(0).uniform(60, 190, (64, 64)).astype(np.float32)
    off = replace(PLAIN, crop=64)
    np.testing.assert_allclose(vary_light(image, np.random.default_rng(1), off), image, atol=1e-3)
    on = replace(off, **{name: True})
    changed = [np.abs(vary_light(image, np.random.default_rng(i), on) - image).max() > 1 for i in range(40)]
    assert any(changed)
    varied = vary_light(image, np.random.default_rng(1), on)
    assert varied.shape == image.shape and varied.min() >= 0 and varied.max() <= 255


@pytest.mark.parametrize("seed", range(20))
def test_patches_are_faint_and_have_no_edge(seed):
    gain = _patches((128, 160), np.random.default_rng(seed))
    assert gain.shape == (128, 160) and 0.2 < gain.min() <= gain.max() < 3
    assert np.ptp(gain) > 0.003
    assert max(np.abs(np.diff(gain, axis=axis)).max() for axis in (0, 1)) < 0.15


def test_whole_images_are_scaled_into_the_square():
    item, _ = bright_discs([(40, 60)], 16)
    paper = NetworkConfig.for_preset("paper")
    assert natural_scale(item, paper) == pytest.approx(1024 / 260)


@pytest.mark.parametrize("shape", [(128, 320), (320, 128)])
def test_textures_of_every_shape_have_one_spread(shape):
    for seed in range(12):  # streaks, and scratches, are in some of them
        field = _texture(shape, np.random.default_rng(seed))
        assert field.shape == shape and field.dtype == np.float32
        assert np.isfinite(field).all() and abs(field.std() - 1) < 1e-3
        np.testing.assert_array_equal(field, _texture(shape, np.random.default_rng(seed)))


@pytest.mark.parametrize("angle", [0, 30, 90, 135])
def test_streaks_run_at_their_angle(angle):
    field = _grains((256, 256), 3, 4.0, angle, np.random.default_rng(1))
    dy, dx = (ndimage.sobel(field, axis) for axis in (0, 1))
    # The structure tensor: levels change least along the streaks. Angles are as of a mathematician, y upwards.
    across = 0.5 * np.degrees(np.arctan2(2 * (-dy * dx).mean(), (dx * dx).mean() - (dy * dy).mean()))
    off = (across + 90 - angle + 90) % 180 - 90
    assert abs(off) < 10
