"""What a brightfield, phase-contrast or DIC microscope makes of a transparent specimen (Abbe's theory of the image).

Each point of the condenser's light source sends a plane wave through the specimen; the objective's pupil, with the
phase ring if there is one, passes a part of what is diffracted; the images of all points add up as intensities.
Halo and shade-off of phase contrast, the bright and dark rims of defocused brightfield and the relief of oblique light
need no rule of their own. Differential interference contrast (DIC, after Nomarski) images the difference of two copies
of the specimen, moved against each other by the shear of its prisms and delayed by their bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.special import expit

from evican_model.errors import EvicanError

__all__ = ["WAVELENGTH", "Microscope", "form_image"]

WAVELENGTH = 0.55  # micrometres: green light

_PUPIL_END = 2  # squared radius, in shares of the aperture, beyond which nothing passes
_PUPIL_STEPS = 4096  # of the table of the pupil, for a squared radius of 1


@dataclass(frozen=True)
class Microscope:
    """Objective, condenser and focus.

    Parameters
    ----------
    pixel : float
        Micrometres of the specimen that a pixel covers.
    aperture : float
        Numerical aperture of the objective.
    source : (float, float)
        Inner and outer radius of the condenser's light source, as shares of `aperture`; (0, r) is a disc.
    offset : (float, float)
        Where the centre of the source lies, y and x as shares of `aperture`: oblique light off (0, 0).
    defocus : float
        Micrometres from the plane in focus to the specimen.
    ring : (float, float), optional
        Amplitude transmission, and phase advance in radians, of the objective's ring; none: brightfield. The ring
        covers the image of the source and as much again as `ring_margin` says.
    ring_margin : float
        Share of `aperture` by which the ring is wider than the image of the source, on either side. The wider,
        the narrower the halo: also light that coarse structures diffract passes the ring.
    shear : (float, float), optional
        Micrometres, y and x, by which DIC moves its two beams apart; none: no DIC.
    bias : float
        Radians by which one of the two is delayed, above 0 and below 2 pi; at pi the empty field is brightest.
    points : int
        Points of the source that are computed.
    """

    pixel: float
    aperture: float
    source: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)
    defocus: float = 0.0
    ring: tuple[float, float] | None = None
    ring_margin: float = 0.03
    shear: tuple[float, float] | None = None
    bias: float = np.pi / 2
    points: int = 10

    def __post_init__(self) -> None:
        """Refuse what no microscope is."""
        inner, outer = self.source
        if not (self.pixel > 0 and self.aperture > 0 and self.points > 0 and 0 <= inner <= outer <= 1):
            raise EvicanError(f"{self} is no microscope: pixel, aperture and points must be above 0, and the "
                              "source's radii rise from 0 to 1.")  # fmt: skip
        if not 0 < self.bias < 2 * np.pi:
            raise EvicanError(f"bias is {self.bias:g}; it must be above 0 and below 2 pi radians, or the empty field "
                              "is dark.")  # fmt: skip

    def source_points(self) -> np.ndarray:
        """Return the source's points, y and x as shares of the aperture: float [points, 2], evenly spread."""
        inner, outer = self.source
        index = np.arange(self.points)
        radius = np.sqrt(inner**2 + (outer**2 - inner**2) * (index + 0.5) / self.points)
        angle = index * np.pi * (3 - np.sqrt(5))  # the golden angle: no two points side by side
        points = radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
        return points - points.mean(0) + np.asarray(self.offset)


def form_image(wave: np.ndarray, microscope: Microscope) -> np.ndarray:
    """Return the image of a thin specimen, 1 where it is empty.

    Parameters
    ----------
    wave : complex array [height, width]
        What the specimen makes of a plane wave: ``amplitude * exp(1j * phase)``. Beyond its edges it repeats itself.
    microscope : Microscope

    Returns
    -------
    float32 array [height, width]
        Intensity.
    """
    cutoff = microscope.aperture / WAVELENGTH  # periods a micrometre
    # From here on directions are shares of the aperture. Defocus delays them by the square of their sine (paraxial).
    fy, fx = (fft.fftfreq(side, microscope.pixel) / cutoff for side in wave.shape)
    delay = np.pi * WAVELENGTH * microscope.defocus * cutoff**2
    points = microscope.source_points()
    table = _pupil(np.arange(_PUPIL_END * _PUPIL_STEPS) / _PUPIL_STEPS, microscope, delay)
    spectrum = fft.fft2(wave.astype(np.complex64))
    # Oblique light would move a defocused image: moved back, the outlines of the specimen stay on it.
    for axis, (frequency, mean) in enumerate(zip((fy, fx), points.mean(0))):
        spectrum *= np.expand_dims(np.exp(2j * delay * mean * frequency).astype(np.complex64), 1 - axis)
    if microscope.shear is not None:
        # Its prisms undo each other for the source's points, so the shear moves the specimen alone. Relative to the
        # empty field, which stays 1.
        turns = [frequency * cutoff * by for frequency, by in zip((fy, fx), microscope.shear)]
        apart = np.pi * (turns[0][:, None] + turns[1]) + microscope.bias / 2
        spectrum *= (np.sin(apart) / np.sin(microscope.bias / 2)).astype(np.float32)
    image, empty = np.zeros(wave.shape, np.float32), 0.0
    for y, x in points:
        square = ((fy + y) ** 2 * _PUPIL_STEPS).astype(np.float32)[:, None] + (
            (fx + x) ** 2 * _PUPIL_STEPS
        ).astype(np.float32)
        passed = table[np.minimum(square, len(table) - 1).astype(np.int32)]
        field = fft.ifft2(spectrum * passed, overwrite_x=True)
        image += field.real**2 + field.imag**2
        empty += float(abs(table[min(len(table) - 1, int((y**2 + x**2) * _PUPIL_STEPS))]) ** 2)
    if empty < 1e-6:
        raise EvicanError(f"{microscope}: its light passes beside the objective; that is darkfield.")
    return image / np.float32(empty)


def _pupil(square: np.ndarray, microscope: Microscope, delay: float) -> np.ndarray:
    """Transmission of the objective at squared radii in shares of the aperture: complex64, 0 in the end."""
    # A soft edge of some percent: a sharp one rings around every step of the specimen.
    passed = expit((1 - square) * 30) * np.exp(-1j * delay * square)
    if microscope.ring is not None:
        transmission, advance = microscope.ring
        inner, outer = microscope.source
        middle, half = (inner + outer) / 2, (outer - inner) / 2 + microscope.ring_margin
        in_ring = expit((half - np.abs(np.sqrt(square) - middle)) * 200)
        passed = passed * (1 + in_ring * (transmission * np.exp(1j * advance) - 1))
    passed[-1] = 0
    return passed.astype(np.complex64)
