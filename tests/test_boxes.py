"""Box arithmetic against plain NumPy written here."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from evican_model import boxes
from evican_model.config import NetworkConfig


def random_boxes(rng, n):
    corner = rng.uniform(0, 200, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(3, 90, (n, 2))], 1).astype(np.float32)


def iou_of_two(a, b):
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(height, 0) * max(width, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union > 0 else 0.0


def test_iou_is_that_of_each_pair():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 40), random_boxes(rng, 30)
    a[:3] = [[0, 0, 0, 0], [5, 5, 5, 9], b[0]]  # a point, a line, one equal to another
    expected = [[iou_of_two(x, y) for y in b] for x in a]
    np.testing.assert_allclose(boxes.pairwise_iou(tf.constant(a), tf.constant(b)), expected, atol=1e-6)


def test_boxes_that_only_touch_do_not_overlap():
    a, b = tf.constant([[0.0, 0, 10, 10]]), tf.constant([[0.0, 10, 10, 20]])
    assert boxes.pairwise_iou(a, b).numpy() == 0


def test_decode_undoes_encode():
    rng = np.random.default_rng(1)
    wanted, reference = random_boxes(rng, 200), random_boxes(rng, 200)
    std = NetworkConfig().box_std
    decoded = boxes.decode(
        boxes.encode(tf.constant(wanted), tf.constant(reference), std), tf.constant(reference), std
    )
    np.testing.assert_allclose(decoded, wanted, rtol=1e-4, atol=1e-3)


def test_offsets_of_a_known_pair():
    offsets = boxes.encode(
        tf.constant([[0.0, 0, 20, 40]]), tf.constant([[0.0, 0, 10, 10]]), (1.0, 1.0, 1.0, 1.0)
    )
    np.testing.assert_allclose(offsets, [[0.5, 1.5, np.log(2), np.log(4)]], rtol=1e-6)


def test_huge_offsets_stay_finite():
    decoded = boxes.decode(tf.fill([1, 4], 1e4), tf.constant([[0.0, 0, 10, 10]]), (0.1, 0.1, 0.2, 0.2))
    assert np.isfinite(decoded).all()


def test_grown_boxes_keep_their_centre():
    grown = boxes.grow(tf.constant([[10.0, 20, 14, 28], [5, 5, 5, 5]]), 1.5)
    np.testing.assert_allclose(grown, [[9, 18, 15, 30], [5, 5, 5, 5]])


def test_clip_moves_corners_into_the_image():
    given = tf.constant([[-5.0, 3, 50, 70], [200, 200, 300, 300], [8, 8, 8, 8]])
    clipped = boxes.clip(given, tf.constant([0.0, 0, 40, 60]))
    np.testing.assert_array_equal(clipped, [[0, 3, 40, 60], [40, 60, 40, 60], [8, 8, 8, 8]])
    np.testing.assert_array_equal(boxes.clip(given, tf.constant([10.0, 5, 40, 60]))[2], [10, 8, 10, 8])


def test_offsets_of_matterports_two_corners_are_those_of_the_formula():
    """Its box arithmetic written out: normalised corners, size, centre, offsets over their deviations."""
    rng = np.random.default_rng(3)
    wanted, reference = (random_boxes(rng, 50) / 299 for _ in range(2))
    std = (0.1, 0.1, 0.2, 0.2)
    offsets = boxes.encode(tf.constant(wanted * 299), tf.constant(reference * 299), std).numpy() * std
    height, width = reference[:, 2] - reference[:, 0], reference[:, 3] - reference[:, 1]
    y = reference[:, 0] + 0.5 * height + offsets[:, 0] * height
    x = reference[:, 1] + 0.5 * width + offsets[:, 1] * width
    height, width = height * np.exp(offsets[:, 2]), width * np.exp(offsets[:, 3])
    made = np.stack([y - 0.5 * height, x - 0.5 * width, y + 0.5 * height, x + 0.5 * width], 1)
    np.testing.assert_allclose(made, wanted, atol=1e-5)


@pytest.mark.parametrize("height, width", [(64, 64), (128, 192)])
@pytest.mark.parametrize("scales, strides", [
    ((16, 32, 64, 128, 256), (4, 8, 16, 32, 64)), ((32, 64, 128, 256), (8, 16, 32, 64)),
])  # fmt: skip
def test_anchors_cover_every_place_of_every_level_that_has_some(height, width, scales, strides):
    config = NetworkConfig(anchor_scales=scales)
    made = boxes.anchors(height, width, config).numpy()
    expected = []
    for scale, stride in zip(scales, strides):
        for row in range(-(-height // stride)):
            for column in range(-(-width // stride)):
                for ratio in config.anchor_ratios:
                    h, w = scale / np.sqrt(ratio), scale * np.sqrt(ratio)
                    y, x = (row + 0.5) * stride, (column + 0.5) * stride
                    expected.append([y - h / 2, x - w / 2, y + h / 2, x + w / 2])
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-4)


def test_some_anchors_are_those_of_all():
    index = np.array([0, 3 * 16 * 24, 7, 3 * 16 * 24 - 1, 3 * 16 * 24 + 100, 1, 1], np.int32)
    for preset in ("fast", "paper"):
        config = NetworkConfig.for_preset(preset)
        every = boxes.anchors(128, 192, config).numpy()
        index[-1] = len(every) - 1
        np.testing.assert_array_equal(boxes.anchors_at(tf.constant(index), 128, 192, config), every[index])


def test_anchors_on_corners_are_matterports():
    """Its grid: centres at multiples of the stride from 0, and corners normalised by the size less one."""
    config = NetworkConfig.for_preset("paper")
    made = boxes.anchors(128, 192, config).numpy() / [127, 191, 127, 191]
    expected = []
    for scale, stride in zip(config.anchor_scales, config.strides):
        for row in range(-(-128 // stride)):
            for column in range(-(-192 // stride)):
                for ratio in config.anchor_ratios:
                    h, w = scale / np.sqrt(ratio), scale * np.sqrt(ratio)
                    corners = [row * stride - h / 2, column * stride - w / 2,
                               row * stride + h / 2, column * stride + w / 2]  # fmt: skip
                    expected.append((np.array(corners) - [0, 0, 1, 1]) / [127, 191, 127, 191])
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)
