"""The second look at detections: boxes are refined as told, scores weigh the mask, and both can learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

import evican_model
from evican_model import boxes, refinement, weights
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.convert import from_ours
from evican_model.errors import WeightsError
from evican_model.model import read_into
from evican_model.network import MaskRCNN

NETWORK = NetworkConfig()
REGIONS = np.array([[10, 10, 30, 50], [40, 8, 60, 24], [4, 40, 20, 60]], np.float32)
OBJECTS = np.array([[12, 8, 34, 46], [40, 8, 60, 24], [30, 30, 50, 50]], np.float32)


def offsets_of(targets, category_ids, config=NETWORK):
    """The head's output that moves each region to its target, in the row of its category; nonsense in the others."""
    wanted = boxes.encode(tf.constant(targets), tf.constant(REGIONS), config.refinement_std).numpy()
    offsets = np.full((len(targets), len(config.categories), 4), 3.0, np.float32)
    offsets[np.arange(len(targets)), np.array(category_ids) - 1] = wanted
    return tf.constant(offsets)


def test_a_box_moves_as_its_own_category_says_and_stays_in_its_window():
    ids = tf.constant([1, 2, 1])
    windows = tf.constant([[0.0, 0, 64, 64], [0, 0, 64, 64], [35, 35, 64, 64]])
    moved = refinement.refine(offsets_of(OBJECTS, [1, 2, 1]), tf.constant(REGIONS), ids, windows, NETWORK)
    np.testing.assert_allclose(moved, [OBJECTS[0], OBJECTS[1], [35, 35, 50, 50]], atol=1e-4)


def test_refinement_loss_is_zero_for_the_right_offsets_and_counts_pixels_as_the_first_box_loss_does():
    ids, near = tf.constant([1, 2, 1]), tf.constant([True, True, False])
    truth = {"boxes": tf.constant(OBJECTS), "category_ids": ids}
    training = TrainConfig()

    def loss(targets):
        return float(refinement.refinement_loss(
            offsets_of(targets, [1, 2, 1]), tf.constant(REGIONS), near, truth, tf.constant(4.0), NETWORK, training
        ))  # fmt: skip

    far_off = OBJECTS.copy()
    far_off[2] = [0, 0, 64, 64]  # too far from its object to learn from
    assert loss(OBJECTS) == pytest.approx(0, abs=1e-5) and loss(far_off) == pytest.approx(0, abs=1e-5)
    aside = OBJECTS.copy()
    aside[1, [0, 2]] += 20.0  # by the height of its region: 10 units of box_std
    assert loss(aside) == pytest.approx((20 / 20 / NETWORK.box_std[0] - 0.5 * training.box_beta / 2) / 4, rel=0.01)


def test_quality_is_learnt_from_the_iou_of_the_mask_in_its_frame():
    frames = tf.constant([[0.0, 0, 28, 28]] * 3)
    drawn = np.zeros((3, 28, 28), np.uint8)
    drawn[:, 4:24, 4:24] = 1
    masks = np.zeros((3, 28, 28), np.float32)
    masks[0, 4:24, 4:24] = 0.9  # IoU 1
    masks[1, 4:14, 4:24] = 0.6  # IoU 0.5
    masks[2] = 1.0  # not positive: of no account
    positive = tf.constant([True, True, False])

    def loss(*quality):
        logits = tf.constant([np.log(q / (1 - q)) for q in quality], tf.float32)
        return float(refinement.quality_loss(logits, tf.constant(masks), frames, tf.constant(drawn), positive, NETWORK))

    best = loss(0.999, 0.5, 0.5)
    assert best < min(loss(0.999, 0.7, 0.5), loss(0.999, 0.3, 0.5), loss(0.7, 0.5, 0.5))
    assert best == pytest.approx(loss(0.999, 0.5, 0.99)) == pytest.approx(np.log(2) / 2, abs=1e-3)


def test_heads_take_no_detection():
    """oneDNN's convolutions give wrong shapes for nothing; an image without cells is common."""
    pooled = tf.zeros([0, NETWORK.mask_pool, NETWORK.mask_pool, NETWORK.fpn_channels])
    mask = tf.zeros([0, 2 * NETWORK.mask_pool, 2 * NETWORK.mask_pool, 1])
    assert refinement.quality_head(NETWORK)([pooled, mask]).shape == (0,)
    pooled = tf.zeros([0, NETWORK.box_pool, NETWORK.box_pool, NETWORK.fpn_channels])
    assert refinement.refinement_head(NETWORK)(pooled).shape == (0, 2, 4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The bundled weights without what looks at detections a second time."""
    info = weights.check("bundled")
    config = replace(info.config, box_refinement=False, mask_quality=False)
    every = {name: tuple(v.shape) for name, v in MaskRCNN(info.config).named_variables().items()}
    kept = {name: value for name, value in info.read(every).items()
            if not name.startswith(("box_refine_", "mask_quality_"))}  # fmt: skip
    path = tmp_path_factory.mktemp("plain") / "plain.h5"
    weights.write(path, kept, config, info.training)
    return path


def test_weights_without_a_second_look_get_one_that_changes_no_box(plain, plate_image):
    info = weights.check(plain)
    tensors, record = from_ours(info, replace(info.config, box_refinement=True))
    assert record["untrained"] == ["box_refine_fc1", "box_refine_fc2", "box_refine_offsets"]
    np.testing.assert_array_equal(tensors["box_refine_fc1/kernel"], tensors["box_fc1/kernel"])
    before = evican_model.load_model(plain)
    network = MaskRCNN(replace(info.config, box_refinement=True))
    for name, variable in network.named_variables().items():
        variable.assign(tensors[name])
    network.fold()
    after = evican_model.Model(network, replace(info, config=network.config))
    image = plate_image("B04")
    a, b = (m.segment(image, cell_diameter=60) for m in (before, after))
    assert len(a) > 3
    np.testing.assert_allclose(a.all_scores, b.all_scores, atol=1e-5)
    assert (a.labels("Cell") != b.labels("Cell")).mean() < 1e-4


def test_layers_of_the_second_look_must_be_trained_and_must_be_there(plain, tmp_path):
    info = weights.check(plain)
    config = replace(info.config, mask_quality=True)
    tensors, record = from_ours(info, config)
    weights.write(tmp_path / "new.h5", tensors, config, record)
    with pytest.raises(WeightsError, match=r"mask_quality_conv1.*not trained"):
        evican_model.load_model(tmp_path / "new.h5")
    weights.write(tmp_path / "less.h5", {n: t for n, t in tensors.items() if n != "mask_quality_fc/bias"}, config)
    with pytest.raises(WeightsError, match=r"mask_quality_fc/bias"):
        evican_model.load_model(tmp_path / "less.h5")


def test_weights_with_a_second_look_can_be_used_without(plate_image):
    """What it costs and gives can be told apart: the rest of the network is as it was."""
    info = weights.check("bundled")
    if not info.config.mask_quality:
        pytest.skip("the bundled weights have no second look")
    network = MaskRCNN(info.config)
    read_into(network, info)
    network.fold()
    images = tf.constant(np.random.default_rng(0).uniform(100, 150, (1, 192, 192, 1)), tf.float32)
    with_it = network.forward(images, 0.0, tf.constant([[0.0, 0, 192, 192]]))
    network.quality_head = None
    without = network.forward(images, 0.0, tf.constant([[0.0, 0, 192, 192]]))
    np.testing.assert_allclose(with_it["boxes"], without["boxes"], atol=1e-3)
    assert (with_it["scores"].numpy() < without["scores"].numpy()).all()
