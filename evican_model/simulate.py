"""Synthetic fields of unstained cells, with the exact outlines of cells and nuclei.

``python -m evican_model.simulate --output DIR --images N`` writes PNG files and one COCO file that
`evican_model.dataset` reads. Cells are grown as maps of the light's delay (`evican_model.specimen`) and imaged by a
phase-contrast, brightfield or DIC microscope (`evican_model.optics`). The images are free for any use (CC0 1.0).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import fft, ndimage

from evican_model.dish import add_debris, photograph, surface, veil
from evican_model.errors import EvicanError
from evican_model.instances import Instances
from evican_model.litter import add_litter
from evican_model.optics import WAVELENGTH, Microscope, form_image
from evican_model.specimen import STYLES, Specimen, grow_specimen

__all__ = ["MODALITIES", "SimulatedField", "main", "simulate_field", "write_dataset"]

MODALITIES = ("phase", "brightfield", "dic", "mixed")
_IN_COCO = {"phase": "PhC", "brightfield": "BF", "dic": "DIC"}
CATEGORIES = ("Cell", "Nucleus")
_ANNOTATIONS = "simulated.json"
_SMALLEST_SIDE, _LARGEST_SIDE = 64, 4096
_SLIVER = 12  # pixels of an object cut by the edge of the field below which it cannot be recognised
_MOST_LITTER = 1000  # pieces for a million pixels


@dataclass(frozen=True, eq=False)
class SimulatedField:
    """A picture and what is in it.

    Parameters
    ----------
    image : uint8 array [size, size]
    truth : Instances
        Cells and nuclei; cells do not overlap, and each nucleus lies in one cell.
    modality : str
        ``phase``, ``brightfield`` or ``dic``.
    style : str
        One of `evican_model.specimen.STYLES`, or ``blank``.
    pixel : float
        Micrometres a pixel.
    """

    image: np.ndarray
    truth: Instances
    modality: str
    style: str
    pixel: float


def simulate_field(
    seed: int | np.random.Generator,
    *,
    size: int = 512,
    modality: str = "mixed",
    cell_diameter: tuple[float, float] = (32.0, 120.0),
    style: str | None = None,
    blank: bool = False,
    litter: float = 0.0,
) -> SimulatedField:
    """Make one field of view.

    Parameters
    ----------
    seed : int or numpy.random.Generator
        The same seed and settings give the same field.
    size : int
        Width and height in pixels, 64 to 4096.
    modality : str
        ``phase`` contrast, ``brightfield``, ``dic`` (differential interference contrast), or ``mixed``: one of the
        first two, by chance.
    cell_diameter : (float, float)
        Least and largest diameter of a typical cell, in pixels; one is drawn for the field.
    style : str, optional
        How the culture grows, one of `evican_model.specimen.STYLES`; by chance if not given.
    blank : bool
        No cell: medium, dirt and light alone.
    litter : float
        Crystals, fibres, droplets and films (`evican_model.litter`) for a million pixels, 0 to 1000.

    Returns
    -------
    SimulatedField

    Raises
    ------
    EvicanError
        If a setting is out of its range.

    Examples
    --------
    >>> field = simulate_field(3, size=128, cell_diameter=(40, 40), modality="phase", style="spread")
    >>> field.image.shape, field.image.dtype
    ((128, 128), dtype('uint8'))
    """
    _check(size, modality, cell_diameter, style, litter)
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)
    if modality == "mixed":
        modality = MODALITIES[int(rng.integers(2))]
    diameter = float(np.exp(rng.uniform(*np.log(cell_diameter))))
    pixel = float(rng.uniform(18, 34)) / diameter  # a typical cell measures 18 to 34 micrometres
    # Cells also lie half outside the field; and what the imaging wraps around its edges is cut off.
    margin = int(np.clip(0.75 * diameter, 40, 90))
    side = fft.next_fast_len(size + 2 * margin)
    if blank:
        style, empty = "blank", np.zeros((side, side), np.int32)
        specimen = Specimen(np.zeros((side, side), np.float32), empty, empty, pixel)
    else:
        style = style or str(rng.choice(list(STYLES)))
        confluence = float(rng.uniform(0.08, 0.6) if style != "epithelial" else rng.uniform(0.15, 1.0))
        specimen = grow_specimen(rng, side, pixel, diameter, style, confluence)
    image = _expose(rng, specimen, modality, litter)
    inner = (slice(margin, margin + size),) * 2
    picture = photograph(rng, np.ascontiguousarray(image[inner]))
    truth = _outlines(specimen.cells[inner], specimen.nuclei[inner])
    return SimulatedField(picture, truth, modality, style, pixel)


def _expose(rng, specimen: Specimen, modality: str, litter: float) -> np.ndarray:
    """Image a specimen on its dish by a microscope of the modality: intensity, float32 [side, side]."""
    side, pixel = specimen.phase.shape[0], specimen.pixel
    microscope = _microscope(rng, pixel, modality)
    wave = np.exp(1j * (specimen.phase + surface(rng, side, pixel))).astype(np.complex64)
    wave = add_debris(rng, wave, pixel, float(rng.choice([0, 30, 120, 400], p=[0.2, 0.4, 0.3, 0.1])))
    wave = add_litter(rng, wave, pixel, litter)
    image = form_image(wave, microscope)
    if rng.random() < 0.25:
        away = float(rng.choice([-1, 1]) * rng.uniform(15, 80))
        blurred = Microscope(pixel, microscope.aperture, (0.0, 0.15), defocus=away, points=8)
        image = image * form_image(veil(rng, side, pixel), blurred)
    return image


def _microscope(rng, pixel: float, modality: str) -> Microscope:
    """Choose an objective that suits the size of the pixels, a condenser and a focus."""
    aperture = float(np.clip(0.45 * (0.32 / pixel) ** 0.55 * rng.uniform(0.85, 1.15), 0.15, 0.75))
    depth = 0.55 / aperture**2  # of focus, micrometres
    if modality == "phase":
        middle, half = rng.uniform(0.45, 0.6), rng.uniform(0.02, 0.05)
        advance = -np.pi / 2 if rng.random() < 0.93 else np.pi / 2  # the second: negative phase contrast
        return Microscope(
            pixel, aperture, (middle - half, middle + half), defocus=float(rng.normal(0, 0.5) * depth),
            ring=(float(rng.uniform(0.3, 0.6)), advance), ring_margin=float(rng.uniform(0.01, 0.06)),
        )  # fmt: skip
    if modality == "dic":
        shear, angle = float(rng.uniform(0.5, 1.1) * WAVELENGTH / (2 * aperture)), rng.uniform(0, 2 * np.pi)
        return Microscope(
            pixel, aperture, (0.0, float(rng.uniform(0.4, 0.8))), defocus=float(rng.normal(0, 0.3) * depth),
            shear=(shear * float(np.sin(angle)), shear * float(np.cos(angle))),
            bias=float(rng.uniform(0.25, 0.7) * np.pi),
        )  # fmt: skip
    # In focus a transparent cell is invisible: whoever takes brightfield pictures looks a little past it.
    defocus = float(rng.choice([-1, 1]) * rng.uniform(0.4, 2.2) * depth)
    opening = float(rng.uniform(0.1, 0.6))
    tilt, angle = (float(rng.uniform(0.6, 1.0)) if rng.random() < 0.45 else 0.0), rng.uniform(0, 2 * np.pi)
    return Microscope(
        pixel, aperture, (0.0, opening), defocus=defocus,
        offset=(tilt * float(np.sin(angle)), tilt * float(np.cos(angle))),
    )  # fmt: skip


def _outlines(cells: np.ndarray, nuclei: np.ndarray) -> Instances:
    """Turn label images into objects; slivers at the edge of the field are left out."""
    ids, boxes, crops = [], [], []
    for category, labels in enumerate((cells, nuclei), 1):
        for label, box in enumerate(ndimage.find_objects(labels), 1):
            if box is None:
                continue
            crop = labels[box] == label
            if crop.sum() >= _SLIVER:
                ids.append(category)
                boxes.append((box[0].start, box[1].start, box[0].stop, box[1].stop))
                crops.append(crop)
    return Instances(cells.shape, CATEGORIES, np.array(ids, int), np.ones(len(ids)),
                     np.array(boxes).reshape(-1, 4), tuple(crops))  # fmt: skip


def _check(size, modality, cell_diameter, style, litter) -> None:
    if not _SMALLEST_SIDE <= size <= _LARGEST_SIDE:
        raise EvicanError(f"size is {size}; expected {_SMALLEST_SIDE} to {_LARGEST_SIDE} pixels.")
    if modality not in MODALITIES:
        raise EvicanError(f"modality is {modality!r}; expected one of {', '.join(MODALITIES)}.")
    if style is not None and style not in STYLES:
        raise EvicanError(f"style is {style!r}; expected one of {', '.join(STYLES)}.")
    low, high = cell_diameter
    if not 12 <= low <= high <= 400:
        raise EvicanError(
            f"cell_diameter is {low:g} to {high:g}; expected two rising numbers from 12 to 400 pixels."
        )
    if not 0 <= litter <= _MOST_LITTER:
        raise EvicanError(f"litter is {litter:g}; expected 0 to {_MOST_LITTER} pieces for a million pixels.")


def write_dataset(
    output: str | Path,
    count: int,
    *,
    seed: int = 0,
    blank: float = 0.0,
    size: int = 512,
    modality: str = "mixed",
    cell_diameter: tuple[float, float] = (32.0, 120.0),
    style: str | None = None,
    litter: float = 0.0,
) -> Path:
    """Write fields as ``images/*.png`` and their outlines as one COCO file.

    Field ``i`` depends on the seed, the settings and ``i`` alone: more of them are the same ones and others.

    Parameters
    ----------
    output : str or Path
        The folder; made if need be. It must not hold a simulated dataset yet.
    count : int
        How many fields, at least 1.
    seed : int
        0 or above.
    blank : float
        Share of the fields that are blank, 0 to 1, by chance.
    size, modality, cell_diameter, style, litter
        As for `simulate_field`.

    Returns
    -------
    Path
        The COCO file, ``simulated.json``; `evican_model.dataset.read_dataset` reads it with the folder ``images``.

    Raises
    ------
    EvicanError
        If a setting is out of its range, or the folder is taken.
    """
    from evican_model.predict import coco_results

    _check(size, modality, cell_diameter, style, litter)
    if count < 1 or seed < 0 or not 0 <= blank <= 1:
        raise EvicanError(f"{count} images, seed {seed}, blank share {blank:g}; expected at least 1 image, a seed of 0 "
                          "or more, and a share from 0 to 1.")  # fmt: skip
    folder = Path(output)
    target = folder / _ANNOTATIONS
    if target.exists():
        raise EvicanError(f"{target} exists; name another folder, or remove it.")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, number])
        field = simulate_field(rng, size=size, modality=modality, cell_diameter=cell_diameter, style=style,
                               blank=bool(rng.random() < blank), litter=litter)  # fmt: skip
        name = f"simulated_{seed}_{number:05d}.png"
        Image.fromarray(field.image).save(folder / "images" / name)
        images.append({
            "id": number, "file_name": name, "height": size, "width": size, "license": 1,
            "modality": _IN_COCO[field.modality], "style": field.style,
            "micrometres_a_pixel": round(field.pixel, 4), "annotated_classes": list(CATEGORIES), "dense": True,
        })  # fmt: skip
        areas = field.truth.areas().tolist()
        for area, entry in zip(areas, coco_results(number, name, field.truth)):
            kept = {key: entry[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
            annotations.append({"id": len(annotations) + 1, **kept, "area": area, "iscrowd": 0})
    content = {
        "info": {"description": "Synthetic unstained cells, evican_model.simulate", "licence": "CC0-1.0",
                 "settings": {"seed": seed, "blank": blank, "size": size, "modality": modality,
                              "cell_diameter": list(cell_diameter), "style": style, "litter": litter}},
        "licenses": [{"id": 1, "name": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": name} for i, name in enumerate(CATEGORIES, 1)],
    }  # fmt: skip
    target.write_text(json.dumps(content), encoding="utf-8")
    return target


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        target = write_dataset(
            options.output, options.images, seed=options.seed, blank=options.blank, size=options.size,
            modality=options.modality, cell_diameter=tuple(options.cell_diameter), style=options.style,
            litter=options.litter,
        )  # fmt: skip
    except (EvicanError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"dataset: {target}, images: {target.parent / 'images'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evican_model.simulate", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="folder for simulated.json and images/")
    add("--images", type=int, required=True, metavar="N", help="how many fields")
    add("--size", type=int, default=512, metavar="PX", help="of the square fields (default: %(default)s)")
    add("--modality", default="mixed", choices=MODALITIES,
        help="default: %(default)s, phase or brightfield by chance")  # fmt: skip
    add("--seed", type=int, default=0, help="the same seed gives the same fields (default: %(default)s)")
    add("--blank", type=float, default=0.0, metavar="SHARE", help="of fields without cells (default: none)")
    add("--cell-diameter", type=float, nargs=2, default=[32.0, 120.0], metavar="PX",
        help="least and largest of typical cells (default: 32 120)")  # fmt: skip
    add("--litter", type=float, default=0.0, metavar="N", help="crystals, fibres, droplets and films as large as "
        "nuclei or cells, for a million pixels (default: none)")  # fmt: skip
    add("--style", choices=list(STYLES), help="of the culture (default: each by chance)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
