"""A sheet of training samples as the network will see them, to look at before hours of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evican_model.instances import Instances
from evican_model.masks import tighten
from evican_model.overlay import draw_outlines
from evican_model.samples import SampleSource

__all__ = ["draw_samples"]

_UNKNOWN = np.array([255, 60, 60], np.float32)
_GAP = 4


def draw_samples(source: SampleSource, path: Path, columns: int = 4, rows: int = 3) -> None:
    """Save a picture of the first samples with their outlines.

    Red is what the training takes as unknown: objects there may lack their outline, so it is not background.

    Parameters
    ----------
    source : SampleSource
    path : Path
        PNG file.
    columns, rows : int
    """
    side = source.training.crop
    sheet = np.full((rows * (side + _GAP) - _GAP, columns * (side + _GAP) - _GAP, 3), 255, np.uint8)
    for number in range(columns * rows):
        y, x = (k * (side + _GAP) for k in divmod(number, columns))
        sheet[y : y + side, x : x + side] = _draw(source.sample(number), source.network.categories)
    Image.fromarray(sheet).save(path)


def _draw(sample, categories):
    used = sample["category_ids"] > 0
    masks = sample["masks"][used].astype(bool)
    height, width = sample["image"].shape[:2]
    boxes = np.tile(np.array([0, 0, height, width], np.int32), (len(masks), 1))
    boxes, crops = tighten(boxes, list(masks))
    truth = Instances(
        (height, width), categories, sample["category_ids"][used], np.ones(len(masks)), boxes, crops
    )
    image = np.clip(sample["image"][..., 0], 0, 255)[..., None]
    # Drawn on nothing, since drawing stretches an image's grey levels.
    outlines = draw_outlines(np.zeros((height, width), np.uint8), truth).astype(np.float32)
    drawn = np.where(np.ptp(outlines, -1, keepdims=True) > 0, outlines, image)
    step = height // sample["known"].shape[0]
    unknown = (sample["known"] < 1).mean(-1).repeat(step, 0).repeat(step, 1)[..., None]
    return np.rint(drawn * (1 - 0.3 * unknown) + _UNKNOWN * 0.3 * unknown).astype(np.uint8)
