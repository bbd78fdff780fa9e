"""A model's detections in annotated images, in the form in which all tools are judged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from evican_model.errors import DatasetError, ImageError
from evican_model.evaluate.found import Found, Results, best_first
from evican_model.evaluate.ground_truth import Scene, SceneSet
from evican_model.images import read_image

if TYPE_CHECKING:
    from evican_model.model import Model

__all__ = ["detect_all"]


def detect_all(model: Model, scenes: SceneSet, name: str, cell_diameter: float | None = None) -> Results:
    """Run a model over a set of images.

    Parameters
    ----------
    model : Model
    scenes : SceneSet
    name : str
        What to call the model in the progress bar and in errors.
    cell_diameter : float, optional
        As for `Model.detect`.

    Raises
    ------
    DatasetError
        If annotations and model have no category in common.
    ImageError
        If an image cannot be read, or has another size than its annotations say.
    """
    offered = frozenset(scenes.categories) & frozenset(model.config.categories)
    if not offered:
        raise DatasetError(f"{scenes.source} has the categories {list(scenes.categories)}; {name} finds "
                           f"{list(model.config.categories)}. They share none.")  # fmt: skip
    found = []
    for scene in tqdm(scenes.scenes, desc=f"{name}, {scenes.name}", unit="image"):
        image = read_image(scene.image.path)
        if image.shape[:2] != scene.image.shape:
            raise ImageError(f"{scene.image.path} is {image.shape[1]} x {image.shape[0]} pixels; its annotations say "
                             f"{scene.image.shape[1]} x {scene.image.shape[0]}.")  # fmt: skip
        found.append(_in_categories(model.detect(image, cell_diameter=cell_diameter), scene, offered))
    return Results(offered, True, False, found)


def _in_categories(objects, scene: Scene, offered: frozenset) -> Found:
    """Give categories the numbers of the annotations, and drop those that they do not list."""
    names, theirs = scene.image.truth.categories, objects.categories
    ids = np.array([names.index(name) + 1 if name in offered else 0 for name in theirs], np.int32)
    mine = objects.select(ids[objects.category_ids - 1] > 0)
    mine = replace(mine, categories=names, category_ids=ids[mine.category_ids - 1])
    return best_first(mine, mine.all_scores.astype(np.float64))
