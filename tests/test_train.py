"""Training on real images: it learns, it goes on where it was stopped, and it refuses at once what cannot work."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evican_model
from evican_model import run_folder, weights
from evican_model.config import TRAINING_BEFORE, NetworkConfig, TrainConfig
from evican_model.dataset import read_dataset
from evican_model.samples import SampleSource
from evican_model.simulate import write_dataset
from evican_model.train import _folder_and_settings, _parser, _read, main
from evican_model.trainer import Trainer
from evican_model.validation import on_annotated

DATA = Path(__file__).parent / "data"
ANNOTATIONS = DATA / "evican_sample.json"
NUCLEI = DATA / "brifiseg"
SMALL = "--crop 128 --instances 12 --rois 16 --positive-rois 4".split()


def command(*arguments):
    return [sys.executable, "-m", "evican_model.train", *map(str, arguments)]


def small_run(output, *arguments):
    return command("--dataset", ANNOTATIONS, "--images", DATA, "--output", output, *SMALL, *arguments)


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def losses(run):
    """The log without what depends on the clock."""
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in table(run / "log.csv")]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    done = subprocess.run(small_run(run, "--steps", 8, "--save-every", 4), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return run


@pytest.mark.long
def test_a_run_leaves_all_that_is_needed_to_use_and_to_judge_it(straight):
    info = weights.check(straight / "last.h5")
    assert info.training["step"] == 8
    assert [len(d["sha256"]) for d in info.training["datasets"]] == [2]
    assert info.training["start"]["sha256"] == weights.check("bundled").sha256
    assert "--steps 8" in info.training["command"] and info.training["version"] == evican_model.__version__
    assert [row["step"] for row in losses(straight)] == ["4", "8"]
    names = {path.name for path in straight.iterdir()}
    assert {"run.json", "preview.png", "training.png", "log.csv", "tensorboard", "checkpoint"} <= names
    assert list((straight / "tensorboard").glob("events.*"))
    for picture in ("preview.png", "training.png"):
        with Image.open(straight / picture) as image:
            assert min(image.size) > 300
    evican_model.load_model(straight / "last.h5").segment(np.eye(50))


@pytest.mark.long
def test_a_killed_run_goes_on_to_exactly_the_same_end(straight, tmp_path):
    """Kill -9 after the first checkpoint: the resumed run ends with the very weights of the undisturbed one."""
    run = tmp_path / "run"
    arguments = small_run(run, "--steps", 8, "--save-every", 4)
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    give_up = time.time() + 300
    while not (run / "checkpoint" / "state.json").exists() and time.time() < give_up:
        assert process.poll() is None, "training ended before its first checkpoint"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command("--resume", run), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    # Sums over threads are in no fixed order, so the last digits may differ between any two runs, and with them now and
    # then which region is sampled (0.7 % of a loss was seen); other samples or a forgotten state of the optimiser
    # differ by far more.
    for one, two in zip(losses(run), losses(straight)):
        assert one["step"] == two["step"]
        np.testing.assert_allclose(*([float(v) for v in row.values()] for row in (one, two)), rtol=3e-2)
    assert len(losses(run)) == len(losses(straight)) == 2
    model, other = (evican_model.load_model(r / "last.h5").network.named_variables() for r in (run, straight))
    pairs = [(variable.numpy().ravel(), other[name].numpy().ravel()) for name, variable in model.items()]
    one, two = (np.concatenate(part) for part in zip(*pairs))
    # For the same reason a few weights with gradients near zero may step otherwise; without the optimiser's state
    # nearly all would.
    assert (~np.isclose(one, two, rtol=1e-4, atol=1e-6)).mean() < 1e-3
    np.testing.assert_allclose(one, two, atol=1e-3)


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C cannot be sent to a process there")
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    arguments = small_run(run, "--steps", 100000, "--save-every", 1)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        give_up = time.time() + 300
        while not (run / "checkpoint" / "state.json").exists() and time.time() < give_up:
            assert process.poll() is None, "training ended before its first step"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 130 and f"--resume {run}" in printed
    assert "Traceback" not in printed
    assert weights.check(run / "last.h5").training["step"] < 100000


@pytest.mark.long
def test_two_devices_give_the_losses_of_one(straight, tmp_path):
    arguments = small_run(tmp_path / "two", "--steps", 8, "--save-every", 4, "--devices", "CPU:0", "CPU:1")
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for one, two in zip(losses(straight), losses(tmp_path / "two")):
        np.testing.assert_allclose(
            [float(v) for v in two.values()], [float(v) for v in one.values()], rtol=1e-3
        )


@pytest.mark.long
def test_a_short_training_learns_what_nuclei_look_like(tmp_path):
    """New heads on the bundled backbone: AP on other images rises, from what 6 steps give to that of 60."""
    harder = ("warp", "invert", "relief", "illumination", "defocus", "texture", "jpeg", "noise", "halo")
    plain = [f"--no-{name}" for name in harder]
    arguments = ["--dataset", NUCLEI / "train.json", "--images", NUCLEI, "--validation", NUCLEI / "val.json"]
    arguments += ["--validation-images", NUCLEI, "--output", tmp_path / "run", "--new-heads", "--crop", "192"]
    arguments += "--steps 60 --instances 40 --rois 48 --average-decay 0.9 --blank-share 0".split()
    arguments += "--learning-rate 1e-3 --warmup-steps 10 --validate-every 6".split()
    done = subprocess.run(command(*arguments, *plain), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    ap50 = [float(row["AP50"]) for row in table(tmp_path / "run" / "validation.csv")]
    assert len(ap50) == 10 and ap50[0] < 0.3 and max(ap50) > 0.4, ap50
    best = weights.check(tmp_path / "run" / "best.h5")
    assert best.config.categories == ("Nucleus",)
    assert best.training["validation"]["images"] == 4 and best.training["validation"]["AP"] > 0


def source(**settings):
    items = read_dataset(ANNOTATIONS, DATA, NetworkConfig().categories)
    return SampleSource([items], [1.0], NetworkConfig(), TrainConfig(crop=64, instances=4, **settings))


def test_samples_come_in_the_same_order_after_a_restart():
    all_of_them = [batch["image"].numpy() for batch in source().batches(0, 6)]
    later = [batch["image"].numpy() for batch in source().batches(4, 6)]
    assert len(all_of_them) == 6
    np.testing.assert_array_equal(all_of_them[4:], later)


def test_another_seed_gives_other_samples():
    assert (source().sample(3)["image"] != source(seed=1).sample(3)["image"]).any()
    np.testing.assert_array_equal(source(seed=1).sample(3)["image"], source(seed=1).sample(3)["image"])


def test_little_memory_changes_no_sample():
    items = read_dataset(ANNOTATIONS, DATA, NetworkConfig().categories)
    training = TrainConfig(crop=64, instances=4)
    small = SampleSource([items], [1.0], NetworkConfig(), training, in_memory=1)
    for number in range(6):
        np.testing.assert_array_equal(small.sample(number)["image"], source().sample(number)["image"])
    assert len(small._levels) == 1


def test_held_out_images_are_not_trained_on():
    items = read_dataset(NUCLEI / "train.json", NUCLEI, ("Nucleus",))
    rest, held = run_folder.hold_out(items, 0.25, seed=3)
    assert len(held) == 2 and len(rest) == 6 and not {i.sha256 for i in rest} & {i.sha256 for i in held}
    assert run_folder.hold_out(items[:4], 0.25, seed=3) == (items[:4], [])


def test_what_is_found_where_nothing_is_outlined_is_not_judged():
    from dataclasses import replace

    (item, _) = read_dataset(ANNOTATIONS, DATA, NetworkConfig().categories)
    half = replace(item, dense=False, truth=item.truth.select(np.arange(0, len(item.truth), 2)))
    judged, found = on_annotated(half, item.truth, border=1)
    assert judged.dense and len(half.truth) <= len(found) < len(item.truth)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--output is missing"),
        (["--output", "{tmp}/run"], "0 --dataset and 0 --images"),
        (
            ["--output", "{tmp}/run", "--dataset", "{tmp}/no.json", "--images", "{tmp}"],
            "no.json cannot be read",
        ),
        (
            ["--output", "{tmp}/run", "--dataset", "{tmp}/empty.json", "--images", "{tmp}"],
            "holds no annotation",
        ),
        (
            ["--output", "{tmp}/run", "--dataset", "{tmp}/yeast.json", "--images", "{tmp}"],
            "--rename Yeast=Cell",
        ),
        (["--output", "{tmp}/run", "--dataset", "{tmp}/yeast.json", "--images", "{tmp}"], "--new-heads"),
        (["--output", "{tmp}/run", "--dataset", "{tmp}"], "holds no annotations of EVICAN2"),
        (["--output", "{tmp}/run", "--crop", "100"], "crop is 100"),
        (["--output", "{tmp}/run", "--unlabelled", "guess"], "unlabelled is 'guess'"),
        (["--output", "{tmp}/run", "--rename", "Yeast"], "--rename Yeast"),
        (
            ["--output", "{tmp}/run", "--dataset", "x", "--images", "y", "--share", "1", "--share", "2"],
            "2 --share",
        ),
        (
            ["--output", "{tmp}/run", "--dataset", "{data}", "--images", "y", "--weights", "{tmp}/w.h5"],
            "w.h5",
        ),
        (
            ["--output", "{tmp}/run", "--dataset", "{data}", "--images", "{tmp}"],
            "15_Caco-2.jpg, which is not in",
        ),
        (
            ["--output", "{tmp}/empty.json/run", "--dataset", "{data}", "--images", "{folder}"],
            "cannot be written",
        ),
        (["--resume", "{tmp}"], "run.json cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_at_once(tmp_path, capsys, arguments, message):
    for name, category in (("empty", "Cell"), ("yeast", "Yeast")):
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": category}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    places = {"tmp": tmp_path, "data": ANNOTATIONS, "folder": DATA}
    assert main([a.format(**places) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert "error: " in error and message in error
    assert not (tmp_path / "run").exists()


def test_empty_fields_may_be_a_dataset_of_their_own_beside_one_with_outlines(tmp_path):
    write_dataset(tmp_path, 2, size=128, blank=1, seed=1)
    categories = NetworkConfig().categories
    blank = run_folder.Source(tmp_path / "simulated.json", tmp_path / "images", 1.0, "")
    outlined = run_folder.Source(ANNOTATIONS, DATA, 1.0, "")
    options = _parser().parse_args(["--output", str(tmp_path / "run"), "--hold-out", "0"])
    datasets, validation = _read(options, [blank, outlined], NetworkConfig(), TrainConfig(), {})
    assert [len(items) for items in datasets] == [2, 2] and validation == []
    assert all(len(item.truth) == 0 and item.annotated == set(categories) for item in datasets[0])
    with pytest.raises(evican_model.DatasetError, match="simulated.json holds no annotation"):
        _read(options, [blank], NetworkConfig(), TrainConfig(), {})


def test_a_full_disk_is_noticed_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**6})())
    with pytest.raises(evican_model.EvicanError, match="GB free"):
        run_folder.check_room(tmp_path, 4_000_000)


def test_images_to_validate_on_may_not_be_trained_on(tmp_path, capsys):
    twice = ["--dataset", str(ANNOTATIONS), "--images", str(DATA)]
    twice += [
        "--validation",
        str(ANNOTATIONS),
        "--validation-images",
        str(DATA),
        "--output",
        str(tmp_path / "run"),
    ]
    assert main(twice) == 2
    assert "among those trained on" in capsys.readouterr().err


def test_a_preview_needs_no_training(tmp_path):
    arguments = ["--dataset", str(ANNOTATIONS), "--images", str(DATA), "--output", str(tmp_path / "run")]
    assert main([*arguments, "--crop", "128", "--preview"]) == 0
    with Image.open(tmp_path / "run" / "preview.png") as image:
        assert image.size == (4 * 132 - 4, 3 * 132 - 4)
    assert not (tmp_path / "run" / "run.json").exists()


def test_training_stops_when_it_gets_no_better():
    trainer = Trainer.__new__(Trainer)
    trainer.training, written = TrainConfig(patience=2), []
    trainer.state = {"best": -1.0, "best_step": 0, "validated": 0}
    trainer._write_weights = lambda name, step: written.append((name, step))
    stalled = []
    for step, ap in ((10, 0.2), (20, 0.1), (30, 0.3), (40, 0.3), (50, 0.2)):
        trainer._note(step, ap)
        stalled.append(trainer._has_stalled())
    assert written == [("best.h5", 10), ("best.h5", 30)] and trainer.state["best_step"] == 30
    assert stalled == [False, False, False, False, True]
    trainer.training = TrainConfig(patience=0)
    assert not trainer._has_stalled()


def test_a_run_is_not_resumed_on_other_images(tmp_path):
    items = read_dataset(ANNOTATIONS, DATA, NetworkConfig().categories)
    record = {"datasets": [{"sha256": [item.sha256 for item in items]}]}
    run_folder.check_same_images(record, [items], tmp_path)
    with pytest.raises(evican_model.DatasetError, match="1 differ"):
        run_folder.check_same_images(record, [items[:1]], tmp_path)


def test_a_run_from_before_a_setting_existed_goes_on_without_it(tmp_path):
    settings = {key: value for key, value in TrainConfig().to_dict().items() if key not in TRAINING_BEFORE}
    run = {"options": {}, "start": {}, "training": settings, "network": {}, "record": {}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    _, training = _folder_and_settings(_parser().parse_args(["--resume", str(tmp_path)]))
    assert not (training.relief or training.match_slivers or training.nesting or training.patches) and training.invert


def test_a_run_can_be_resumed_from_any_folder(monkeypatch):
    monkeypatch.chdir(DATA)
    kept = run_folder.absolute(["evican_sample.json", "bundled", "CC BY 4.0"])
    assert kept == [str(ANNOTATIONS.resolve()), "bundled", "CC BY 4.0"]


def test_a_run_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert main(["--output", str(tmp_path), "--dataset", "a", "--images", "b"]) == 2
    assert "holds a run already" in capsys.readouterr().err
