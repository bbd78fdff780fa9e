"""What a tool found, read from COCO results or from a folder of label images."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from evican_model.errors import DatasetError
from evican_model.evaluate.found import Found, Results, best_first
from evican_model.evaluate.ground_truth import Scene, SceneSet
from evican_model.evaluate.label_images import read_labels
from evican_model.instances import Instances
from evican_model.runs import read_outlines

__all__ = ["read_results"]


def read_results(place: str | Path, scenes: SceneSet, several: bool = False) -> Results:
    """Read the results of any tool for a set of images.

    Parameters
    ----------
    place : str or Path
        A COCO results file (``.json``); or a folder of label images, one file an image and class: ``NAME_cells.tiff``
        and ``NAME_nuclei.tiff`` (or ``NAME_<category>``), or ``cells/NAME.png`` and so on. ``DIR:Cell`` names a folder
        that holds one class under the images' own names. Scores are in ``objects.csv`` or ``scores.csv``, if there.
    scenes : SceneSet
    several : bool
        Whether they are for several sets of images: image ids, which EVICAN numbers anew in each, are then refused.

    Raises
    ------
    DatasetError
        If they cannot be read, or do not fit the images or categories.
    """
    text = str(place)
    folder, _, only = text.rpartition(":")
    if folder and only in scenes.categories and Path(folder).is_dir():
        return read_labels(Path(folder), scenes, only)
    if Path(text).is_dir():
        return read_labels(Path(text), scenes, None)
    if not Path(text).is_file():
        raise DatasetError(
            f"{text} is neither a file nor a folder; expected COCO results or a folder of label images."
        )
    return _read_coco_results(Path(text), scenes, several)


def _read_coco_results(source: Path, scenes: SceneSet, several: bool) -> Results:
    entries = _load_entries(source)
    by_name = all("file_name" in entry for entry in entries)
    keys: dict[Any, int]
    if by_name:  # `predict --coco` numbers the images it was given; their names are what counts
        keys = {scene.name: number for number, scene in enumerate(scenes.scenes)}
    elif several:
        raise DatasetError(f"{source} goes by image ids, which begin anew in every set; give a file for each set, with "
                           "{difficulty} in its name (--results results_{difficulty}.json).")  # fmt: skip
    else:
        keys = {scene.image.image_id: number for number, scene in enumerate(scenes.scenes)}
    if len(keys) < len(scenes.scenes):
        raise DatasetError(f"{source} goes by file names, of which {scenes.source} has some in several folders; "
                           "give results with image_id instead.")  # fmt: skip
    mine: dict[int, list[dict[str, Any]]] = defaultdict(list)
    strangers: Counter = Counter()
    offered = set()
    for entry in entries:
        category = scenes.category_ids.get(entry["category_id"])
        if category is None:
            raise DatasetError(f"{source} has results of category {entry['category_id']}; {scenes.source} lists "
                               f"{scenes.category_ids}.")  # fmt: skip
        offered.add(category)
        key = Path(entry["file_name"]).name if by_name else entry["image_id"]
        if key in keys:
            mine[keys[key]].append(entry)
        else:
            strangers[key] += 1
    if not mine:
        what = "file names" if by_name else "image ids"
        raise DatasetError(f"{source} holds no result for the {len(scenes.scenes)} images of {scenes.source}: "
                           f"it has the {what} {', '.join(map(str, list(strangers)[:3]))} ...")  # fmt: skip
    notes = [f"results for {len(strangers)} images that are not judged were left aside"] if strangers else []
    unscored = sum("score" not in entry for entry in entries)
    if unscored not in (0, len(entries)):
        raise DatasetError(
            f"{source}: {unscored} of {len(entries)} results have no score; all or none must have one."
        )
    found = [_found(mine[number], scene, scenes, source) for number, scene in enumerate(scenes.scenes)]
    return Results(frozenset(offered), unscored == 0, False, found, tuple(notes))


def _load_entries(source: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{source} cannot be read as JSON: {error}.") from error
    if not isinstance(entries, list):
        raise DatasetError(f"{source} is not a COCO results file: that is a list of objects.")
    if not entries:
        raise DatasetError(f"{source} holds no result.")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"image_id", "file_name"} & set(entry):
            raise DatasetError(f"{source}: result {number} names no image (image_id or file_name).")
        if "category_id" not in entry:
            raise DatasetError(f"{source}: result {number} has no category_id.")
        if "segmentation" not in entry:
            raise DatasetError(
                f"{source}: result {number} has no mask (segmentation); boxes alone are not judged."
            )
        score = entry.get("score", 1.0)
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise DatasetError(f"{source}: result {number} has the score {score!r}; expected a number.")
    return entries


def _found(entries: list[dict[str, Any]], scene: Scene, scenes: SceneSet, source: Path) -> Found:
    try:
        boxes, crops = read_outlines([entry["segmentation"] for entry in entries], scene.image.shape)
    except DatasetError as error:
        number, _, what = str(error).partition(": ")
        raise DatasetError(
            f"{source}: the mask of result {number} in {scene.name} cannot be used: {what}."
        ) from error
    index = {name: number for number, name in enumerate(scenes.categories, start=1)}
    ids = np.array([index[scenes.category_ids[entry["category_id"]]] for entry in entries], np.int32)
    scores = np.array([float(entry.get("score", 1.0)) for entry in entries], np.float64)
    objects = Instances(scene.image.shape, scenes.categories, ids, scores.astype(np.float32), boxes, crops)
    return best_first(objects, scores)
