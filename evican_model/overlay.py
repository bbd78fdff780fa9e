"""Outlines of the objects drawn over the image, to judge a segmentation by eye."""

from __future__ import annotations

from typing import Mapping

import numpy as np

from evican_model.errors import EvicanError
from evican_model.instances import Instances
from evican_model.scaling import normalise, to_grey

# Orange and sky blue stay apart for every kind of colour vision, and both stand out on grey (Okabe and Ito).
COLORS = {"Cell": (255, 159, 0), "Nucleus": (86, 200, 255)}
_OTHER = (204, 121, 167)
_LARGE = 1500  # images with a side above this are shown reduced: their lines are two pixels wide


def draw_outlines(
    image: np.ndarray, instances: Instances, colors: Mapping[str, tuple[int, int, int]] | None = None
) -> np.ndarray:
    """Draw the outline of every object, inside the object, over the image in grey.

    Parameters
    ----------
    image : array [height, width] or [height, width, 3 or 4]
        Stretched between its darkest and brightest 0.1 % for display.
    instances : Instances
        Later categories are drawn over earlier ones: nuclei over cells.
    colors : mapping of str to (red, green, blue), optional
        Instead of ``COLORS``; 0 to 255.

    Returns
    -------
    uint8 [height, width, 3]

    Raises
    ------
    ImageError
        The image is not a single plane.
    EvicanError
        Image and instances differ in size.

    Examples
    --------
    >>> square = Instances((6, 6), ("Cell",), [1], [0.9], [[1, 1, 5, 5]], [np.ones((4, 4), bool)])
    >>> drawn = draw_outlines(np.zeros((6, 6)), square, {"Cell": (255, 0, 0)})
    >>> (drawn == (255, 0, 0)).all(-1).astype(int)
    array([[0, 0, 0, 0, 0, 0],
           [0, 1, 1, 1, 1, 0],
           [0, 1, 0, 0, 1, 0],
           [0, 1, 0, 0, 1, 0],
           [0, 1, 1, 1, 1, 0],
           [0, 0, 0, 0, 0, 0]])
    """
    grey = to_grey(image)
    if grey.shape != instances.shape:
        raise EvicanError(f"outlines for {instances.shape} pixels do not fit an image of {grey.shape}")
    colors = COLORS if colors is None else colors
    drawn = np.repeat(normalise(grey).astype(np.uint8)[..., None], 3, axis=-1)
    width = 2 if max(grey.shape) > _LARGE else 1
    for category in instances.categories:
        color = colors.get(category, _OTHER)
        found = instances.of(category)
        for (y1, x1, y2, x2), crop in zip(found.all_boxes.tolist(), found.crops):
            drawn[y1:y2, x1:x2][crop & ~_eroded(crop, width)] = color
    return drawn


def _eroded(mask: np.ndarray, times: int) -> np.ndarray:
    """Take away the pixels with a 4-neighbour outside the mask."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask
