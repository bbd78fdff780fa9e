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

import evican_model
from evican_model import predict
from evican_model.images import read_image
from evican_model.instances import Instances

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
CATEGORIES = ("Cell", "Nucleus")


@pytest.fixture(scope="session")
def bundled():
    """Return the bundled model: loading it takes much longer than the small images here."""
    return evican_model.load_model()


@pytest.fixture
def model(bundled, monkeypatch):
    """Let the command use the model that is already loaded."""
    monkeypatch.setattr(evican_model, "load_model", lambda weights: bundled)
    return bundled


@pytest.fixture(scope="session")
def pictures():
    """Return pixels by file name, in the order of the names: grey and colour of EVICAN, and an empty field."""
    caco, ht1080 = (read_image(DATA / name) for name in ("15_Caco-2.jpg", "46_HT1080.jpg"))
    return {
        "a.tif": ht1080[100:340, :250, 0],
        "b two.png": caco[100:310, 10:250],
        "c.png": np.full((90, 120), 7, np.uint8),
    }


@pytest.fixture(scope="session")
def detected(bundled, pictures):
    """Return all that the model itself finds in the pictures, by file name."""
    return {name: bundled.detect(pixels) for name, pixels in pictures.items()}


@pytest.fixture(scope="session")
def segmented(bundled, pictures):
    """Return the objects that the model itself finds in the pictures, by file name."""
    found = {name: bundled.segment(pixels) for name, pixels in pictures.items()}
    # Without objects, or without a nucleus in a cell, the tests would prove nothing.
    assert found["a.tif"].count("Cell") > 0 and found["b two.png"].count("Cell") > 0
    assert any(one.parents().any() for one in found.values())
    assert len(found["c.png"]) == 0
    return found


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(pictures, tmp_path):
    for name, pixels in pictures.items():
        save(tmp_path / "in" / name, pixels)
    return tmp_path / "in"


@pytest.fixture
def one(pictures, tmp_path):
    """Return the path of one image."""
    return save(tmp_path / "one" / "a.tif", pictures["a.tif"])


def run(*arguments):
    return predict.main([str(argument) for argument in arguments])


def names(path):
    return sorted(file.name for file in path.iterdir())


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestOutputs:
    def test_all_three_by_default(self, model, segmented, folder, tmp_path, capsys):
        assert run(folder, "--output", tmp_path / "out" / "deep") == 0
        expected = ["objects.csv"]
        for stem in ("a", "b two", "c"):
            expected += [f"{stem}_cells.tiff", f"{stem}_nuclei.tiff", f"{stem}_overlay.png"]
        assert names(tmp_path / "out" / "deep") == sorted(expected)
        said = capsys.readouterr()
        cells, nuclei = (sum(found.count(name) for found in segmented.values()) for name in CATEGORIES)
        assert said.out == f"3 images: {cells} cells, {nuclei} nuclei\n"
        assert "3/3" in said.err, "no progress bar"

    @pytest.mark.parametrize(
        "flag, expected",
        [
            ("--csv", ["objects.csv"]),
            ("--overlay", ["a_overlay.png"]),
            ("--labels", ["a_cells.tiff", "a_nuclei.tiff"]),
        ],
    )
    def test_only_what_is_asked_for(self, model, one, tmp_path, flag, expected):
        assert run(one, "--output", tmp_path / "out", flag) == 0
        assert names(tmp_path / "out") == expected

    def test_labels_are_what_the_model_segments(self, model, segmented, folder, tmp_path):
        run(folder, "--output", tmp_path / "out", "--labels")
        for name, found in segmented.items():
            for category, plural in (("Cell", "cells"), ("Nucleus", "nuclei")):
                labels = tifffile.imread(tmp_path / "out" / f"{Path(name).stem}_{plural}.tiff")
                assert labels.dtype == np.uint16
                np.testing.assert_array_equal(labels, found.labels(category))

    def test_labels_and_table_agree(self, model, segmented, folder, tmp_path):
        run(folder, "--output", tmp_path / "out", "--labels", "--csv")
        rows = table(tmp_path / "out" / "objects.csv")
        assert tuple(rows[0]) == predict.COLUMNS
        assert len(rows) == sum(len(found) for found in segmented.values())
        for row in rows:
            plural = {"Cell": "cells", "Nucleus": "nuclei"}[row["category"]]
            stem = Path(row["file_name"]).stem
            labels = tifffile.imread(tmp_path / "out" / f"{stem}_{plural}.tiff")
            found = segmented[row["file_name"]]
            score = found.scores(row["category"])[int(row["label"]) - 1]
            assert float(row["score"]) == pytest.approx(score, abs=1e-4)
            y, x = np.nonzero(labels == int(row["label"]))
            assert len(y) == int(row["area"])
            box = [int(row[key]) for key in ("y1", "x1", "y2", "x2")]
            assert box == [y.min(), x.min(), y.max() + 1, x.max() + 1]
            assert float(row["centroid_y"]) == pytest.approx(y.mean(), abs=0.01)
            assert float(row["centroid_x"]) == pytest.approx(x.mean(), abs=0.01)
            if row["category"] == "Nucleus":
                parent = int(row["parent_label"])
                assert parent == found.parents()[int(row["label"]) - 1]
                cells = tifffile.imread(tmp_path / "out" / f"{stem}_cells.tiff")
                assert parent == 0 or (cells[y, x] == parent).mean() >= 0.5
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

    def test_overlay_is_an_rgb_png_of_the_same_size(self, model, pictures, one, tmp_path):
        run(one, "--output", tmp_path / "out", "--overlay")
        with Image.open(tmp_path / "out" / "a_overlay.png") as image:
            assert image.size == pictures["a.tif"].shape[::-1] and image.mode == "RGB"

    def test_options_reach_the_model(self, model, pictures, one, tmp_path):
        pixels = pictures["a.tif"]
        confidence, diameter = {"confidence": 0.8}, {"cell_diameter": 33}
        expected = model.segment(pixels, **confidence, **diameter).labels("Cell")
        for less in (confidence, diameter):
            assert (model.segment(pixels, **less).labels("Cell") != expected).any(), "it changes nothing"
        arguments = [one, "--output", tmp_path / "out", "--confidence", "0.8", "--cell-diameter", "33"]
        run(*arguments, "--labels")
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a_cells.tiff"), expected)
        run(*arguments, "--coco", tmp_path / "r.json")
        scores = model.detect(pixels, minimum_score=0.8, **diameter).all_scores
        assert len(scores) < len(model.detect(pixels, **diameter))
        given = [result["score"] for result in json.loads((tmp_path / "r.json").read_text())]
        assert given == pytest.approx(scores.tolist(), abs=1e-6)

    def test_a_second_run_replaces_the_first(self, model, folder, tmp_path):
        run(folder, "--output", tmp_path / "out")
        before = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
        assert run(folder, "--output", tmp_path / "out") == 0
        assert before == {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}

    def test_formulas_in_file_names_are_escaped(self, model, segmented, pictures, tmp_path):
        save(tmp_path / "in" / "=1+2.png", pictures["b two.png"])
        run(tmp_path / "in", "--output", tmp_path / "out", "--csv")
        assert "\n'=1+2.png,Cell,1," in (tmp_path / "out" / "objects.csv").read_text().replace("\r\n", "\n")


class TestCoco:
    @pytest.mark.parametrize("others", [[], ["--csv"]], ids=["alone", "with a table"])
    def test_results(self, model, detected, folder, tmp_path, others):
        target = tmp_path / "results" / "r.json"
        assert run(folder, "--output", tmp_path / "out", "--coco", target, *others) == 0
        assert names(tmp_path / "out") == (["objects.csv"] if others else [])
        results = json.loads(target.read_text())
        for image_id, (name, found) in enumerate(detected.items(), 1):
            of_image = [result for result in results if result["file_name"] == name]
            assert {result["image_id"] for result in of_image} <= {image_id}
            assert [result["category_id"] for result in of_image] == found.category_ids.tolist()
            scores = [result["score"] for result in of_image]
            assert scores == pytest.approx(found.all_scores.tolist(), abs=1e-6)
            for result, mask in zip(of_image, found.masks()):
                np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]), mask)
        assert len(results) == sum(len(found) for found in detected.values()) > 0
        for one in results:
            assert set(one) == {"image_id", "file_name", "category_id", "bbox", "score", "segmentation"}
            assert one["category_id"] in (1, 2) and 0 <= one["score"] <= 1
            assert all(isinstance(value, float) for value in [*one["bbox"], one["score"]])
            assert isinstance(one["segmentation"]["counts"], str)
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

    def test_readable_by_coco(self, model, detected, folder, tmp_path, capsys):
        from pycocotools.coco import COCO

        run(folder, "--output", tmp_path / "out", "--coco", tmp_path / "r.json")
        truth = COCO()
        truth.dataset = {
            "images": [
                {"id": k, "height": found.shape[0], "width": found.shape[1]}
                for k, found in enumerate(detected.values(), 1)
            ],
            "categories": [{"id": 1, "name": "Cell"}, {"id": 2, "name": "Nucleus"}],
            "annotations": [],
        }
        truth.createIndex()
        read = truth.loadRes(str(tmp_path / "r.json")).anns
        assert len(read) == sum(len(found) for found in detected.values()) > 0


class TestBadInput:
    def test_a_bad_image_is_named_and_the_others_are_done(self, model, folder, tmp_path, capsys):
        (folder / "a bad.png").write_bytes((folder / "b two.png").read_bytes()[:60])
        stack = np.stack([np.zeros((9, 9), np.uint8)] * 4)
        tifffile.imwrite(folder / "stack.tif", stack, photometric="minisblack")
        assert run(folder, "--output", tmp_path / "out", "--csv", "--coco", tmp_path / "r.json") == 3
        said = capsys.readouterr()
        assert "a bad.png: " in said.err and "stack.tif: holds 4 planes" in said.err
        assert "2 of 5 images could not be read" in said.err
        assert said.out.startswith("3 images")
        results = json.loads((tmp_path / "r.json").read_text())
        assert {one["image_id"] for one in results} == {2, 3}, "ids count all files, read or not"

    def test_an_error_of_the_model_about_an_image_gets_its_name(self, model, pictures, tmp_path, capsys):
        pixels = pictures["a.tif"].astype(np.float32)
        pixels[5, 7:10] = np.nan
        tifffile.imwrite(tmp_path / "nan.tif", pixels)
        assert run(tmp_path / "nan.tif", "--output", tmp_path / "out") == 2
        assert "nan.tif: The image holds 3 pixels that are NaN" in capsys.readouterr().err

    def test_nothing_usable(self, model, folder, tmp_path, capsys):
        (tmp_path / "text.png").write_text("text")
        assert run(tmp_path / "text.png", "--output", tmp_path / "out") == 2
        assert "error: none of the 1 images could be read" in capsys.readouterr().err
        assert run(tmp_path / "gone", "--output", tmp_path / "out") == 2
        assert "gone: no such file or folder" in capsys.readouterr().err
        (tmp_path / "empty").mkdir()
        assert run(tmp_path / "empty", "--output", tmp_path / "out") == 2
        assert "no image in" in capsys.readouterr().err

    def test_weights_are_checked_before_anything_is_written(self, folder, tmp_path, capsys):
        assert run(folder, "--output", tmp_path / "out", "--weights", tmp_path / "gone.h5") == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and str(tmp_path / "gone.h5") in said and said.count("\n") == 1
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("second", ["two/a.png", "one/a.tif", "two/A.png"])
    def test_results_of_the_same_name_are_refused(self, model, pictures, tmp_path, capsys, second):
        save(tmp_path / "one" / "a.png", pictures["c.png"])
        save(tmp_path / second, pictures["c.png"])
        assert run(tmp_path / "one" / "a.png", tmp_path / second, "--output", tmp_path / "out") == 2
        assert "same names" in capsys.readouterr().err

    def test_a_table_alone_needs_only_different_file_names(self, model, pictures, tmp_path):
        save(tmp_path / "a.png", pictures["c.png"])
        save(tmp_path / "a.tif", pictures["c.png"])
        assert run(tmp_path / "a.png", tmp_path / "a.tif", "--output", tmp_path / "out", "--csv") == 0

    def test_images_are_never_overwritten(self, model, pictures, tmp_path, capsys):
        save(tmp_path / "in" / "a.png", pictures["c.png"])
        assert run(tmp_path / "in", "--output", tmp_path / "in") == 2
        assert "images are read from" in capsys.readouterr().err
        save(tmp_path / "in" / "a_cells.tiff", pictures["c.png"])
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
    rows = table(tmp_path / "out" / "objects.csv")
    for path in plate:
        cells = tifffile.imread(tmp_path / "out" / f"{path.stem}_cells.tiff")
        of_image = [row for row in rows if row["file_name"] == path.name]
        assert cells.max() == sum(row["category"] == "Cell" for row in of_image) > 0
    assert not tifffile.imread(tmp_path / "out" / "blank_cells.tiff").any()
    results = json.loads((tmp_path / "r.json").read_text())
    assert len(results) >= len(rows) and {one["category_id"] for one in results} == {1, 2}
