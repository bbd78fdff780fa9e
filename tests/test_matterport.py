"""Files of Matterport's Mask R-CNN give here what they gave there, and what is no such file is refused."""

from __future__ import annotations

import json
import os
from functools import partial

import h5py
import matterport_files
import numpy as np
import pytest
import tensorflow as tf

import evican_model
from evican_model import boxes, matterport, rpn, weights
from evican_model.config import NetworkConfig
from evican_model.convert import main
from evican_model.errors import EvicanError, WeightsError
from evican_model.scaling import grey_levels, square_scale

# What the config of the computed examples had otherwise than Matterport's default.
SETTINGS = {"anchor_scales": [8, 16, 32, 64, 128], "proposals": 200, "detections": 50, "tile": 256,
            "tile_overlap": 64, "shortest_side": 256}  # fmt: skip


def close(ours, theirs):
    """Relative error of at most 1e-4, of the whole tensor and of its largest difference."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    difference = np.abs(ours - theirs)
    assert difference.max() <= 1e-4 * np.abs(theirs).max()
    assert np.linalg.norm(difference) <= 1e-4 * np.linalg.norm(theirs)


@pytest.mark.parametrize("name", ["resnet50", pytest.param("resnet101", marks=pytest.mark.long)])
def test_every_stage_is_that_of_an_independent_port(tmp_path, name):
    """The command a user runs, then stage by stage: RPN, proposals, box head, detections in their order, masks."""
    source = matterport_files.write(tmp_path / f"{name}.h5", matterport_files.tensors(name))
    settings = [f"{key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    command = [
        str(source),
        "--categories",
        "Cell",
        "Nucleus",
        "--set",
        *settings,
        "--output",
        f"{tmp_path}/ours/",
    ]
    assert main(command) == 0
    model = evican_model.load_model(tmp_path / "ours" / f"{name}.h5")
    network, computed = model.network, matterport_files.computed(name)
    assert model.config.backbone == name and model.config.categories == ("Cell", "Nucleus")
    padded = np.zeros((1, 256, 256, 1), np.float32)
    padded[0, 28:228, :, 0] = computed["image"][..., 0]

    pyramid, objectness, offsets = network.propose(tf.constant(padded))
    anchors = boxes.anchors(256, 256, model.config)
    close(anchors[::5] / 255, computed["anchors"])
    close(tf.sigmoid(objectness[0, :, 0]), computed["rpn_class"])
    close(objectness[0, :, 0], log_odds(computed["rpn_class"]))
    close(offsets[0, ::5], computed["rpn_bbox"])

    size, whole = tf.constant([256, 256]), tf.constant([0.0, 0, 255, 255])
    proposals = rpn.propose(objectness[0], offsets[0], partial(tf.gather, anchors), whole, 200, model.config)
    # Two scores that are the same to rounding may stand either way round, which depends on the processor.
    order = np.abs(proposals / 255 - computed["rpn_rois"][:, None]).max(-1).argmin(1)
    moved = np.abs(order - np.arange(200))
    assert moved.max() <= 1 and np.count_nonzero(moved) <= 4 and len(set(order.tolist())) == 200
    proposals = tf.gather(proposals, order)
    close(proposals / 255, computed["rpn_rois"])
    pooled = network.align(pyramid, proposals, tf.zeros([200], tf.int32), 7, size)
    logits, refinements = network.box_head(pooled)
    close(tf.nn.softmax(logits), computed["mrcnn_class"])
    close(tf.nn.log_softmax(logits), np.log(computed["mrcnn_class"]))
    close(refinements, computed["mrcnn_bbox"][:, 1:])

    found = network.detect(tf.constant(padded), 0.0, tf.constant([[28.0, 0, 228, 256]]))
    np.testing.assert_array_equal(found["category_ids"], computed["class_ids"])
    close(found["scores"], computed["scores"])
    close(network.geometry.inner(found["boxes"]) / 255, computed["detections"][:, :4])
    close(found["masks"], computed["mrcnn_mask"])
    np.testing.assert_array_equal(np.rint(found["boxes"].numpy() - [28, 0, 28, 0]), computed["rois"])

    # And as a user calls it: the same objects in the same order, placed in the image.
    objects = model.detect(computed["image"], minimum_score=0.0)
    np.testing.assert_array_equal(objects.category_ids, computed["class_ids"])
    close(objects.all_scores, computed["scores"])
    assert (objects.all_boxes[:, :2] >= computed["rois"][:, :2]).all()
    assert (objects.all_boxes[:, 2:] <= computed["rois"][:, 2:]).all()
    # With a cell diameter it is tiled; 83 pixels at 3.1 times their size are a pixel more than the square has.
    model.detect(computed["image"][:83, :83], minimum_score=0.0, cell_diameter=model.config.cell_diameter / 3.1)
    for file in tmp_path.rglob("*.h5"):  # large, and pytest keeps the folders of three runs
        file.unlink()


def log_odds(probability):
    probability = probability.astype(np.float64)
    return np.log(probability / (1 - probability))


@pytest.fixture(scope="module")
def full_tensors():
    """Weights as in the parity test, in half precision: enough to see that each is read into its place."""
    return {name: value.astype(np.float16) for name, value in matterport_files.tensors("resnet50").items()}


@pytest.fixture
def thin_tensors(full_tensors):
    """The same layers with the backbone's tensors cut to one number: what `check` looks at is whole."""
    return {
        name: value if name.startswith(("mrcnn_class_logits", "rpn_")) else value.reshape(-1)[:1]
        for name, value in full_tensors.items()
    }


@pytest.fixture
def path(tmp_path, thin_tensors):
    return matterport_files.write(tmp_path / "lab.h5", thin_tensors)


@pytest.mark.parametrize("style", ["keras1", "keras2", "whole"])
def test_each_way_keras_wrote_files_is_read(tmp_path, full_tensors, style):
    """Names of Keras 1 and 2, nested models, and files of `model.save` with optimizer and numbered layers."""
    path = matterport_files.write(tmp_path / "lab.h5", full_tensors, style)
    info = weights.check(path)
    assert info.matterport and info.config.backbone == "resnet50" and info.config.rpn_channels == 512
    shapes = {"res4f_branch2b/kernel": (3, 3, 256, 256), "bn2a_branch1/moving_variance": (256,),
              "box_fc1/kernel": (7 * 7 * 256, 1024), "box_bn2/gamma": (1024,), "mask_deconv/kernel": (2, 2, 256, 256),
              "rpn_objectness/bias": (3,), "box_offsets/kernel": (1024, 8),
              "mask_logits/kernel": (1, 1, 256, 2)}  # fmt: skip
    read, others = matterport.read_tensors(path, shapes, info.config, allow_others=True)
    path.unlink()
    assert len(others) == len(full_tensors) - len(shapes)
    theirs = {name: value.astype(np.float32) for name, value in full_tensors.items()}
    np.testing.assert_array_equal(read["res4f_branch2b/kernel"], theirs["res4f_branch2b/kernel"])
    np.testing.assert_array_equal(
        read["bn2a_branch1/moving_variance"], theirs["bn2a_branch1/moving_variance"]
    )
    np.testing.assert_array_equal(read["box_bn2/gamma"], theirs["mrcnn_class_bn2/gamma"])
    np.testing.assert_array_equal(
        read["box_fc1/kernel"][5 * 7 * 256 + 2 * 256 + 9], theirs["mrcnn_class_conv1/kernel"][5, 2, 9]
    )
    np.testing.assert_array_equal(read["mask_deconv/kernel"], theirs["mrcnn_mask_deconv/kernel"])
    pairs = theirs["rpn_class_raw/bias"].reshape(3, 2)  # background, object of each anchor
    np.testing.assert_array_equal(read["rpn_objectness/bias"], pairs[:, 1] - pairs[:, 0])
    by_class = theirs["mrcnn_bbox_fc/kernel"].reshape(1024, 3, 4)
    np.testing.assert_array_equal(read["box_offsets/kernel"].reshape(1024, 2, 4), by_class[:, 1:])
    np.testing.assert_array_equal(read["mask_logits/kernel"], theirs["mrcnn_mask/kernel"][..., 1:])


def test_categories_without_names_are_numbered_and_it_says_so(tmp_path, full_tensors):
    path = matterport_files.write(tmp_path / "lab.h5", full_tensors)
    with pytest.warns(UserWarning, match=r"lab\.h5 is a Matterport file.*2 categories.*class 1, class 2"):
        model = evican_model.load_model(path)
    path.unlink()
    assert model.config.categories == ("class 1", "class 2")
    found = model.segment(np.zeros((50, 70), np.uint8))
    assert found.shape == (50, 70) and found.categories == ("class 1", "class 2")


def test_names_of_categories_can_be_given_or_stand_in_a_json(path):
    given = weights.check(path, ["Cell", "Nucleus"])
    assert given.config.categories == ("Cell", "Nucleus")
    with pytest.raises(WeightsError, match=r"2 categories.*1 names.*\['Cell'\]"):
        weights.check(path, ["Cell"])
    config = NetworkConfig.for_preset("resnet50", anchor_scales=(8, 16, 32, 64, 128))
    record = {"format": "evican-weights 1", "network": config.to_dict()}
    path.with_suffix(".json").write_text(json.dumps(record))
    assert weights.check(path).config == config
    with pytest.raises(WeightsError, match="names the categories"):
        weights.check(path, ["Nucleus", "Cell"])


def test_coco_has_eighty_names(tmp_path, thin_tensors):
    tensors = {**thin_tensors, "mrcnn_class_logits/bias": np.zeros(81, np.float32)}
    categories = weights.check(matterport_files.write(tmp_path / "coco.h5", tensors)).config.categories
    assert len(set(categories)) == 80
    assert (categories[0], categories[18], categories[79]) == ("person", "sheep", "toothbrush")


def test_other_categories_start_with_new_heads(tmp_path, full_tensors, capsys):
    """What the paper began with: everything of a file with other classes, but for the layers that name them."""
    path = matterport_files.write(tmp_path / "coco.h5", full_tensors)
    assert main([str(path), "--categories", "Cell", "--output", str(tmp_path / "start.h5")]) == 0
    out = capsys.readouterr().out
    assert "to be trained: class_logits, box_offsets, mask_logits" in out
    info = weights.check(tmp_path / "start.h5")
    assert info.config.categories == ("Cell",) and info.training["sha256"] == weights.sha256_of(path)
    with h5py.File(tmp_path / "start.h5") as file:
        assert file["class_logits/kernel"].shape == (1024, 2)
        np.testing.assert_array_equal(file["fpn_p2/kernel"], full_tensors["fpn_p2/kernel"].astype(np.float32))
    with pytest.raises(WeightsError, match="class_logits, box_offsets, mask_logits are not trained"):
        evican_model.load_model(tmp_path / "start.h5")
    for file in (path, tmp_path / "start.h5"):
        file.unlink()


def changed(path, change):
    with h5py.File(path, "a") as file:
        change(file)


def test_a_missing_layer_is_named(path, capsys):
    changed(path, lambda file: file.__delitem__("mrcnn_mask_deconv"))
    assert main([str(path), "--output", str(path.with_name("ours.h5"))]) == 2
    error = capsys.readouterr().err
    assert "lacks 2 tensors (mrcnn_mask_deconv/bias, mrcnn_mask_deconv/kernel)" in error
    assert not path.with_name("ours.h5").exists()
    changed(path, lambda file: file.__delitem__("mrcnn_class_logits"))
    with pytest.raises(WeightsError, match="no mrcnn_class_logits/bias"):
        weights.check(path)


def test_a_left_over_layer_is_named(tmp_path, full_tensors, capsys):
    tensors = {**full_tensors, "edge_head/kernel": np.ones((3, 3), np.float32)}
    path = matterport_files.write(tmp_path / "fork.h5", tensors)
    with pytest.raises(WeightsError, match="holds 1 tensors .*edge_head/edge_head/kernel:0"):
        evican_model.load_model(path, categories=["Cell", "Nucleus"])
    assert main([str(path), "--output", str(tmp_path / "ours.h5")]) == 0
    assert "left out, no part of Mask R-CNN: edge_head/edge_head/kernel:0" in capsys.readouterr().out
    for file in (path, tmp_path / "ours.h5"):
        file.unlink()


def test_a_layer_of_another_shape_is_named(path, capsys):
    assert main([str(path), "--output", str(path.with_name("ours.h5"))]) == 2
    assert "has shape (1,); expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    "shape, message",
    [
        ((10**9,), r"expected axes of 1 to 4096"),
        ((1,), "no category but the background"),
        ((), "expected axes"),
    ],
)
def test_a_huge_or_empty_number_of_classes_is_refused_before_anything_is_built(path, shape, message):
    def change(file):
        del file["mrcnn_class_logits/mrcnn_class_logits/bias:0"]
        chunks = (1024,) if shape and shape[0] > 1024 else None
        file.create_dataset("mrcnn_class_logits/mrcnn_class_logits/bias:0", shape, np.float32, chunks=chunks)

    changed(path, change)
    with pytest.raises(WeightsError, match=message):
        weights.check(path)


def test_a_huge_tensor_is_refused_before_it_is_read(path):
    def change(file):
        del file["conv1/conv1/kernel:0"]
        file.create_dataset("conv1/conv1/kernel:0", (10**7, 10**6), np.float32, chunks=(1024, 1024))

    changed(path, change)
    config = weights.check(path).config
    with pytest.raises(WeightsError, match=r"conv1/kernel has shape \(10000000, 1000000\)"):
        matterport.read_tensors(path, {"conv1/kernel": (7, 7, 3, 64)}, config, allow_others=True)


def link(file, kind):
    del file["conv1"]
    file["conv1"] = h5py.ExternalLink("other.h5", "conv1") if kind == "external" else h5py.SoftLink("/fpn_p2")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda file: link(file, "external"), "conv1 is a link"),
        (lambda file: link(file, "soft"), "conv1 is a link"),
        (lambda file: file["conv1"].__setitem__("again", file["conv1"]), "stands elsewhere as well"),
        (lambda file: file.create_dataset("conv2d/kernel:0", data=np.ones(3)), "of type float64"),
        (lambda file: file.create_group("a/b/c/d/e/f/g"), "is a group"),
        (lambda file: file.create_dataset("x/conv1/kernel:0", data=np.ones(3, np.float32)), "both conv1/kernel"),
    ],
)  # fmt: skip
def test_files_made_to_harm_are_refused(path, change, message):
    changed(path, change)
    with pytest.raises(WeightsError, match=message):
        weights.check(path)


def test_storage_outside_the_file_is_refused(path, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(os.urandom(12))
    changed(path, lambda file: file.create_dataset("x/y", (3,), np.float32, external=[(str(secret), 0, 12)]))
    with pytest.raises(WeightsError, match="stored outside the file"):
        weights.check(path)


def test_another_backbone_is_refused(path):
    changed(path, lambda file: file.__delitem__("res4f_branch2a"))
    with pytest.raises(WeightsError, match="5 blocks in stage 4"):
        weights.check(path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--set", "anchor_scale=8"], "unknown ['anchor_scale']"),
        (["--set", "detections=many"], "detections is 'many'"),
        (["--set", "anchor_scales=[8]"], "each level needs one anchor scale"),
        (["--output", "{source}"], "would overwrite its source"),
    ],
)
def test_wrong_options_are_refused(path, capsys, arguments, message):
    before = path.read_bytes()
    output = [] if "--output" in arguments else ["--output", str(path.with_name("ours.h5"))]
    assert main([str(path), *(a.format(source=path) for a in arguments), *output]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "shape, scale",
    [((800, 1000), 1.0), ((400, 500), 2.0), ((100, 1000), 1.024), ((2048, 1024), 0.5), ((1024, 1024), 1.0)],
)
def test_a_whole_image_is_brought_into_the_square(shape, scale):
    assert square_scale(shape, NetworkConfig.for_preset("paper")) == pytest.approx(scale)


def test_grey_levels_stay_as_they_are_stored():
    config = NetworkConfig.for_preset("paper", stretch=False)
    levels = np.array([[0, 51], [102, 255]], np.uint8)
    for stored in (
        levels,
        levels.astype(np.uint16) * 257,
        levels / 255.0,
        np.repeat(levels[..., None], 3, -1),
    ):
        np.testing.assert_allclose(grey_levels(stored, config), levels, rtol=1e-5)
    for wrong in (levels * 1.0, -(levels / 255.0), -levels.astype(np.int16)):
        with pytest.raises(EvicanError, match="as they are stored|below 0"):
            grey_levels(wrong, config)
    assert grey_levels(levels, NetworkConfig()).max() == 255
