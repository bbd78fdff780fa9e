"""Unstained cells as light meets them: a map of its delay, with the exact outlines of cells and nuclei.

Lengths in micrometres unless pixels are named. A cell is a thin lens of cytoplasm with a thicker part around the
nucleus; what is seen inside comes from small differences in refractive index: nucleoli, granules, droplets, vacuoles.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from evican_model.cell_shapes import SHAPES, colony, draw
from evican_model.noise import smooth_noise
from evican_model.optics import WAVELENGTH

__all__ = ["STYLES", "Specimen", "grow_specimen"]

# How often each shape occurs in a culture of each style.
STYLES: dict[str, dict[str, float]] = {
    "epithelial": {"spread": 0.5, "round": 0.5},  # in colonies, with a few single cells
    "spread": {"spread": 0.75, "round": 0.1, "spindle": 0.15},
    "fibroblast": {"spindle": 0.55, "long": 0.3, "spread": 0.1, "round": 0.05},
    "stellate": {"stellate": 0.65, "spindle": 0.15, "long": 0.1, "round": 0.1},
    "round": {"round": 0.8, "spread": 0.2},
    "mixed": {"spread": 0.35, "spindle": 0.25, "stellate": 0.15, "long": 0.1, "round": 0.15},
}
_WAVE = np.float32(2 * np.pi / WAVELENGTH)  # radians of delay for a micrometre of optical path


@dataclass(frozen=True, eq=False)
class Specimen:
    """Cells on a plane.

    Parameters
    ----------
    phase : float32 array [side, side]
        Delay of the light in radians; 0 where there is only medium.
    cells, nuclei : int32 array [side, side]
        Labels from 1; 0 is none. No cell overlaps another, and every nucleus lies in one cell.
    pixel : float
        Micrometres a pixel.
    """

    phase: np.ndarray
    cells: np.ndarray
    nuclei: np.ndarray
    pixel: float


@dataclass
class _Culture:
    """What is being grown, and how its cells look alike."""

    rng: np.random.Generator
    pixel: float
    phase: np.ndarray
    cells: np.ndarray
    nuclei: np.ndarray
    granules: np.ndarray  # chance of a granule a pixel
    contrast: float  # refractive index of cytoplasm above that of the medium
    envelope: float  # optical path of the nuclear envelope, either sign
    nuclear_index: float  # refractive index of the nucleus above that of cytoplasm
    nucleoli: float
    crowding: float  # granules a square micrometre
    settled: list[tuple[float, float, int]] = field(default_factory=list)  # middle and area of each cell
    nucleus_count: int = 0


def grow_specimen(
    rng: np.random.Generator, side: int, pixel: float, diameter: float, style: str, confluence: float
) -> Specimen:
    """Grow cells until they cover the wanted share of the plane, or find no more room.

    Parameters
    ----------
    rng : numpy.random.Generator
    side : int
        Pixels of the square plane.
    pixel : float
        Micrometres a pixel.
    diameter : float
        Of a typical cell, in pixels: that of the disc of the same area.
    style : str
        One of `STYLES`.
    confluence : float
        Share of the plane that cells cover, 0 to 1.

    Returns
    -------
    Specimen
    """
    plane = (side, side)
    culture = _Culture(
        rng=rng,
        pixel=pixel,
        phase=np.zeros(plane, np.float32),
        cells=np.zeros(plane, np.int32),
        nuclei=np.zeros(plane, np.int32),
        granules=np.zeros(plane, np.float32),
        contrast=rng.uniform(0.018, 0.035),
        envelope=rng.choice([-1, 1]) * rng.uniform(0.001, 0.014),
        nuclear_index=rng.uniform(-0.010, 0.006),
        nucleoli=rng.uniform(0.008, 0.03),
        crowding=np.exp(rng.uniform(np.log(0.03), np.log(0.6))),
    )
    covered = 0
    if style == "epithelial":
        labels = colony(rng, side, diameter, confluence)
        for label, box in enumerate(ndimage.find_objects(labels), 1):
            if box is not None:
                covered += _settle(culture, labels[box] == label, box, "tile")
    names = list(STYLES[style])
    chances = np.array(list(STYLES[style].values()))
    wanted = confluence * side**2
    attempts = int(3 * wanted / (np.pi / 4 * diameter**2)) + 2
    for _ in range(attempts):
        if covered >= wanted:
            break
        name = names[rng.choice(len(names), p=chances / chances.sum())]
        size = diameter * float(np.exp(rng.normal(0, 0.2))) * (0.62 if name == "round" else 1.0)
        mask = draw(SHAPES[name](rng), size, rng)
        alone = covered == 0 or rng.random() < 0.6
        place = rng.integers(-mask.shape[0] // 2, side, 2) if alone else _beside(culture, mask, rng)
        part, box = _cut(mask, place, side)
        covered += _settle(culture, part, box, name)
    return _finish(culture)


def _cut(mask, place, side):
    """Cut a mask placed at a corner (y, x) to the plane; return it and the slices it covers."""
    (y, x), (height, width) = (int(p) for p in place), mask.shape
    y1, x1, y2, x2 = max(0, y), max(0, x), min(side, y + height), min(side, x + width)
    if y1 >= y2 or x1 >= x2:
        return np.zeros((0, 0), bool), (slice(0, 0), slice(0, 0))
    return mask[y1 - y : y2 - y, x1 - x : x2 - x], (slice(y1, y2), slice(x1, x2))


def _beside(culture, mask, rng):
    """Return a corner that puts the mask next to a cell that is there: cells of a culture keep company."""
    y, x, area = culture.settled[int(rng.integers(len(culture.settled)))]
    middle, angle = (y, x), rng.uniform(0, 2 * np.pi)
    reach = (np.sqrt(area) + np.sqrt(mask.sum())) * rng.uniform(0.5, 0.75)
    return [int(m + reach * s - n / 2) for m, s, n in zip(middle, (np.sin(angle), np.cos(angle)), mask.shape)]


def _settle(culture: _Culture, mask: np.ndarray, box, kind: str) -> int:
    """Let a cell settle where the plane is free, if enough is; return the pixels that it covers."""
    if mask.size == 0:
        return 0
    whole = int(mask.sum())
    mask = _largest_piece(mask & (culture.cells[box] == 0))
    area = int(mask.sum())
    if area < max(30, 0.7 * whole):
        return 0
    # Padded: the edge of the plane is no edge of the cell only where the plane goes on, and that is not seen anyway.
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)
    nuclei = _place_nuclei(culture, mask, depth, kind)
    if not nuclei:
        return 0
    mitotic = kind == "round" and culture.rng.random() < 0.25
    height = _height(culture, mask, depth * np.float32(culture.pixel), kind)
    path = culture.rng.uniform(0.8, 1.25) * culture.contrast * height
    culture.settled.append(((box[0].start + box[0].stop) / 2, (box[1].start + box[1].stop) / 2, area))
    culture.cells[box][mask] = len(culture.settled)
    around = np.zeros(mask.shape, np.float32)
    for radius, extent in nuclei:
        inside = radius < 1
        culture.nucleus_count += 1
        culture.nuclei[box][inside] = culture.nucleus_count
        path += _nuclear_path(culture, radius, extent, mitotic) * mask
        # Granules crowd around the nucleus and keep out of it.
        around = np.maximum(around, np.exp(-np.maximum(radius - 1, 0) * 1.5) * (radius > 1.05))
    density = culture.crowding * culture.rng.uniform(0.5, 1.5) * culture.pixel**2
    rim = np.clip(depth * culture.pixel - 0.8, 0, 1)
    culture.granules[box] += np.where(mask, density * around * rim * np.minimum(height, 3), 0)
    culture.phase[box] += np.where(mask, _WAVE * path, 0)
    return area


def _height(culture, mask, depth, kind):
    """Height of a cell above the plane, from the depth of each place inside its outline."""
    rng, most = culture.rng, float(depth.max())
    if kind == "round":
        sunk = np.clip(most - depth, 0, most)
        return 2 * np.sqrt(most**2 - sunk**2) * np.float32(rng.uniform(0.7, 1.0)) * mask
    if kind == "tile":
        top, steep = rng.uniform(3.5, 7.0), rng.uniform(0.35, 0.7)
    elif kind in ("spindle", "long"):
        top, steep = rng.uniform(2.5, 6.0), rng.uniform(0.6, 1.1)
    else:
        top, steep = rng.uniform(2.0, 5.0), rng.uniform(0.7, 1.6)
    dome = (depth / most) ** np.float32(steep)
    # The ridge of the distance is no ridge of the cell.
    smear = max(1.0, 0.15 * most / culture.pixel)
    dome = ndimage.gaussian_filter(dome, smear, truncate=2.5) / np.maximum(
        ndimage.gaussian_filter(mask.astype(np.float32), smear, truncate=2.5), 0.3
    )
    edge = rng.uniform(0.15, 0.6)
    height = edge + (top - edge) * np.minimum(dome, 1.2)
    # A lamella is uneven, and its rim ruffled in places.
    height = height * (
        1 + np.float32(rng.uniform(0.03, 0.12)) * smooth_noise(rng, mask.shape, 4 / culture.pixel)
    )
    ruffle = np.clip(smooth_noise(rng, mask.shape, 8 / culture.pixel), 0, 1.5) * np.exp(
        -((depth - 0.7) ** 2) / 0.3
    )
    return (height + np.float32(rng.uniform(0, 1.2)) * ruffle) * mask


def _place_nuclei(culture, mask, depth, kind):
    """Find room for a nucleus, in a few cells for two; for each, the relative radius (1: its outline) and its size."""
    rng = culture.rng
    area, most = float(mask.sum()), float(depth.max())
    share = rng.uniform(0.4, 0.6) if kind == "round" else rng.uniform(0.2, 0.5)
    # Nuclei differ less in size than cells do: about 14 micrometres, if the cell has room.
    size = min(rng.normal(14.0, 2.0) / culture.pixel, 2 * np.sqrt(share * area / np.pi))
    aspect = rng.uniform(1.0, 1.25) if kind == "round" else rng.uniform(1.05, 1.5)
    aspect = max(aspect, min(2.5, size / (1.5 * most)))
    rows, columns = np.nonzero(depth >= 0.75 * most)
    angle = _orientation(mask) + rng.normal(0, 0.25)
    found: list = []
    for _ in range(2 if rng.random() < 0.05 and kind != "round" else 1):
        pick = int(rng.integers(len(rows)))
        whole = _relative_radius(culture, mask.shape, (rows[pick], columns[pick]), size, aspect, angle)
        for shrink in 0.92 ** np.arange(12):
            inside = whole < shrink
            pixels = int(inside.sum())
            free = not any((inside & (other < 1.15)).any() for other, _ in found)
            if free and 12 <= pixels < 0.7 * area and (depth[inside] > 1.5).all():
                found.append((whole / np.float32(shrink), size * shrink * culture.pixel))
                break
    return found


def _relative_radius(culture, shape, centre, size, aspect, angle):
    """Distance from a centre in units of a slightly uneven ellipse: float32 [height, width], 1 on its outline."""
    y, x = np.indices(shape, np.float32)
    y, x = y - np.float32(centre[0]), x - np.float32(centre[1])
    along = (np.cos(angle) * x + np.sin(angle) * y) / np.float32(size / 2 * np.sqrt(aspect))
    across = (np.cos(angle) * y - np.sin(angle) * x) / np.float32(size / 2 / np.sqrt(aspect))
    turn = np.arctan2(across, along)
    first, second = culture.rng.uniform(0, 2 * np.pi, 2)
    uneven = 1 + 0.04 * np.sin(2 * turn + first) + 0.03 * np.sin(3 * turn + second)
    return (np.hypot(along, across) / uneven).astype(np.float32)


def _orientation(mask):
    """Angle of the long axis, radians from x towards y."""
    y, x = np.nonzero(mask)
    (yy, xy), (_, xx) = np.cov(y, x) if len(y) > 2 else np.eye(2)
    return float(0.5 * np.arctan2(2 * xy, xx - yy))


def _nuclear_path(culture, radius, size, mitotic):
    """Optical path that a nucleus adds to its cell: bulge, envelope, nucleoli; or chromosomes and no envelope."""
    rng = culture.rng
    thickness = np.sqrt(np.clip(1 - radius**2, 0, 1)) * np.float32(0.5 * size)
    if mitotic:
        return (
            np.float32(0.02) + np.float32(0.006) * smooth_noise(rng, radius.shape, 1.2 / culture.pixel)
        ) * thickness
    bulge = culture.contrast * rng.uniform(0.5, 2.0) * np.exp(-((0.8 * radius**2) ** 2))
    path = bulge + np.float32(culture.nuclear_index) * thickness
    width = np.float32(0.35 / (0.5 * size))  # of the line that the envelope draws
    path += np.float32(culture.envelope) * np.exp(-(((radius - 1) / width) ** 2))
    path += np.float32(0.004) * smooth_noise(rng, radius.shape, 2.0 / culture.pixel) * (radius < 1)
    rows, columns = np.nonzero(radius < 0.6)
    y, x = np.indices(radius.shape, np.float32)
    for _ in range(int(rng.integers(1, 5)) if len(rows) else 0):
        pick = int(rng.integers(len(rows)))
        spread = np.float32((rng.uniform(0.5, 1.3) / culture.pixel) ** 2)
        square = (y - rows[pick]) ** 2 + (x - columns[pick]) ** 2 * np.float32(rng.uniform(0.6, 1.6))
        path += np.float32(culture.nucleoli * rng.uniform(0.6, 1.4)) * np.exp(-((square / spread) ** 2) / 2)
    return path


def _finish(culture: _Culture) -> Specimen:
    """Add what fills the cytoplasm of all cells: granules, droplets, vacuoles, the texture of mitochondria."""
    rng, pixel, inside = culture.rng, culture.pixel, culture.cells > 0
    cytoplasm = inside & (culture.nuclei == 0)
    add = np.zeros(inside.shape, np.float32)
    strength = rng.uniform(0.3, 1.3)
    # Share of the granules, radius, micrometres of optical path: granules, droplets of fat (refract most), vacuoles.
    for share, radius, path in ((1.0, 0.3, 0.015), (0.12, 0.6, 0.05), (rng.uniform(0, 0.12), 0.9, -0.03)):
        seeds = (rng.random(inside.shape, dtype=np.float32) < culture.granules * np.float32(share)).astype(
            np.float32
        )
        seeds *= rng.uniform(0.4, 1.4, inside.shape).astype(np.float32)
        sigma = max(0.6, radius / pixel)
        add += ndimage.gaussian_filter(seeds, sigma) * np.float32(2 * np.pi * sigma**2 * path * strength)
    fine = smooth_noise(rng, inside.shape, max(1.5, 0.8 / pixel)) * smooth_noise(rng, inside.shape, 4 / pixel)
    add += np.float32(rng.uniform(0.001, 0.006)) * fine * cytoplasm
    phase = culture.phase + np.where(inside, _WAVE * add, 0)
    return Specimen(phase.astype(np.float32), culture.cells, culture.nuclei, pixel)


def _largest_piece(mask):
    pieces, count = ndimage.label(mask)
    return mask if count < 2 else pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
