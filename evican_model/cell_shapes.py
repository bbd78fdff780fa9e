"""Outlines of cells: spread, spindle-shaped, very long, with processes, round, and colonies without gaps."""

from __future__ import annotations

from typing import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from evican_model.noise import smooth_noise

__all__ = ["SHAPES", "colony", "draw"]


def draw(polygons: list[np.ndarray], diameter: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a cell, turned at random.

    Parameters
    ----------
    polygons : list of float arrays [points, 2]
        Corners x, y; the cell is where any of them is.
    diameter : float
        In pixels: that of the disc whose area the first polygon, the cell's body, gets.
    rng : numpy.random.Generator

    Returns
    -------
    bool array [height, width]
        One piece, in a box of its size.
    """
    body = polygons[0]
    area = abs(np.sum(body[:, 0] * np.roll(body[:, 1], 1) - body[:, 1] * np.roll(body[:, 0], 1))) / 2
    scale = diameter * np.sqrt(np.pi / 4 / area)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    turned = [points @ turn.T for points in polygons]
    low = np.min([points.min(0) for points in turned], 0) - 1
    high = np.max([points.max(0) for points in turned], 0) + 2
    width, height = (int(np.ceil(v)) for v in high - low)
    canvas = Image.new("L", (width, height))
    for points in turned:
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in (points - low).tolist()], fill=1)
    mask = np.asarray(canvas, bool)
    pieces, count = ndimage.label(mask)
    if count > 1:
        mask = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    return mask


def colony(rng: np.random.Generator, side: int, diameter: float, confluence: float) -> np.ndarray:
    """Divide one or a few islands into cells that touch, int32 labels [side, side]; 0 is outside.

    Cells are the regions nearest to jittered centres (a Voronoi diagram), seen through a gentle warp so that the
    borders bend.
    """
    plane = (side, side)
    land = smooth_noise(rng, plane, side / rng.uniform(1.5, 4))
    land += np.float32(0.06) * smooth_noise(rng, plane, diameter / 3)
    islands = (
        land > np.quantile(land, 1 - min(confluence, 1.0)) if confluence < 0.98 else np.ones(plane, bool)
    )
    step = diameter * 0.95
    rows, columns = np.meshgrid(*[np.arange(-step, side + step, step)] * 2, indexing="ij")
    columns = columns + (np.arange(len(columns)) % 2)[:, None] * step / 2
    jitter = rng.normal(0, 0.22 * step, (2, *rows.shape))
    reach = 2 * int(step) + 1  # so far beyond the plane there are centres as well
    seeds = np.zeros((side + 2 * reach,) * 2, np.int32)
    places = np.stack([rows + jitter[0], columns + jitter[1]], -1).reshape(-1, 2).astype(int) + reach
    places = places[((places >= 0) & (places < len(seeds))).all(1)]
    seeds[tuple(places.T)] = np.arange(1, len(places) + 1)
    index = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    bend = [diameter * rng.uniform(0.03, 0.1) * smooth_noise(rng, plane, diameter / 2) for _ in range(2)]
    y, x = (
        np.clip(i + b + reach, 0, len(seeds) - 1).astype(np.int32)
        for i, b in zip(np.ogrid[:side, :side], bend)
    )
    nearest = seeds[tuple(index)][y, x]
    labels = np.where(islands, nearest, 0)
    return _without_crumbs(labels, 0.35 * np.pi / 4 * diameter**2)


def _without_crumbs(labels, least):
    """Keep each label's largest piece, if that is large enough; number what is left."""
    pieces = np.zeros(labels.shape, np.int32)
    count = 0
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        parts, _ = ndimage.label(labels[box] == label)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        at_edge = box[0].start == 0 or box[1].start == 0 or labels.shape[0] in (box[0].stop, box[1].stop)
        if sizes.max() >= (20 if at_edge else least):
            count += 1
            pieces[box][parts == sizes.argmax()] = count
    return pieces


def _round(rng):
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = 1 + sum(rng.normal(0, 0.02) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5))
    stretch = rng.uniform(1.0, 1.15)
    return [np.stack([radius * np.cos(angle) * stretch, radius * np.sin(angle)], -1)]


def _spread(rng):
    """Join corners where the cell holds on by edges under tension, hollow, or by a lamella that bulges."""
    corners = int(rng.integers(4, 10))
    angle = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * 2 * np.pi / corners
    radius = rng.uniform(0.75, 1.3, corners)
    tips = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1) * [rng.uniform(1.0, 1.7), 1.0]
    return [_rough(rng, _arcs(rng, tips, rng.uniform(0.5, 0.85), 1.45), rng.uniform(0.005, 0.035))]


def _arcs(rng, tips, hollow, full):
    """Join tips by quadratic curves whose middles are pulled in or pushed out."""
    t = np.linspace(0, 1, 14, endpoint=False)[:, None]
    pieces = []
    for start, end in zip(tips, np.roll(tips, -1, 0)):
        control = (start + end) / 2 * rng.uniform(hollow, full)
        pieces.append((1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end)
    return ndimage.gaussian_filter1d(np.concatenate(pieces), rng.uniform(1.2, 5.0), 0, mode="wrap")


def _rough(rng, points, strength):
    """Give a stretch of the edge ruffles."""
    noise = ndimage.gaussian_filter1d(rng.standard_normal(len(points)), 1.2, mode="wrap")
    where = np.clip(
        ndimage.gaussian_filter1d(rng.standard_normal(len(points)), 8, mode="wrap") * 4 + 0.5, 0, 1
    )
    return points * (1 + strength * 1.6 * noise * where)[:, None]


def _ribbon(centre, width):
    """Polygon around a curve [n, 2] of the half-width [n]."""
    along = np.gradient(centre, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    normal = np.stack([-along[:, 1], along[:, 0]], -1) * width[:, None]
    return np.concatenate([centre + normal, (centre - normal)[::-1]])


def _spindle(rng, aspect=None):
    """Draw a belly out into two tips, along a line that bends."""
    aspect = rng.uniform(2.2, 5) if aspect is None else aspect
    s = np.linspace(-1, 1, 60)
    middle, belly = rng.uniform(-0.3, 0.3), rng.uniform(0.25, 0.55)
    tail = rng.uniform(0.05, 0.2)
    wavy = 1 + 0.4 * np.sin(s * rng.uniform(3, 9) + rng.uniform(0, 6))
    width = (1 - tail) * np.exp(-(((s - middle) / belly) ** 2)) + tail * wavy
    width *= np.clip((1 - np.abs(s)) * rng.uniform(2, 8), 0.02, 1) ** 0.6
    bend = rng.normal(0, 0.18) * s**2 + rng.normal(0, 0.05) * np.sin(s * 4 + rng.uniform(0, 6))
    return [_rough(rng, _ribbon(np.stack([s * aspect, bend * aspect], -1), width), 0.004)]


def _long(rng):
    return _spindle(rng, rng.uniform(6, 13))


def _stellate(rng):
    """Give a small body processes that taper, bend and may end in a foot."""
    body = _spread(rng)[0]
    parts = [body]
    reach = np.abs(body).max()
    count = int(rng.integers(2, 6))
    start = rng.uniform(0, 2 * np.pi)
    for k in range(count):
        angle = start + (k + rng.uniform(-0.3, 0.3)) * 2 * np.pi / count
        s = np.linspace(0, 1, 24)
        turn = angle + rng.normal(0, 0.7) * s + rng.normal(0, 0.35) * np.sin(rng.uniform(3, 8) * s)
        length = reach * rng.uniform(1.5, 3.8)
        step = np.stack([np.cos(turn), np.sin(turn)], -1) * length / len(s)
        foot = max(0.0, rng.normal(0, 0.06)) * np.exp(-(((s - 0.9) / 0.07) ** 2))
        taper = rng.uniform(0.3, 0.5) * np.exp(-s / rng.uniform(0.2, 0.35)) + rng.uniform(0.02, 0.06)
        width = reach * (taper + foot) * np.clip((1 - s) * 10, 0.25, 1)
        parts.append(_ribbon(np.cumsum(step, 0), width))
    return parts


SHAPES: dict[str, Callable[[np.random.Generator], list[np.ndarray]]] = {
    "round": _round,
    "spread": _spread,
    "spindle": _spindle,
    "long": _long,
    "stellate": _stellate,
}
