"""Whether CellProfiler did what it was asked: its exit code alone does not say so."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any, Sequence

__all__ = ["IncompleteError", "NotSegmentedError", "check_run"]


class IncompleteError(Exception):
    """Rows are missing or were cut short; perhaps one image is the cause."""


class NotSegmentedError(Exception):
    """No image was segmented at all, as when the plug-in was not loaded: no image is the cause."""


def check_run(
    folder: Path, images: Sequence[dict[str, Any]], pipeline: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Check the tables of a run of CellProfiler against the images that it was given.

    Parameters
    ----------
    folder : Path
        With Image.csv and a table for each object set.
    images : sequence of dict
        Of the plan, in the order of the LoadData table.
    pipeline : dict
        Of the plan.

    Returns
    -------
    dict
        For each table ``columns``, and ``text``: those that hold something else than numbers.

    Raises
    ------
    IncompleteError, NotSegmentedError
    """
    rows = _read(folder / "Image.csv", needed=False)
    if not rows:
        raise NotSegmentedError(
            "SegmentEVICAN did not run (CellProfiler ended as if all were well, but wrote no row of Image.csv): it "
            "leaves out a plug-in that cannot be imported and all modules after it"
        )
    module = f"{pipeline['segment_module']:02d}SegmentEVICAN"
    counts = (f"Count_{pipeline['cells']}", f"Count_{pipeline['nuclei']}")
    for column in (*counts, f"ModuleError_{module}", f"ExecutionTime_{module}"):
        if column not in rows[0]:
            raise NotSegmentedError(
                f"SegmentEVICAN did not run (Image.csv has no {column}): CellProfiler left the module out, which "
                "happens when the plug-in or a package that it needs cannot be imported"
            )
    if [row["ImageNumber"] for row in rows] != [str(number) for number in range(1, len(images) + 1)]:
        raise IncompleteError(f"Image.csv has {len(rows)} rows; {len(images)} images were given")
    name = pipeline["image"]
    for row, image in zip(rows, images):
        _check_image(row, counts, Path(image["files"][name]).name, row.get(f"FileName_{name}", ""))
    tables = {"Image": _describe(rows)}
    objects = [column[len("Count_") :] for column in rows[0] if column.startswith("Count_")]
    for table in objects:
        tables[table] = _check_objects(folder / f"{table}.csv", table, rows)
    return tables


def _check_image(row: dict[str, str], counts: tuple[str, str], expected: str, found: str) -> None:
    """One row of Image.csv: the right image, every module without error, objects counted."""
    if found != expected:
        raise IncompleteError(f"row {row['ImageNumber']} of Image.csv is of {found}; expected {expected}")
    for column, value in row.items():
        if column.startswith("ModuleError_") and value not in ("0", "0.0"):
            raise IncompleteError(f"{expected}: {column} is {value!r}; expected 0")
    for column in counts:
        if not _is_count(row[column]):
            raise IncompleteError(f"{expected}: {column} is {row[column]!r}; expected a number of objects")


def _check_objects(path: Path, table: str, images: list[dict[str, str]]) -> dict[str, Any]:
    """Check the table of an object set: all objects of all images, in order."""
    rows = _read(path, needed=any(float(row[f"Count_{table}"]) > 0 for row in images))
    expected = [
        (row["ImageNumber"], str(number))
        for row in images
        for number in range(1, int(float(row[f"Count_{table}"])) + 1)
    ]
    if [(row["ImageNumber"], row["ObjectNumber"]) for row in rows] != expected:
        raise IncompleteError(f"{path.name} has {len(rows)} rows; Image.csv counts {len(expected)} objects")
    return _describe(rows)


def _read(path: Path, needed: bool) -> list[dict[str, str]]:
    """Read a table; a row that is cut short, or a file that does not end with a line, is an error."""
    if not path.is_file():
        if needed:
            raise IncompleteError(f"CellProfiler wrote no {path.name}")
        return []
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        raise IncompleteError(f"{path.name} is cut short")
    lines = list(csv.reader(content.decode("utf-8").splitlines()))
    for number, line in enumerate(lines, 1):
        if len(line) != len(lines[0]):
            raise IncompleteError(
                f"{path.name}, line {number}: {len(line)} cells; the header has {len(lines[0])}"
            )
    return [dict(zip(lines[0], line)) for line in lines[1:]]


def _describe(rows: list[dict[str, str]]) -> dict[str, Any]:
    columns = list(rows[0]) if rows else []
    return {
        "columns": columns,
        "text": [name for name in columns if not all(_is_number(row[name]) for row in rows)],
    }


def _is_count(text: str) -> bool:
    return _is_number(text) and math.isfinite(float(text or "nan")) and float(text) >= 0


def _is_number(text: str) -> bool:
    if not text:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
