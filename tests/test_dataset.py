"""COCO files, as written by others, to checked images and instances; and what is wrong with them in a sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from evican_model.dataset import read_dataset
from evican_model.errors import DatasetError

CATEGORIES = ("Cell", "Nucleus")
DISC = np.hypot(*np.mgrid[-20:20, -30:30]) < 12  # [40, 60]


@pytest.fixture
def coco(tmp_path):
    """A folder of two images of 40 x 60 pixels and the content of its COCO file; returns a function that writes it."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8)).save(tmp_path / name)
    content = {
        "images": [
            {"id": i, "file_name": f, "height": 40, "width": 60} for i, f in ((7, "a.png"), (9, "b.png"))
        ],
        "annotations": [],
        "categories": [{"id": 2, "name": "Nucleus"}, {"id": 1, "name": "Cell"}],
    }

    def write(**change):
        (tmp_path / "c.json").write_text(json.dumps({**content, **change}))
        return read_dataset(tmp_path / "c.json", tmp_path, CATEGORIES)

    return write


def annotation(segmentation, category_id=1, image_id=7):
    return {
        "id": 1,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "segmentation": segmentation,
    }


def packed(mask):
    runs = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def test_every_kind_of_outline_without_box_and_area(coco):
    runs, value, flat = [], 0, DISC.ravel(order="F").astype(int)
    while len(flat):
        n = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
        runs.append(n)
        flat, value = flat[n:], 1 - value
    polygon = [20.0, 10.0, 40.0, 10.0, 40.0, 30.0, 20.0, 30.0]
    first, _ = coco(
        annotations=[
            annotation(packed(DISC)),
            annotation({"size": [40, 60], "counts": runs}, 2),
            annotation([polygon]),
        ]
    )
    assert first.truth.category_ids.tolist() == [1, 2, 1]
    masks = list(first.truth.masks())
    np.testing.assert_array_equal(masks[0], DISC)
    np.testing.assert_array_equal(masks[1], DISC)
    assert first.truth.all_boxes[2].tolist() == [10, 20, 30, 40] and first.truth.areas()[2] == 400


def test_images_without_annotation_are_kept(coco):
    first, second = coco(annotations=[annotation(packed(DISC))])
    assert (len(first.truth), len(second.truth)) == (1, 0)
    assert second.annotated == {"Cell", "Nucleus"} and second.dense


def test_partly_annotated_images_say_so(coco):
    images = [
        {
            "id": 7,
            "file_name": "a.png",
            "height": 40,
            "width": 60,
            "annotated_classes": ["Cell"],
            "dense": False,
        }
    ]
    (item,) = coco(images=images)
    assert item.annotated == {"Cell"} and not item.dense


def test_grey_levels_are_stretched(coco):
    levels = coco()[0].grey_levels()
    assert levels.dtype == np.uint8 and levels.shape == (40, 60) and levels.min() == 0 and levels.max() == 255


@pytest.mark.parametrize(
    "change, message",
    [
        ({"categories": [{"id": 1, "name": "Vacuole"}]}, r"Vacuole.*Cell"),
        (
            {"images": [{"id": 7, "file_name": "c.png", "height": 40, "width": 60}]},
            r"c\.png, which is not in",
        ),
        ({"annotations": [annotation([[1, 1, 5, 1, 5, 5]], image_id=3)]}, "of image 3"),
        ({"annotations": [annotation([[1, 1, 5, 1, 5, 5]], category_id=3)]}, r"category 3.*\[1, 2\]"),
        ({"annotations": [annotation({"counts": 5})]}, "outline of annotation 1 cannot be read"),
        ({"annotations": [annotation(packed(DISC[:, :50]))]}, r"\(40, 50\)"),
    ],
)
def test_what_is_wrong_is_said(coco, change, message):
    with pytest.raises(DatasetError, match=message):
        coco(**change)


def test_an_image_of_another_size_is_refused(coco):
    (item,) = coco(images=[{"id": 7, "file_name": "a.png", "height": 60, "width": 40}])
    with pytest.raises(DatasetError, match=r"a\.png is 60 x 40 pixels; its annotations say 40 x 60"):
        item.grey_levels()


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_what_is_no_coco_file_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DatasetError, match=r"c\.json"):
        read_dataset(tmp_path / "c.json", tmp_path, CATEGORIES)
