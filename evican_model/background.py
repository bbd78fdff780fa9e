"""The paper's way with partly annotated images: what is not outlined is blurred until no cell can be seen in it.

Schwendy et al. 2020, section 2.2: everything but the annotated instances, grown by 10 pixels, is blurred with a
Gaussian of 30 pixels. Nothing that is left unlabelled is then there to be found, so the rest counts as background.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from evican_model.config import TrainConfig
from evican_model.dataset import AnnotatedImage
from evican_model.instances import Instances

__all__ = ["blur_unannotated", "blurred_levels"]


def blur_unannotated(
    levels: np.ndarray, truth: Instances, border: int, sigma: float, seam: float
) -> np.ndarray:
    """Blur all of an image but its annotated instances and a border around them.

    Parameters
    ----------
    levels : uint8 array [height, width]
    truth : Instances
        What is annotated, of all categories.
    border : int
        Pixels that the instances are grown by; 10 in the paper.
    sigma : float
        Of the Gaussian, in pixels; 30 in the paper.
    seam : float
        Pixels beyond the border over which the sharp image fades into the blurred one, so that no edge is left for
        the network to learn. 0: a hard edge.

    Returns
    -------
    uint8 array [height, width]
    """
    annotated = np.zeros(levels.shape, bool)
    for (y1, x1, y2, x2), crop in zip(truth.all_boxes.tolist(), truth.crops):
        annotated[y1:y2, x1:x2] |= crop
    grey = levels.astype(np.float32)
    blurred = ndimage.gaussian_filter(grey, sigma, truncate=3.0)
    if not annotated.any():
        return np.rint(blurred).astype(np.uint8)
    distance = ndimage.distance_transform_edt(~annotated).astype(np.float32) - np.float32(border)
    sharp = np.clip(1 - distance / np.float32(seam), 0, 1) if seam > 0 else (distance <= 0).astype(np.float32)
    sharp = sharp * sharp * (3 - 2 * sharp)  # smooth at both ends of the seam
    return np.rint(blurred + sharp * (grey - blurred)).astype(np.uint8)


def blurred_levels(
    item: AnnotatedImage, levels: np.ndarray, training: TrainConfig, cache: Path
) -> np.ndarray:
    """Return an image with its unannotated part blurred, from the cache if it is there.

    Parameters
    ----------
    item : AnnotatedImage
    levels : uint8 array [height, width]
        Its grey levels.
    training : TrainConfig
        ``known_border``, ``blur_sigma`` and ``blur_seam``.
    cache : Path
        Folder of blurred images; made if need be. A file's name is made from all that its content depends on, so
        runs and processes may share a folder.

    Returns
    -------
    uint8 array [height, width]
    """
    path = cache / f"{_key(item, training)}.png"
    if path.is_file():
        with Image.open(path) as image:
            return np.asarray(image)
    blurred = blur_unannotated(
        levels, item.truth, training.known_border, training.blur_sigma, training.blur_seam
    )
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(
        f".{os.getpid()}-{id(blurred)}.part"
    )  # a stopped run leaves no half image behind
    Image.fromarray(blurred).save(partial, "PNG", compress_level=1)
    os.replace(partial, path)
    return blurred


def _key(item: AnnotatedImage, training: TrainConfig) -> str:
    digest = hashlib.sha256(item.sha256.encode())
    digest.update(repr((training.known_border, training.blur_sigma, training.blur_seam)).encode())
    digest.update(item.truth.all_boxes.tobytes())
    for crop in item.truth.crops:
        digest.update(np.packbits(crop).tobytes())
    return digest.hexdigest()[:32]
