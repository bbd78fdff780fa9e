"""The weights reader takes what fits, all of it, and nothing else."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest

from evican_model import weights
from evican_model.config import NetworkConfig
from evican_model.errors import WeightsError

TENSORS = {"conv/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "conv/bias": np.ones(3, np.float32)}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}


@pytest.fixture
def path(tmp_path):
    """A small but whole weights file."""
    file = tmp_path / "small.h5"
    weights.write(file, TENSORS, NetworkConfig(), {"images": 3})
    return file


@pytest.mark.parametrize("half", [False, True])
def test_what_is_written_is_read(tmp_path, half):
    weights.write(tmp_path / "w.h5", TENSORS, NetworkConfig(detections=7), {"images": 3}, half=half)
    info = weights.check(tmp_path / "w.h5")
    assert info.config == NetworkConfig(detections=7)
    assert info.training == {"images": 3}
    assert info.sha256 == weights.sha256_of(tmp_path / "w.h5")
    read = weights.read_tensors(tmp_path / "w.h5", SHAPES)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(read[name], tensor)
        assert read[name].dtype == np.float32
    assert not list(tmp_path.glob("*.part"))


def test_the_record_lists_an_image_with_the_last_stage_that_saw_it(tmp_path):
    first = {"datasets": [{"images": 2, "sha256": ["a", "b"]}], "command": "one"}
    second = {"datasets": [{"images": 2, "sha256": ["b", "c"]}], "start": {"sha256": "w", "training": first}}
    third = {"datasets": [{"images": 1, "sha256": ["c"]}], "start": {"training": second}}
    weights.write(tmp_path / "w.h5", TENSORS, NetworkConfig(), third)
    read = weights.check(tmp_path / "w.h5").training
    stages = [read, read["start"]["training"], read["start"]["training"]["start"]["training"]]
    assert [stage["datasets"][0]["sha256"] for stage in stages] == [["c"], ["b"], ["a"]]
    assert [stage["datasets"][0]["images"] for stage in stages] == [1, 2, 2]
    assert stages[2]["command"] == "one" and stages[1]["start"]["sha256"] == "w"
    assert second["datasets"][0]["sha256"] == ["b", "c"]  # the caller's record is as it was


def test_a_missing_file_names_itself_and_the_bundled_ones(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.h5.*does not exist.*fast"):
        weights.check(tmp_path / "nowhere.h5")
    with pytest.raises(WeightsError, match="is a folder"):
        weights.check(tmp_path)


def test_a_file_without_its_config_is_refused(path):
    path.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match=r"small\.json"):
        weights.check(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda record: record["network"].update(colour=1), "unknown.*colour"),
        (lambda record: record["network"].pop("detections"), "missing.*detections"),
        (lambda record: record["network"].update(detections="many"), "detections is 'many'"),
        (lambda record: record.update(format="other 2"), "evican-weights 1"),
    ],
)
def test_a_wrong_config_is_refused(path, change, message):
    record = json.loads(path.with_suffix(".json").read_text())
    change(record)
    path.with_suffix(".json").write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=message):
        weights.check(path)


def test_a_config_older_than_a_setting_means_what_it_meant(path):
    record = json.loads(path.with_suffix(".json").read_text())
    del record["network"]["mask_context"], record["network"]["mask_certainty"]
    path.with_suffix(".json").write_text(json.dumps(record))
    config = weights.check(path).config
    assert config.mask_context == 1 and config.mask_certainty is False


def test_config_that_is_no_json_is_refused(path):
    path.with_suffix(".json").write_text("{half")
    with pytest.raises(WeightsError, match=r"small\.json cannot be read"):
        weights.check(path)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.95])
def test_a_truncated_file_is_refused(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(WeightsError, match=r"small\.h5"):
        weights.check(path)
        weights.read_tensors(path, SHAPES)


def test_another_kind_of_file_is_refused(path):
    path.write_text("not HDF5")
    with pytest.raises(WeightsError, match="not a readable HDF5 file"):
        weights.check(path)
    with h5py.File(path, "w") as file:
        file["conv/kernel"] = TENSORS["conv/kernel"]
    with pytest.raises(WeightsError, match="not one of ours"):
        weights.check(path)


def test_a_renamed_tensor_is_refused(path):
    with h5py.File(path, "a") as file:
        file.move("conv/bias", "conv/offset")
    with pytest.raises(
        WeightsError, match=r"lacks 1 tensors \(conv/bias\) and has 1 tensors \(conv/offset\)"
    ):
        weights.read_tensors(path, SHAPES)


@pytest.mark.parametrize(
    "value, message",
    [
        (np.ones((4, 1), np.float32), r"conv/bias has shape \(4, 1\); expected \(3,\)"),
        (np.array([1, np.nan, 1], np.float32), "not finite"),
        (np.ones(3, np.int64), "of type int64"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(path, value, message):
    with h5py.File(path, "a") as file:
        del file["conv/bias"]
        file["conv/bias"] = value
    with pytest.raises(WeightsError, match=message):
        weights.read_tensors(path, SHAPES)


def test_a_huge_declared_shape_is_refused_before_it_is_read(path):
    with h5py.File(path, "a") as file:
        del file["conv/bias"]
        file.create_dataset(
            "conv/bias", (10**7, 10**6), np.float32, chunks=(1024, 1024)
        )  # 40 TB, never written
    with pytest.raises(WeightsError, match="expected"):
        weights.read_tensors(path, SHAPES)


@pytest.mark.parametrize("kind", ["external", "soft"])
def test_links_are_refused(path, kind, tmp_path):
    weights.write(tmp_path / "other.h5", TENSORS, NetworkConfig())
    with h5py.File(path, "a") as file:
        del file["conv/bias"]
        link = (
            h5py.ExternalLink("other.h5", "conv/bias")
            if kind == "external"
            else h5py.SoftLink("/conv/kernel")
        )
        file["conv/bias"] = link
    with pytest.raises(WeightsError, match="conv/bias is a link"):
        weights.check(path)


def test_storage_outside_the_file_is_refused(path, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(os.urandom(12))
    with h5py.File(path, "a") as file:
        del file["conv/bias"]
        file.create_dataset("conv/bias", (3,), np.float32, external=[(str(secret), 0, 12)])
    with pytest.raises(WeightsError, match="stored outside the file"):
        weights.check(path)


def test_bundled_weights_are_known_by_name():
    assert weights.available_weights() == ["accurate", "fast"]
    assert weights.check("accurate").path == weights.check("fast").path
    assert (weights.check("accurate").config.views, weights.check("fast").config.views) == (8, 1)
    assert weights.check("fast").path == weights.check("bundled").path
    assert weights.check("bundled").config.categories == ("Cell", "Nucleus")
