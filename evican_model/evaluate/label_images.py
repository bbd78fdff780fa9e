"""Label images of other tools: in each, the pixels of an object have its number, and the background 0."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import ndimage

from evican_model.errors import DatasetError
from evican_model.evaluate.found import Found, Results, best_first
from evican_model.evaluate.ground_truth import Scene, SceneSet
from evican_model.images import read_image
from evican_model.instances import Instances

__all__ = ["read_labels"]

_IMAGES = (".tif", ".tiff", ".png")
_TABLES = ("objects.csv", "scores.csv")
_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "")  # of tools that find one class


def read_labels(folder: Path, scenes: SceneSet, only: str | None = None) -> Results:
    """Read a folder of label images; see `results.read_results` for how its files are named.

    Parameters
    ----------
    folder : Path
    scenes : SceneSet
    only : str, optional
        The one category that the folder holds, under the images' own names.

    Raises
    ------
    DatasetError
        If an image's file is missing, there twice, of another size, or no label image.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _IMAGES and path.is_file():
            files[path.relative_to(folder).with_suffix("").as_posix().casefold()].append(path)
    if not files:
        raise DatasetError(f"{folder} holds no label image ({', '.join(_IMAGES)}).")
    chosen = {
        category: {scene.name: _label_files(files, scene, category, only, folder) for scene in scenes.scenes}
        for category in ([only] if only else scenes.categories)
    }
    offered = [category for category, paths in chosen.items() if any(paths.values())]
    if not offered:
        raise DatasetError(
            f"{folder} holds no label image of {Path(scenes.scenes[0].name).stem} or any other image judged; expected "
            f"{' or '.join(_stems(scenes.scenes[0], scenes.categories[0], only)[:3])} with {', '.join(_IMAGES)}."
        )
    for category in offered:
        missing = [name for name, paths in chosen[category].items() if not paths]
        if missing:
            raise DatasetError(f"{folder} has no {category} label image of {len(missing)} images: "
                               f"{', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''}.")  # fmt: skip
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    scores = _read_scores(table, only) if table else None
    found = []
    for scene in scenes.scenes:
        parts = [_objects(chosen[name][scene.name][0], scene, name, scores, table) for name in offered]
        objects = Instances.concatenate([one.objects for one in parts])
        found.append(best_first(objects, np.concatenate([one.scores for one in parts])))
    return Results(frozenset(offered), scores is not None, True, found)


def _stems(scene: Scene, category: str, only: str | None) -> list[str]:
    stem, low = Path(scene.name).stem, category.lower()
    if only:
        return [f"{stem}{ending}" for ending in _ENDINGS]
    words = [low, {"cell": "cells", "nucleus": "nuclei"}.get(low, f"{low}s")][::-1]
    return [f"{stem}_{word}" for word in words] + [f"{word}/{stem}" for word in words]


def _label_files(files, scene: Scene, category: str, only: str | None, folder: Path) -> list[Path]:
    """Return the label image of a scene and category, or nothing."""
    by_stem = [files.get(stem.casefold(), []) for stem in _stems(scene, category, only)]
    if only:  # a tool may have put its masks beside the images: the most telling name is meant
        by_stem = [paths for paths in by_stem if paths][:1]
    paths = [path for same in by_stem for path in same]
    if len(paths) > 1:
        raise DatasetError(f"{folder} has {paths[0].name} and {paths[1].name} for {category} of {scene.name}; "
                           "only one can be meant.")  # fmt: skip
    return paths


def _objects(path: Path, scene: Scene, category: str, scores, table) -> Found:
    """Read one label image; an object is all pixels of one value."""
    labels = read_image(path)
    if labels.shape != scene.image.shape or labels.dtype.kind not in "ui":
        raise DatasetError(f"{path} is {labels.dtype} of shape {labels.shape}; expected whole numbers of shape "
                           f"{scene.image.shape}, 0 for background.")  # fmt: skip
    values, places = np.unique(labels, return_inverse=True)
    if values.min() < 0 or (values.tolist() in ([0, 255], [255]) and labels.dtype == np.uint8):
        raise DatasetError(
            f"{path} holds the values {values[:5].tolist()}: that is no label image, in which each object has a number "
            "of its own, from 1, and the background 0."
        )
    if values[0] != 0:
        values, places = np.append(0, values), places + 1
    slices = ndimage.find_objects(places.reshape(labels.shape))
    places = places.reshape(labels.shape)
    boxes = np.array([[s[0].start, s[1].start, s[0].stop, s[1].stop] for s in slices], np.int32).reshape(
        -1, 4
    )
    crops = tuple(places[s] == number for number, s in enumerate(slices, start=1))
    own = np.ones(len(crops))
    if scores is not None:
        keys = [(scene.name, category, int(value)) for value in values[1:]]
        lost = [key for key in keys if key not in scores]
        if lost:
            raise DatasetError(f"{table} has no score for object {lost[0][2]} of {path}.")
        own = np.array([scores[key] for key in keys], np.float64)
    categories = scene.image.truth.categories
    ids = np.full(len(crops), categories.index(category) + 1)
    return Found(Instances(scene.image.shape, categories, ids, own.astype(np.float32), boxes, crops), own)


def _read_scores(table: Path, only: str | None) -> dict[tuple[str, str, int], float]:
    """Read file_name, category, label and score; a folder of one class needs no category."""
    scores = {}
    try:
        with open(table, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                category = only or row["category"]
                # `predict` puts an apostrophe before names that a spreadsheet would take for formulas
                name = Path(row["file_name"].lstrip("'")).name
                scores[name, category, int(row["label"])] = float(row["score"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{table} cannot be read as a table of file_name, category, label and score: {error!r}."
        ) from error
    if not all(map(math.isfinite, scores.values())):
        raise DatasetError(f"{table} has scores that are no numbers.")
    return scores
