"""Quality of images: what the pixels say, and flags that compare an image with its plate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np

from evican_model.errors import ImageError
from evican_model.images import read_image

__all__ = ["FLAGS", "flag_images", "image_quality"]

FLAGS = ("OutOfFocus", "Saturated", "Empty", "TooDense", "DetectionCap", "ScoreDrop")
_FULL_SCALES = (255, 1023, 4095, 16383, 65535)  # of 8, 10, 12, 14 and 16 bits
SATURATED_SHARE = 0.01
DENSE_CONFLUENCY = 0.9
CAP_SHARE = 0.9
FAR = 4.0  # robust standard deviations below the median of the plate
_LEAST_IMAGES = 8  # for a plate's median to mean anything


def image_quality(path: Path) -> dict[str, float]:
    """Measure an image.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        ``focus``: variance of the Laplacian over the variance of the image (no unit; falls when the image is blurred),
        ``saturated``: share of pixels at the top of the camera's range. Empty for a file that only CellProfiler reads.
    """
    try:
        pixels = read_image(path)
    except ImageError:
        return {}
    grey = pixels.mean(-1) if pixels.ndim == 3 else pixels
    grey = np.asarray(grey, np.float32)
    top = float(grey.max(initial=0))
    saturated = float((grey >= top).mean()) if top in _FULL_SCALES else 0.0
    variance = float(grey.var())
    if min(grey.shape) < 3 or variance == 0:
        return {"focus": 0.0, "saturated": saturated}
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return {"focus": float(laplacian.var()) / variance, "saturated": saturated}


def flag_images(plates: Sequence[str], measures: dict[str, np.ndarray], cap: int) -> dict[str, np.ndarray]:
    """Flag images.

    Parameters
    ----------
    plates : sequence of str
        The plate of each of N images.
    measures : dict of str to ndarray
        [N] each: ``focus``, ``saturated``, ``confluency``, ``score`` (median), ``cells``, ``nuclei`` and ``densest``
        (cells in the densest piece of the size of a tile). NaN where unknown.
    cap : int
        Detections that the network makes in a tile at most, cells and nuclei together.

    Returns
    -------
    dict of str to ndarray of bool
        [N] for each of `FLAGS`.
    """
    names = np.asarray(plates)
    focus, score = np.zeros(len(names), bool), np.zeros(len(names), bool)
    for plate in dict.fromkeys(plates):
        here = names == plate
        focus[here] = _far_below(np.log10(np.maximum(measures["focus"][here], 1e-12)))
        score[here] = _far_below(measures["score"][here])
    return {
        "OutOfFocus": focus,
        "Saturated": measures["saturated"] > SATURATED_SHARE,
        "Empty": (measures["cells"] == 0) & (measures["nuclei"] == 0),
        "TooDense": measures["confluency"] > DENSE_CONFLUENCY,
        # about as many nuclei as cells share the tile
        "DetectionCap": 2 * measures["densest"] >= CAP_SHARE * cap,
        "ScoreDrop": score,
    }


def _far_below(values: np.ndarray) -> np.ndarray:
    """Whether each value lies far below the median, in robust standard deviations."""
    known = values[np.isfinite(values)]
    if len(known) < _LEAST_IMAGES:
        return np.zeros(len(values), bool)
    center = np.median(known)
    spread = 1.4826 * np.median(np.abs(known - center))
    with np.errstate(invalid="ignore"):
        return values < center - FAR * max(spread, 1e-3)


def tile_counts(x: np.ndarray, y: np.ndarray, areas: np.ndarray, tile: int, diameter: float) -> int:
    """Return the number of objects in the densest square of the size of a network tile.

    Parameters
    ----------
    x, y, areas : ndarray
        [N] centers and areas in pixels of the image.
    tile : int
        Side of a tile in pixels of the network's input, in which a typical cell has the given diameter.
    diameter : float
    """
    if not len(x):
        return 0
    typical = 2 * np.sqrt(np.median(areas) / np.pi)
    side = max(1.0, tile * typical / diameter)
    cells = np.stack([x // side, y // side])
    return int(np.unique(cells, axis=1, return_counts=True)[1].max())


def as_array(values: Sequence[Any]) -> np.ndarray:
    """Return numbers with NaN for None."""
    return np.array([np.nan if value is None else value for value in values], float)
