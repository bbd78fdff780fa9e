"""RoIAlign, the partial-label loss and the sampling of regions against plain NumPy written here."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from evican_model import boxes, losses, roi, rpn
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.geometry import Centres, Corners

NETWORK = NetworkConfig()
WHOLE = tf.constant([0.0, 0, 64, 64])


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
        [tf.constant(p) for p in pyramid], tf.constant(rois), tf.constant(images), size, (256, 256), Centres()
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
    for layout in (Centres(), Corners()):
        none = roi.roi_align(pyramid, tf.zeros([0, 4]), tf.zeros([0], tf.int32), 7, (64, 64), layout)
        assert none.shape == (0, 7, 7, 3)


def test_roi_align_on_corners_is_matterports():
    """First and last sample on the corners of the normalised box, levels rounded: written out here."""
    rng = np.random.default_rng(4)
    height, width, size = 256, 320, 7
    pyramid = [rng.normal(size=(1, height // s, width // s, 2)).astype(np.float32) for s in NETWORK.strides]
    normalised = np.array(
        [
            [0.1, 0.1, 0.55, 0.6],
            [0, 0, 1, 1],
            [0.2, 0.1, 0.9, 0.95],
            [0.5, 0.5, 0.5, 0.6],
            [0.97, 0.02, 1, 0.06],
        ]
    )
    rois = normalised * [height - 1, width - 1, height - 1, width - 1]
    got = roi.roi_align([tf.constant(p) for p in pyramid], tf.constant(rois, tf.float32), tf.zeros([5], tf.int32),
                        size, (height, width), Corners())  # fmt: skip
    levels = []
    for r, (y1, x1, y2, x2) in enumerate(normalised):
        side = np.sqrt((y2 - y1) * (x2 - x1))
        with np.errstate(divide="ignore"):
            level = np.log2(side / (224 / np.sqrt(height * width)))
        levels.append(int(np.clip(np.round(level) + 2 if np.isfinite(level) else 0, 0, 3)))
        feature = pyramid[levels[r]][0]
        rows, columns = feature.shape[:2]
        for i, j in [(0, 0), (3, 5), (6, 6), (2, 0)]:
            y = (y1 + i / (size - 1) * (y2 - y1)) * (rows - 1)
            x = (x1 + j / (size - 1) * (x2 - x1)) * (columns - 1)
            np.testing.assert_allclose(got[r, i, j, 0], bilinear(feature[..., 0], y, x), atol=5e-4)
    assert len(set(levels)) == 3


def test_a_smaller_beta_keeps_the_pull_of_small_errors():
    error = tf.Variable([[0.05, 0.2, -0.5, 2.0]])
    pulls = []
    for beta in (1.0, 0.1):
        with tf.GradientTape() as tape:
            loss = losses.smooth_l1(tf.zeros([1, 4]), error, beta)
        pulls.append(tape.gradient(loss, error).numpy()[0])
    np.testing.assert_allclose(pulls[0], [0.05, 0.2, -0.5, 1], rtol=1e-5)
    np.testing.assert_allclose(pulls[1], [0.5, 1, -1, 1], rtol=1e-5)


def test_dice_weighs_a_thin_mask_like_a_full_one():
    target = np.zeros((2, 28, 28), np.float32)
    target[0, :, 4:24], target[1, :, 13:15] = 1, 1
    logits = np.where(target > 0, 20.0, -20.0).astype(np.float32)
    np.testing.assert_allclose(losses.soft_dice(tf.constant(target), tf.constant(logits)), 0, atol=1e-5)
    logits[:, 14:] = -20.0  # half of each is missed
    missed = losses.soft_dice(tf.constant(target), tf.constant(logits)).numpy()
    np.testing.assert_allclose(missed, 1 / 3, atol=0.01)  # Dice is 2/3


def test_dice_of_nothing_drawn_as_nothing_is_no_loss():
    empty = tf.zeros([1, 28, 28])
    assert float(losses.soft_dice(empty, empty - 20.0)[0]) < 1e-5


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
        "seed": tf.constant([0, 1]),
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
            objectness, tf.zeros([50, 4]), anchors, truth([], [], known), WHOLE, NETWORK, TrainConfig()
        )
    gradient = tape.gradient(loss, objectness).numpy()
    assert (gradient[:, category] == 0).all() and (gradient[:, 1 - category] > 0).any()


@pytest.mark.parametrize("sliver", [[0, 20, 5, 44], [40, 58, 64, 64], [30, 30, 40, 41]])
def test_an_object_far_smaller_than_any_anchor_is_learnt_by_its_four_best(sliver):
    """Cut to a sliver by the image's edge, or small; at the edge the anchors count by what lies in the image."""
    anchors = boxes.anchors(64, 64, NETWORK)
    known, large = np.ones((16, 16, 2)), [2, 2, 40, 40]
    nuclei = truth([2, 2], [sliver, large], known)
    objectness = tf.Variable(tf.zeros([len(anchors), 2]))
    learnt = {}
    for match_slivers in (True, False):
        training = TrainConfig(match_slivers=match_slivers, anchors_sampled=10**6)
        with tf.GradientTape() as tape:
            loss, _ = rpn.rpn_loss(
                objectness, tf.zeros([len(anchors), 4]), anchors, nuclei, WHOLE, NETWORK, training
            )
        learnt[match_slivers] = np.flatnonzero(tape.gradient(loss, objectness).numpy()[:, 1] < 0)
    clipped = np.clip(anchors, 0, 64)
    iou = np.array([overlap(anchor, sliver) for anchor in clipped])
    best = set(np.argsort(-iou, kind="stable")[:4])
    assert iou[list(best)].min() > 0.05
    assert best <= set(learnt[True])
    assert not best & set(learnt[False])
    # What is large enough is learnt as before, by more anchors if there were fewer than four.
    assert set(learnt[False]) <= set(learnt[True])
    assert len(learnt[True]) <= len(learnt[False]) + 2 * 4 + 4  # equal ones count as well


def test_detections_are_suppressed_within_a_category_only():
    box = [10.0, 10, 30, 30]
    rois = tf.constant([box, [11.0, 10, 31, 30], [10.0, 10, 30, 31], [40.0, 40, 60, 60]])
    logits = tf.constant([[0.0, 3, 0], [0, 2, 0], [0, 0, 4], [0, 0, 1]])
    read = roi.read_box_head(logits, tf.zeros([4, 2, 4]), rois, NETWORK)
    found = roi.detections(*read, tf.constant([0.0, 0, 64, 64]), 0.5, NETWORK)
    boxes, category_ids, scores = found
    np.testing.assert_array_equal(category_ids, [2, 1, 2])
    np.testing.assert_allclose(boxes, [rois[2], rois[0], rois[3]])
    assert (np.diff(scores) <= 0).all()


def suppressed(boxes, scores, most, threshold):
    """Greedy non-maximum suppression, a box at a time; of equal scores the earlier box wins."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if len(kept) < most and all(overlap(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    return kept


def overlap(a, b):
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(height, 0) * max(width, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


@pytest.mark.parametrize("case", ["random", "ties", "degenerate", "outside", "none"])
def test_proposals_are_the_best_anchors_after_suppression(case):
    rng = np.random.default_rng(5)
    corner = rng.integers(0, 90, (0 if case == "none" else 120, 2)) * 1.0
    anchors = np.concatenate([corner, corner + rng.integers(8, 40, corner.shape)], 1).astype(np.float32)
    logits = rng.permutation(len(anchors)).reshape(-1, 1) / 20 - 2.0
    if case == "ties":
        logits = np.floor(logits)
    if case == "degenerate":
        anchors[::3, 2:] = anchors[::3, :2]  # points: nothing overlaps them, and they suppress nothing
    if case == "outside":
        anchors[::2] += 500
    config = NetworkConfig.for_preset("paper", pre_nms_limit=80)
    made = rpn.propose(
        tf.constant(logits, tf.float32), tf.zeros([len(anchors), 4]), partial(tf.gather, anchors),
        tf.constant([0.0, 0, 100, 120]), 30, config,
    ).numpy()  # fmt: skip
    best = sorted(range(len(anchors)), key=lambda i: (-logits[i, 0], i))[:80]
    clipped = np.clip(anchors[best], 0, [100, 120, 100, 120])
    kept = suppressed(clipped, logits[best, 0], 30, config.proposal_iou)
    assert len(made) == len(kept) and (case == "none" or len(kept) > 1)
    # Of a point, decoding keeps a thousandth of a pixel.
    np.testing.assert_allclose(made, clipped[kept], atol=2e-3)


def test_an_roi_is_of_its_likeliest_category_only_where_the_config_says_so():
    rois = tf.constant([[10.0, 10, 30, 30], [40.0, 40, 60, 60], [40.0, 10, 60, 30]])
    logits = tf.constant([[0.0, 3, 2], [4.0, 1, 3], [0.0, 1, 1.5]])  # cell, background, nucleus
    window = tf.constant([0.0, 0, 64, 64])
    paper = NetworkConfig.for_preset("paper")
    read = roi.read_box_head(logits, tf.zeros([3, 2, 4]), rois, paper)
    _, category_ids, scores = roi.detections(*read, window, 0.0, paper)
    np.testing.assert_array_equal(category_ids, [1, 2])
    np.testing.assert_allclose(scores, [tf.nn.softmax(logits)[0, 1], tf.nn.softmax(logits)[2, 2]])
    _, category_ids, _ = roi.detections(*read, window, 0.0, NETWORK)
    assert sorted(category_ids.numpy()) == [1, 1, 1, 2, 2, 2]


def test_detections_are_those_of_suppression_within_each_category():
    rng = np.random.default_rng(6)
    corner = rng.integers(0, 60, (80, 2)) * 1.0
    rois = np.concatenate([corner, corner + rng.integers(10, 40, (80, 2))], 1).astype(np.float32)
    logits = rng.normal(0, 2, (80, 3)).astype(np.float32)
    paper = NetworkConfig.for_preset("paper", detections=20)
    window = np.array([5.0, 0, 90, 100], np.float32)
    read = roi.read_box_head(tf.constant(logits), tf.zeros([80, 2, 4]), tf.constant(rois), paper)
    boxes, category_ids, scores = roi.detections(*read, tf.constant(window), 0.4, paper)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    clipped = np.clip(rois, window[[0, 1, 0, 1]], window[[2, 3, 2, 3]])
    expected = []
    for category in (1, 2):
        own = [i for i in range(80) if softmax[i].argmax() == category and softmax[i, category] >= 0.4]
        for k in suppressed(clipped[own], softmax[own, category], 20, paper.detection_iou):
            expected.append((softmax[own[k], category], category, own[k]))
    expected = sorted(expected, reverse=True)[:20]
    np.testing.assert_array_equal(category_ids, [category for _, category, _ in expected])
    np.testing.assert_allclose(scores, [score for score, _, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(boxes, clipped[[i for _, _, i in expected]], atol=1e-3)


def test_one_objectness_learns_background_only_where_every_category_is_outlined():
    known = np.ones((16, 16, 2))
    known[:, 8:, 0] = 0  # cells of the right half are not outlined
    paper = NetworkConfig.for_preset("paper")
    corner = np.stack(np.meshgrid(np.arange(0, 48, 6), np.arange(0, 48, 6), indexing="ij"), -1).reshape(-1, 2)
    anchors = np.concatenate([corner, corner + 14], 1).astype(np.float32)
    objectness = tf.Variable(tf.zeros([len(anchors), 1]))
    with tf.GradientTape() as tape:
        nucleus, training = truth([2], [[20, 2, 36, 16]], known), TrainConfig(anchors_sampled=1000)
        loss, _ = rpn.rpn_loss(
            objectness, tf.zeros([len(anchors), 4]), tf.constant(anchors), nucleus, WHOLE, paper, training
        )
    gradient = tape.gradient(loss, objectness).numpy()[:, 0]
    left, right = anchors[:, 3] <= 32, anchors[:, 1] >= 32
    assert (gradient[right] == 0).all()
    assert (gradient[left] > 0).any() and (gradient < 0).any()  # background, and the nucleus


def test_a_mask_is_as_certain_as_its_pixels_are():
    masks = np.zeros((3, 4, 4), np.float32)
    masks[0, :2] = 1.0
    masks[1, 1:3, 1:3] = [[0.5, 0.7], [0.9, 0.9]]
    masks[1, 0] = 0.49  # not of the mask
    masks[2] = 0.3
    np.testing.assert_allclose(roi.mask_certainty(tf.constant(masks)), [1, 0.75, 0], rtol=1e-6)
    assert roi.mask_certainty(tf.zeros([0, 4, 4])).shape == (0,)
