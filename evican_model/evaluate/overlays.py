"""Pictures of what was matched, missed and found falsely, for the report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from evican_model.evaluate.evaluation import Judgement
from evican_model.evaluate.ground_truth import Scene
from evican_model.evaluate.tally import Outcome
from evican_model.images import read_image
from evican_model.instances import Instances
from evican_model.scaling import normalise, to_grey

__all__ = ["COLORS", "Overlay", "best_median_worst", "draw_outcome"]

# Sky blue, yellow and vermilion stay apart for every kind of colour vision (Okabe and Ito).
COLORS = {"match": (86, 190, 255), "miss": (255, 230, 60), "false": (240, 90, 10)}
_EDGE = (15, 15, 15)  # a dark rim keeps the lines visible on bright halos
_LONGEST, _SHORTEST = 900, 450  # longest side of a picture in pixels


@dataclass(frozen=True)
class Overlay:
    """One picture of the report and what its caption says."""

    rank: str
    image: str
    cell_line: str
    category: str
    quality: float
    matched: int
    missed: int
    false: int
    picture: str  # a data URI
    width: int
    height: int


def best_median_worst(judgement: Judgement, category: str) -> list[Overlay]:
    """Return up to three pictures: the images of best, median and worst panoptic quality with objects of a category."""
    ones = [
        (tally.categories[category].outcome, scene)
        for scene, tally in zip(judgement.scenes.scenes, judgement.tallies)
        if category in tally.categories and tally.categories[category].outcome.true
    ]
    ones.sort(key=lambda pair: (-pair[0].panoptic_quality, pair[1].name))
    last = len(ones) - 1
    chosen = {"best": 0, "median": last // 2, "worst": last} if ones else {}
    overlays, seen = [], set()
    for rank, place in chosen.items():
        if place not in seen:
            seen.add(place)
            overlays.append(_overlay(rank if last else "only", *ones[place], category))
    return overlays


def draw_outcome(grey: np.ndarray, outcome: Outcome, truth: Instances, scale: float = 1.0) -> np.ndarray:
    """Draw matches and false finds as they were found, and missed objects as they are.

    Parameters
    ----------
    grey : uint8 [height, width]
        The image at the size of the picture.
    outcome : Outcome
    truth : Instances
        The true objects that the outcome counts from.
    scale : float
        Pixels of the picture for one of the image.

    Returns
    -------
    uint8 [height, width, 3]
    """
    drawn = np.repeat(grey[..., None], 3, axis=-1)
    missed = np.setdiff1d(np.arange(len(truth)), outcome.matches)
    lines = [
        (truth.select(missed), COLORS["miss"]),
        (outcome.objects.select((outcome.matches < 0) & outcome.counted), COLORS["false"]),
        (outcome.objects.select(outcome.matches >= 0), COLORS["match"]),
    ]
    for objects, color in lines:
        for box, crop in zip(objects.all_boxes.tolist(), objects.crops):
            if crop.size:
                _draw_line(drawn, box, crop, scale, color)
    return drawn


def _overlay(rank: str, outcome: Outcome, scene: Scene, category: str) -> Overlay:
    grey = normalise(to_grey(read_image(scene.image.path))).astype(np.uint8)
    longest = max(grey.shape)
    scale = min(1.0, _LONGEST / longest) if longest >= _SHORTEST else float(-(-_SHORTEST // longest))
    size = [max(1, round(side * scale)) for side in grey.shape]
    kind = Image.BOX if scale < 1 else Image.NEAREST
    shown = np.asarray(Image.fromarray(grey).resize((size[1], size[0]), kind))
    truth, crowd = scene.true(category)
    # Crowds are neither hit nor missed: they are not drawn, but keep their places.
    crops = tuple(np.zeros((0, 0), bool) if it else crop for crop, it in zip(truth.crops, crowd.tolist()))
    boxes = np.where(crowd[:, None], 0, truth.all_boxes)
    truth = Instances(truth.shape, truth.categories, truth.category_ids, truth.all_scores, boxes, crops)
    hits = int(outcome.hits[0])
    picture = _data_uri(draw_outcome(shown, outcome, truth, scale))
    return Overlay(rank, scene.name, scene.cell_line, category, outcome.panoptic_quality, hits, outcome.true - hits,
                   outcome.found - hits, picture, size[1], size[0])  # fmt: skip


def _draw_line(drawn: np.ndarray, box: list[int], crop: np.ndarray, scale: float, color) -> None:
    """Draw one outline inside the object, with a dark rim of one pixel outside it."""
    y1, x1 = round(box[0] * scale), round(box[1] * scale)
    height = max(1, round(box[2] * scale) - y1)
    mask = np.asarray(
        Image.fromarray(crop).resize((max(1, round(box[3] * scale) - x1), height), Image.NEAREST)
    )
    mask = np.pad(mask, 1)
    y1, x1 = y1 - 1, x1 - 1
    rim = ndimage.binary_dilation(mask) & ~mask
    # A phone shows a large picture at a third of its size: the line has to survive that.
    width = 3 if max(drawn.shape) > _SHORTEST * 4 // 3 else 2
    line = mask & ~ndimage.binary_erosion(mask, iterations=width)
    y2, x2 = min(y1 + mask.shape[0], drawn.shape[0]), min(x1 + mask.shape[1], drawn.shape[1])
    top, left = max(0, -y1), max(0, -x1)
    part = drawn[y1 + top : y2, x1 + left : x2]
    inside = np.s_[top : top + part.shape[0], left : left + part.shape[1]]
    part[rim[inside]] = _EDGE
    part[line[inside]] = color


def _data_uri(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    # Colour at full resolution: thin lines lose it otherwise. A tenth of the size of PNG.
    Image.fromarray(pixels).save(file, format="JPEG", quality=85, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
