"""RoIAlign, the partial-label loss and the sampling of regions against plain NumPy written here."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from evican_model import losses, roi, rpn
from evican_model.config import NetworkConfig, TrainConfig

NETWORK = NetworkConfig()


def bilinear(image, y, x):
    """Value between the four pixels around (y, x); 0 outside, as the network sees its border."""
    rows, columns = image.shape
    if not (0 <= y <= rows - 1 and 0 <= x <= columns - 1):
        return 0.0
    y0, x0 = int(min(y, rows - 2)), int(min(x, columns - 2))
    fy, fx = y - y0, x - x0
    patch = image[y0 : y0 + 2, x0 : x0 + 2]
    return float(patch[0, 0] * (1 - fy) * (1 - fx) + patch[0, 1] * (1 - fy) * fx
                 + patch[1, 0] * fy * (1 - fx) + patch[1, 1] * fy * fx)  # fmt: skip


def test_roi_align_samples_the_centre_of_each_bin():
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(2, 256 // s, 256 // s, 3)).astype(np.float32) for s in NETWORK.strides]
    rois = np.array(
        [[8, 8, 60, 50], [100, 20, 230, 240], [10.5, 3.25, 13, 7], [0, 0, 256, 256], [-9, 240, 40, 270]],
        np.float32,
    )
    levels = [0, 1, 0, 2, 0]  # P2 up to a side of 112, P3 to 224, P4 beyond
    images = np.array([0, 1, 1, 0, 1], np.int32)
    size = 7
    got = roi.roi_align(
        [tf.constant(p) for p in pyramid], tf.constant(rois), tf.constant(images), size, NETWORK.strides
    )
    assert got.shape == (5, size, size, 3)
    for r, (y1, x1, y2, x2) in enumerate(rois):
        feature, stride = pyramid[levels[r]][images[r]], NETWORK.strides[levels[r]]
        for i, j, c in [(0, 0, 0), (3, 5, 1), (6, 6, 2), (2, 0, 0)]:
            y = (y1 + (i + 0.5) / size * (y2 - y1)) / stride - 0.5
            x = (x1 + (j + 0.5) / size * (x2 - x1)) / stride - 0.5
            np.testing.assert_allclose(got[r, i, j, c], bilinear(feature[..., c], y, x), atol=2e-5)


def test_roi_align_of_no_region():
    pyramid = [tf.zeros([1, 64 // s, 64 // s, 3]) for s in NETWORK.strides]
    assert roi.roi_align(pyramid, tf.zeros([0, 4]), tf.zeros([0], tf.int32), 7, NETWORK.strides).shape == (
        0,
        7,
        7,
        3,
    )


def test_partial_label_is_cross_entropy_when_the_class_is_known():
    logits = tf.random.normal([20, 3], seed=1)
    classes = np.random.default_rng(0).integers(0, 3, 20)
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits)
    np.testing.assert_allclose(
        losses.partial_label(logits, tf.one_hot(classes, 3, True, False)), expected, rtol=1e-4
    )


def test_partial_label_adds_the_probabilities_of_what_may_be():
    logits = np.log([[0.2, 0.3, 0.5]]).astype(np.float32)
    loss = losses.partial_label(tf.constant(logits), tf.constant([[True, False, True]]))
    np.testing.assert_allclose(loss, [-np.log(0.7)], rtol=1e-5)


def test_partial_label_teaches_nothing_where_nothing_is_known():
    logits = tf.constant([[0.2, -0.3, 0.5]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.partial_label(logits, tf.fill([1, 3], True))
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_allclose(tape.gradient(loss, logits), 0, atol=1e-6)


def truth(category_ids, boxes, known):
    """One image of a training batch of 64 x 64 pixels."""
    padding = 6 - len(category_ids)
    return {
        "boxes": tf.constant(np.pad(np.array(boxes, np.float32).reshape(-1, 4), [[0, padding], [0, 0]])),
        "category_ids": tf.constant(np.pad(np.array(category_ids, np.int32), [0, padding])),
        "known": tf.constant(known, tf.float32),
    }


def test_background_of_an_image_without_cell_outlines_may_be_a_cell():
    known = np.ones((16, 16, 2))
    known[..., 0] = 0  # cells are not outlined
    proposals = tf.constant([[40.0, 40, 60, 60], [0, 0, 20, 20]])
    training = TrainConfig(rois=8, positive_rois=4)
    sample = roi.sample_rois(proposals, truth([2], [[0, 0, 20, 20]], known), NETWORK, training)
    positive, used = sample["positive"].numpy(), sample["used"].numpy()
    possible = sample["possible"].numpy()
    assert positive.sum() == 2 and positive[:2].all()  # the proposal and the object itself stand first
    np.testing.assert_array_equal(possible[positive], [[False, False, True]] * 2)
    np.testing.assert_array_equal(possible[used & ~positive][0], [True, True, False])
    assert len(positive) == 8


def test_regions_of_an_empty_image_have_fixed_shapes_and_no_positive():
    sample = roi.sample_rois(tf.zeros([0, 4]), truth([], [], np.ones((16, 16, 2))), NETWORK, TrainConfig())
    assert sample["rois"].shape[0] == TrainConfig().rois
    assert not sample["positive"].numpy().any() and not sample["used"].numpy().any()


def test_known_share_is_the_mean_over_the_box():
    rng = np.random.default_rng(2)
    known = (rng.random((16, 20, 2)) < 0.5).astype(np.float32)
    regions = np.array([[0, 0, 64, 80], [4, 8, 20, 40], [-8, -8, 8, 8], [70, 90, 99, 99]], np.float32)
    share = rpn.known_share(tf.constant(known), tf.constant(regions), 4).numpy()
    for region, got in zip(regions, share):
        y1, x1, y2, x2 = np.clip(np.round(region / 4).astype(int), 0, [16, 20, 16, 20])
        part = known[y1:y2, x1:x2].reshape(-1, 2)
        np.testing.assert_allclose(got, part.mean(0) if len(part) else 1.0, atol=1e-5)


@pytest.mark.parametrize("category", [0, 1])
def test_rpn_loss_ignores_a_category_that_is_not_annotated(category):
    known = np.ones((16, 16, 2))
    known[..., category] = 0
    tf.random.set_seed(0)
    anchors = tf.constant(np.random.default_rng(0).uniform(0, 32, (50, 2)), tf.float32)
    anchors = tf.concat([anchors, anchors + 20], 1)
    objectness = tf.Variable(tf.zeros([50, 2]))
    with tf.GradientTape() as tape:
        loss, _ = rpn.rpn_loss(
            objectness, tf.zeros([50, 4]), anchors, truth([], [], known), NETWORK, TrainConfig()
        )
    gradient = tape.gradient(loss, objectness).numpy()
    assert (gradient[:, category] == 0).all() and (gradient[:, 1 - category] > 0).any()


def test_detections_are_suppressed_within_a_category_only():
    box = [10.0, 10, 30, 30]
    rois = tf.constant([box, [11.0, 10, 31, 30], [10.0, 10, 30, 31], [40.0, 40, 60, 60]])
    logits = tf.constant([[0.0, 3, 0], [0, 2, 0], [0, 0, 4], [0, 0, 1]])
    found = roi.detections(logits, tf.zeros([4, 2, 4]), rois, 64, 64, 0.5, NETWORK)
    boxes, category_ids, scores = found
    np.testing.assert_array_equal(category_ids, [2, 1, 2])
    np.testing.assert_allclose(boxes, [rois[2], rois[0], rois[3]])
    assert (np.diff(scores) <= 0).all()
