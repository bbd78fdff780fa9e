"""Segment cells and nuclei in image files: overlays, label images, a table and COCO results.

``python -m evican_model.predict IMAGE_OR_DIR... --output DIR``. Exit code 0: all images done; 2: wrong usage,
or nothing could be done; 3: some images could not be read (they are named), the others are done.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Iterator, Sequence

import numpy as np
import tifffile
from PIL import Image
from tqdm import tqdm

import evican_model
from evican_model.errors import EvicanError, ImageError
from evican_model.images import list_images, read_image
from evican_model.instances import Instances
from evican_model.overlay import draw_outlines

COLUMNS = (
    "file_name", "category", "label", "score", "parent_label", "area", "y1", "x1", "y2", "x2", "centroid_y",
    "centroid_x",
)  # fmt: skip
# Added where the model tells cell lines apart.
LINE_COLUMNS = ("cell_line", "cell_line_score")
_PLURALS = {"Cell": "cells", "Nucleus": "nuclei"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(argv)
    if not (options.coco or options.overlay or options.labels or options.csv):
        options.overlay = options.labels = options.csv = True
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        return _run(options)
    except (EvicanError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def object_rows(file_name: str, found: Instances) -> list[list[Any]]:
    """Return a table row, as ``COLUMNS`` (and ``LINE_COLUMNS``, if the objects have lines) name them, for every object.

    ``label`` is the object's value in the label image of its category; ``parent_label`` that of a nucleus's
    cell, 0 for none. Lengths are pixels; a centroid is the mean of pixel indices.
    """
    rows = []
    for category in found.categories:
        objects = found.of(category)
        linked = category == "Nucleus" and "Cell" in found.categories
        parents = found.parents().tolist() if linked else [""] * len(objects)
        for i, crop in enumerate(objects.crops):
            y, x = np.nonzero(crop)
            box = objects.all_boxes[i].tolist()
            centroid = [f"{y.mean() + box[0]:.2f}", f"{x.mean() + box[1]:.2f}"]
            score = f"{objects.all_scores[i]:.4f}"
            rows.append([_escaped(file_name), category, i + 1, score, parents[i], len(y), *box, *centroid])
            if objects.all_lines:
                rows[-1] += [_escaped(objects.all_lines[i]), f"{objects.all_line_scores[i]:.4f}"]
    return rows


def coco_results(image_id: int, file_name: str, found: Instances) -> list[dict[str, Any]]:
    """Return COCO results, one dict an object, as ``pycocotools.coco.COCO.loadRes`` reads them."""
    from pycocotools import mask as coco_mask

    height, width = found.shape
    results = []
    for i, (y1, x1, y2, x2) in enumerate(found.all_boxes.tolist()):
        runs = {"size": [height, width], "counts": _column_runs(found, i)}
        counts = coco_mask.frPyObjects(runs, height, width)["counts"].decode("ascii")
        results.append({
            "image_id": image_id,
            "file_name": file_name,
            "category_id": int(found.category_ids[i]),
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": round(float(found.all_scores[i]), 6),
            "segmentation": {"size": [height, width], "counts": counts},
        })  # fmt: skip
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evican_model.predict",
        description="Segment cells and nuclei in unstained images.",
        epilog="With none of --overlay, --labels, --csv, --coco: the first three.",
    )
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE_OR_DIR", help="PNG, JPEG, BMP or TIFF of one plane, or a folder")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for the results; made if missing")
    add("--weights", default="bundled", metavar="W", 
        help="a .h5 file, bundled (the default), or accurate: bundled, in eight views, about thirteen times as long")
    add("--overlay", action="store_true", help="write <name>_overlay.png: cells orange, nuclei blue")
    add("--labels", action="store_true", help="write <name>_cells.tiff and <name>_nuclei.tiff, 0: background")
    add("--csv", action="store_true", help="write objects.csv, one row an object")
    add("--coco", type=Path, metavar="FILE", help="write COCO results: all detections, overlaps left in")
    add(
        "--confidence",
        type=_share,
        metavar="F",
        help="least score, 0 to 1 (default: the model's own; for --coco its floor, for average precision)",
    )
    add("--cell-diameter", type=_positive, metavar="PX", help="of a typical cell (default: automatic)")
    return parser


def _run(options: argparse.Namespace) -> int:
    """Segment all images; returns the exit code."""
    paths = list_images(options.images)
    _refuse_clashes(paths, options)
    if options.coco:
        _require_pycocotools()
    model = evican_model.load_model(options.weights)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.coco:
        options.coco.parent.mkdir(parents=True, exist_ok=True)

    rows: list[list[Any]] = []
    results: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    failed = 0
    for image_id, path in enumerate(tqdm(paths, unit="image"), 1):
        try:
            image = read_image(path)
            full = model.detect(image, cell_diameter=options.cell_diameter)
            if options.coco:
                least = model.config.minimum_score if options.confidence is None else options.confidence
                results += coco_results(image_id, path.name, full.select(full.all_scores >= least))
            if options.overlay or options.labels or options.csv:
                found = model.resolve(full, confidence=options.confidence)
                rows += object_rows(path.name, found)
                counts.update({category: found.count(category) for category in found.categories})
                _write_pictures(path, image, found, options)
        except (ImageError, MemoryError) as error:
            failed += 1
            where = "" if str(path) in str(error) else f"{path}: "
            tqdm.write(f"error: {where}{error or 'not enough memory for this image'}", file=sys.stderr)
    if failed == len(paths):
        raise ImageError(f"none of the {failed} images could be read; nothing was written")
    if options.csv:
        columns = (*COLUMNS, *LINE_COLUMNS) if model.tells_lines else COLUMNS
        _write_table(options.output / "objects.csv", columns, rows)
    if options.coco:
        with _replacing(options.coco) as file:
            file.write(json.dumps(results).encode("ascii"))
    found_text = ", ".join(f"{count} {_plural(category)}" for category, count in counts.items())
    print(f"{len(paths) - failed} images: {found_text or f'{len(results)} detections'}")
    if failed:
        print(f"error: {failed} of {len(paths)} images could not be read (see above)", file=sys.stderr)
    return 3 if failed else 0


def _write_pictures(path: Path, image: np.ndarray, found: Instances, options: argparse.Namespace) -> None:
    """Write what was asked for of an image's overlay and label images."""
    if options.labels:
        for category in found.categories:
            dtype = np.uint16 if found.count(category) <= np.iinfo(np.uint16).max else np.uint32
            with _replacing(options.output / f"{path.stem}_{_plural(category)}.tiff") as file:
                tifffile.imwrite(file, found.labels(category).astype(dtype), compression="zlib")
    if options.overlay:
        with _replacing(options.output / f"{path.stem}_overlay.png") as file:
            Image.fromarray(draw_outlines(image, found)).save(file, format="PNG")


def _write_table(path: Path, columns: Sequence[str], rows: list[list[Any]]) -> None:
    """Write objects.csv."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    with _replacing(path) as file:
        file.write(text.getvalue().encode("utf-8"))


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its name only when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "w+b") as file:
            yield file
        os.replace(partial, path)
    finally:
        if partial.exists():
            partial.unlink()


def _refuse_clashes(paths: Sequence[Path], options: argparse.Namespace) -> None:
    """Refuse images whose results would overwrite each other or an image."""
    by_stem = options.labels or options.overlay
    seen: dict[str, Path] = {}
    for path in paths:
        # Names that differ in case only are one file on many systems.
        other = seen.setdefault((path.stem if by_stem else path.name).casefold(), path)
        if other is not path:
            raise EvicanError(f"results of {other} and {path} would have the same names; run them separately")
    folder = options.output.resolve()
    if any(Path(given).is_dir() and Path(given).resolve() == folder for given in options.images):
        raise EvicanError(f"--output {options.output} is a folder that images are read from; name another")
    endings = ["_overlay.png", *(f"_{name}.tiff" for name in _PLURALS.values())] if by_stem else []
    written = {folder / f"{path.stem}{ending}" for path in paths for ending in endings}
    for path in paths:
        if path.resolve() in written or options.coco and path.resolve() == options.coco.resolve():
            raise EvicanError(f"{path} would be overwritten by results; name another --output")


def _require_pycocotools() -> None:
    """Fail before the work, not after it."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise EvicanError(f"--coco needs pycocotools (pip install pycocotools): {error}") from error


def _column_runs(found: Instances, i: int) -> list[int]:
    """Return the run lengths of a mask, column by column, off first, without making it at image size."""
    height, width = found.shape
    y1, x1 = found.all_boxes[i, :2].tolist()
    columns, rows = np.nonzero(found.crops[i].T)
    pixels = (columns + x1) * height + rows + y1  # places in the image, ascending
    starts = pixels[np.diff(pixels, prepend=-2) != 1]
    ends = pixels[np.diff(pixels, append=height * width + 1) != 1] + 1
    edges = np.concatenate([[0], np.stack([starts, ends], -1).ravel(), [height * width]])
    runs = np.diff(edges).tolist()
    return runs if runs[-1] else runs[:-1]


def _plural(category: str) -> str:
    return _PLURALS.get(category, category.lower())


def _escaped(text: str) -> str:
    """Keep a spreadsheet from taking a file name for a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of pixels")
    return value


if __name__ == "__main__":
    sys.exit(main())
