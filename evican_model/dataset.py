"""COCO annotations in, checked images with their true instances out; ``python -m evican_model.dataset check DATASET``.

Besides the standard keys, an image may carry ``annotated_classes`` (names of the categories that are outlined in it;
by default all that its file lists) and ``dense`` (false: even of those, some objects are not outlined).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from evican_model.categories import kind_of, line_of
from evican_model.config import NetworkConfig
from evican_model.errors import DatasetError, EvicanError
from evican_model.images import read_image
from evican_model.instances import Instances
from evican_model.scaling import grey_levels
from evican_model.weights import sha256_of

__all__ = ["AnnotatedImage", "category_name", "main", "outline", "read_categories", "read_coco", "read_dataset"]

_FARTHEST = 1_000_000  # pixels: no outline lies farther out, whatever a damaged file says


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

    def grey_levels(self, network: NetworkConfig | None = None) -> np.ndarray:
        """Read the image as a network is to see it (by default one that wants it stretched): uint8 [height, width]."""
        levels = grey_levels(read_image(self.path), network or NetworkConfig())
        if levels.shape != self.shape:
            raise DatasetError(f"{self.path} is {levels.shape[1]} x {levels.shape[0]} pixels; its annotations say "
                               f"{self.shape[1]} x {self.shape[0]}.")  # fmt: skip
        return np.rint(levels).astype(np.uint8)


def read_categories(annotations: str | Path) -> tuple[str, ...]:
    """Return the names of the categories of a COCO file, in the order of their ids.

    A name that does not say whether it is a cell or a nucleus gets its supercategory put before it, if that does.
    """
    content = read_coco(annotations)
    return tuple(category_name(c) for c in sorted(content["categories"], key=lambda category: category["id"]))


def read_dataset(
    annotations: str | Path,
    images: str | Path,
    categories: tuple[str, ...],
    rename: Mapping[str, str] | None = None,
    partly_annotated: bool = False,
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
    rename : mapping of str to str, optional
        The network's name of a category by the file's.
    partly_annotated : bool
        What holds for images that do not say ``dense`` themselves: whether those with annotations hold objects
        without, as in EVICAN's training images. Images without any annotation are blank in any case.

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
    content = read_coco(source)
    to_id, listed = {}, []
    for category in content["categories"]:
        name = category_name(category)
        name = (rename or {}).get(name, name)
        if name not in categories:
            raise DatasetError(f"{source} has the category {name!r}; the network knows {_some(categories)}.")
        to_id[category["id"]] = categories.index(name) + 1
        listed.append(name)
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in by_image:
            raise DatasetError(f"{source}: annotation {annotation['id']} is of image {annotation['image_id']}, "
                               "which the file does not list.")  # fmt: skip
        by_image[annotation["image_id"]].append(annotation)
    found = []
    for image in content["images"]:
        its = by_image[image["id"]]
        settings = {"annotated_classes": listed, "dense": not (partly_annotated and its), **image}
        if rename and "annotated_classes" in image:
            settings["annotated_classes"] = [rename.get(name, name) for name in image["annotated_classes"]]
        found.append(_annotated_image(settings, its, folder, to_id, categories, source))
    return found


def read_coco(source: str | Path) -> dict[str, Any]:
    """Read a COCO instance file as it is, with its three lists; no more of it is checked."""
    source = Path(source)
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{source} cannot be read as JSON: {error}.") from error
    missing = [
        k
        for k in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(k), list)
    ]
    if missing:
        raise DatasetError(f"{source} is not a COCO instance file: it lacks {missing}.")
    for kind, keys in _NEEDED.items():
        for number, entry in enumerate(content[kind]):
            lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if lacking:
                raise DatasetError(f"{source}: entry {number} of {kind!r} lacks {lacking}.")
    return content


_NEEDED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "segmentation"),
    "categories": ("id", "name"),
}


def category_name(category: dict[str, Any]) -> str:
    """Return the name of a COCO category, with its supercategory before it where only that says what it is."""
    name, above = str(category["name"]), str(category.get("supercategory") or "")
    if kind_of(name) is None and kind_of(above) is not None and line_of(above) == "":
        return f"{kind_of(above)}_{name}"
    return name


def _annotated_image(image, annotations, folder, to_id, categories, source) -> AnnotatedImage:
    path = folder / image["file_name"]
    if not path.is_file():
        raise DatasetError(f"{source} lists {image['file_name']}, which is not in {folder}.")
    shape = (int(image["height"]), int(image["width"]))
    annotated = image["annotated_classes"]
    unknown = set(annotated) - set(categories)
    if unknown:
        raise DatasetError(f"{source}: {image['file_name']} names {sorted(unknown)} in annotated_classes; "
                           f"known are {_some(categories)}.")  # fmt: skip
    ids, boxes, crops = [], [], []
    for annotation in annotations:
        if annotation["category_id"] not in to_id:
            raise DatasetError(f"{source}: annotation {annotation['id']} has category {annotation['category_id']}; "
                               f"the file lists {sorted(to_id)}.")  # fmt: skip
        box, crop = outline(annotation, shape, source)
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
        bool(image["dense"]),
        sha256_of(path),
    )


def _some(names) -> str:
    return ", ".join(list(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def outline(annotation, shape, source):
    """Box and mask of one annotation (polygons, or run lengths packed or not), cut to the image.

    Parameters
    ----------
    annotation : dict
        With ``segmentation`` and ``id``.
    shape : (int, int)
        Height and width of its image in pixels.
    source : Path
        The file, for errors.

    Returns
    -------
    box : tuple of int
        ``y1, x1, y2, x2``, tight around the mask; four zeros without any pixel.
    crop : bool array [y2 - y1, x2 - x1]

    Raises
    ------
    DatasetError
        If the outline cannot be read, or its run lengths are of another image size.
    """
    from pycocotools import mask as coco_mask

    segmentation = annotation["segmentation"]
    corner = (0, 0)
    try:
        if isinstance(segmentation, list):
            polygons = [np.asarray(part, float) for part in segmentation if len(part) >= 6]
            if not polygons:
                return (0, 0, 0, 0), np.zeros((0, 0), bool)
            # Drawn on a canvas of its own size, not of the image's: a file of 40,000 polygons is read in seconds.
            points = np.concatenate([part[: len(part) // 2 * 2].reshape(-1, 2) for part in polygons])
            if not np.isfinite(points).all() or np.abs(points).max() > _FARTHEST:
                raise ValueError("its corners are no pixel positions")
            x, y = (int(v) for v in np.floor(points.min(0)))
            width, height = (int(v) for v in np.ceil(points.max(0)) + 1 - (x, y))
            shifted = [(part - np.resize([x, y], len(part))).tolist() for part in polygons]
            mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(shifted, height, width))).astype(
                bool
            )
            corner = (y, x)
        else:
            runs = segmentation
            if isinstance(segmentation["counts"], list):
                runs = coco_mask.frPyObjects(segmentation, *segmentation["size"])
            if tuple(runs["size"]) != tuple(shape):
                raise DatasetError(f"{source}: the outline of annotation {annotation['id']} is for "
                                   f"{tuple(runs['size'])} pixels, its image has {tuple(shape)}.")  # fmt: skip
            mask = coco_mask.decode(runs).astype(bool)
    except DatasetError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DatasetError(
            f"{source}: the outline of annotation {annotation['id']} cannot be read: {error}."
        ) from error
    return _inside(mask, corner, shape)


def _inside(mask, corner, shape):
    """Cut a mask that stands at a corner (y, x) to the image, tightly."""
    (y, x), (height, width) = corner, shape
    mask = mask[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
    y, x = max(0, y), max(0, x)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    y1, y2, x1, x2 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return (y + y1, x + x1, y + y2, x + x2), mask[y1:y2, x1:x2].copy()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 all right, 1 something is wrong with the data, 2 no data."""
    from evican_model.inspection import check_command

    parser = argparse.ArgumentParser(
        prog="python -m evican_model.dataset", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="print what a dataset holds and what is wrong with it")
    check.add_argument("dataset", help="a COCO file, or the folder of EVICAN")
    check.add_argument("--images", metavar="DIR", help="the images of the COCO file (default: its folder)")
    check.add_argument(
        "--classes", choices=["EVICAN2", "EVICAN60"], default="EVICAN2", help="of an EVICAN folder"
    )
    options = parser.parse_args(arguments)
    try:
        return check_command(options)
    except EvicanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
