"""What may be judged: COCO files, EVICAN folders, other tools' results; and what is wrong with them in a sentence."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from evican_model.errors import DatasetError
from evican_model.evaluate.command import main
from evican_model.evaluate.ground_truth import read_scenes, split_trained
from evican_model.evaluate.results import read_results
from evican_model.runs import write_outline
from evican_model.weights import sha256_of

SHAPE = (40, 60)


def rectangle(y1, x1, y2, x2):
    return write_outline((y1, x1, y2, x2), np.ones((y2 - y1, x2 - x1), bool), SHAPE)


def truth(number, category, box, image):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": rectangle(*box)}


CONTENT = {
    "images": [
        {"id": 9, "file_name": "2_HeLa.png", "height": 40, "width": 60},
        {"id": 7, "file_name": "1_MCF-7.png", "height": 40, "width": 60},
    ],
    "annotations": [
        truth(1, 1, (0, 0, 20, 20), 7), truth(2, 2, (5, 5, 12, 12), 7), truth(3, 1, (20, 30, 40, 50), 9),
    ],
    "categories": [{"id": 2, "name": "Nucleus"}, {"id": 1, "name": "Cell"}],
}  # fmt: skip
RESULTS = [
    {"image_id": 7, "category_id": 1, "score": 0.9, "segmentation": rectangle(0, 0, 20, 18)},
    {"image_id": 7, "category_id": 2, "score": 0.8, "segmentation": rectangle(5, 5, 12, 12)},
    {"image_id": 9, "category_id": 1, "score": 0.3, "segmentation": rectangle(20, 30, 40, 50)},
]


@pytest.fixture
def folder(tmp_path):
    """Two images with annotations and results of a tool."""
    rng = np.random.default_rng(0)
    for entry in CONTENT["images"]:
        Image.fromarray(rng.integers(0, 255, SHAPE, np.uint8)).save(tmp_path / entry["file_name"])
    (tmp_path / "a.json").write_text(json.dumps(CONTENT))
    (tmp_path / "r.json").write_text(json.dumps(RESULTS))
    return tmp_path


def run(folder, *arguments):
    return main(["--annotations", str(folder / "a.json"), "--output", str(folder / "out"), "--bootstrap", "20",
                 *map(str, arguments)])  # fmt: skip


def figures(folder):
    with open(folder / "out" / "metrics.csv", newline="") as file:
        rows = csv.DictReader(file)
        return {(row["tool"], row["category"], row["metric"]): float(row["value"] or "nan") for row in rows}


def test_images_are_in_the_order_of_their_ids_and_know_their_cell_line(folder):
    scenes = read_scenes(folder / "a.json", folder)
    assert [scene.name for scene in scenes.scenes] == ["1_MCF-7.png", "2_HeLa.png"]
    assert [scene.cell_line for scene in scenes.scenes] == ["MCF-7", "HeLa"]
    assert scenes.categories == ("Cell", "Nucleus")
    true, crowd = scenes.scenes[0].true("Nucleus")
    assert true.all_boxes.tolist() == [[5, 5, 12, 12]] and not crowd.any()


def test_coco_results_by_image_id_and_by_file_name_are_the_same(folder):
    assert run(folder, "--results", folder / "r.json") == 0
    by_id = figures(folder)
    assert by_id["r", "Cell", "F1_50"] == pytest.approx(2 / 3)  # the cell of 0.3 is below 0.5
    assert by_id["r", "Nucleus", "F1_50"] == 1 and by_id["r", "Nucleus", "link_whole"] == 1
    names = {7: "1_MCF-7.png", 9: "2_HeLa.png"}
    renamed = [{**one, "image_id": 55, "file_name": names[one["image_id"]]} for one in RESULTS]
    renamed.append({**renamed[0], "file_name": "another.png"})
    (folder / "r.json").write_text(json.dumps(renamed))
    assert run(folder, "--results", folder / "r.json") == 0
    assert figures(folder) == by_id
    assert "1 images that are not judged" in (folder / "out" / "report.json").read_text()


def test_a_lower_confidence_lets_more_in(folder):
    assert run(folder, "--results", folder / "r.json", "--confidence", "0.2") == 0
    assert figures(folder)["r", "Cell", "F1_50"] == 1


def label_images(folder, ending=".tiff"):
    labels = folder / "labels"
    labels.mkdir()
    cells, nuclei = np.zeros((2, *SHAPE), np.uint16)
    cells[0:20, 0:18], nuclei[5:12, 5:12] = 7, 300
    other = np.zeros(SHAPE, np.uint16)
    other[20:40, 30:50] = 1
    for name, pixels in (("1_MCF-7_cells", cells), ("1_MCF-7_nuclei", nuclei), ("2_HeLa_cells", other),
                         ("2_HeLa_nuclei", np.zeros(SHAPE, np.uint16))):  # fmt: skip
        tifffile.imwrite(labels / f"{name}{ending}", pixels)
    return labels


def test_label_images_with_and_without_scores(folder, capsys):
    labels = label_images(folder)
    assert run(folder, "--results", labels) == 0
    got = figures(folder)
    assert got["labels", "Cell", "F1_50"] == 1 and got["labels", "Nucleus", "PQ"] == 1
    assert "*" in (folder / "out" / "report.html").read_text()  # AP without scores is marked
    table = "file_name,category,label,score\n1_MCF-7.png,Cell,7,0.9\n1_MCF-7.png,Nucleus,300,0.8\n"
    table += "2_HeLa.png,Cell,1,0.3\n"
    (labels / "scores.csv").write_text(table)
    assert (
        run(folder, "--results", folder / "r.json", "--compare", f"L={labels}", "--confidence", "L=0.5") == 0
    )
    got = figures(folder)
    for metric in ("AP@100", "F1_50", "PQ", "count_error"):
        assert got["L", "Cell", metric] == got["r", "Cell", metric]
    (labels / "scores.csv").write_text(table.replace(",300,", ",3,"))
    assert run(folder, "--results", labels) == 2
    assert "no score for object 300" in capsys.readouterr().err


def test_label_images_of_one_class_beside_the_images(folder):
    for name, source in (("1_MCF-7_cp_masks", "1_MCF-7_cells"), ("2_HeLa_cp_masks", "2_HeLa_cells")):
        labels = folder / "labels" if (folder / "labels").exists() else label_images(folder)
        Image.fromarray(tifffile.imread(labels / f"{source}.tiff").astype(np.uint8)).save(
            folder / f"{name}.png"
        )
    assert run(folder, "--results", folder / "r.json", "--compare", f"cellpose={folder}:Cell") == 0
    got = figures(folder)
    assert got["cellpose", "Cell", "F1_50"] == 1 and ("cellpose", "Nucleus", "F1_50") not in got
    with open(folder / "out" / "differences.csv", newline="") as file:
        rows = {(row["category"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(rows["Cell", "F1_50"]["difference"]) == pytest.approx(2 / 3 - 1, rel=1e-5)
    assert {category for category, _ in rows} == {"Cell"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"annotations": []}, "holds no annotation"),
        ({"images": [], "annotations": []}, "holds no image"),
        ({"images": CONTENT["images"] * 2}, "the id of its images 9, 7 is there more than once"),
        ({"annotations": [CONTENT["annotations"][0]] * 2}, "the id of its annotations 1 is there more than once"),
        ({"categories": [{"id": 1, "name": "Cell"}, {"id": 2, "name": "Cell"}]}, "category name 'Cell'"),
        ({"categories": [{"id": 5, "name": "Cell"}]}, "annotation 1 has category 1; the file lists [5]"),
        ({"annotations": [{**CONTENT["annotations"][0], "image_id": 3}]}, "annotation 1 is of image 3"),
        ({"annotations": [{"id": 1, "image_id": 7, "category_id": 1}]}, "entry 0 of 'annotations' lacks segmentation"),
        ({"annotations": [{**CONTENT["annotations"][0], "segmentation": {"size": [9, 9], "counts": [81]}}]},
         "the outline of annotation 1 cannot be used: it is made for 9 x 9 pixels, its image has 60 x 40"),
        ({"images": [{**CONTENT["images"][0], "file_name": "no.png"}, CONTENT["images"][1]]},
         "1 of 2 images of"),
        ({"images": [{**one, "annotated_classes": ["Mitosis"]} for one in CONTENT["images"]]}, "names ['Mitosis']"),
        ({"images": 3}, "lacks the list 'images'"),
    ],
)  # fmt: skip
def test_wrong_annotations_are_named(folder, capsys, change, message):
    (folder / "a.json").write_text(json.dumps({**CONTENT, **change}))
    assert run(folder, "--results", folder / "r.json") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "a.json" in error
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    "results, message",
    [
        ([], "holds no result"),
        ({"annotations": []}, "is not a COCO results file"),
        ([{**RESULTS[0], "category_id": 17}], "has results of category 17"),
        ([{**RESULTS[0], "image_id": 17}], "holds no result for the 2 images"),
        ([{**RESULTS[0], "score": None}], "has the score None"),
        ([{**RESULTS[0], "score": float("nan")}], "has the score nan"),
        ([RESULTS[0], {k: v for k, v in RESULTS[1].items() if k != "score"}], "1 of 2 results have no score"),
        ([{"image_id": 7, "category_id": 1, "score": 1, "bbox": [0, 0, 4, 4]}], "boxes alone are not judged"),
        ([{"category_id": 1, "score": 1}], "names no image"),
        ([RESULTS[0], {**RESULTS[1], "segmentation": {"size": [4, 4], "counts": [16]}}],
         "the mask of result 1 in 1_MCF-7.png cannot be used: it is made for 4 x 4 pixels"),
    ],
)  # fmt: skip
def test_wrong_results_are_named(folder, capsys, results, message):
    (folder / "r.json").write_text(json.dumps(results))
    assert run(folder, "--results", folder / "r.json") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "r.json" in error


def test_wrong_label_images_are_named(folder, capsys):
    labels = label_images(folder)

    def refused():
        assert run(folder, "--results", labels) == 2
        return capsys.readouterr().err

    tifffile.imwrite(labels / "2_HeLa_cells.png.tif", np.zeros((3, 3), np.uint16))
    (labels / "2_HeLa_cells.tiff").rename(labels / "x")
    assert "has no Cell label image of 1 images: 2_HeLa.png" in refused()
    tifffile.imwrite(labels / "2_HeLa_cells.tiff", np.zeros((30, 60), np.uint16))
    assert (
        "2_HeLa_cells.tiff is uint16 of shape (30, 60); expected whole numbers of shape (40, 60)" in refused()
    )
    tifffile.imwrite(labels / "2_HeLa_cells.tiff", np.full(SHAPE, 0.5, np.float32))
    assert "expected whole numbers" in refused()
    tifffile.imwrite(labels / "2_HeLa_cells.tiff", np.tile(np.array([0, 255], np.uint8), (40, 30)))
    assert "that is no label image" in refused()
    tifffile.imwrite(labels / "2_HeLa_cells.tiff", np.zeros(SHAPE, np.uint16))
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(labels / "2_HeLa_cells.png")
    assert "only one can be meant" in refused()
    labels = folder / "none"
    labels.mkdir()
    assert "holds no label image" in refused()
    labels = folder / "nowhere"
    assert "is neither a file nor a folder" in refused()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--annotations", "a.json", "--dataset", "EVICAN"], "either --dataset"),
        ([], "either --dataset"),
        (["--dataset", "{folder}/a.json"], "give a COCO file with --annotations"),
        (["--dataset", "{folder}/nowhere"], "nowhere"),
        (["--annotations", "{folder}/a.json", "--difficulty", "easy"], "--difficulty is of --dataset"),
        (["--annotations", "{folder}/a.json", "--images", "{folder}/x"], "x is not a folder"),
        (["--annotations", "{folder}/r.json", "--images", "{folder}"], "It looks like results"),
        (["--annotations", "{folder}/a.json", "--weights", "{folder}/w.h5"], "w.h5"),
        (["--annotations", "{folder}/a.json", "--compare", "r.json"], "expected NAME=PATH"),
        (
            ["--annotations", "{folder}/a.json", "--results", "r.json", "--compare", "r=x"],
            "two tools are called 'r'",
        ),
        (["--annotations", "{folder}/a.json", "--confidence", "x=0.5"], "--confidence x=0.5"),
        (["--annotations", "{folder}/a.json", "--confidence", "2"], "--confidence 2"),
    ],
)
def test_unusable_arguments_are_refused_before_any_work(folder, capsys, arguments, message):
    output = folder / "out"
    assert main([one.format(folder=folder) for one in arguments] + ["--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert not output.exists()


@pytest.mark.parametrize("layout", ["published", "original"])
def test_evican_folders_one_row_a_difficulty(folder, layout):
    evican = folder / "EVICAN"
    images = evican / ("EVICAN_eval2019" if layout == "published" else "eval2019")
    images.mkdir(parents=True)
    (evican / "annotations").mkdir()
    place = evican if layout == "published" else evican / "annotations"
    for entry in CONTENT["images"]:
        (folder / entry["file_name"]).rename(images / entry["file_name"])
    for name, content in (
        ("easy", CONTENT),
        ("difficult", {**CONTENT, "annotations": CONTENT["annotations"][:1]}),
    ):
        ending = "_EVICAN2" if layout == "published" else ""
        (place / f"instances_eval2019_{name}{ending}.json").write_text(json.dumps(content))
    names = {7: "1_MCF-7.png", 9: "2_HeLa.png"}
    (folder / "r.json").write_text(
        json.dumps([{**one, "file_name": names[one["image_id"]]} for one in RESULTS])
    )
    command = ["--dataset", str(evican), "--results", str(folder / "r.json"), "--output", str(folder / "out"),
               "--bootstrap", "20"]  # fmt: skip
    assert main(command) == 0
    with open(folder / "out" / "metrics.csv", newline="") as file:
        assert {row["set"] for row in csv.DictReader(file)} == {"easy", "difficult"}
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert 'class="own"' in page and "arXiv 2508.01928" in page and "btaa225" in page
    assert main([*command, "--difficulty", "medium"]) == 2


def test_image_ids_are_refused_where_they_are_not_unique(folder, capsys):
    scenes = read_scenes(folder / "a.json", folder)
    with pytest.raises(DatasetError, match="begin anew in every set"):
        read_results(folder / "r.json", scenes, several=True)


def test_images_of_the_training_record_are_told_from_others(folder):
    scenes = read_scenes(folder / "a.json", folder).scenes
    record = {"start": {"training": {"datasets": [{"sha256": [sha256_of(folder / "2_HeLa.png")]}]}}}
    new, known = split_trained(scenes, [{}, record])
    assert [one.name for one in new] == ["1_MCF-7.png"] and [one.name for one in known] == ["2_HeLa.png"]


def test_spreadsheets_take_no_name_for_a_formula(folder):
    (folder / "1_MCF-7.png").rename(folder / "=1+1.png")
    entries = [CONTENT["images"][0], {**CONTENT["images"][1], "file_name": "=1+1.png", "cell_line": "<b>&"}]
    (folder / "a.json").write_text(json.dumps({**CONTENT, "images": entries}))
    assert run(folder, "--results", folder / "r.json") == 0
    assert "'=1+1.png" in (folder / "out" / "images.csv").read_text()
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "<b>&," not in page and "&lt;b&gt;&amp;" in page


def test_reading_needs_no_network_package():
    """Reading results must not start TensorFlow: other tools' results are judged in seconds."""
    import subprocess
    import sys

    script = (
        "import sys, evican_model.evaluate; print('tensorflow' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout.split() == ["False", "False"], done.stderr
