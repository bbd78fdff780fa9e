"""Average precision on the way, on images that may be annotated in part only."""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

import numpy as np
from scipy import ndimage

from evican_model.dataset import AnnotatedImage
from evican_model.errors import DatasetError
from evican_model.evaluate import average_precision
from evican_model.images import read_image
from evican_model.instances import Instances

__all__ = ["on_annotated", "validate"]

_FEW = 4  # categories whose AP is given one by one; of EVICAN60's 60 only the mean


def validate(model, items: Sequence[AnnotatedImage], border: int) -> dict[str, float]:
    """Return the mean AP and AP50 over the categories that occur, and AP50 of each if they are few.

    Parameters
    ----------
    model : Model
    items : sequence of AnnotatedImage
    border : int
        See `on_annotated`.

    Raises
    ------
    DatasetError
        If no image has an outlined object.
    """
    pairs = []
    for item in items:
        found = model.detect(read_image(item.path))
        pairs.append((item, found) if item.dense else on_annotated(item, found, border))
    rows = {name: average_precision(pairs, name) for name in model.config.categories}
    rows = {name: row for name, row in rows.items() if row["objects"]}
    if not rows:
        raise DatasetError("No validation image has an outlined object; choose others with --validation.")
    values = {key: float(np.mean([row[key] for row in rows.values()])) for key in ("AP", "AP50")}
    if 1 < len(rows) <= _FEW:
        values.update({f"{name}_AP50": row["AP50"] for name, row in rows.items()})
    return values


def on_annotated(item: AnnotatedImage, found: Instances, border: int) -> tuple[AnnotatedImage, Instances]:
    """Leave out what was found where nothing is outlined: a partly annotated image cannot tell what it is.

    Parameters
    ----------
    item : AnnotatedImage
    found : Instances
    border : int
        Pixels that the outlined objects of a category are grown by; what lies in them by half or more is judged.

    Returns
    -------
    tuple
        The image, now to be judged as completely annotated, and the objects that can be judged.
    """
    keep = np.zeros(len(found), bool)
    for index, category in enumerate(found.categories):
        area = ndimage.binary_dilation(item.truth.labels(category) > 0, iterations=max(1, border))
        for i in np.flatnonzero(found.category_ids == index + 1):
            y1, x1, y2, x2 = found.all_boxes[i]
            crop = found.crops[i]
            keep[i] = 2 * np.count_nonzero(crop & area[y1:y2, x1:x2]) >= max(1, np.count_nonzero(crop))
    return replace(item, dense=True), found.select(keep)
