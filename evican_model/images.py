"""Reading one plane of a microscope image, and refusing anything else with a sentence that names the file."""

from __future__ import annotations

import os
import struct
import threading
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Iterable, Iterator

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from evican_model.errors import ImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MAXIMUM_PIXELS = 1_000_000_000

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_END = b"IEND\xae\x42\x60\x82"
_JPEG_END = b"\xff\xd9"
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP")
# What Pillow's decoders were seen to raise on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)
_pillow_limit = threading.Lock()


def read_image(path: str | Path) -> np.ndarray:
    """Read a PNG, JPEG, BMP or TIFF image of one plane.

    The format is told from the content, not the name. An alpha channel is dropped, a palette resolved, 1-bit
    becomes 0 and 255, "white is zero" TIFFs are inverted; integers and floats are else returned as stored.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    array [height, width], or [height, width, 3] for colour
        uint8, uint16 or what else the TIFF holds.

    Raises
    ------
    ImageError
        The file is missing, empty, truncated, damaged, of another format, holds more than one plane, or
        declares more than ``MAXIMUM_PIXELS`` pixels (read from the header, before anything is decoded).
    """
    path = Path(path)
    start, _ = _ends(path)
    if start in _TIFF_STARTS:
        return _read_tiff(path)
    return _read_with_pillow(path, _PILLOW_FORMATS)


def check_complete(path: str | Path) -> None:
    """Refuse an image file that is missing, empty or cut short, without reading its pixels.

    For readers that take a truncated file for a whole one. All pages of a TIFF are looked at; of formats other than
    TIFF, PNG and JPEG only whether the file is there and not empty. Bytes that some software appends are allowed.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    ImageError
        The file cannot be opened, is empty, or its end is missing.
    """
    path = Path(path)
    start, end = _ends(path)
    if start in _TIFF_STARTS:
        with _opened_tiff(path) as tiff:
            _check_pages(path, tiff.pages)
    elif (start == b"\x89PNG" and _PNG_END not in end) or (start[:2] == b"\xff\xd8" and _JPEG_END not in end):
        raise ImageError(f"{path}: truncated; its end is missing")


def list_images(paths: Iterable[str | Path]) -> list[Path]:
    """List image files, sorted by file name.

    A folder stands for the images directly in it (by suffix, any case; hidden files are left out), a file for
    itself whatever its suffix. A file named twice is listed once.

    Raises
    ------
    ImageError
        A path does not exist, or there is no image at all.
    """
    found: dict[Path, Path] = {}
    named = [Path(path) for path in paths]
    for path in named:
        if path.is_dir():
            files = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES]
            files = [file for file in files if file.is_file() and not file.name.startswith(".")]
        elif path.exists():
            files = [path]
        else:
            raise ImageError(f"{path}: no such file or folder")
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        where = ", ".join(str(path) for path in named) or "an empty list of paths"
        raise ImageError(f"no image in {where}; looked for files ending in {', '.join(SUFFIXES)}")
    return sorted(found.values(), key=lambda file: (file.name, str(file)))


def _ends(path: Path) -> tuple[bytes, bytes]:
    """Return the first 4 bytes of a file, which tell its format, and the last 4096."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            end = file.read()
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened: {error.strerror or error}") from error
    if not start:
        raise ImageError(f"{path}: the file is empty")
    return start, end


@contextmanager
def _opened_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF; whatever goes wrong while it is open becomes an `ImageError`."""
    try:
        # Only the pixels in this file count: no OME-XML, which may point to other files.
        with tifffile.TiffFile(path, is_ome=False) as tiff:
            yield tiff
    except ImageError:
        raise
    except Exception as error:  # tifffile raises whatever comes up where a file is damaged
        raise ImageError(f"{path}: not a readable TIFF image, perhaps truncated: {error}") from error


def _read_tiff(path: Path) -> np.ndarray:
    """Read a TIFF of one plane."""
    with _opened_tiff(path) as tiff:
        page = _only_page(path, tiff)
        _check_size(path, page.imagelength, page.imagewidth)
        _check_pages(path, [page])
        try:
            pixels = page.asarray()
        except (ValueError, ImportError):
            if page.compression == 1:
                raise
            # tifffile decodes LZW and others only with imagecodecs; Pillow knows the common ones.
            return _read_with_pillow(path, ("TIFF",), frame=page.index)
        return _as_planes(path, page, pixels)


def _only_page(path: Path, tiff: tifffile.TiffFile) -> tifffile.TiffPage:
    """Return the one full-size page; previews and pyramid levels do not count."""
    pages = [page for page in tiff.pages if not page.is_reduced]
    if not pages:
        raise ImageError(f"{path}: the TIFF holds no image, perhaps it is truncated")
    planes = len(pages)
    if planes == 1 and tiff.series:  # ImageJ and MetaMorph keep a stack behind a single page
        planes = max(1, int(np.prod(tiff.series[0].shape)) // max(1, int(np.prod(pages[0].shape))))
    if planes > 1:
        raise ImageError(
            f"{path}: holds {planes} planes; a single two-dimensional image is needed, so split it"
        )
    return pages[0]


def _check_pages(path: Path, pages: Iterable[tifffile.TiffPage]) -> None:
    """Refuse pixel data that lie beyond the end of the file (readers would fill in zeros)."""
    ends = [start + count for page in pages for start, count in zip(page.dataoffsets, page.databytecounts)]
    if not ends:
        raise ImageError(f"{path}: the TIFF holds no image, perhaps it is truncated")
    size = path.stat().st_size
    if max(ends) > size:
        raise ImageError(f"{path}: truncated; {size} bytes of at least {max(ends)} are there")


def _as_planes(path: Path, page: tifffile.TiffPage, pixels: np.ndarray) -> np.ndarray:
    """Bring a page's pixels to [height, width] or [height, width, 3]."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype.kind not in "uif":
        raise ImageError(f"{path}: holds {pixels.dtype} values; integers or floats are needed")
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    if page.axes not in ("YX", "YXS", "SYX"):
        raise ImageError(f"{path}: is of shape {pixels.shape}; a single two-dimensional image is needed")
    if pixels.ndim == 2:
        if page.photometric == 3:
            return np.moveaxis(page.colormap[:, pixels], 0, -1)
        if page.photometric == 0 and pixels.dtype.kind == "u":
            return np.iinfo(pixels.dtype).max - pixels
        return pixels
    samples = pixels.shape[-1]
    alpha = sum(kind in (1, 2) or page.photometric == 2 for kind in page.extrasamples)
    channels = samples - alpha
    if channels not in (1, 3) or alpha > 1:
        raise ImageError(f"{path}: holds {samples} channels; one grey channel or RGB is needed")
    return pixels[..., 0] if channels == 1 else pixels[..., :3]


def _read_with_pillow(path: Path, formats: tuple[str, ...], frame: int | None = None) -> np.ndarray:
    """Read a file that must hold one image, or the given frame of it."""
    try:
        with _open_with_pillow(path, formats) as image:
            _check_size(path, image.height, image.width)
            frames = getattr(image, "n_frames", 1)
            if frame is not None:
                image.seek(frame)
            elif frames > 1:
                raise ImageError(f"{path}: holds {frames} images; a single one is needed")
            return _pillow_pixels(image)
    except UnidentifiedImageError as error:
        if "TIFF" in formats:
            message = "this kind of compressed TIFF cannot be decoded; save it uncompressed or as PNG"
        else:
            message = "not a PNG, JPEG, BMP or TIFF image, or damaged at its start"
        raise ImageError(f"{path}: {message}") from error
    except ImageError:
        raise
    except _DAMAGE as error:
        raise ImageError(f"{path}: truncated or damaged: {error}") from error


def _open_with_pillow(path: Path, formats: tuple[str, ...]) -> Image.Image:
    """Read the header only, without Pillow's own pixel limit: ours is larger and is an error."""
    with _pillow_limit, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _pillow_pixels(image: Image.Image) -> np.ndarray:
    """Decode, and resolve palettes, alpha and 1-bit pixels."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        pixels = np.asarray(image)
        if pixels.dtype == np.int32 and pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
            return pixels.astype(np.uint16)  # how older Pillow gives 16-bit PNG
        return pixels.astype(pixels.dtype.newbyteorder("="))
    grey = image.mode in ("1", "L", "LA", "La")
    return np.array(image.convert("L" if grey else "RGB"))


def _check_size(path: Path, height: int, width: int) -> None:
    """Refuse images without pixels and images that would not fit in memory."""
    if height < 1 or width < 1:
        raise ImageError(f"{path}: has no pixels ({height} x {width})")
    if height * width > MAXIMUM_PIXELS:
        raise ImageError(f"{path}: declares {height} x {width} pixels; at most {MAXIMUM_PIXELS:,} are read")
