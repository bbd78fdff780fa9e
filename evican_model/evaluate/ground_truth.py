"""The annotated images to judge by: a COCO file or an EVICAN folder, checked before any work is done."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable

import numpy as np

from evican_model.dataset import AnnotatedImage, category_name
from evican_model.errors import DatasetError
from evican_model.instances import Instances
from evican_model.runs import read_outlines
from evican_model.weights import images_behind, sha256_of

__all__ = ["DIFFICULTIES", "Scene", "SceneSet", "read_scenes", "split_trained", "trained_on"]

DIFFICULTIES = ("easy", "medium", "difficult")
_PARTLY = re.compile(r"instances_(train|val)2019")  # EVICAN's own names of the partly annotated splits
_EVICAN_NAME = re.compile(r"^\d+_(.+)$")  # <number>_<cell line>


@dataclass(frozen=True)
class Scene:
    """One annotated image and what only an evaluation needs to know of it.

    Parameters
    ----------
    image : AnnotatedImage
    crowd : bool [N]
        Which of its true objects are outlines around several.
    cell_line : str
        "" where nobody says.
    """

    image: AnnotatedImage
    crowd: np.ndarray
    cell_line: str

    @property
    def name(self) -> str:
        """The image's file name, with folders if the annotations give some."""
        return self.image.path.name

    def true(self, category: str) -> tuple[Instances, np.ndarray]:
        """Return the true objects of a category and which of them are crowds."""
        mine = self.image.truth.category_ids == self.image.truth.categories.index(category) + 1
        return self.image.truth.select(mine), self.crowd[mine]


@dataclass(frozen=True)
class SceneSet:
    """Images that are judged together: a row of the report.

    Parameters
    ----------
    name : str
    source : Path
        The annotation file.
    categories : tuple of str
        In the order of their ids.
    category_ids : dict of int to str
        As the file numbers them.
    scenes : tuple of Scene
        In the order of the image ids, as pycocotools takes them.
    notes : tuple of str
        What a reader of the report should know.
    """

    name: str
    source: Path
    categories: tuple[str, ...]
    category_ids: dict[int, str]
    scenes: tuple[Scene, ...]
    notes: tuple[str, ...] = ()


def read_scenes(
    annotations: str | Path, images: str | Path, name: str = "", first: int | None = None
) -> SceneSet:
    """Read a COCO file for evaluation.

    ``area`` and ``bbox`` are computed, so they need not be there. An image's ``annotated_classes`` says which
    categories are outlined in it (by default all of the file), ``dense: false`` that even of those some are not.

    Parameters
    ----------
    annotations : str or Path
    images : str or Path
        The folder of its images.
    name : str, optional
        The file's name by default.
    first : int, optional
        Take only that many images, of the lowest ids.

    Raises
    ------
    DatasetError
        If the file is not COCO, has no annotation, names something twice or something that is not there.
    """
    source, folder = Path(annotations), Path(images)
    content = _read_coco(source)
    category_ids = _categories(content, source)
    categories = tuple(category_ids[key] for key in sorted(category_ids))
    entries = sorted(content["images"], key=lambda entry: entry["id"])
    by_image: dict[int, list[dict[str, Any]]] = {entry["id"]: [] for entry in entries}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in by_image:
            raise DatasetError(f"{source}: annotation {annotation['id']} is of image {annotation['image_id']}, "
                               "which the file does not list.")  # fmt: skip
        if annotation["category_id"] not in category_ids:
            raise DatasetError(f"{source}: annotation {annotation['id']} has category {annotation['category_id']}; "
                               f"the file lists {sorted(category_ids)}.")  # fmt: skip
        by_image[annotation["image_id"]].append(annotation)
    entries = entries[:first]
    _check_images(entries, folder, source)
    partly = bool(_PARTLY.match(source.name))
    scenes = tuple(
        _scene(entry, by_image[entry["id"]], folder, category_ids, categories, partly, source)
        for entry in entries
    )
    return SceneSet(name or source.stem, source, categories, category_ids, scenes, _notes(scenes, partly))


def trained_on(items: Iterable[AnnotatedImage], record: dict) -> list[AnnotatedImage]:
    """Return the images whose SHA-256 stands in a training record, or in one behind it."""
    seen = images_behind(record)
    return [item for item in items if item.sha256 in seen]


def split_trained(scenes: Iterable[Scene], records: Iterable[dict]) -> tuple[list[Scene], list[Scene]]:
    """Return the scenes that no training record names, and those that one does."""
    scenes = list(scenes)
    known: set[str] = set()
    for record in records:
        known.update(item.sha256 for item in trained_on([scene.image for scene in scenes], record))
    return (
        [scene for scene in scenes if scene.image.sha256 not in known],
        [scene for scene in scenes if scene.image.sha256 in known],
    )


_NEEDED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "segmentation"),
    "categories": ("id", "name"),
}


def _read_coco(source: Path) -> dict[str, Any]:
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{source} cannot be read as JSON: {error}.") from error
    for kind, keys in _NEEDED.items():
        entries = content.get(kind) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            hint = " It looks like results: give those with --results." if isinstance(content, list) else ""
            raise DatasetError(f"{source} is not a COCO instance file: it lacks the list {kind!r}.{hint}")
        for number, entry in enumerate(entries):
            lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if lacking:
                raise DatasetError(f"{source}: entry {number} of {kind!r} lacks {', '.join(lacking)}.")
        _refuse_doubles([entry["id"] for entry in entries], f"id of its {kind}", source)
    if not content["images"] or not content["annotations"]:
        what = "annotation" if content["images"] else "image"
        raise DatasetError(f"{source} holds no {what}; there is nothing to evaluate against.")
    _refuse_doubles([entry["file_name"] for entry in content["images"]], "file name", source)
    _refuse_doubles([entry["name"] for entry in content["categories"]], "category name", source)
    return content


def _refuse_doubles(values: list, what: str, source: Path) -> None:
    doubles = [value for value, count in Counter(values).items() if count > 1]
    if doubles:
        shown = ", ".join(repr(value) for value in doubles[:5]) + (" and others" if len(doubles) > 5 else "")
        raise DatasetError(f"{source}: the {what} {shown} is there more than once; each must be unique.")


def _categories(content: dict[str, Any], source: Path) -> dict[int, str]:
    named = {category["id"]: category_name(category) for category in content["categories"]}
    if not named:
        raise DatasetError(f"{source} lists no category.")
    return named


def _check_images(entries: list[dict[str, Any]], folder: Path, source: Path) -> None:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; the images of {source} are expected in it.")
    missing = [entry["file_name"] for entry in entries if not (folder / entry["file_name"]).is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (" and others" if len(missing) > 3 else "")
        raise DatasetError(
            f"{len(missing)} of {len(entries)} images of {source} are not in {folder}: {shown}."
        )


def _scene(entry, annotations, folder, category_ids, categories, partly, source) -> Scene:
    shape = (int(entry["height"]), int(entry["width"]))
    annotated = frozenset(entry.get("annotated_classes", categories))
    if annotated - set(categories):
        raise DatasetError(f"{source}: {entry['file_name']} names {sorted(annotated - set(categories))} in "
                           f"annotated_classes; the file lists {list(categories)}.")  # fmt: skip
    try:
        boxes, crops = read_outlines([one["segmentation"] for one in annotations], shape)
    except DatasetError as error:
        number, _, what = str(error).partition(": ")
        raise DatasetError(
            f"{source}: the outline of annotation {annotations[int(number)]['id']} cannot be used: {what}."
        ) from error
    ids = np.array([categories.index(category_ids[one["category_id"]]) + 1 for one in annotations], np.int32)
    path = folder / entry["file_name"]
    image = AnnotatedImage(
        path,
        int(entry["id"]),
        shape,
        Instances(shape, categories, ids, np.ones(len(ids), np.float32), boxes, crops),
        annotated,
        bool(entry.get("dense", not (partly and annotations))),
        sha256_of(path),
    )
    crowd = np.array([bool(one.get("iscrowd", 0)) for one in annotations], bool)
    evican = _EVICAN_NAME.match(Path(entry["file_name"]).stem)
    line = entry.get("cell_line") or (evican.group(1) if evican else "")
    return Scene(image, crowd, str(line))


def _notes(scenes: tuple[Scene, ...], partly: bool) -> tuple[str, ...]:
    notes = []
    empty = sum(int((scene.image.truth.areas() == 0).sum()) for scene in scenes)
    if empty:
        notes.append(f"{empty} true outlines enclose no pixel; they count as missed, as in pycocotools.")
    if partly:
        notes.append("EVICAN's training and validation images are partly annotated: only recall can be told.")
    crowds = sum(int(scene.crowd.sum()) for scene in scenes)
    if crowds:
        notes.append(
            f"{crowds} true outlines are crowds: what is found in them counts neither for nor against."
        )
    return tuple(notes)
