"""Weak labels: only objects that the outlined category vouches for, and nothing becomes background by them."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from evican_model.augment import make_sample, natural_scale
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.dataset import read_dataset
from evican_model.evaluate import average_precision
from evican_model.instances import Instances
from evican_model.nesting import known_by_nesting
from evican_model.simulate import simulate_field, write_dataset
from evican_model.weak_labels import grow_from_nuclei, main, weak_cells, weak_nuclei

CATEGORIES = ("Cell", "Nucleus")
SHAPE = (120, 200)
BLANK = np.zeros(SHAPE, np.uint8)


def objects(*discs):
    """Instances from (category id, score, y, x, radius)."""
    y, x = np.indices(SHAPE)
    ids, scores, boxes, crops = [], [], [], []
    for category, score, cy, cx, radius in discs:
        mask = np.hypot(y - cy, x - cx) < radius
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
        ids.append(category)
        scores.append(score)
        boxes.append(box)
        crops.append(mask[box[0] : box[2], box[1] : box[3]])
    return Instances(SHAPE, CATEGORIES, np.array(ids), np.array(scores), np.array(boxes), tuple(crops))


def scores_of(found):
    return [round(float(score), 3) for score in found.all_scores]


def test_a_cell_is_taken_if_it_holds_one_whole_nucleus():
    nuclei = objects((2, 1, 60, 40, 12), (2, 1, 60, 100, 12), (2, 1, 60, 140, 12))
    found = objects(
        (1, 0.9, 60, 42, 25),  # around the first nucleus
        (1, 0.95, 60, 120, 40),  # around two
        (1, 0.85, 60, 40, 12.5),  # the nucleus itself, outlined as a cell
        (1, 0.8, 60, 110, 14),  # cuts the second
        (1, 0.7, 30, 180, 15),  # holds none
        (1, 0.6, 60, 40, 30),  # the first again, less sure
        (1, 0.5, 60, 148, 24),  # the third
        (1, 0.2, 60, 95, 20),  # the second, but too unsure
        (2, 0.99, 60, 100, 12),  # no cell
    )
    taken = weak_cells(BLANK, nuclei, found, least=0.3, agreement=0)
    assert scores_of(taken) == [0.9, 0.5] and taken.count("Cell") == 2
    assert scores_of(weak_cells(BLANK, nuclei, found, least=0.1, agreement=0)) == [0.9, 0.5, 0.2]


def test_a_nucleus_is_taken_if_it_lies_in_one_cell_and_has_a_nucleus_s_size():
    cells = objects((1, 1, 60, 40, 30), (1, 1, 60, 110, 30), (1, 1, 60, 170, 25))
    found = objects(
        (2, 0.9, 60, 40, 12),
        (2, 0.8, 70, 45, 12),  # a second one in the same cell
        (2, 0.95, 60, 75, 12),  # between two cells
        (2, 0.92, 60, 110, 28),  # as large as its cell
        (2, 0.91, 60, 172, 3),  # a speck
        (2, 0.75, 60, 168, 10),
        (2, 0.5, 60, 110, 10),  # too unsure
    )
    taken = weak_nuclei(cells, found, least=0.7)
    assert scores_of(taken) == [0.9, 0.75] and taken.count("Nucleus") == 2


def test_the_watershed_finds_cells_on_a_flat_ground_and_parts_those_that_touch():
    rng = np.random.default_rng(0)
    y, x = np.indices(SHAPE)
    left, right = (np.hypot(y - 60, x - c) < 30 for c in (60, 118))
    levels = np.full(SHAPE, 120.0) + rng.normal(0, 1, SHAPE)
    levels[left | right] += rng.normal(0, 25, SHAPE)[left | right]
    levels[(left | right) & (np.abs(x - 89) < 2)] += 90  # the border between them
    nuclei = objects((2, 1, 60, 55, 11), (2, 1, 60, 122, 11))
    grown = grow_from_nuclei(np.clip(levels, 0, 255).astype(np.uint8), nuclei)
    for label, cell in ((1, left), (2, right)):
        assert ((grown == label) & cell).sum() / ((grown == label) | cell).sum() > 0.6
    assert not grown[:, 180:].any()


def test_disagreement_with_the_watershed_turns_a_cell_down():
    rng = np.random.default_rng(0)
    y, x = np.indices(SHAPE)
    cell = np.hypot(y - 60, x - 60) < 40
    levels = (120 + rng.normal(0, 1, SHAPE) + cell * rng.normal(0, 25, SHAPE)).clip(0, 255).astype(np.uint8)
    nuclei = objects((2, 1, 60, 60, 12))
    right, rim = objects((1, 0.6, 60, 60, 38)), objects((1, 0.9, 60, 60, 17))
    assert len(weak_cells(levels, nuclei, right)) == 1
    assert (
        len(weak_cells(levels, nuclei, rim)) == 0 and len(weak_cells(levels, nuclei, rim, agreement=0)) == 1
    )


def test_images_without_anything_known_get_nothing():
    none = Instances.empty(SHAPE, CATEGORIES)
    found = objects((1, 0.9, 60, 42, 25), (2, 0.9, 60, 42, 12))
    assert len(weak_cells(BLANK, none, found)) == 0 and len(weak_nuclei(none, found)) == 0


def keep_only(source, target, category, **image_keys):
    """Write a copy of a COCO file that names, and outlines, one category."""
    content = json.loads(source.read_text())
    wanted = CATEGORIES.index(category) + 1
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] == wanted]
    for image in content["images"]:
        image.update({"annotated_classes": [category], **image_keys})
    target.write_text(json.dumps(content))
    return content


@pytest.mark.long
@pytest.mark.parametrize("missing, known, precise", [("Cell", "Nucleus", 0.8), ("Nucleus", "Cell", 0.5)])
def test_the_command_adds_objects_that_are_true_and_leaves_the_rest_unknown(
    tmp_path, missing, known, precise
):
    full = write_dataset(
        tmp_path, 3, size=384, seed=5, modality="phase", style="spread", cell_diameter=(50, 70)
    )
    images = tmp_path / "images"
    before = keep_only(full, tmp_path / "half.json", known)
    command = [sys.executable, "-m", "evican_model.weak_labels", "--dataset", str(tmp_path / "half.json"),
               "--images", str(images), "--output", str(tmp_path / "weak.json")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads((tmp_path / "weak.json").read_text())
    count = len(before["annotations"])
    assert content["annotations"][:count] == before["annotations"] and content["images"] == before["images"]
    added = content["annotations"][count:]
    assert len(added) >= 5 and all(a["weak"] is True and 0.3 <= a["score"] <= 1 for a in added)
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])
    assert content["info"]["weak_labels"]["added"][missing] == len(added)

    weak = read_dataset(tmp_path / "weak.json", images, CATEGORIES)
    truth = read_dataset(full, images, CATEGORIES)
    good = sum(
        best_iou(mask, t.truth, missing) > 0.5 for w, t in zip(weak, truth) for mask in w.truth.masks(missing)
    )
    assert good / len(added) >= precise, f"{good} of {len(added)}"

    assert all(item.annotated == {known} for item in weak)
    pairs = [(item, Instances.empty(item.shape, CATEGORIES)) for item in weak]
    assert average_precision(pairs, missing)["images"] == 0, "weak labels must not be evaluated against"
    network, training = NetworkConfig(), TrainConfig(crop=192, instances=40, flip=False, turn=False, nesting=False)
    for number, item in enumerate(weak):
        scale = natural_scale(item, network)
        sample = make_sample(
            item, item.grey_levels(), scale, np.random.default_rng(number), network, training
        )
        assert sample["known"][..., CATEGORIES.index(known)].all()
        assert (
            sample["known"][..., CATEGORIES.index(missing)].mean() < 0.5
        )  # known only beyond the image's edge

    # What nesting tells beyond that is as true as the weak labels: where an object is that has none, it may be.
    possible = [
        known_by_nesting(w, 1)[..., CATEGORIES.index(missing)][mask].mean() < training.known_share
        for w, t in zip(weak, truth)
        for mask in t.truth.masks(missing)
        if best_iou(mask, w.truth, missing) < 0.5
    ]
    assert len(possible) > 3 and np.mean(possible) > 0.75, possible


def best_iou(mask, truth, category):
    labels = truth.labels(category)
    shared = np.bincount(labels[mask], minlength=2)[1:]
    best = int(shared.argmax()) + 1
    return shared[best - 1] / (mask.sum() + (labels == best).sum() - shared[best - 1])


@pytest.mark.parametrize(
    "change, message",
    [
        ("both", "no image has exactly one of the two categories"),
        ("some nuclei", "no image has exactly one of the two categories"),
        ("weak", "has weak annotations already"),
        ("taken", r"weak\.json exists"),
        ("score", "cell_score is 3; expected 0 to 1"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, capsys, change, message):
    source = write_dataset(tmp_path, 1, size=64, cell_diameter=(20, 30))
    dataset, extra = tmp_path / "half.json", []
    content = keep_only(source, dataset, "Nucleus", **({"dense": False} if change == "some nuclei" else {}))
    if change == "both":
        dataset = source
    elif change == "weak":
        content["annotations"] = [{**a, "weak": True} for a in content["annotations"]]
        assert content["annotations"]
        dataset.write_text(json.dumps(content))
    elif change == "taken":
        (tmp_path / "weak.json").write_text("{}")
    elif change == "score":
        extra = ["--cell-score", "3"]
    arguments = ["--dataset", str(dataset), "--images", str(tmp_path / "images"), *extra]
    assert main([*arguments, "--output", str(tmp_path / "weak.json")]) == 2
    assert re.search("^error: .*" + message, capsys.readouterr().err, re.M)


def test_a_simulated_cell_is_grown_from_its_nucleus():
    """From about half of the nuclei, alone or in company, grows something like their cell (IoU above a half)."""
    hits = []
    for seed in range(4):
        field = simulate_field(seed, size=320, modality="brightfield", style="spread", cell_diameter=(60, 80))
        truth = field.truth
        grown = grow_from_nuclei(field.image, truth.of("Nucleus"))
        hits += [best_iou(grown == k + 1, truth, "Cell") > 0.5 for k in range(truth.count("Nucleus"))]
    assert np.mean(hits) > 0.4
