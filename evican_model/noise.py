"""Random fields with lumps of a chosen size."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["smooth_noise"]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], grain: float) -> np.ndarray:
    """Return noise whose lumps are about `grain` pixels wide.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (int, int)
        Height and width.
    grain : float
        Pixels from one independent value to the next; between them it is bicubic.

    Returns
    -------
    float32 array [height, width]
        Of mean 0 and standard deviation 1.
    """
    small = [max(3, int(round(side / max(1.0, grain)))) for side in shape]
    coarse = Image.fromarray(rng.standard_normal(small, dtype=np.float32))
    fine = np.asarray(coarse.resize(shape[::-1], Image.BICUBIC))
    return (fine - fine.mean()) / (fine.std() + np.float32(1e-6))
