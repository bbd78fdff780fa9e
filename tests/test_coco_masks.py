"""Masks to COCO and back: nothing changes on the way, and what a mask leaves open is not guessed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from evican_model.coco_masks import coco_to_masks, masks_to_coco, objects_of
from evican_model.convert import main
from evican_model.dataset import read_dataset
from evican_model.errors import DatasetError

DATA = Path(__file__).parent / "data"


def test_there_and_back_nothing_changes(tmp_path, capsys):
    assert main(["coco", str(DATA / "evican_sample.json"), "--output", str(tmp_path / "masks")]) == 0
    for kind in ("cells", "nuclei"):
        (tmp_path / kind).mkdir()
        for path in (tmp_path / "masks").glob(f"*_{kind}.tiff"):
            path.rename(tmp_path / kind / path.name)
    images = tmp_path / "images"
    images.mkdir()
    for path in DATA.glob("*.jpg"):
        (images / path.name).write_bytes(path.read_bytes())
    arguments = ["--images", str(images), "--masks", f"Cell={tmp_path / 'cells'}"]
    arguments += ["--masks", f"Nucleus={tmp_path / 'nuclei'}", "--output", str(tmp_path / "back.json")]
    assert main(["masks", *arguments]) == 0
    assert "2 images, 22 objects" in capsys.readouterr().out
    before, after = (
        {item.path.name: item for item in read_dataset(path, images, ("Cell", "Nucleus"))}
        for path in (DATA / "evican_sample.json", tmp_path / "back.json")
    )
    for name, item in before.items():
        assert after[name].annotated == {"Cell", "Nucleus"} and after[name].dense
        for category in ("Cell", "Nucleus"):
            np.testing.assert_array_equal(
                after[name].truth.labels(category) > 0, item.truth.labels(category) > 0
            )
            assert after[name].truth.count(category) == item.truth.count(category)
    content = json.loads((tmp_path / "back.json").read_text())
    assert {image["cell_line"] for image in content["images"]} == {"Caco-2", "HT1080"}


@pytest.fixture
def folders(tmp_path):
    """An image NUMBER_LINE.jpg and a folder for its masks."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.full((40, 60), 90, np.uint8)).save(tmp_path / "images" / "7_HeLa.jpg")
    return tmp_path / "images", tmp_path / "masks"


def two_squares():
    mask = np.zeros((40, 60), np.uint8)
    mask[5:15, 5:15], mask[20:35, 30:50] = 1, 2
    return mask


@pytest.mark.parametrize("name", ["7_HeLa.jpg", "7_HeLa.png", "7_HeLa_cells.tiff", "7_HeLa_mask.png"])
def test_binary_masks_and_label_images(folders, name):
    images, masks = folders
    labels = two_squares()
    if name.endswith(".tiff"):
        tifffile.imwrite(masks / name, labels.astype(np.uint16))
    else:
        Image.fromarray((labels > 0).astype(np.uint8) * 255).save(masks / name)
    content = masks_to_coco(images, [("Cell", masks)])
    assert [a["bbox"] for a in content["annotations"]] == [[5, 5, 10, 10], [30, 20, 20, 15]]
    assert [a["area"] for a in content["annotations"]] == [100, 300]
    (image,) = content["images"]
    assert image["annotated_classes"] == ["Cell"] and image["cell_line"] == "HeLa" and image["dense"]


def test_touching_labels_stay_apart_and_touching_pieces_do_not():
    mask = np.array([[1, 1, 2, 2, 3]], np.uint8)
    assert len(objects_of(mask)[0]) == 3 and objects_of(mask)[1] == "labels"
    assert len(objects_of(mask, "binary")[0]) == 1
    assert objects_of(mask > 0)[1] == "binary"


@pytest.mark.parametrize(
    "mask, lossy, message",
    [
        (np.full((4, 4), 0.5), False, "fractions"),
        (np.full((4, 4), -1), False, "negative"),
        (
            np.dstack([np.zeros((4, 4)), np.ones((4, 4)), np.ones((4, 4))]).astype(np.uint8) * 90,
            False,
            "colour",
        ),
    ],
)
def test_what_is_no_mask_is_refused(mask, lossy, message):
    with pytest.raises(DatasetError, match=message):
        objects_of(mask, lossy=lossy)


def test_masks_that_do_not_fit_are_named(folders, capsys):
    images, masks = folders
    Image.fromarray(two_squares()[:30]).save(masks / "7_HeLa.png")
    arguments = ["masks", "--images", str(images), "--output", str(masks / "c.json")]
    assert main([*arguments, "--masks", f"Cell={masks}"]) == 2
    assert "7_HeLa.png is 60 x 30 pixels, its image 7_HeLa.jpg 60 x 40" in capsys.readouterr().err
    (masks / "7_HeLa.png").rename(masks / "8_HeLa.png")
    assert main([*arguments, "--masks", f"Cell={masks}"]) == 2
    assert "8_HeLa.png is the mask of no image" in capsys.readouterr().err
    assert main([*arguments, "--masks", "nuclei"]) == 2
    assert "expected CATEGORY=FOLDER" in capsys.readouterr().err


def test_binary_masks_out(tmp_path):
    written = coco_to_masks(DATA / "evican_sample.json", tmp_path, "binary")
    assert sorted(path.name for path in written) == sorted(
        f"{stem}_{kind}.png" for stem in ("15_Caco-2", "46_HT1080") for kind in ("cells", "nuclei")
    )
    assert set(np.unique(np.asarray(Image.open(written[0])))) == {0, 255}


def test_a_category_that_is_not_annotated_gets_no_mask(tmp_path):
    names = [path.name for path in coco_to_masks(DATA / "brifiseg" / "val.json", tmp_path)]
    assert len(names) == 4 and all(name.endswith("_nuclei.tiff") for name in names)
