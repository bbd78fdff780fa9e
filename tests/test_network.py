"""The network as a whole: it learns through every variable, and detects alike however it is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matterport_files
import numpy as np
import pytest
import tensorflow as tf

import evican_model
from evican_model import backbones
from evican_model.config import PRESETS, NetworkConfig, TrainConfig
from evican_model.dataset import read_dataset
from evican_model.errors import EvicanError
from evican_model.masks import paste_masks
from evican_model.model import Model
from evican_model.network import MaskRCNN
from evican_model.scaling import resize

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"
ENVIRONMENTS = {name: ROOT / ".venv" / name / "bin" / "python" for name in ("cellprofiler4", "cellprofiler5")}


@pytest.fixture(scope="module")
def model():
    return evican_model.load_model()


def batch_of(name, side, categories=("Cell", "Nucleus")):
    """One real image, brought to a square, as a training batch."""
    (item,) = [i for i in read_dataset(DATA / "evican_sample.json", DATA, categories) if i.path.stem == name]
    masks = [
        resize(mask.astype(np.float32), side, side) >= 0.5
        for category in categories
        for mask in item.truth.masks(category)
    ]
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
    ids = [i for i, category in enumerate(categories, 1) for _ in range(item.truth.count(category))]
    image = resize(item.grey_levels().astype(np.float32), side, side)
    return {
        "image": tf.constant(image[None, :, :, None]),
        "boxes": tf.constant([boxes], tf.float32),
        "category_ids": tf.constant([ids], tf.int32),
        "masks": tf.constant(np.array(masks)[None], tf.uint8),
        "known": tf.ones([1, side // 4, side // 4, len(categories)]),
        "seed": tf.constant([[1, 2]], tf.int32),
    }


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_gradients_reach_every_variable(preset):
    tf.keras.utils.set_random_seed(0)  # tf.random.set_seed alone leaves the initial weights of Keras 3 to chance
    network = MaskRCNN(NetworkConfig.for_preset(preset, anchor_scales=(16, 32, 64, 128, 256)))
    rng = np.random.default_rng(0)
    for layer in (
        network.backbone.layers
    ):  # norms keep their statistics: it is for the kernels to keep the signal alive
        if preset == "fast" and len(layer.get_weights()) == 1:
            (kernel,) = layer.get_weights()
            inputs = kernel.shape[:2] if kernel.shape[-1] == 1 else kernel.shape[:3]
            layer.set_weights([rng.normal(0, np.sqrt(2 / np.prod(inputs)), kernel.shape)])
    variables = [v for part in network.parts for v in part.trainable_variables]
    training = TrainConfig(
        rois=96, positive_rois=64, positive_roi_iou=0.3
    )  # more than the objects themselves
    with tf.GradientTape() as tape:
        parts = network.losses(batch_of("46_HT1080", 192), training)
        total = tf.add_n(list(parts.values()))
    assert all(np.isfinite(value) and value >= 0 for value in parts.values())
    names = {id(v): name for name, v in network.named_variables().items()}
    for variable, gradient in zip(variables, tape.gradient(total, variables)):
        assert gradient is not None, names[id(variable)]
        assert np.isfinite(gradient).all() and np.any(gradient), names[id(variable)]
    learnt = {names[id(v)].split("/")[1] for v in variables}
    assert "gamma" in learnt and "moving_mean" not in learnt


@pytest.mark.parametrize("name", [
    "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet50", "resnet101",
])  # fmt: skip
def test_every_layer_of_a_backbone_is_in_one_stage(name):
    network = backbones.backbone(name)
    names = {layer.name.split("_")[0] for layer in network.layers if layer.weights}
    staged = [part for parts in backbones.stages(name).values() for part in parts]
    assert len(staged) == len(set(staged)) and set(staged) == names
    assert set(backbones.frozen_layers(name, "heads")) == names
    assert backbones.frozen_layers(name, "all") == ()
    with pytest.raises(EvicanError, match="no group of layers '6"):
        backbones.frozen_layers(name, "6+")


@pytest.mark.parametrize("height, width", [(64, 64), (64, 192), (320, 128)])
def test_the_backbone_for_detection_gives_the_same_features(height, width):
    """It has no batch norms, sees grey, and makes its widest maps in strips of rows: each row is to come out alike."""
    network = evican_model.load_model().network
    assert_alike(network.backbone, network.folded, height, width)


@pytest.mark.parametrize("name", ["efficientnet_lite1", "efficientnet_lite2"])
def test_strips_reach_as_far_as_the_blocks_of_larger_backbones(name):
    network = backbones.backbone(name)
    for height in (64, 256):  # untrained, there is nothing to fold; what comes from far is faint
        assert_alike(network, backbones.fold(network, name, 1), height, 64, 1e-5)


def assert_alike(backbone, folded, height, width, tolerance=1e-3):
    image = np.random.default_rng(0).normal(size=(1, height, width, 1)).astype("float32")
    outputs = zip(backbone(np.repeat(image, 3, -1)), tf.function(folded)(image))
    for stride, (expected, features) in zip((4, 8, 16, 32), outputs):
        assert features.shape == expected.shape == (1, height // stride, width // stride, features.shape[-1])
        np.testing.assert_allclose(features, expected, atol=tolerance * float(np.abs(expected).max()))


@pytest.mark.parametrize("name, values, message", [
    ("resnet18", {}, "no preset 'resnet18'"),
    ("paper", {"geometry": "pixels"}, "geometry is 'pixels'"),
    ("paper", {"image_scale": "none"}, "image_scale is 'none'"),
    ("paper", {"strides": (8, 16, 32, 64, 128)}, "strides"),
    ("fast", {"anchor_scales": (64, 128, 256)}, "anchor_scales"),
    ("fast", {"pixel_mean": (1.0, 2.0)}, "pixel_mean"),
    ("fast", {"views": 3}, "views is 3"),
])  # fmt: skip
def test_configs_that_no_network_has_are_refused(name, values, message):
    with pytest.raises(EvicanError, match=message):
        NetworkConfig.for_preset(name, **values)


def test_two_images_at_once_are_detected_as_each_alone(model, plate_image):
    images = [resize(plate_image(well).astype(np.float32), 256, 320) for well in ("B04", "D05")]
    both = model.network.detect(tf.constant(np.stack(images)[..., None]), 0.3)
    for i, image in enumerate(images):
        alone = model.network.detect(tf.constant(image[None, :, :, None]), 0.3)
        own = both["image_index"].numpy() == i
        assert own.sum() == len(alone["scores"]) > 0
        # A score steps by a pixel's share when that pixel's probability rounds to the other side of 0.5.
        for key, tolerance in (("boxes", 1e-3), ("category_ids", 0), ("scores", 5e-3), ("masks", 1e-3)):
            np.testing.assert_allclose(both[key].numpy()[own], alone[key], atol=tolerance)


def test_tiles_in_batches_give_the_same_objects(model, plate_image):
    info = replace(model.info, config=replace(model.config, tile=384, tile_overlap=96))
    image = np.tile(plate_image("B04"), (1, 2))[:500, :1200]
    one, three = (Model(model.network, info, n).detect(image, cell_diameter=80) for n in (1, 3))
    assert len(one) > 5
    np.testing.assert_array_equal(one.all_boxes, three.all_boxes)
    np.testing.assert_allclose(one.all_scores, three.all_scores, atol=1e-4)


def test_one_trace_serves_images_of_every_size(model):
    for shape in ((40, 300), (90, 90), (200, 130)):
        model.detect(np.random.default_rng(0).normal(100, 5, shape))
    assert model.network.traces[1, False].experimental_get_tracing_count() == 1


def run(code, python=sys.executable):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_threads_are_chosen_before_the_work_begins():
    code = """if True:
        import evican_model, tensorflow as tf
        model = evican_model.load_model(threads=1)
        print(tf.config.threading.get_intra_op_parallelism_threads())
        try:
            evican_model.load_model(threads=2)
        except evican_model.EvicanError as error:
            print(error)"""
    chosen, error = run(code).splitlines()
    assert chosen == "1" and "already works in this program, with 1 threads" in error


@pytest.mark.parametrize("wrong, message", [({"threads": 0}, "threads is 0"), ({"batch": 0}, "batch is 0"),
                                            ({"precision": "int8"}, "precision is 'int8'")])  # fmt: skip
def test_what_cannot_be_computed_with_is_refused(wrong, message):
    with pytest.raises(EvicanError, match=message):
        evican_model.load_model(**wrong)


def test_bfloat16_finds_the_same_cells_and_leaves_the_program_as_it_was(model, plate_image):
    before = tf.keras.mixed_precision.global_policy().name
    half = evican_model.load_model(precision="bfloat16")
    assert tf.keras.mixed_precision.global_policy().name == before
    image = plate_image("D05")
    a, b = (m.segment(image, cell_diameter=80).labels("Cell") for m in (model, half))
    assert a.max() > 0 and ((a > 0) == (b > 0)).mean() > 0.98


_WRITE = """if True:
    from evican_model import weights
    from evican_model.model import read_into
    from evican_model.network import MaskRCNN
    info = weights.check({source!r})
    network = MaskRCNN(info.config)
    read_into(network, info)
    tensors = {{name: v.numpy() for name, v in network.named_variables().items()}}
    weights.write({target!r}, tensors, info.config)"""
_DETECT = """if True:
    import json
    import numpy as np, tensorflow as tf
    from PIL import Image
    from evican_model.model import load_model
    model = load_model({target!r})
    image = np.asarray(Image.open({image!r}).convert("L").resize((320, 256)), np.float32)
    found = model.network.detect(tf.constant(image[None, :, :, None]), 0.5)
    print(json.dumps([tf.__version__, {{key: value.numpy().tolist() for key, value in found.items()}}]))"""


@pytest.mark.parametrize(
    "preset, writer",
    [
        ("fast", "cellprofiler4"),
        pytest.param("fast", "cellprofiler5", marks=pytest.mark.long),
        pytest.param("resnet50", "cellprofiler4", marks=pytest.mark.long),
    ],
)
def test_weights_written_in_one_keras_detect_alike_in_the_other(tmp_path, preset, writer):
    for name, python in ENVIRONMENTS.items():
        if not python.is_file():
            pytest.skip(f"there is no environment {name} (script/setup with EVICAN_CELLPROFILER={name[-1]})")
    source, target = "fast", str(tmp_path / "w.h5")
    if preset == "resnet50":
        source = str(matterport_files.write(tmp_path / "lab.h5", matterport_files.tensors(preset)))
    run(_WRITE.format(source=source, target=target), ENVIRONMENTS[writer])
    code = _DETECT.format(target=target, image=str(DATA / "46_HT1080.jpg"))
    (old, a), (new, b) = [json.loads(run(code, python)) for python in ENVIRONMENTS.values()]
    for file in tmp_path.glob("*.h5"):
        file.unlink()
    assert old.startswith(("2.15", "2.13")) and not new.startswith(("2.15", "2.13"))
    assert len(a["scores"]) > 3
    for key, values in a.items():
        np.testing.assert_allclose(values, b[key], rtol=1e-4, atol=2e-3)


@pytest.mark.long
def test_one_image_is_learnt_by_heart():
    """With new heads on the trained backbone, a few hundred steps on one image bring its mask AP50 to 0.95."""
    tf.keras.utils.set_random_seed(0)
    trained = evican_model.load_model()
    network = MaskRCNN(trained.config)
    for name, variable in network.named_variables().items():
        if not name.startswith(("class_", "box_", "mask_", "rpn_")):
            variable.assign(trained.network.named_variables()[name])
    batch = batch_of("46_HT1080", 448)  # of fewer pixels, its nuclei would be far smaller than any anchor
    variables = [v for part in network.parts[1:] for v in part.trainable_variables]
    optimizer = tf.keras.optimizers.Adam(1e-3)
    optimizer.build(variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            total = tf.add_n(list(network.losses(batch, TrainConfig(rois=64, positive_rois=32)).values()))
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables))

    precision = []
    for _ in range(6):
        for _ in range(60):
            step()
        network.fold()
        found = {key: value.numpy() for key, value in network.detect(batch["image"], 0.05).items()}
        precision = [average_precision(found, batch, category) for category in (1, 2)]
        if min(precision) >= 0.95:
            break
    assert min(precision) >= 0.95, precision


def average_precision(found, batch, category):
    """AP50 of one category: greedy matching by score, precision made monotonous, mean over 101 recalls."""
    own, real = found["category_ids"] == category, batch["category_ids"].numpy()[0] == category
    truth, shape = batch["masks"].numpy()[0][real].astype(bool), batch["image"].shape[1:3]
    boxes, crops = paste_masks(found["masks"][own], found["frames"][own], shape)
    free, hits = set(range(len(truth))), []
    for (y1, x1, y2, x2), crop in zip(boxes, crops):
        mask = np.zeros(shape, bool)
        mask[y1:y2, x1:x2] = crop
        overlaps = {i: (mask & truth[i]).sum() / max((mask | truth[i]).sum(), 1) for i in free}
        best = max(overlaps, key=overlaps.get, default=None)
        hits.append(best is not None and overlaps[best] >= 0.5)
        free -= {best} if hits[-1] else set()
    recall = np.cumsum(hits) / len(truth)
    precision = np.maximum.accumulate((np.cumsum(hits) / np.arange(1, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101))
    return float(np.mean([precision[i] if i < len(precision) else 0.0 for i in at]))


def test_scores_weigh_how_certain_the_masks_are(model):
    batch = batch_of("46_HT1080", 320)
    network, config, found = model.network, model.config, {}
    try:
        for weighed in (True, False):
            network.config = replace(config, mask_certainty=weighed)
            found[weighed] = network.forward(batch["image"], 0.3, tf.constant([[0.0, 0, 320, 320]]))
    finally:
        network.config = config
    scores, masks = (found[False][key].numpy() for key in ("scores", "masks"))
    assert len(masks) > 3
    inside = [mask[mask >= 0.5].mean() for mask in masks]
    np.testing.assert_allclose(found[True]["scores"], scores * inside, rtol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 64, 129])
def test_masks_drawn_some_at_a_time_are_those_drawn_at_once(model, monkeypatch, count):
    network, rng = model.network, np.random.default_rng(count)
    pyramid, size, _ = network.see(batch_of("46_HT1080", 320)["image"])
    corners = rng.uniform(0, 250, (count, 2))
    frames = tf.constant(np.concatenate([corners, corners + rng.uniform(10, 60, (count, 2))], 1), tf.float32)
    index, ids = tf.zeros([count], tf.int32), tf.constant(rng.integers(1, 3, count), tf.int32)
    parts = tf.function(network.draw)(pyramid, size, frames, index, ids).numpy()
    monkeypatch.setattr("evican_model.network._DRAWN_AT_ONCE", 1000)
    assert parts.shape == (count, 28, 28)
    at_once = tf.function(network.draw)(pyramid, size, frames, index, ids).numpy()
    np.testing.assert_allclose(parts, at_once, atol=1e-5)


def test_each_category_has_its_least_score(model):
    batch, window = batch_of("46_HT1080", 320), tf.constant([[0.0, 0, 320, 320]])
    one, other = (model.network.detect(batch["image"], least, window) for least in ((0.2, 0.9), (0.9, 0.2)))
    every = model.network.detect(batch["image"], 0.2, window)
    for found, weak in ((one, 1), (other, 2)):
        ids = every["category_ids"].numpy()
        assert np.count_nonzero(found["category_ids"] == weak) == np.count_nonzero(ids == weak) > 0
        assert np.count_nonzero(found["category_ids"] == 3 - weak) < np.count_nonzero(ids == 3 - weak)
