"""The predict command line: what it writes, what it refuses, and its exit codes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

import evican_model
from evican_model import predict
from evican_model.errors import WeightsError
from evican_model.instances import Instances
from evican_model.masks import tighten

ROOT = Path(__file__).resolve().parent.parent
CATEGORIES = ("Cell", "Nucleus")


class BrightThings:
    """Stands for a model: what is brighter than 50 is a cell, than 200 a nucleus; larger is surer."""

    def __init__(self):
        self.asked = []

    def detect(self, image, *, minimum_score=None, cell_diameter=None):
        self.asked.append({"minimum_score": minimum_score, "cell_diameter": cell_diameter})
        masks, ids = [], []
        for category_id, level in ((1, 50), (2, 200)):
            labels, count = ndimage.label(image > level)
            masks += [labels == k for k in range(1, count + 1)]
            ids += [category_id] * count
        boxes, crops = tighten(np.tile([0, 0, *image.shape], (len(masks), 1)), masks)
        scores = [crop.sum() / (crop.sum() + 50) for crop in crops]
        return Instances(image.shape, CATEGORIES, ids, scores, boxes, crops).sorted_by_score()

    def segment(self, image, *, confidence=None, cell_diameter=None):
        self.asked.append({"confidence": confidence, "cell_diameter": cell_diameter})
        found = self.detect(image)
        return found.select(found.all_scores >= (confidence or 0))


@pytest.fixture
def model(monkeypatch):
    model = BrightThings()
    monkeypatch.setattr(evican_model, "load_model", lambda weights: model)
    return model


def draw_cells(path, *corners, shape=(60, 80)):
    """Save an image with 20 x 20 cells at these corners; nuclei in all but the last."""
    image = np.zeros(shape, np.uint8)
    for y, x in corners:
        image[y : y + 20, x : x + 20] = 100
    for y, x in corners[:-1]:
        image[y + 5 : y + 12, x + 6 : x + 14] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    draw_cells(tmp_path / "in" / "b two.png", (5, 5), (30, 40))
    draw_cells(tmp_path / "in" / "a.tif", (20, 10), (35, 55), (0, 40))
    draw_cells(tmp_path / "in" / "c.png")
    return tmp_path / "in"


def run(*arguments):
    return predict.main([str(argument) for argument in arguments])


def names(path):
    return sorted(file.name for file in path.iterdir())


class TestOutputs:
    def test_all_three_by_default(self, model, folder, tmp_path, capsys):
        assert run(folder, "--output", tmp_path / "out" / "deep") == 0
        expected = ["objects.csv"]
        for stem in ("a", "b two", "c"):
            expected += [f"{stem}_cells.tiff", f"{stem}_nuclei.tiff", f"{stem}_overlay.png"]
        assert names(tmp_path / "out" / "deep") == sorted(expected)
        said = capsys.readouterr()
        assert said.out == "3 images: 5 cells, 3 nuclei\n"
        assert "3/3" in said.err, "no progress bar"

    @pytest.mark.parametrize(
        "flag, expected",
        [
            ("--csv", ["objects.csv"]),
            ("--overlay", ["a_overlay.png"]),
            ("--labels", ["a_cells.tiff", "a_nuclei.tiff"]),
        ],
    )
    def test_only_what_is_asked_for(self, model, folder, tmp_path, flag, expected):
        assert run(folder / "a.tif", "--output", tmp_path / "out", flag) == 0
        assert names(tmp_path / "out") == expected

    def test_labels_and_table_agree(self, model, folder, tmp_path):
        run(folder, "--output", tmp_path / "out", "--labels", "--csv")
        with open(tmp_path / "out" / "objects.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert tuple(rows[0]) == predict.COLUMNS
        assert len(rows) == 8
        for row in rows:
            plural = {"Cell": "cells", "Nucleus": "nuclei"}[row["category"]]
            stem = Path(row["file_name"]).stem
            labels = tifffile.imread(tmp_path / "out" / f"{stem}_{plural}.tiff")
            assert labels.dtype == np.uint16 and labels.shape == (60, 80)
            y, x = np.nonzero(labels == int(row["label"]))
            assert len(y) == int(row["area"])
            box = [int(row[key]) for key in ("y1", "x1", "y2", "x2")]
            assert box == [y.min(), x.min(), y.max() + 1, x.max() + 1]
            assert float(row["centroid_y"]) == pytest.approx(y.mean(), abs=0.01)
            assert float(row["centroid_x"]) == pytest.approx(x.mean(), abs=0.01)
            if row["category"] == "Nucleus":
                cells = tifffile.imread(tmp_path / "out" / f"{stem}_cells.tiff")
                assert (cells[y, x] == int(row["parent_label"])).all() and int(row["parent_label"]) > 0
            else:
                assert row["parent_label"] == ""

    def test_more_objects_than_16_bits_count(self, tmp_path):
        n = 65_536
        places = np.stack(np.divmod(np.arange(n), 256), -1)
        found = Instances(
            (256, 256),
            CATEGORIES,
            np.ones(n),
            np.ones(n),
            np.hstack([places, places + 1]),
            [np.ones((1, 1), bool)] * n,
        )
        options = predict._parser().parse_args(["x", "--output", str(tmp_path), "--labels"])
        predict._write_pictures(Path("many.png"), np.zeros((256, 256)), found, options)
        labels = tifffile.imread(tmp_path / "many_cells.tiff")
        assert labels.dtype == np.uint32 and labels.max() == n
        assert tifffile.imread(tmp_path / "many_nuclei.tiff").dtype == np.uint16

    def test_overlay_is_an_rgb_png_of_the_same_size(self, model, folder, tmp_path):
        run(folder / "a.tif", "--output", tmp_path / "out", "--overlay")
        with Image.open(tmp_path / "out" / "a_overlay.png") as image:
            assert image.size == (80, 60) and image.mode == "RGB"

    def test_options_reach_the_model(self, model, folder, tmp_path):
        arguments = [
            folder / "a.tif",
            "--output",
            tmp_path / "out",
            "--confidence",
            "0.7",
            "--cell-diameter",
            "33",
        ]
        run(*arguments, "--csv")
        assert {"confidence": 0.7, "cell_diameter": 33.0} in model.asked
        run(*arguments, "--coco", tmp_path / "out" / "r.json")
        assert {"minimum_score": 0.7, "cell_diameter": 33.0} in model.asked

    def test_a_second_run_replaces_the_first(self, model, folder, tmp_path):
        run(folder, "--output", tmp_path / "out")
        before = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
        assert run(folder, "--output", tmp_path / "out") == 0
        assert before == {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}

    def test_formulas_in_file_names_are_escaped(self, model, tmp_path):
        draw_cells(tmp_path / "in" / "=1+2.png", (5, 5))
        run(tmp_path / "in", "--output", tmp_path / "out", "--csv")
        assert "\n'=1+2.png,Cell,1," in (tmp_path / "out" / "objects.csv").read_text().replace("\r\n", "\n")


class TestCoco:
    def test_results(self, model, folder, tmp_path):
        target = tmp_path / "results" / "r.json"
        assert run(folder, "--output", tmp_path / "out", "--coco", target) == 0
        assert names(tmp_path / "out") == []
        results = json.loads(target.read_text())
        assert {(one["image_id"], one["file_name"]) for one in results} == {(1, "a.tif"), (2, "b two.png")}
        assert len(results) == 8
        for one in results:
            assert set(one) == {"image_id", "file_name", "category_id", "bbox", "score", "segmentation"}
            assert one["category_id"] in (1, 2) and 0 <= one["score"] <= 1
            assert all(isinstance(value, float) for value in [*one["bbox"], one["score"]])
            assert isinstance(one["segmentation"]["counts"], str)
            assert one["segmentation"]["size"] == [60, 80]
            assert coco_mask.toBbox(one["segmentation"]).tolist() == one["bbox"]

    @pytest.mark.parametrize("seed", range(5))
    def test_rle_equals_that_of_the_full_mask(self, seed):
        rng = np.random.default_rng(seed)
        shape = (23, 31)
        boxes = [[0, 0, 23, 31], [0, 0, 1, 1], [22, 30, 23, 31], [5, 0, 9, 31], [0, 7, 23, 9], [4, 5, 15, 16]]
        crops = [rng.random((y2 - y1, x2 - x1)) < 0.6 for y1, x1, y2, x2 in boxes]
        crops[3][:], crops[4][:] = True, True
        found = Instances(shape, CATEGORIES, [1] * 6, np.ones(6), boxes, crops)
        for result, mask in zip(predict.coco_results(1, "a.png", found), found.masks()):
            expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert result["segmentation"]["counts"] == expected["counts"].decode()

    def test_readable_by_coco(self, model, folder, tmp_path, capsys):
        from pycocotools.coco import COCO

        run(folder, "--output", tmp_path / "out", "--coco", tmp_path / "r.json")
        truth = COCO()
        truth.dataset = {
            "images": [{"id": k, "height": 60, "width": 80} for k in (1, 2, 3)],
            "categories": [{"id": 1, "name": "Cell"}, {"id": 2, "name": "Nucleus"}],
            "annotations": [],
        }
        truth.createIndex()
        assert len(truth.loadRes(str(tmp_path / "r.json")).anns) == 8


class TestBadInput:
    def test_a_bad_image_is_named_and_the_others_are_done(self, model, folder, tmp_path, capsys):
        (folder / "bad.png").write_bytes((folder / "b two.png").read_bytes()[:60])
        (folder / "nan.tif").touch()
        tifffile.imwrite(
            folder / "nan.tif", np.stack([np.zeros((9, 9), np.uint8)] * 4), photometric="minisblack"
        )
        assert run(folder, "--output", tmp_path / "out", "--csv", "--coco", tmp_path / "r.json") == 3
        said = capsys.readouterr()
        assert "bad.png: " in said.err and "nan.tif: holds 4 planes" in said.err
        assert "2 of 5 images could not be read" in said.err
        assert said.out.startswith("3 images")
        results = json.loads((tmp_path / "r.json").read_text())
        assert {one["image_id"] for one in results} == {1, 2}, "ids count all files, read or not"

    def test_an_error_of_the_model_about_an_image_gets_its_name(
        self, model, folder, tmp_path, capsys, monkeypatch
    ):
        def segment(image, **_):
            raise evican_model.ImageError("The image holds 3 pixels that are NaN or infinite.")

        monkeypatch.setattr(model, "segment", segment)
        assert run(folder / "a.tif", "--output", tmp_path / "out") == 2
        assert "a.tif: The image holds 3 pixels" in capsys.readouterr().err

    def test_nothing_usable(self, model, folder, tmp_path, capsys):
        (tmp_path / "text.png").write_text("text")
        assert run(tmp_path / "text.png", "--output", tmp_path / "out") == 2
        assert "error: none of the 1 images could be read" in capsys.readouterr().err
        assert run(tmp_path / "gone", "--output", tmp_path / "out") == 2
        assert "gone: no such file or folder" in capsys.readouterr().err
        (tmp_path / "empty").mkdir()
        assert run(tmp_path / "empty", "--output", tmp_path / "out") == 2
        assert "no image in" in capsys.readouterr().err

    def test_weights_are_checked_before_anything_is_written(self, folder, tmp_path, capsys, monkeypatch):
        def load_model(weights):
            raise WeightsError(f"{weights}: no such file")

        monkeypatch.setattr(evican_model, "load_model", load_model)
        assert run(folder, "--output", tmp_path / "out", "--weights", "gone.h5") == 2
        assert capsys.readouterr().err == "error: gone.h5: no such file\n"
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("second", ["two/a.png", "one/a.tif", "two/A.png"])
    def test_results_of_the_same_name_are_refused(self, model, tmp_path, capsys, second):
        draw_cells(tmp_path / "one" / "a.png", (5, 5))
        draw_cells(tmp_path / second, (5, 5))
        assert run(tmp_path / "one" / "a.png", tmp_path / second, "--output", tmp_path / "out") == 2
        assert "same names" in capsys.readouterr().err

    def test_a_table_alone_needs_only_different_file_names(self, model, tmp_path):
        draw_cells(tmp_path / "a.png", (5, 5))
        draw_cells(tmp_path / "a.tif", (5, 5))
        assert run(tmp_path / "a.png", tmp_path / "a.tif", "--output", tmp_path / "out", "--csv") == 0

    def test_images_are_never_overwritten(self, model, tmp_path, capsys):
        draw_cells(tmp_path / "in" / "a.png", (5, 5))
        assert run(tmp_path / "in", "--output", tmp_path / "in") == 2
        assert "images are read from" in capsys.readouterr().err
        draw_cells(tmp_path / "in" / "a_cells.tiff", (5, 5))
        images = [tmp_path / "in" / name for name in ("a.png", "a_cells.tiff")]
        assert run(*images, "--output", tmp_path / "in") == 2
        assert "would be overwritten" in capsys.readouterr().err
        assert run(images[0], "--output", tmp_path / "out", "--coco", images[0]) == 2

    def test_output_that_is_a_file(self, model, folder, tmp_path, capsys):
        (tmp_path / "out").write_text("")
        assert run(folder, "--output", tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and "out" in said

    @pytest.mark.parametrize(
        "arguments",
        [["--confidence", "1.5"], ["--confidence", "x"], ["--cell-diameter", "0"], ["--nonsense"]],
    )
    def test_usage(self, folder, tmp_path, arguments, capsys):
        with pytest.raises(SystemExit) as caught:
            run(folder, "--output", tmp_path / "out", *arguments)
        assert caught.value.code == 2

    def test_a_file_that_cannot_be_finished_leaves_the_old_one(self, tmp_path):
        (tmp_path / "objects.csv").write_text("old")
        with pytest.raises(RuntimeError), predict._replacing(tmp_path / "objects.csv") as file:
            file.write(b"half")
            raise RuntimeError
        assert names(tmp_path) == ["objects.csv"] and (tmp_path / "objects.csv").read_text() == "old"


@pytest.mark.long
def test_the_real_command_with_the_bundled_weights(tmp_path):
    plate = sorted((ROOT / "pipelines" / "example_plate").glob("*.jpg"))[:2]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.fromarray(np.full((90, 120), 7, np.uint8)).save(tmp_path / "blank.png")
    images = [*plate, tmp_path / "blank.png", tmp_path / "broken.png"]
    done = subprocess.run(
        [sys.executable, "-m", "evican_model.predict", *map(str, images), "--output", str(tmp_path / "out"),
         "--overlay", "--labels", "--csv", "--coco", str(tmp_path / "r.json")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "broken.png" in done.stderr and "Traceback" not in done.stderr
    with open(tmp_path / "out" / "objects.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for path in plate:
        cells = tifffile.imread(tmp_path / "out" / f"{path.stem}_cells.tiff")
        of_image = [row for row in rows if row["file_name"] == path.name]
        assert cells.max() == sum(row["category"] == "Cell" for row in of_image) > 0
    assert not tifffile.imread(tmp_path / "out" / "blank_cells.tiff").any()
    results = json.loads((tmp_path / "r.json").read_text())
    assert len(results) >= len(rows) and {one["category_id"] for one in results} == {1, 2}
