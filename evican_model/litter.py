"""Large litter of a culture that a network must not take for cells: crystals, fibres, droplets and films."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from evican_model.noise import smooth_noise

__all__ = ["LITTER", "add_litter"]

# How often each kind is drawn.
LITTER = {"crystal": 0.35, "fibre": 0.25, "droplets": 0.2, "film": 0.2}
# Radians of delay from one pixel to the next that a picture can still tell from less.
_STEEPEST = 2.5


def add_litter(rng: np.random.Generator, wave: np.ndarray, pixel: float, amount: float) -> np.ndarray:
    """Scatter things as large as nuclei and cells that are neither.

    Crystals and shreds of plastic (convex, with facets, often with a droplet hanging on), fibres of cloth and paper,
    heaps of droplets, and films: thin skins with a sharp edge, such as a dried or detached patch leaves.

    Parameters
    ----------
    rng : numpy.random.Generator
    wave : complex64 array [side, side]
    pixel : float
        Micrometres a pixel.
    amount : float
        Pieces for a million pixels; 0 draws no random number, so that fields stay what they were.

    Returns
    -------
    complex64 array [side, side]
    """
    if amount <= 0:
        return wave
    phase, dark = np.zeros((2, *wave.shape), np.float32)
    kinds = list(LITTER)
    draw = {"crystal": _crystal, "fibre": _fibre, "droplets": _droplets, "film": _film}
    for _ in range(int(rng.poisson(amount * wave.size / 1e6))):
        kind = kinds[int(rng.choice(len(kinds), p=list(LITTER.values())))]
        place, delay, loss = draw[kind](rng, pixel)
        y, x = (int(rng.integers(0, side)) for side in wave.shape)
        _paste(phase, place * delay, y, x)
        _paste(dark, place * loss, y, x)
    return (wave * np.exp(1j * phase - dark)).astype(np.complex64)


def _crystal(rng, pixel):
    """Draw a convex piece of few corners, its thickness rising to an edge; sometimes with a droplet at one end."""
    length = np.exp(rng.normal(np.log(9), 0.45)) / pixel
    width = length / rng.uniform(1.0, 4.0)
    turn = rng.uniform(0, 2 * np.pi)
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 8))))
    along, across = 0.5 * length * np.cos(angles), 0.5 * width * np.sin(angles)
    corners = np.stack([along * np.cos(turn) - across * np.sin(turn), along * np.sin(turn) + across * np.cos(turn)], 1)
    place = _polygon(corners, length)
    y, x = _centred(place.shape)
    slope, facing = rng.uniform(0, min(_STEEPEST, 40 / length)), rng.uniform(0, 2 * np.pi)
    delay = np.float32(rng.uniform(0.5, 6)) + np.float32(slope) * (np.cos(facing) * x + np.sin(facing) * y)
    loss = np.full_like(place, max(0, rng.normal(0, 0.4)))
    if rng.random() < 0.35:
        radius = np.exp(rng.normal(np.log(2.5), 0.3)) / pixel
        end = 0.5 * length * rng.uniform(0.8, 1.2)
        drop = _disc(y - end * np.sin(turn), x - end * np.cos(turn), radius)
        delay = np.where(place > 0.5, delay, np.float32(rng.uniform(0.3, 1.5)))
        loss = np.where(place > 0.5, loss, np.float32(max(0, rng.normal(0, 0.2))))
        place = np.maximum(place, drop)
    return place, delay.astype(np.float32), loss.astype(np.float32)


def _fibre(rng, pixel):
    """Draw a curved thread of even width."""
    length, width = np.exp(rng.normal(np.log(45), 0.6)) / pixel, np.exp(rng.normal(np.log(1.6), 0.4)) / pixel
    t = np.linspace(0, 1, 24)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.12, t.size)) + rng.normal(0, 1.2) * t
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * length / t.size
    path -= path.mean(0)
    half = int(np.abs(path).max() + width + 3)
    canvas = Image.new("L", (2 * half + 1,) * 2)
    pen = ImageDraw.Draw(canvas)
    pen.line([tuple(p + half) for p in path], fill=255, width=max(1, int(round(width))), joint="curve")
    place = ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255, 0.6)
    return place, np.float32(rng.uniform(-0.5, 3)), np.float32(max(0, rng.normal(0.1, 0.3)))


def _droplets(rng, pixel):
    """Draw one to several round drops or bubbles side by side, none as large as a rounded cell."""
    radii = np.exp(rng.normal(np.log(1.8), 0.4, int(rng.integers(1, 9)))) / pixel
    half = int(3 * radii.max() + 3)
    y, x = _centred((2 * half + 1,) * 2)
    place = np.zeros(y.shape[:1] + x.shape[1:], np.float32)
    for radius in radii:
        dy, dx = rng.normal(0, 0.9 * radii.max(), 2)
        square = ((y - dy) ** 2 + (x - dx) ** 2) / radius**2
        place = np.maximum(place, np.sqrt(np.clip(1 - square, 0, None)) * np.float32(radius / radii.max()))
    return place.astype(np.float32), np.float32(rng.uniform(-2, 5)), np.float32(max(0, rng.normal(0, 0.3)))


def _film(rng, pixel):
    """Draw a patch with a sharp, irregular outline and hardly any thickness."""
    half = int(np.exp(rng.normal(np.log(14), 0.4)) / pixel)
    y, x = _centred((2 * half + 1,) * 2)
    lumps = smooth_noise(rng, (2 * half + 1,) * 2, half * rng.uniform(0.3, 1.0))
    height = 0.75 - (y**2 + (x * rng.uniform(1, 2)) ** 2) / half**2 + 0.3 * lumps
    rim = np.minimum(1, (half - np.maximum(np.abs(y), np.abs(x))) / 3)
    place = np.clip(height * half / rng.uniform(1.5, 12), 0, 1) * rim
    # Thinner and smoother than the thinnest cell: a thicker one could not be told from a cell without nucleus.
    grain = 1 + np.float32(rng.uniform(0, 0.12)) * smooth_noise(rng, place.shape, max(2.0, 1.5 / pixel))
    depth = np.exp(rng.uniform(np.log(0.03), np.log(0.2))) * rng.choice([-1, 1])
    return place.astype(np.float32), np.float32(depth) * grain, np.float32(max(0, rng.normal(0, 0.05)))


def _polygon(corners, reach):
    half = int(reach) + 3
    canvas = Image.new("L", (2 * half + 1,) * 2)
    ImageDraw.Draw(canvas).polygon([tuple(corner + half) for corner in corners], fill=255)
    return ndimage.gaussian_filter(np.asarray(canvas, np.float32) / 255, 0.7)


def _disc(y, x, radius):
    return np.clip(radius - np.sqrt(y**2 + x**2) + 0.5, 0, 1).astype(np.float32)


def _centred(shape):
    """Return coordinates from the middle of an array of odd sides: y [height, 1], x [1, width]."""
    height, width = shape
    return np.ogrid[-(height // 2) : height // 2 + 1, -(width // 2) : width // 2 + 1]


def _paste(canvas, piece, y, x):
    """Add a piece with its middle at (y, x); what reaches over an edge is cut off."""
    top, left = y - piece.shape[0] // 2, x - piece.shape[1] // 2
    rows = slice(max(0, top), min(canvas.shape[0], top + piece.shape[0]))
    columns = slice(max(0, left), min(canvas.shape[1], left + piece.shape[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        canvas[rows, columns] += piece[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
