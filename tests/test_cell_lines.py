"""Models of many cell lines, as of EVICAN60: 60 categories in, cells and nuclei with their line out."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import evican_model
from evican_model import weights
from evican_model.config import NetworkConfig
from evican_model.instances import Instances

ROOT = Path(__file__).resolve().parent.parent
LINES = [f"Line{i}" for i in range(28)] + ["HeLa", "MCF-7"]
CATEGORIES = tuple(f"{kind}_{line}" for line in LINES for kind in ("Cell", "Nucleus"))


@pytest.fixture(scope="session")
def sixty(tmp_path_factory):
    """The bundled weights with each category split over 30 lines: 60 % of its probability HeLa, 40 % MCF-7."""
    info = weights.check("bundled")
    model = evican_model.load_model()
    tensors = {name: np.array(v) for name, v in model.network.named_variables().items()}
    per_place, of = len(info.config.anchor_ratios), np.array([0, 1] * 30)  # each category's kind
    share = np.repeat([1e-9] * 28 + [0.6, 0.4], 2)
    for name in ("kernel", "bias"):
        for layer, inner in (("mask_logits", 1), ("box_offsets", 4), ("rpn_objectness", 1)):
            old = tensors[f"{layer}/{name}"]
            groups = per_place if layer == "rpn_objectness" else 1
            split = old.reshape(*old.shape[:-1], groups, 2, inner)[..., of, :]
            tensors[f"{layer}/{name}"] = split.reshape(*old.shape[:-1], -1)
        old = tensors[f"class_logits/{name}"]
        new = old[..., 1:][..., of] + (np.log(share) if name == "bias" else 0)
        tensors[f"class_logits/{name}"] = np.concatenate([old[..., :1], new], -1)
    path = tmp_path_factory.mktemp("sixty") / "sixty.h5"
    weights.write(path, tensors, replace(info.config, categories=CATEGORIES))
    return path


@pytest.fixture(scope="session")
def model(sixty):
    return evican_model.load_model(sixty)


def found(*objects):
    """Instances of 20 x 20 squares of (category, score, x)."""
    ids = [CATEGORIES.index(category) + 1 for category, _, _ in objects]
    boxes = [[0, x, 20, x + 20] for _, _, x in objects]
    crops = [np.ones((20, 20), bool) for _ in objects]
    return Instances((40, 200), CATEGORIES, ids, [score for _, score, _ in objects], boxes, crops)


def test_lines_of_one_object_are_added_up():
    grouped = found(
        ("Cell_MCF-7", 0.3, 0), ("Cell_HeLa", 0.5, 1), ("Nucleus_HeLa", 0.9, 2), ("Cell_Line3", 0.2, 100),
        ("Cell_HeLa", 0.4, 3),
    ).grouped_by_kind()  # fmt: skip
    assert grouped.categories == ("Cell", "Nucleus")
    assert grouped.lines("Cell") == ["HeLa", "Line3"] and grouped.lines("Nucleus") == ["HeLa"]
    # 0.5 + 0.3 of another line; the second find of HeLa is the same one again
    np.testing.assert_allclose(grouped.scores("Cell"), [0.8, 0.2], rtol=1e-6)
    np.testing.assert_allclose(grouped.line_scores("Cell"), [0.5 / 0.8, 1], rtol=1e-6)
    assert grouped.boxes("Cell")[0].tolist() == [0, 1, 20, 21]


def test_lines_stay_with_their_objects():
    grouped = found(
        ("Cell_HeLa", 0.5, 0), ("Cell_MCF-7", 0.9, 50), ("Nucleus_HeLa", 0.7, 100)
    ).grouped_by_kind()
    assert grouped.lines() == ["MCF-7", "HeLa", "HeLa"]
    assert grouped.select(np.array([2, 0])).lines() == ["HeLa", "MCF-7"]
    assert grouped.without_overlaps().lines("Cell") == ["MCF-7", "HeLa"]
    mask = np.zeros((40, 200), bool)
    mask[:, 40:] = True
    assert grouped.clip(mask).lines() == ["MCF-7", "HeLa"]
    assert Instances.concatenate([grouped, grouped]).lines() == ["MCF-7", "HeLa", "HeLa"] * 2


def test_two_categories_are_left_as_they_are():
    plain = Instances((9, 9), ("Cell", "Nucleus"), [1], [0.5], [[0, 0, 2, 2]], [np.ones((2, 2), bool)])
    assert plain.grouped_by_kind() is plain
    assert plain.lines() == [""] and np.isnan(plain.line_scores()).all()


def test_a_model_of_sixty_categories_finds_the_same_cells_and_says_their_line(model, plate_image):
    image = plate_image("D05")
    plain = evican_model.load_model()  # cells of several lines keep the network's own score
    plain.info = replace(plain.info, config=replace(plain.config, rescoring=NetworkConfig().rescoring))
    expected, got = plain.segment(image), model.segment(image)
    assert got.categories == ("Cell", "Nucleus")
    for name in got.categories:
        assert got.count(name) == expected.count(name) > 0
        assert set(got.lines(name)) == {"HeLa"}
        np.testing.assert_allclose(got.scores(name), expected.scores(name), atol=0.01)
        np.testing.assert_allclose(got.line_scores(name), 0.6, atol=0.01)
        assert ((got.labels(name) > 0) == (expected.labels(name) > 0)).mean() > 0.999


def test_confidences_are_those_of_cells_and_nuclei(sixty, model, plate_image):
    assert model.tells_lines and weights.tells_lines(sixty) and not weights.tells_lines("bundled")
    few = model.segment(plate_image("D05"), confidence={"Cell": 1.0})
    assert few.count("Cell") == 0 and few.count("Nucleus") > 0


@pytest.mark.long
def test_the_module_writes_the_line_of_each_object(sixty, tmp_path):
    pytest.importorskip("cellprofiler_core", reason="CellProfiler is not installed in this environment")
    from test_end_to_end import PLATE, cellprofiler, table

    text = (ROOT / "pipelines" / "morphology.cppipe").read_text(encoding="utf-8")
    for old, new in (
        ("Select the model:Bundled model", "Select the model:Weights file"),
        ("Select the folder of the weights file:Elsewhere...|\n",
         f"Select the folder of the weights file:Elsewhere...|{sixty.parent}\n"),
        ("Name of the weights file:None", f"Name of the weights file:{sixty.name}"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    pipeline, images = tmp_path / "lines.cppipe", tmp_path / "images"
    pipeline.write_text(text, encoding="utf-8")
    images.mkdir()
    name = next(PLATE.glob("*_D05_*.jpg")).name
    (images / name).write_bytes((PLATE / name).read_bytes())
    code, printed = cellprofiler(pipeline, images, tmp_path / "out")
    assert code == 0, printed[-3000:]
    for objects in ("Cells", "Nuclei"):
        rows = table(tmp_path / "out", objects)
        assert rows and {row["EVICAN_CellLine"] for row in rows} == {"HeLa"}
        assert all(abs(float(row["EVICAN_CellLineScore"]) - 0.6) < 0.01 for row in rows)


@pytest.mark.long
def test_sixty_categories_are_trained_and_predicted(tmp_path):
    """From a file with 60 categories, on new heads: a few steps, weights, and the table of `predict`."""
    data = ROOT / "tests" / "data"
    content = json.loads((data / "evican_sample.json").read_text())
    lines = {image["id"]: line for image, line in zip(content["images"], ("HeLa", "MCF-7"))}
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(CATEGORIES, start=1)]
    for image in content["images"]:
        image.pop("annotated_classes", None)
    for annotation in content["annotations"]:
        kind = {1: "Cell", 2: "Nucleus"}[annotation["category_id"]]
        annotation["category_id"] = CATEGORIES.index(f"{kind}_{lines[annotation['image_id']]}") + 1
    (tmp_path / "sixty.json").write_text(json.dumps(content))
    arguments = ["--dataset", tmp_path / "sixty.json", "--images", data, "--output", tmp_path / "run"]
    sizes = "--crop 128 --instances 12 --rois 16 --positive-rois 4 --steps 2 --batch 1".split()

    def train(*more):
        command = [sys.executable, "-m", "evican_model.train", *map(str, arguments), *sizes, *more]
        return subprocess.run(command, capture_output=True, text=True)

    refused = train()
    assert refused.returncode == 2 and "--new-heads" in refused.stderr
    done = train("--new-heads")
    assert done.returncode == 0, done.stderr[-2000:]
    assert weights.check(tmp_path / "run" / "last.h5").config.categories == CATEGORIES
    command = [sys.executable, "-m", "evican_model.predict", data / "46_HT1080.jpg", "--weights"]
    command += [tmp_path / "run" / "last.h5", "--output", tmp_path / "out", "--csv", "--confidence", "0.0"]
    subprocess.run(list(map(str, command)), check=True, env=os.environ)
    with open(tmp_path / "out" / "objects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["category"] for row in rows} <= {"Cell", "Nucleus"}
    assert all(row["cell_line"] in LINES for row in rows)
