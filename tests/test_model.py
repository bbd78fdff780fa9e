"""The public face with the bundled weights: any grey image in, linked cells and nuclei out."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import evican_model
from evican_model.errors import EvicanError, ImageError, WeightsError
from evican_model.instances import Instances
from evican_model.model import Model
from evican_model.scaling import GREY, choose_scale, normalise, resize, to_grey


@pytest.fixture(scope="module")
def model():
    return evican_model.load_model()


@pytest.fixture(scope="module")
def image(plate_image):
    """An example with many clear cells."""
    return plate_image("B04")


def test_importing_the_package_does_not_load_tensorflow():
    code = "import sys, evican_model, evican_model.weights; print('tensorflow' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def system_llvm():
    """The LLVM that Mesa draws windows with, or None."""
    folders = (Path("/usr/lib"), Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu"))
    found = sorted(path for folder in folders for path in folder.glob("libLLVM*.so*"))
    return found[0] if found else None  # the older, the further from the one in TensorFlow


@pytest.mark.skipif(system_llvm() is None, reason="no system LLVM, as desktops with Mesa have it")
def test_tensorflow_starts_beside_the_llvm_of_a_window():
    code = (
        f"import ctypes, os; ctypes.CDLL({str(system_llvm())!r}, mode=os.RTLD_NOW | os.RTLD_GLOBAL)\n"
        "import evican_model as e, numpy as n; print(len(e.load_model().segment(n.eye(100))))"
    )
    # Without the remedy it hangs or crashes before the first line of Python in TensorFlow.
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (out.returncode, out.stderr) == (0, "")


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_onednn_makes_no_difference(model, image, tmp_path, onednn):
    """TensorFlow uses it by default where the processor has AVX-512 VNNI, which this one may not have."""
    np.save(tmp_path / "image.npy", image)
    code = (
        "import evican_model as e, numpy as n; model = e.load_model()\n"
        "noise = n.random.default_rng(0).random((200, 300))\n"
        "assert len(model.segment(noise, confidence=1.0)) == 0  # no region at all for the heads\n"
        "n.save('labels.npy', model.segment(n.load('image.npy')).labels('Cell'))"
    )
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn}
    environment["PYTHONPATH"] = str(Path(evican_model.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True)
    same = np.load(tmp_path / "labels.npy") == model.segment(image).labels("Cell")
    assert same.mean() > 0.999


def test_loading_and_segmenting_is_silent():
    code = "import evican_model as e, numpy as n; e.load_model().segment(n.eye(100))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (out.stdout, out.stderr) == ("", "")


def test_cells_and_nuclei_are_found_and_linked(model, image):
    found = model.segment(image)
    assert found.shape == image.shape
    assert found.count("Cell") >= 3 and found.count("Nucleus") >= 3
    for category in ("Cell", "Nucleus"):
        labels = found.labels(category)
        assert labels.dtype == np.int32 and labels.shape == image.shape
        assert labels.max() == found.count(category) == len(found.scores(category))
        np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], found.areas(category))
        assert (np.diff(found.scores(category)) <= 0).all() and found.scores(
            category
        ).min() >= model.config.confidence
    parents = found.parents()
    assert (parents > 0).any() and parents.max() <= found.count("Cell")


@pytest.mark.parametrize("kind", ["uint16", "float", "colour", "alpha", "dimmed"])
def test_how_an_image_is_stored_does_not_matter(model, image, kind):
    stored = {
        "uint16": image.astype(np.uint16) * 257,
        "float": image / 255.0,
        "colour": np.repeat(image[..., None], 3, -1),
        "alpha": np.concatenate(
            [np.repeat(image[..., None], 3, -1), np.full((*image.shape, 1), 255, np.uint8)], -1
        ),
        "dimmed": image * 10.0 - 300,
    }[kind]
    for category in ("Cell", "Nucleus"):
        a, b = model.segment(image).labels(category), model.segment(stored).labels(category)
        assert ((a > 0) == (b > 0)).mean() > 0.995


def test_objects_stay_inside_the_mask(model, image):
    mask = np.zeros(image.shape, bool)
    mask[: image.shape[0] // 2] = True
    found = model.segment(image, mask=mask)
    assert 0 < found.count("Cell") < model.segment(image).count("Cell") + 1
    assert not found.labels("Cell")[~mask].any()


def test_confidence_can_differ_by_category(model, image):
    loose = model.segment(image, confidence=0.3)
    strict = model.segment(image, confidence={"Cell": 0.9, "Nucleus": 0.3})
    assert strict.count("Cell") <= loose.count("Cell")
    assert strict.scores("Cell").min(initial=1) >= 0.9
    assert (model.segment(image, confidence=1.0).all_scores >= 1).all()


def test_detect_keeps_weak_and_overlapping_objects(model, image):
    assert len(model.detect(image)) >= len(model.segment(image))
    assert model.detect(image, minimum_score=0.4).all_scores.min() >= 0.4


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (30, 40), (64, 64), (65, 129)])
def test_any_size_works(model, shape):
    noise = np.random.default_rng(0).normal(100, 5, shape)
    found = model.segment(noise)
    assert found.shape == shape and found.labels("Cell").shape == shape


def test_an_image_without_contrast_has_no_objects(model):
    for value in (0, 255):
        assert len(model.detect(np.full((200, 100), value, np.uint8))) == 0


def covered(objects, others):
    """Share of the cells and nuclei of one result of which the other has an object with IoU of at least 0.5."""
    hits = []
    for category in ("Cell", "Nucleus"):
        masks = list(others.masks(category))
        for mask in objects.masks(category):
            hits.append(any((mask & m).sum() >= 0.5 * (mask | m).sum() for m in masks))
    return np.mean(hits)


def test_a_tiled_image_has_the_objects_of_the_untiled_one(model, image):
    """No object is lost, doubled or cut at the seams, wherever they fall."""
    whole = np.tile(image, (1, 2))[:, :1400]
    scale = {"cell_diameter": 110}
    tiled = Model(
        model.network, replace(model.info, config=replace(model.config, tile=448, tile_overlap=192))
    )
    sure, loose = {"confidence": 0.7, **scale}, {"confidence": 0.3, **scale}
    a, b = model.segment(whole, **sure), tiled.segment(whole, **sure)
    assert len(a) > 20
    assert covered(a, tiled.segment(whole, **loose)) >= 0.9
    assert covered(b, model.segment(whole, **loose)) >= 0.9
    assert 0.85 < len(b) / len(a) < 1.15


def test_same_image_same_result(model, image):
    a, b = model.segment(image), model.segment(image)
    np.testing.assert_array_equal(a.labels("Cell"), b.labels("Cell"))
    np.testing.assert_array_equal(a.all_scores, b.all_scores)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (np.zeros((3, 40, 40)), r"\(3, 40, 40\).*one plane"),
        (np.zeros((2, 3, 40, 40)), "one plane"),
        (np.zeros((0, 40)), "no pixels"),
        (np.full((40, 40), np.nan), "1600 pixels that are NaN"),
        (np.array([["a"]]), "expected integers or floats"),
        (np.zeros((40, 40), complex), "expected integers or floats"),
    ],
)
def test_what_is_no_grey_image_is_refused(model, wrong, message):
    with pytest.raises(ImageError, match=message):
        model.segment(wrong)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"confidence": 1.5}, "from 0 to 1"),
        ({"confidence": {"Mitochondrion": 0.5}}, r"Mitochondrion.*Cell"),
        ({"cell_diameter": 0}, "cell_diameter is 0"),
        ({"mask": np.ones((3, 3), bool)}, r"mask has shape \(3, 3\)"),
    ],
)
def test_wrong_parameters_are_refused(model, image, parameters, message):
    with pytest.raises(EvicanError, match=message):
        model.segment(image, **parameters)


def test_unknown_weights_are_an_error_that_lists_what_there_is():
    with pytest.raises(WeightsError, match="fast"):
        evican_model.load_model("fastest")


def test_weights_of_another_network_are_refused(tmp_path):
    import json
    import shutil

    source = evican_model.weights.check("bundled").path
    shutil.copy(source, tmp_path / "w.h5")
    record = json.loads(source.with_suffix(".json").read_text())
    record["network"]["fpn_channels"] = 64
    Path(tmp_path / "w.json").write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=r"w\.h5: .* has shape .*; expected"):
        evican_model.load_model(tmp_path / "w.h5")


@pytest.mark.parametrize("levels, dtype", [(256, np.uint8), (3, np.uint8), (65536, np.uint16), (1, np.uint16)])
def test_levels_are_stretched_between_numpys_percentiles(levels, dtype):
    rng = np.random.default_rng(levels)
    for size in ((1, 1), (7, 3), (211, 307)):
        grey = rng.integers(0, levels, size).astype(dtype)
        counted, sorted_ = normalise(grey), normalise(grey.astype(np.float64))  # floats go through numpy.percentile
        np.testing.assert_allclose(counted, sorted_, atol=1e-3)


@pytest.mark.parametrize("side, expected", [(50, 1.0), (55, 1.0), (40, 1.418), (65, 0.873)])
def test_an_image_a_little_too_long_for_a_tile_is_shown_smaller(model, side, expected):
    """Of 1024 pixels, as a tile: at 1.13 and 1.03 it would be a little longer, at 1.42 far longer, at 0.87 shorter."""

    def detect_at(levels, scale):  # one square cell, wherever we look
        crop = np.ones((side, side), bool)
        return Instances(levels.shape, model.config.categories, [1], [0.9], [[0, 0, side, side]], [crop])

    scale, _ = choose_scale(np.zeros((700, 1024), np.float32), detect_at, model.config)
    assert scale == pytest.approx(expected, abs=1e-3)


def test_normalise_ignores_a_few_hot_pixels():
    rng = np.random.default_rng(0)
    grey = rng.normal(100, 10, (300, 300)).astype(np.float32)
    hot = grey.copy()
    hot[5, 5] = 1e6
    others = np.arange(grey.size).reshape(grey.shape) != 5 * 300 + 5
    np.testing.assert_allclose(normalise(hot)[others], normalise(grey)[others], atol=1.0)
    assert normalise(grey).min() == 0 and normalise(grey).max() == 255
    assert (normalise(np.full((4, 4), 7)) == GREY).all()


def test_a_dot_on_a_blank_field_keeps_its_contrast():
    grey = np.zeros((400, 400), np.uint8)
    grey[10, 10] = 3
    assert normalise(grey)[10, 10] == 255


def test_resize_keeps_the_mean_and_the_place():
    ramp = np.tile(np.arange(64, dtype=np.float32), (32, 1))
    small = resize(ramp, 16, 32)
    assert small.shape == (16, 32)
    np.testing.assert_allclose(small[:, 1:-1], np.tile(np.arange(32) * 2 + 0.5, (16, 1))[:, 1:-1], atol=1e-3)
    np.testing.assert_allclose(resize(ramp, 8, 8, box=(4, 10, 12, 18)), ramp[4:12, 10:18], atol=1e-4)


def test_to_grey_takes_bool_and_averages_colour():
    assert to_grey(np.eye(3, dtype=bool)).dtype == np.uint8
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[..., 0] = 255
    np.testing.assert_allclose(to_grey(colour), 85)


def test_folded_backbone_gives_the_features_of_the_trained_one(model):
    image = np.random.default_rng(0).uniform(-1, 1, (1, 128, 192, 1)).astype(np.float32)
    colour = np.repeat(image, 3, -1)
    for plain, folded in zip(model.network.backbone(colour), model.network.folded(image)):
        np.testing.assert_allclose(folded, plain, atol=1e-4 * float(np.abs(plain).max()))
