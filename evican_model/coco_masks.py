r"""Mask images to COCO and back: ``python -m evican_model.convert masks``, and ``coco``.

    python -m evican_model.convert masks --images my_lab/images --output my_lab/annotations.json \
        --masks Nucleus=my_lab/nuclei --masks Cell=my_lab/cells
    python -m evican_model.convert coco my_lab/annotations.json --output my_lab/labels

A mask image is a label image (0 is background, each other value an object) or binary (each connected piece is an
object), as the paper's masks ``NUMBER_LINE.jpg`` are. It belongs to the image of the same name; ``_cells``,
``_nuclei``, ``_mask``, ``_masks`` or ``_labels`` may follow.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

from evican_model.dataset import outline, read_coco
from evican_model.errors import DatasetError, EvicanError, ImageError
from evican_model.images import list_images, read_image
from evican_model.instances import Instances

__all__ = ["coco_to_masks", "main", "masks_to_coco", "objects_of"]

KINDS = ("auto", "labels", "binary")
_ENDINGS = re.compile(r"_(?:cells?|nucle(?:us|i)|masks?|labels?)$", re.IGNORECASE)
_PLURALS = {"Cell": "cells", "Nucleus": "nuclei"}


def objects_of(mask: np.ndarray, kind: str = "auto", lossy: bool = False) -> tuple[list[np.ndarray], str]:
    """Take a mask image apart.

    Parameters
    ----------
    mask : array [height, width], or [height, width, 3] of three equal planes
    kind : str
        ``"labels"``, ``"binary"``, or ``"auto"``: binary if lossy, or there is but one value besides 0.
    lossy : bool
        Whether it was a JPEG, whose values are never quite 0 and 255: it is binary, half of the range is the border.

    Returns
    -------
    objects : list of bool arrays [height, width]
    kind : str
        What it was taken for.

    Raises
    ------
    DatasetError
        If it holds negative or fractional values, or colours.
    """
    if mask.ndim == 3:
        if np.ptp(mask.astype(int), axis=-1).max() > (16 if lossy else 0):
            raise DatasetError("it is a colour image; expected one plane, 0 for background")
        mask = mask[..., 0]
    if mask.dtype.kind == "f":
        if not np.array_equal(mask, np.rint(mask)):
            raise DatasetError("it holds fractions; expected whole numbers, one for each object")
        mask = mask.astype(np.int64)
    if mask.size and mask.min() < 0:
        raise DatasetError(
            "it holds negative values; expected 0 for background, and one value for each object"
        )
    if kind == "auto":
        kind = "binary" if lossy or len(np.unique(mask)) <= 2 else "labels"
    if kind == "binary":
        mask, _ = ndimage.label(mask > (127 if lossy else 0), np.ones((3, 3)))
    elif lossy:
        raise DatasetError("it is a JPEG, which cannot keep labels; use PNG or TIFF")
    return [mask == value for value in np.unique(mask) if value], kind


def masks_to_coco(
    images: str | Path, masks: Sequence[tuple[str, str | Path]], kind: str = "auto", smallest: int = 1,
    partly_annotated: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Make the content of a COCO file from mask images.

    Parameters
    ----------
    images : str or Path
        Folder of images.
    masks : sequence of (str, path)
        Category and folder of its masks. An image without a mask in a folder is not annotated for that category.
    kind : str
        See `objects_of`.
    smallest : int
        Pixels; smaller objects are left out.
    partly_annotated : bool
        Whether there are objects without a mask.

    Returns
    -------
    dict
        With run lengths, exact to the pixel; ``annotated_classes`` says which masks an image had.

    Raises
    ------
    DatasetError
        If a mask fits no image, or is of another size.
    """
    from pycocotools import mask as coco_mask

    categories = list(dict.fromkeys(category for category, _ in masks))
    paths = {path.stem: path for path in list_images([images])}
    entries = {stem: _image_entry(i, path) for i, (stem, path) in enumerate(paths.items(), start=1)}
    annotations: list[dict[str, Any]] = []
    for category, folder in masks:
        for path in list_images([folder]):
            stem = path.stem if path.stem in entries else _ENDINGS.sub("", path.stem)
            if stem not in entries:
                raise DatasetError(f"{path} is the mask of no image in {images}; expected one named {stem}.")
            entry = entries[stem]
            for mask in _read_objects(path, entry, kind):
                if np.count_nonzero(mask) < smallest:
                    continue
                runs = coco_mask.encode(np.asfortranarray(mask, np.uint8))
                runs["counts"] = runs["counts"].decode("ascii")
                annotations.append({
                    "id": len(annotations) + 1, "image_id": entry["id"], "category_id": categories.index(category) + 1,
                    "iscrowd": 0, "segmentation": runs, "area": int(coco_mask.area(runs)),
                    "bbox": [float(v) for v in coco_mask.toBbox(runs)],
                })  # fmt: skip
            entry["annotated_classes"] = sorted({*entry["annotated_classes"], category})
    for entry in entries.values():
        entry["dense"] = not partly_annotated
    # An image without any mask would be taken for a blank field.
    kept = [entry for entry in entries.values() if entry["annotated_classes"]]
    if not kept:
        raise DatasetError(f"No mask was found for the images in {images}.")
    listed = [{"id": i, "name": name} for i, name in enumerate(categories, start=1)]
    return {"images": kept, "annotations": annotations, "categories": listed}


def _image_entry(number: int, path: Path) -> dict[str, Any]:
    height, width = read_image(path).shape[:2]
    entry: dict[str, Any] = {"id": number, "file_name": path.name, "height": height, "width": width}
    line = re.fullmatch(r"\d+_(.+)", path.stem)
    if line:
        entry["cell_line"] = line.group(1)
    return {**entry, "annotated_classes": []}


def _read_objects(path: Path, entry: dict[str, Any], kind: str) -> list[np.ndarray]:
    mask = read_image(path)
    if mask.shape[:2] != (entry["height"], entry["width"]):
        raise DatasetError(f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, its image {entry['file_name']} "
                           f"{entry['width']} x {entry['height']}.")  # fmt: skip
    try:
        return objects_of(mask, kind, path.suffix.lower() in (".jpg", ".jpeg"))[0]
    except DatasetError as error:
        raise DatasetError(f"{path} cannot be taken for a mask: {error}.") from error


def coco_to_masks(annotations: str | Path, output: Path, kind: str = "labels") -> list[Path]:
    """Write the outlines of a COCO file as mask images, one for each image and category.

    Parameters
    ----------
    annotations : str or Path
    output : Path
        Folder; made if need be. Gets ``<image>_cells.tiff`` and so on, or ``.png`` for binary masks.
    kind : str
        ``"labels"``, or ``"binary"`` (0 and 255; touching objects become one).

    Returns
    -------
    list of Path
        The files. Categories that an image is not annotated for get none; where objects overlap, the first has the
        pixel.
    """
    content, output = read_coco(annotations), Path(output)
    names = {c["id"]: str(c["name"]) for c in content["categories"]}
    written = []
    output.mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        shape = (int(image["height"]), int(image["width"]))
        for category_id, name in names.items():
            if name not in image.get("annotated_classes", [name]):
                continue
            own = [
                a
                for a in content["annotations"]
                if (a["image_id"], a["category_id"]) == (image["id"], category_id)
            ]
            found = [outline(annotation, shape, Path(annotations)) for annotation in own]
            found = [(box, crop) for box, crop in found if crop.size]
            boxes, crops = np.array([box for box, _ in found]).reshape(-1, 4), tuple(c for _, c in found)
            instances = Instances(shape, (name,), np.ones(len(found)), np.ones(len(found)), boxes, crops)
            labels = instances.labels(name)
            stem = (
                output
                / f"{Path(image['file_name']).stem}_{_PLURALS.get(name, re.sub(r'[^A-Za-z0-9-]+', '-', name))}"
            )
            if kind == "binary":
                written.append(stem.with_name(f"{stem.name}.png"))
                Image.fromarray(((labels > 0) * 255).astype(np.uint8)).save(written[-1])
            else:
                written.append(stem.with_name(f"{stem.name}.tiff"))
                large = labels.max(initial=0) > np.iinfo(np.uint16).max
                tifffile.imwrite(
                    written[-1], labels.astype(np.uint32 if large else np.uint16), compression="zlib"
                )
    return written


def main(arguments: list[str]) -> int:
    """Run ``masks`` or ``coco`` of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evican_model.convert")
    commands = parser.add_subparsers(dest="command", required=True)
    masks = commands.add_parser("masks", help="mask images to a COCO file")
    masks.add_argument("--images", required=True, metavar="DIR")
    masks.add_argument(
        "--masks", required=True, action="append", metavar="CATEGORY=DIR", help="one for each category"
    )
    masks.add_argument(
        "--kind",
        choices=KINDS,
        default="auto",
        help="label images, or binary ones, whose connected pieces are objects (default: told from each image)",
    )
    masks.add_argument("--smallest", type=int, default=1, metavar="PIXELS", help="leave out smaller objects")
    masks.add_argument("--partly", action="store_true", help="there are objects without a mask")
    masks.add_argument("--output", required=True, metavar="JSON")
    coco = commands.add_parser("coco", help="a COCO file to mask images")
    coco.add_argument("annotations", metavar="JSON")
    coco.add_argument("--kind", choices=KINDS[1:], default="labels")
    coco.add_argument("--output", required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        if options.command == "coco":
            written = coco_to_masks(options.annotations, Path(options.output), options.kind)
            print(f"{len(written)} masks in {options.output}")
            return 0
        pairs = [tuple(pair.split("=", 1)) for pair in options.masks]
        wrong = [pair[0] for pair in pairs if len(pair) != 2 or not all(pair)]
        if wrong:
            raise DatasetError(f"--masks {wrong[0]}: expected CATEGORY=FOLDER, such as Nucleus=nuclei.")
        content = masks_to_coco(options.images, pairs, options.kind, options.smallest, options.partly)
        Path(options.output).write_text(json.dumps(content) + "\n", encoding="utf-8")
        print(f"{options.output}: {len(content['images'])} images, {len(content['annotations'])} objects")
    except (EvicanError, ImageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
