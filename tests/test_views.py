"""Looking at an image in several ways: the transforms, and a network that no longer minds how an image is turned."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import evican_model
from evican_model.config import NetworkConfig
from evican_model.errors import EvicanError
from evican_model.scaling import resize
from evican_model.views import Close, View, views

HEIGHT, WIDTH = 256, 320


@pytest.fixture(scope="module")
def accurate():
    return evican_model.load_model("accurate")


@pytest.fixture(scope="module")
def image(plate_image):
    return resize(plate_image("B04").astype(np.float32), HEIGHT, WIDTH)


def filled(boxes, height, width):
    """Draw half-open boxes of whole pixels into one picture."""
    picture = np.zeros((height, width), np.float32)
    for value, (y1, x1, y2, x2) in enumerate(np.asarray(boxes, int), start=1):
        picture[y1:y2, x1:x2] = value
    return picture


@pytest.mark.parametrize("view", views(8))
def test_boxes_go_where_the_pixels_go(view):
    boxes = tf.constant([[2.0, 3, 7, 5], [10.0, 1, 12, 9]])
    picture, extent = filled(boxes, 16, 10), tf.constant([16.0, 10])
    seen = view.images(tf.constant(picture[None, :, :, None]))[0, :, :, 0].numpy()
    np.testing.assert_array_equal(filled(view.boxes(boxes, extent), *seen.shape), seen)
    np.testing.assert_array_equal(view.boxes_back(view.boxes(boxes, extent), extent), boxes)


@pytest.mark.parametrize("view", views(8))
def test_masks_come_back_as_the_images_went(view):
    masks = np.random.default_rng(0).random((3, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(view.masks_back(view.images(masks[..., None])[..., 0]), masks)


def test_fewer_views_are_the_first_of_all():
    assert views(1) == (View(),) and len(set(views(8))) == 8
    assert views(2) == views(8)[:2] and views(4) == views(8)[:4]


def test_one_view_in_parts_is_the_network_as_a_whole(accurate, image):
    network, batch = accurate.network, tf.constant(np.stack([image, image[::-1]])[..., None])
    windows = tf.constant([[0.0, 0, HEIGHT, WIDTH]] * 2)
    whole = network.detect(batch, 0.3, windows)
    network.detect(batch, 0.3, windows, 2)  # compiles the parts
    parts = network.forward(batch, 0.3, windows, views(1), network.traces[2, True])
    assert len(whole["scores"]) > 4
    for key, value in whole.items():
        np.testing.assert_allclose(parts[key], value, atol=1e-3)


@pytest.mark.parametrize("turned", views(8)[1:4:2] + views(8)[4:6])
def test_eight_views_find_the_same_however_the_image_is_turned(accurate, image, turned):
    def detect(picture, views):
        found = accurate.network.detect(tf.constant(picture[None, :, :, None]), 0.5, None, views)
        return {key: value.numpy() for key, value in found.items()}

    def difference(views):
        """Largest distance of a box of the plain image from the nearest one of the turned image, brought back."""
        plain = detect(image, views)
        other = detect(turned.images(tf.constant(image[None, :, :, None]))[0, :, :, 0].numpy(), views)
        back = turned.boxes_back(other["boxes"], tf.constant([float(HEIGHT), WIDTH])).numpy()
        assert len(plain["boxes"]) > 2
        return np.abs(plain["boxes"][:, None] - back[None]).max(-1).min(1).max()

    assert difference(8) < 0.01 < difference(1)


def enlarged(image, factor):
    rows, columns = (round(extent * factor) for extent in image.shape)
    canvas = np.full([-(-rows // 64) * 64, -(-columns // 64) * 64], 127, np.float32)
    canvas[:rows, :columns] = resize(image, rows, columns)
    return tf.constant(canvas[None, :, :, None])


def test_closer_views_count_for_nuclei_only(accurate, image):
    def detect(close):
        found = accurate.network.detect(tf.constant(image[None, :, :, None]), 0.3, None, 1, close)
        return [found["boxes"].numpy()[found["category_ids"] == i] for i in (1, 2)]

    def moved(boxes, others):
        return np.abs(boxes[:, None] - others[None]).max(-1).min(1)

    cells, nuclei = detect(None)
    near_cells, near_nuclei = detect(Close(enlarged(image, 1.25), (1.25, 1.25), views(1)))
    _, dim_nuclei = detect(Close(enlarged(np.full_like(image, 127), 1.25), (1.25, 1.25), views(1)))
    assert len(cells) > 2 and len(nuclei) > 2
    # What is found comes from the same views, of a few more proposals.
    assert np.median(moved(cells, near_cells)) < 1e-3 < np.median(moved(nuclei, near_nuclei)) < 6
    assert len(dim_nuclei) < len(nuclei)  # where the closer views see nothing, nuclei lose


def test_closer_views_find_the_same_however_the_image_is_turned(accurate, image):
    def detect(picture):
        close = Close(enlarged(picture, 1.25), (1.25, 1.25), views(4))
        found = accurate.network.detect(tf.constant(picture[None, :, :, None]), 0.5, None, 4, close)
        return found["boxes"].numpy()

    plain, other = detect(image), detect(np.ascontiguousarray(image[::-1]))
    back = views(4)[2].boxes_back(other, tf.constant([float(HEIGHT), WIDTH])).numpy()
    assert views(4)[2] == View(upside_down=True) and len(plain) > 2
    assert np.abs(plain[:, None] - back[None]).max(-1).min(1).max() < 0.01


@pytest.mark.parametrize("changes", [{"close_views": 3}, {"close_views": 1, "close_scale": 1.0},
                                     {"close_views": 1, "image_scale": "square"}])  # fmt: skip
def test_closer_views_that_there_are_not(changes):
    with pytest.raises(EvicanError, match="close_views is"):
        NetworkConfig(**changes)


def test_the_accurate_weights_measure_the_scale_as_the_fast_ones(accurate, plate_image):
    picture = plate_image("B02")
    fast = evican_model.load_model("fast").segment(picture)
    found = accurate.segment(picture)
    assert found.count("Cell") > 3 and found.count("Nucleus") > 3
    ours, theirs = found.labels("Cell") > 0, fast.labels("Cell") > 0
    assert (ours & theirs).sum() > 0.8 * (ours | theirs).sum()
    assert not (found.labels("Cell") == fast.labels("Cell")).all()
