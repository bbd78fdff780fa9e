"""What a field shows besides cells: scratched plastic, medium, debris, dirt out of focus, uneven light, a camera."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from evican_model.noise import smooth_noise

__all__ = ["add_debris", "photograph", "surface", "veil"]


def surface(rng: np.random.Generator, side: int, pixel: float) -> np.ndarray:
    """Delay of the light by the growth surface and the medium: float32 radians [side, side].

    Polished plastic has scratches, many of them parallel; medium has a grain of proteins.
    """
    phase = np.zeros((side, side), np.float32)
    if rng.random() < 0.6:
        phase += np.float32(rng.uniform(0.0, 0.03)) * smooth_noise(
            rng, phase.shape, rng.uniform(1.5, 6) / pixel * 0.5
        )
        phase += np.float32(rng.uniform(0.0, 0.10)) * smooth_noise(
            rng, phase.shape, rng.uniform(4, 20) / pixel
        )
    if rng.random() < 0.3:
        depth = np.exp(rng.uniform(np.log(0.03), np.log(0.25)))
        phase += _lines(rng, side, int(rng.integers(5, 80)), rng.normal(0, 0.08), 0.7 / pixel) * np.float32(
            depth
        )
    if rng.random() < 0.2:
        phase += _lines(rng, side, int(rng.integers(1, 6)), np.pi, 1.0 / pixel) * np.float32(
            rng.uniform(0.1, 0.5)
        )
    return phase


def _lines(rng, side, count, spread, width):
    """Scratches about one direction, with either sign: float32 [side, side]."""
    drawn = np.zeros((side, side), np.float32)
    direction = rng.uniform(0, np.pi)
    for sign in (-1.0, 1.0):
        canvas = Image.new("L", (side, side))
        pen = ImageDraw.Draw(canvas)
        for _ in range((count + 1) // 2):
            angle = direction + rng.normal(0, abs(spread))
            x, y = rng.uniform(0, side, 2)
            half = side * np.exp(rng.normal(-1.0, 0.9))
            bend = rng.normal(0, 0.03) * half
            t = np.linspace(-1, 1, 9)
            points = [(x + half * np.cos(angle) * u - bend * np.sin(angle) * u * u,
                       y + half * np.sin(angle) * u + bend * np.cos(angle) * u * u) for u in t]  # fmt: skip
            pen.line(points, fill=int(rng.uniform(60, 255)), width=1)
        drawn += np.float32(sign / 255) * np.asarray(canvas, np.float32)
    smooth = ndimage.gaussian_filter(drawn, max(0.5, 0.5 * width))
    return smooth / (np.abs(smooth).max() + np.float32(1e-6))


def add_debris(rng: np.random.Generator, wave: np.ndarray, pixel: float, amount: float) -> np.ndarray:
    """Scatter specks, shreds and vesicles, the dirt of a culture; none as large as a nucleus.

    Parameters
    ----------
    rng : numpy.random.Generator
    wave : complex64 array [side, side]
    pixel : float
        Micrometres a pixel.
    amount : float
        Pieces for a million pixels.

    Returns
    -------
    complex64 array [side, side]
    """
    phase, dark = np.zeros(wave.shape, np.float32), np.zeros(wave.shape, np.float32)
    for _ in range(int(rng.poisson(amount * wave.size / 1e6))):
        reach = int(np.ceil(9 / pixel))
        y, x = rng.integers(0, np.array(wave.shape))
        box = tuple(slice(max(0, v - reach), min(n, v + reach + 1)) for v, n in zip((y, x), wave.shape))
        rows, columns = np.ogrid[box]
        for _ in range(int(rng.integers(1, 6))):
            dy, dx = rng.normal(0, 0.9 / pixel, 2)
            radius = np.exp(rng.normal(np.log(0.45), 0.45)) / pixel
            stretch, angle = np.exp(rng.normal(0, 0.2)), rng.uniform(0, np.pi)
            v, u = rows - (y + dy), columns - (x + dx)
            along = (np.cos(angle) * u + np.sin(angle) * v) * stretch
            across = (np.cos(angle) * v - np.sin(angle) * u) / stretch
            piece = np.exp(-(((along**2 + across**2) / radius**2) ** 2)).astype(np.float32)
            phase[box] += np.float32(rng.uniform(-0.3, 1.6)) * piece
            dark[box] += np.float32(max(0, rng.normal(0, 0.6))) * piece
    return (wave * np.exp(1j * phase - dark)).astype(np.complex64)


def veil(rng: np.random.Generator, side: int, pixel: float) -> np.ndarray:
    """Absorbing and delaying things far above or below the cells, to be imaged out of focus: complex64 [side, side]."""
    phase, dark = np.zeros((2, side, side), np.float32)
    y, x = np.ogrid[:side, :side]
    for _ in range(int(rng.integers(1, 9))):
        cy, cx = rng.uniform(0, side, 2).astype(np.float32)
        radius = np.float32(np.exp(rng.normal(np.log(4), 0.5)) / pixel)
        reach = int(2 * radius) + 1
        box = tuple(slice(max(0, int(c) - reach), min(side, int(c) + reach)) for c in (cy, cx))
        rows, columns = y[box[0]].astype(np.float32), x[:, box[1]].astype(np.float32)
        piece = np.exp(-((((rows - cy) ** 2 + (columns - cx) ** 2) / radius**2) ** 2))
        phase[box] += np.float32(rng.uniform(0.3, 3)) * piece
        dark[box] += np.float32(max(0, rng.normal(0, 0.3))) * piece
    return np.exp(1j * phase - dark).astype(np.complex64)


def photograph(rng: np.random.Generator, image: np.ndarray, clouds: bool = True) -> np.ndarray:
    """Light the field unevenly and take a picture of it: uint8, the size of `image`.

    Parameters
    ----------
    rng : numpy.random.Generator
    image : float32 array [height, width]
        Intensity, about 1 where there is nothing.
    clouds : bool
        Whether blurred structures far from focus may shade the field.
    """
    contrast = float(np.std(image))
    light = _uneven_light(rng, image.shape)
    if clouds and rng.random() < 0.4:
        for grain in (0.05, 0.12, 0.4):
            cloud = smooth_noise(rng, image.shape, grain * max(image.shape))
            # Clouds of weakly contrasted images are as strong as the cells: nothing is gained by calling them weak.
            light = light * (1 + np.float32(rng.uniform(0, 0.6) * np.clip(contrast, 0.02, 0.08)) * cloud)
    seen = ndimage.gaussian_filter(image * light, rng.uniform(0.2, 0.9))
    full_well = np.exp(rng.uniform(np.log(300), np.log(30000)))  # electrons of the background
    electrons = np.maximum(seen, 0) * np.float32(full_well)
    noise = rng.standard_normal(seen.shape, dtype=np.float32)
    if rng.random() < 0.3:  # demosaicing, scaling and compression leave noise coarser than pixels
        noise = ndimage.gaussian_filter(noise, rng.uniform(0.5, 0.9))
        noise /= noise.std()
    seen = (electrons + np.sqrt(electrons + 30) * noise) / np.float32(full_well)
    if rng.random() < 0.08:  # lines of a camera that is read out column by column
        seen = seen + np.float32(0.15 * contrast) * rng.standard_normal((1, seen.shape[1]), dtype=np.float32)
    levels = _to_bytes(rng, seen)
    if rng.random() < 0.35:
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, "JPEG", quality=int(rng.integers(45, 95)))
        levels = np.asarray(Image.open(buffer))
    return levels


def _uneven_light(rng, shape):
    """Tilt and bowl of the illumination, the vignette of the lens."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij")
    amount = rng.uniform(0, 0.15) if rng.random() < 0.7 else rng.uniform(0.15, 0.4)
    tilt_y, tilt_x = rng.normal(0, 0.5 * amount, 2).astype(np.float32)
    centre_y, centre_x = rng.normal(0, 0.3, 2).astype(np.float32)
    square = (y - centre_y) ** 2 + (x - centre_x) ** 2
    return np.maximum(1 + tilt_y * y + tilt_x * x - np.float32(0.4 * amount) * square, np.float32(0.1))


def _to_bytes(rng, seen):
    """Stretch the grey levels, as for a publication, or leave the picture as exposed."""
    if rng.random() < 0.7:
        # Halos and dust are brighter than what one wants to see, and often sacrificed.
        low, high = np.percentile(seen, (0.1, float(rng.choice([99.9, 99.5, 98.5]))))
    else:
        low, high = 0.0, float(np.median(seen)) * 255 / rng.uniform(90, 190)
    return np.clip((seen - low) / max(high - low, 1e-6) * 255 + 0.5, 0, 255).astype(np.uint8)
