"""The report on a dataset, and EVICAN in both of its layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from evican_model.dataset import main, read_categories, read_dataset
from evican_model.errors import DatasetError
from evican_model.inspection import inspect
from evican_model.layout import find_part, find_parts
from evican_model.outlines import crosses_itself

DATA = Path(__file__).parent / "data"
SQUARE = [5, 5, 35, 5, 35, 35, 5, 35]
BOW = [5, 5, 35, 35, 35, 5, 5, 35]


@pytest.fixture
def coco(tmp_path):
    """A folder with two images of 40 x 60 pixels; returns a function that writes a COCO file with some changes."""
    for name in ("1_HeLa.png", "2_HeLa.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8)).save(tmp_path / name)
    entries = [{"id": i, "file_name": f"{i}_HeLa.png", "height": 40, "width": 60} for i in (1, 2)]
    content = {"images": entries, "annotations": [], "categories": [{"id": 1, "name": "Cell"}]}

    def write(*annotations, **change):
        listed = [{"id": i, "image_id": 1, "category_id": 1, **a} for i, a in enumerate(annotations, start=1)]
        path = tmp_path / "c.json"
        path.write_text(json.dumps({**content, "annotations": listed, **change}))
        return path

    return write


def test_a_good_dataset_is_described(capsys):
    assert main(["check", str(DATA / "evican_sample.json")]) == 0
    printed = capsys.readouterr().out
    for part in (
        "2 with outlines, 0 blank",
        "Cell            11",
        "Nucleus         11",
        "Caco-2",
        "HT1080",
        "2 cell lines x 2 categories",
        "balance",
        "instrument variation not given",
        "problems        none",
    ):
        assert part in printed, printed


def test_instruments_are_counted_where_they_are_given(coco, tmp_path):
    images = json.loads(coco().read_text())["images"]
    images[0].update(modality="BF", magnification="20x")
    images[1].update(modality="PhC", magnification="20x")
    report = inspect(coco({"segmentation": [SQUARE]}, images=images), tmp_path)
    text = "\n".join(report.lines_of_text())
    assert (
        "2 combinations" in text and "modality: BF (1), PhC (1)" in text and "magnification: 20x (2)" in text
    )


@pytest.mark.parametrize(
    "annotations, change, kind",
    [
        ([{"segmentation": [[5, 5, 5, 5, 5, 5]]}], {}, "without any pixel"),
        ([{"segmentation": [[70, 50, 90, 50, 90, 60]]}], {}, "without any pixel"),
        ([{"segmentation": [SQUARE], "area": 500}], {}, "area that is not the outline's"),
        (
            [{"segmentation": [SQUARE], "id": 7}, {"segmentation": [SQUARE], "id": 7}],
            {},
            "id used more than once",
        ),
        ([{"segmentation": [SQUARE], "image_id": 9}], {}, "not listed"),
        ([{"segmentation": [SQUARE], "category_id": 4}], {}, "category that is not listed"),
        ([{"segmentation": [[1, 2, 3]]}], {}, "without any pixel"),
        ([{"segmentation": 5}], {}, "cannot be read"),
        ([], {"images": [{"id": 1, "file_name": "no.png", "height": 40, "width": 60}]}, "image missing"),
        (
            [],
            {"images": [{"id": 1, "file_name": "1_HeLa.png", "height": 60, "width": 40}]},
            "size in the file",
        ),
        ([], {"images": [{"id": 1, "file_name": "c.json", "height": 60, "width": 40}]}, "cannot be read"),
        (
            [],
            {"images": [{"id": i, "file_name": "1_HeLa.png", "height": 40, "width": 60} for i in (1, 2)]},
            "file listed more than once",
        ),
    ],
)
def test_what_is_wrong_is_found(coco, capsys, annotations, change, kind):
    assert main(["check", str(coco(*annotations, **change))]) == 1
    assert kind in capsys.readouterr().out


@pytest.mark.parametrize(
    "segmentation, kind",
    [
        ([BOW], "crosses itself"),
        ([[5, 5, 75, 5, 75, 35]], "reaching out"),
        ([SQUARE], "plain rectangle"),
    ],
)
def test_what_is_odd_is_remarked(coco, capsys, segmentation, kind):
    assert main(["check", str(coco({"segmentation": segmentation}))]) == 0
    assert kind in capsys.readouterr().out


def test_crossing_is_told_from_touching():
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 600))
    star = np.stack([np.cos(angles), np.sin(angles)], -1) * rng.uniform(5, 10, (600, 1))
    assert not crosses_itself(star)
    star[[10, 300]] = star[[300, 10]]
    assert crosses_itself(star)
    assert not crosses_itself(np.array([[0, 0], [4, 0], [4, 4], [2, 0], [0, 4]]))  # a corner on a side


def test_a_polygon_is_drawn_as_pycocotools_draws_it_on_the_whole_image():
    content = json.loads((DATA / "evican_sample.json").read_text())
    items = {i.image_id: i for i in read_dataset(DATA / "evican_sample.json", DATA, ("Cell", "Nucleus"))}
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        for annotation, mask in zip(own, items[image["id"]].truth.masks()):
            runs = coco_mask.frPyObjects(annotation["segmentation"], image["height"], image["width"])
            np.testing.assert_array_equal(mask, coco_mask.decode(coco_mask.merge(runs)).astype(bool))


def test_a_polygon_that_reaches_out_is_cut(coco, tmp_path):
    path = coco({"segmentation": [[-10, -5, 20, -5, 20, 10, -10, 10]]})
    (item, _) = read_dataset(path, tmp_path, ("Cell",))
    assert item.truth.all_boxes.tolist() == [[0, 0, 10, 20]] and item.truth.areas().tolist() == [200]


def evican(folder, json_name, image_folder, classes=("Cell", "Nucleus")):
    """A small EVICAN: an image with outlines and a blank one."""
    content = json.loads((DATA / "evican_sample.json").read_text())
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]
    ]
    for image in content["images"]:
        image.pop("dense", None)
        image.pop("annotated_classes", None)
    for annotation in content["annotations"]:
        annotation.pop("area", None)
        annotation.pop("bbox", None)
    (folder / json_name).parent.mkdir(parents=True, exist_ok=True)
    (folder / json_name).write_text(json.dumps(content))
    (folder / image_folder).mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        shutil.copy(DATA / image["file_name"], folder / image_folder)


@pytest.mark.parametrize(
    "json_name, image_folder",
    [
        ("instances_train2019_EVICAN2.json", "."),
        ("instances_train2019_EVICAN2.json", "EVICAN_train2019"),
        ("annotations/instances_train2019_EVICAN2.json", "train2019"),
        ("annotations/instances_train2019.json", "train2019"),
        ("annotations/Instances_train2019.json", "train2019"),
    ],
)
def test_the_layouts_of_evican(tmp_path, capsys, json_name, image_folder):
    evican(tmp_path, json_name, image_folder)
    part = find_part(tmp_path, "train")
    items = read_dataset(
        part.annotations, part.images, ("Cell", "Nucleus"), partly_annotated=part.partly_annotated
    )
    assert [len(item.truth) > 0 for item in items] == [True, False]  # the blank image is kept
    assert [item.dense for item in items] == [False, True]  # and nothing in it is unlabelled
    assert main(["check", str(tmp_path)]) == 0
    assert "1 with outlines, 1 blank" in capsys.readouterr().out


def test_evaluation_images_are_completely_annotated(tmp_path):
    evican(tmp_path, "instances_eval2019_easy_EVICAN2.json", "eval2019")
    evican(tmp_path, "instances_eval2019_difficult_EVICAN2.json", "eval2019")
    parts = find_parts(tmp_path)
    assert sorted(parts) == ["eval_difficult", "eval_easy"]
    assert not any(part.partly_annotated for part in parts.values())
    with pytest.raises(DatasetError, match="does not hold the part 'train' of EVICAN2; there are eval_easy"):
        find_part(tmp_path, "train")
    with pytest.raises(DatasetError, match="no annotations of EVICAN60"):
        find_parts(tmp_path, "EVICAN60")


def test_a_part_is_found_though_another_has_no_images(tmp_path):
    evican(tmp_path, "instances_eval2019_easy_EVICAN2.json", "eval2019")
    evican(tmp_path, "instances_train2019_EVICAN2.json", "train2019")
    shutil.rmtree(tmp_path / "train2019")
    assert find_part(tmp_path, "eval_easy").images == tmp_path / "eval2019"
    with pytest.raises(DatasetError, match="instances_train2019_EVICAN2.json are not in"):
        find_part(tmp_path, "train")


def test_names_of_categories_come_from_the_file(coco):
    listed = [{"id": 3, "name": "MCF", "supercategory": "Nucleus"}, {"id": 2, "name": "Cell_HeLa"}]
    assert read_categories(coco(categories=listed)) == ("Cell_HeLa", "Nucleus_MCF")
    assert read_categories(DATA / "evican_sample.json") == ("Cell", "Nucleus")


def test_a_file_of_one_category_says_nothing_of_the_other(coco, tmp_path):
    (item, _) = read_dataset(coco({"segmentation": [SQUARE]}), tmp_path, ("Nucleus", "Cell"))
    assert item.annotated == {"Cell"} and item.truth.category_ids.tolist() == [2]


def test_categories_can_be_renamed(coco, tmp_path):
    path = coco({"segmentation": [SQUARE]}, categories=[{"id": 1, "name": "zelle"}])
    (item, _) = read_dataset(path, tmp_path, ("Cell", "Nucleus"), rename={"zelle": "Cell"})
    assert item.truth.count("Cell") == 1 and item.annotated == {"Cell"}
