"""Any grey image to the network's grey levels, and the choice of the scale at which the network sees it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from evican_model.config import NetworkConfig
from evican_model.errors import ImageError

__all__ = ["GREY", "choose_scale", "grey_levels", "normalise", "resize", "square_scale", "to_grey"]

GREY = 127.0  # what stands for "nothing": padding, and images without contrast
_PERCENTILES = (0.1, 99.9)  # robust to a few dead or saturated pixels, as the training images were stretched
_SAMPLE = 1_000_000  # pixels that are enough for a percentile
# An image that is a little too long for one tile is shown that much smaller: nobody sees it in its objects, and four
# tiles, of which most is overlap, take three times as long.
_ROOM = 1.15


def to_grey(image: np.ndarray) -> np.ndarray:
    """Return the one grey plane of an image.

    Parameters
    ----------
    image : array [height, width] or [height, width, 3 or 4]
        Any integer or float type. Three channels are averaged; a fourth (alpha) is ignored.

    Returns
    -------
    numpy.ndarray
        [height, width], the type of the input or float32.

    Raises
    ------
    ImageError
        If it is a stack, empty, not numeric, or holds values that are not finite.
    """
    image = np.asarray(image)
    if image.dtype == bool:
        image = image.astype(np.uint8)
    if image.dtype.kind not in "uif":
        raise ImageError(f"The image holds {image.dtype}; expected integers or floats.")
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        image = image[..., :3].mean(-1, dtype=np.float32)
    if image.ndim != 2:
        raise ImageError(
            f"The image has shape {image.shape}; expected one plane (height, width), or three channels of a grey "
            "image (height, width, 3). Stacks must be split into planes first."
        )
    if image.size == 0:
        raise ImageError(f"The image has shape {image.shape}: it has no pixels.")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ImageError(
            f"The image holds {int((~np.isfinite(image)).sum())} pixels that are NaN or infinite."
        )
    return image


def normalise(grey: np.ndarray) -> np.ndarray:
    """Stretch grey levels so that the darkest and the brightest 0.1 % become 0 and 255.

    Parameters
    ----------
    grey : array [height, width]
        As `to_grey` returns it.

    Returns
    -------
    float32 array [height, width]
        0 to 255; all `GREY` where the image has no contrast.
    """
    # A strided sample, not a random one: the same image always gives the same levels.
    step = max(1, int(np.sqrt(grey.size / _SAMPLE)))
    low, high = _percentiles(grey[::step, ::step], _PERCENTILES)
    if high <= low:  # almost all pixels alike: a dot on a blank field keeps its full range
        low, high = float(grey.min()), float(grey.max())
    if high <= low:
        return np.full(grey.shape, GREY, np.float32)
    stretched = (grey.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    return np.clip(stretched, 0.0, 255.0, out=stretched)


def _percentiles(grey: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Return what `numpy.percentile` does; of 8 and 16 bits by counting levels, which is sooner than sorting."""
    if grey.dtype not in (np.uint8, np.uint16):
        return np.percentile(grey, shares)
    places = np.asarray(shares) / 100 * (grey.size - 1)
    below = np.floor(places).astype(int)
    # The pixel that comes k-th is of the first level up to which there are more than k.
    counted = np.cumsum(np.bincount(grey.ravel()))
    low, high = (np.searchsorted(counted, k, side="right") for k in (below, np.minimum(below + 1, grey.size - 1)))
    return low + (high - low) * (places - below)


def grey_levels(image: np.ndarray, config: NetworkConfig) -> np.ndarray:
    """Return an image as the network is to see it: stretched, or as its 8 bits are stored.

    Parameters
    ----------
    image : array [height, width] or [height, width, 3 or 4]
        As `to_grey` takes it.
    config : NetworkConfig
        Of a config whose ``stretch`` is false, 8-bit levels stay as they are; other integers are scaled by the range of
        their type, and floats by 255: they must be 0 to 1, as CellProfiler gives them.

    Returns
    -------
    float32 array [height, width]
        0 to 255.

    Raises
    ------
    ImageError
        As `to_grey`, or if the range of the floats is not 0 to 1.
    """
    grey = to_grey(image)
    if config.stretch:
        return normalise(grey)
    stored = np.asarray(image).dtype  # that of the image: the mean of three channels is a float
    if stored.kind == "b":
        return grey.astype(np.float32) * np.float32(255)
    if stored.kind == "f":
        if grey.min() < 0 or grey.max() > 1:
            raise ImageError(
                f"The image holds floats from {grey.min():g} to {grey.max():g}. This network takes grey levels as they "
                "are stored: give integers, or floats from 0 to 1."
            )
        return grey.astype(np.float32) * np.float32(255)
    if stored.kind == "i" and grey.min() < 0:
        raise ImageError(f"The image holds integers down to {grey.min()}; this network takes none below 0.")
    return grey.astype(np.float32) * np.float32(255 / np.iinfo(stored).max)


def square_scale(shape: tuple[int, ...], config: NetworkConfig) -> float:
    """Return the scale at which a whole image fits the network's square (Matterport's mode "square").

    Parameters
    ----------
    shape : (int, int)
        Height and width of the image.
    config : NetworkConfig
        The shorter side is enlarged to ``shortest_side``, if the longer one then stays within ``tile``; otherwise the
        longer side becomes ``tile``.
    """
    scale = max(1.0, config.shortest_side / min(shape))
    return min(scale, config.tile / max(shape))


def resize(grey: np.ndarray, height: int, width: int, box: tuple[float, float, float, float] | None = None):
    """Resize a float32 plane with antialiasing (triangle filter, half-pixel centres).

    Parameters
    ----------
    grey : float32 array [rows, columns]
    height, width : int
        Size of the result in pixels.
    box : tuple of float, optional
        The part ``(y1, x1, y2, x2)`` of the input to show, in pixels; all of it by default.

    Returns
    -------
    float32 array [height, width]
    """
    if box is not None:
        y1, x1, y2, x2 = box
        source = Image.fromarray(grey).resize((width, height), Image.BILINEAR, box=(x1, y1, x2, y2))
        return np.asarray(source)
    if grey.shape == (height, width):
        return grey
    return np.asarray(Image.fromarray(grey).resize((width, height), Image.BILINEAR))


def choose_scale(levels: np.ndarray, detect_at, config: NetworkConfig):
    """Detect at the scale at which the image's objects have the size that the network knows best.

    A first look at a small copy, never an enlarged one, measures the objects; unless they already have the right size
    there, another look is taken at the scale that gives it to them. From too small a scale the measure falls short,
    so a second correction may follow. Enlarged too much, a cell falls apart into plausible parts: hence from below.

    Parameters
    ----------
    levels : float32 array [height, width]
    detect_at : callable
        ``detect_at(levels, scale)`` returns `Instances`.
    config : NetworkConfig

    Returns
    -------
    tuple of float and Instances
        The scale, and what was found at it.
    """
    scale = min(max(config.first_look / max(levels.shape), config.smallest_look), 1.0)
    found = detect_at(levels, scale)
    for _ in range(config.further_looks):
        wanted = min(scale * _size_factor(found, scale, config), config.largest_scale)
        one_tile = config.tile / max(levels.shape)
        if one_tile < wanted <= one_tile * _ROOM:
            wanted = one_tile
        if 1 / config.scale_tolerance <= wanted / scale <= config.scale_tolerance:
            break
        scale = wanted
        found = detect_at(levels, scale)
    return scale, found


def _size_factor(found, scale: float, config: NetworkConfig) -> float:
    """Return what the objects must be enlarged by to have their typical size; 1 when none is sure enough."""
    found = found.grouped_by_kind()
    factors, weights = [], []
    for category, typical in (("Cell", config.cell_diameter), ("Nucleus", config.nucleus_diameter)):
        if category not in found.categories:
            continue
        sure = found.scores(category) >= config.confidence
        if sure.any():
            diameters = 2 * np.sqrt(found.areas(category)[sure] / np.pi) * scale
            factors.append(np.log(typical / np.median(diameters)))
            weights.append(np.sqrt(sure.sum()))
    return float(np.exp(np.average(factors, weights=weights))) if factors else 1.0
