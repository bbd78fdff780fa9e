"""Training on real images: it learns, it goes on where it was stopped, and it refuses at once what cannot work."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import evican_model
from evican_model import weights
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.dataset import read_dataset
from evican_model.evaluate import average_precision
from evican_model.train import SampleSource, main

DATA = Path(__file__).parent / "data"
ANNOTATIONS = DATA / "evican_sample.json"


def command(*arguments):
    return [sys.executable, "-m", "evican_model.train", *map(str, arguments)]


def small_run(output, *arguments):
    sizes = ["--crop", 128, "--instances", 12, "--batch", 2, "--rois", 16, "--positive-rois", 4]
    return command("--dataset", ANNOTATIONS, "--images", DATA, "--output", output, *sizes, *arguments)


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_end(tmp_path):
    """Kill -9 in the middle; what is resumed sees the same samples and ends with weights, log and record whole."""
    run = tmp_path / "run"
    process = subprocess.Popen(small_run(run, "--steps", 60, "--save-every", 5), stderr=subprocess.DEVNULL)
    give_up = time.time() + 300
    while not (run / "last.h5").exists() and time.time() < give_up:
        assert process.poll() is None, "training ended before its first checkpoint"
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command("--resume", run), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    info = weights.check(run / "last.h5")
    assert info.training["step"] == 60
    assert [len(d["sha256"]) for d in info.training["datasets"]] == [2]
    with open(run / "log.csv", newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [50]
    evican_model.load_model(run / "last.h5").segment(np.eye(50))


@pytest.mark.long
def test_a_short_training_learns_the_images_it_sees(tmp_path):
    """From the bundled weights with fresh heads, a few minutes are enough to find the cells of one image again."""
    before = weights.check("bundled")
    model = evican_model.load_model()
    tensors = {name: v.numpy() for name, v in model.network.named_variables().items()}
    rng = np.random.default_rng(0)
    for name, tensor in tensors.items():
        if name.startswith(("class_logits/kernel", "box_fc", "mask_logits/kernel", "rpn_objectness/kernel")):
            tensors[name] = rng.normal(0, 0.02, tensor.shape).astype(np.float32)
    weights.write(tmp_path / "start.h5", tensors, before.config)
    items = read_dataset(ANNOTATIONS, DATA, before.config.categories)

    def ap50(path):
        found = evican_model.load_model(path)
        pairs = [(item, found.detect(item.grey_levels())) for item in items]
        return [average_precision(pairs, category)["AP50"] for category in before.config.categories]

    untrained = ap50(tmp_path / "start.h5")
    plain = [f"--no-{name}" for name in ("invert", "illumination", "defocus", "texture", "jpeg", "noise")]
    arguments = [
        "--dataset",
        ANNOTATIONS,
        "--images",
        DATA,
        "--output",
        tmp_path / "run",
        "--crop",
        "256",
        "--steps",
        "120",
    ]
    arguments += [
        "--weights",
        tmp_path / "start.h5",
        "--instances",
        "40",
        "--average-decay",
        "0.95",
        "--blank-share",
        "0",
    ]
    subprocess.run(command(*arguments, *plain), check=True, stderr=subprocess.DEVNULL)
    trained = ap50(tmp_path / "run" / "last.h5")
    assert max(untrained) < 0.3
    assert min(trained) > 0.5, (untrained, trained)


def test_samples_come_in_the_same_order_after_a_restart():
    items = read_dataset(ANNOTATIONS, DATA, NetworkConfig().categories)
    source = SampleSource([items], [1.0], NetworkConfig(), TrainConfig(crop=64, instances=4, steps=6))
    all_of_them = [batch["image"].numpy() for batch in source.batches(0)]
    later = [batch["image"].numpy() for batch in source.batches(4)]
    assert len(all_of_them) == 6
    np.testing.assert_array_equal(all_of_them[4:], later)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--output is missing"),
        (["--output", "{tmp}/run"], "0 --dataset and 0 --images"),
        (
            ["--output", "{tmp}/run", "--dataset", "{tmp}/no.json", "--images", "{tmp}"],
            r"no.json cannot be read",
        ),
        (
            ["--output", "{tmp}/run", "--dataset", "{tmp}/empty.json", "--images", "{tmp}"],
            "holds no annotation",
        ),
        (["--output", "{tmp}/run", "--crop", "100"], "--crop 100"),
        (
            ["--output", "{tmp}/run", "--dataset", "x", "--images", "y", "--share", "1", "--share", "2"],
            "2 --share",
        ),
        (["--output", "{tmp}/run", "--dataset", "x", "--images", "y", "--weights", "{tmp}/w.h5"], "w.h5"),
        (["--resume", "{tmp}"], "run.json cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_at_once(tmp_path, capsys, arguments, message):
    empty = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "Cell"}]}
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    assert main([a.format(tmp=tmp_path) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert main(["--output", str(tmp_path), "--dataset", "a", "--images", "b"]) == 2
    assert "holds a run already" in capsys.readouterr().err
