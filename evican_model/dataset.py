"""COCO annotations in, checked images with their true instances out.

Besides the standard keys, an image may carry ``annotated_classes`` (names of the categories that are outlined in it;
all of them by default) and ``dense`` (false: even of those, some objects are not outlined).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evican_model.errors import DatasetError
from evican_model.images import read_image
from evican_model.instances import Instances
from evican_model.scaling import normalise, to_grey
from evican_model.weights import sha256_of

__all__ = ["AnnotatedImage", "read_dataset"]


@dataclass(frozen=True)
class AnnotatedImage:
    """One image of a dataset and what is known of it."""

    path: Path
    image_id: int
    shape: tuple[int, int]
    truth: Instances
    annotated: frozenset  # names of the categories that are outlined here
    dense: bool  # whether all objects of those categories are
    sha256: str

    def grey_levels(self) -> np.ndarray:
        """Read the image, stretched to uint8 [height, width]."""
        levels = normalise(to_grey(read_image(self.path)))
        if levels.shape != self.shape:
            raise DatasetError(f"{self.path} is {levels.shape[1]} x {levels.shape[0]} pixels; its annotations say "
                               f"{self.shape[1]} x {self.shape[0]}.")  # fmt: skip
        return np.rint(levels).astype(np.uint8)


def read_dataset(
    annotations: str | Path, images: str | Path, categories: tuple[str, ...]
) -> list[AnnotatedImage]:
    """Read a COCO instance file; images without annotations are kept as pure background.

    Parameters
    ----------
    annotations : str or Path
        The JSON file. ``bbox`` and ``area`` are computed from the masks and need not be there.
    images : str or Path
        The folder of its images.
    categories : tuple of str
        Names of the network's categories, in the order of their ids.

    Returns
    -------
    list of AnnotatedImage
        In the order of the file.

    Raises
    ------
    DatasetError
        If the file is not COCO, names an unknown category or image, or an image is missing.
    """
    source, folder = Path(annotations), Path(images)
    content = _read_json(source)
    to_id = {}
    for category in content["categories"]:
        if category["name"] not in categories:
            raise DatasetError(
                f"{source} has the category {category['name']!r}; the network knows {list(categories)}."
            )
        to_id[category["id"]] = categories.index(category["name"]) + 1
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in by_image:
            raise DatasetError(f"{source}: annotation {annotation['id']} is of image {annotation['image_id']}, "
                               "which the file does not list.")  # fmt: skip
        by_image[annotation["image_id"]].append(annotation)
    return [_annotated_image(image, by_image[image["id"]], folder, to_id, categories, source)
            for image in content["images"]]  # fmt: skip


def _read_json(source: Path) -> dict[str, Any]:
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{source} cannot be read as JSON: {error}.") from error
    missing = [
        k
        for k in ("images", "annotations", "categories")
        if not isinstance(content, dict) or k not in content
    ]
    if missing:
        raise DatasetError(f"{source} is not a COCO instance file: it lacks {missing}.")
    return content


def _annotated_image(image, annotations, folder, to_id, categories, source) -> AnnotatedImage:
    path = folder / image["file_name"]
    if not path.is_file():
        raise DatasetError(f"{source} lists {image['file_name']}, which is not in {folder}.")
    shape = (int(image["height"]), int(image["width"]))
    annotated = image.get("annotated_classes", list(categories))
    unknown = set(annotated) - set(categories)
    if unknown:
        raise DatasetError(f"{source}: {image['file_name']} names {sorted(unknown)} in annotated_classes; "
                           f"known are {list(categories)}.")  # fmt: skip
    ids, boxes, crops = [], [], []
    for annotation in annotations:
        if annotation["category_id"] not in to_id:
            raise DatasetError(f"{source}: annotation {annotation['id']} has category {annotation['category_id']}; "
                               f"the file lists {sorted(to_id)}.")  # fmt: skip
        box, crop = _box_and_crop(annotation, shape, source)
        if crop.size:
            ids.append(to_id[annotation["category_id"]])
            boxes.append(box)
            crops.append(crop)
    truth = Instances(
        shape,
        categories,
        np.array(ids, np.int32),
        np.ones(len(ids), np.float32),
        np.array(boxes, np.int32).reshape(-1, 4),
        tuple(crops),
    )
    return AnnotatedImage(
        path,
        int(image["id"]),
        shape,
        truth,
        frozenset(annotated),
        bool(image.get("dense", True)),
        sha256_of(path),
    )


def _box_and_crop(annotation, shape, source):
    """Tight box and bool mask of one annotation (polygons, or run lengths packed or not)."""
    from pycocotools import mask as coco_mask

    segmentation = annotation["segmentation"]
    try:
        if isinstance(segmentation, list):
            polygons = [part for part in segmentation if len(part) >= 6]
            runs = coco_mask.merge(coco_mask.frPyObjects(polygons, *shape)) if polygons else None
        elif isinstance(segmentation["counts"], list):
            runs = coco_mask.frPyObjects(segmentation, *shape)
        else:
            runs = segmentation
        mask = np.zeros(shape, bool) if runs is None else coco_mask.decode(runs).astype(bool)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{source}: the outline of annotation {annotation['id']} cannot be read: {error}."
        ) from error
    if mask.shape != shape:
        raise DatasetError(
            f"{source}: the mask of annotation {annotation['id']} is {mask.shape}; its image {shape}."
        )
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    box = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
    return box, mask[box[0] : box[2], box[1] : box[3]].copy()
