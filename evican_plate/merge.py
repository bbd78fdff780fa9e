"""All shards into one set of tables, a shard at a time: memory does not grow with the number of cells.

Columns have CellProfiler's names. Left out are those that tell of the run and not of the image: ``ExecutionTime_*``,
``ModuleError_*`` (0 in every row), ``Group_*`` (they count within a shard), and paths of saved images. ``ImageNumber``
counts along the plan, paths and ``Metadata_*`` are those of the plan.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from evican_plate import quality
from evican_plate.database import write_properties
from evican_plate.files import read_json
from evican_plate.platemap import PlateMap
from evican_plate.summary import Summary
from evican_plate.tables import TableWriter, open_database

__all__ = ["Merged", "merge"]

_DROPPED = (
    "ExecutionTime_",
    "ModuleError_",
    "Group_",
    "Metadata_",
    "URL_",
    "PathName_",
    "ImageNumber",
    "ProcessingStatus",
)
_INTEGERS = ("Count_", "Parent_", "Number_Object_Number", "ImageNumber", "ObjectNumber")
_NULLS = ["", "nan", "NaN", "NAN", "None"]


@dataclass
class Merged:
    """What `merge` wrote, for the report: tables with a row an image and a row a well, and samples of objects."""

    images: pa.Table
    wells: pa.Table
    summary: Summary
    rows: dict[str, int]


@dataclass(frozen=True)
class _Piece:
    """Images that follow each other in the plan and lie in the tables of one folder."""

    folder: Path
    numbers: np.ndarray  # in the folder's tables
    places: np.ndarray  # in the list of images that are done


def merge(
    folder: Path, plan: dict[str, Any], done: dict[str, dict[str, Any]], failed: set[int], platemap: PlateMap
) -> Merged:
    """Write all tables of a plan into a folder.

    Parameters
    ----------
    folder : Path
        It must be empty.
    plan : dict
    done : dict
        Of `plan.done_images`: where the rows of an image are, by its key. At least one image must be there.
    failed : set of int
        Numbers of the images that have none.
    platemap : PlateMap

    Returns
    -------
    Merged
    """
    images = [image for image in plan["images"] if image["key"] in done]
    entries = [done[image["key"]] for image in images]
    metadata = _metadata(images, platemap)
    pieces = _pieces(entries)
    columns = _columns({Path(entry["folder"]).parent for entry in entries})
    summary = Summary(images, plan["images"], failed, metadata, platemap)
    facts = _ImageFacts(len(images), plan)
    rows = {}
    database = open_database(folder / "plate.sqlite")
    try:
        image_table = pa.concat_tables(
            _read(piece, "Image", columns["Image"], drop=_DROPPED)[0] for piece in pieces
        ).combine_chunks()
        facts.add_images(image_table)
        numbers = pa.array([image["number"] for image in images], pa.int64())
        for name in sorted(set(columns) - {"Image"}):
            schema = _schema(
                columns[name], metadata, ("ImageNumber", "ObjectNumber"), ("ImageNumber", "ObjectNumber")
            )
            with TableWriter(folder, name.lower(), schema, database, f"Per_{name}", f"{name}_") as writer:
                for piece in pieces:
                    table, places = _read(piece, name, columns[name], drop=("ImageNumber",))
                    if not len(table):
                        continue
                    whole = _assemble(
                        schema, table, {"ImageNumber": numbers.take(pa.array(places))}, metadata, places
                    )
                    writer.write(whole)
                    summary.add(name, table, places)
                    facts.add_objects(name, table, places)
                summary.close(name)
            rows[name] = writer.rows
        with_facts = _with_quality(image_table, facts, entries, images, plan)
        images_table = _image_table(with_facts, numbers, images, metadata)
        with TableWriter(folder, "images", images_table.schema, database, "Per_Image", "Image_") as writer:
            writer.write(images_table)
        wells = summary.table(images_table, plan["pipeline"])
        with TableWriter(folder, "wells", wells.schema, database, "Per_Well") as writer:
            writer.write(wells)
        database.execute("COMMIT")
    finally:
        database.close()
    write_properties(folder / "plate.properties", plan, images_table, rows)
    counts = {name.lower(): count for name, count in rows.items()}
    return Merged(images_table, wells, summary, {**counts, "images": len(images), "wells": len(wells)})


def _metadata(images: Sequence[dict[str, Any]], platemap: PlateMap) -> dict[str, pa.Array]:
    """Return the metadata columns of the images."""
    letters = [image["well"].rstrip("0123456789") for image in images]
    found = {
        "Metadata_Plate": pa.array([image["plate"] for image in images], pa.string()),
        "Metadata_Well": pa.array([image["well"] for image in images], pa.string()),
        "Metadata_Row": pa.array(letters, pa.string()),
        "Metadata_Column": pa.array(
            [int(i["well"][len(row) :]) for i, row in zip(images, letters)], pa.int64()
        ),
        "Metadata_Site": pa.array([image["site"] for image in images], pa.int64()),
        "Metadata_Time": pa.array([image["time"] for image in images], pa.string()),
    }
    treated = [platemap.of(image["plate"], image["well"]) for image in images]
    for column in platemap.columns:
        found[column] = pa.array([row[column] for row in treated], pa.string())
    return found


def _pieces(entries: Sequence[dict[str, Any]]) -> list[_Piece]:
    pieces: list[_Piece] = []
    start = 0
    for end in range(1, len(entries) + 1):
        if end == len(entries) or entries[end]["folder"] != entries[start]["folder"]:
            numbers = np.array([entry["number"] for entry in entries[start:end]])
            pieces.append(_Piece(Path(entries[start]["folder"]), numbers, np.arange(start, end)))
            start = end
    return pieces


def _columns(shards: set[Path]) -> dict[str, dict[str, pa.DataType]]:
    """Return the columns of each table and their types, of all shards together, sorted by name."""
    names: dict[str, set[str]] = {}
    text: dict[str, set[str]] = {}
    for shard in shards:
        for table, description in read_json(shard / "done.json")["tables"].items():
            names.setdefault(table, set()).update(description["columns"])
            text.setdefault(table, set()).update(description["text"])
    return {
        table: {name: _type(name, text[table]) for name in sorted(names[table])} for table in sorted(names)
    }


def _type(name: str, text: set[str]) -> pa.DataType:
    if name in text:
        return pa.string()
    integer = name.startswith(_INTEGERS) or (name.startswith("Children_") and name.endswith("_Count"))
    return pa.int64() if integer else pa.float64()


def _schema(
    columns: dict[str, pa.DataType], metadata: dict[str, pa.Array], keys: Sequence[str], own: Sequence[str]
) -> pa.Schema:
    fields = [(key, pa.int64()) for key in keys]
    fields += [(name, column.type) for name, column in metadata.items()]
    return pa.schema(fields + [(name, kind) for name, kind in columns.items() if name not in own])


@lru_cache(maxsize=4)
def _read_csv(path: Path, columns: tuple[tuple[str, pa.DataType], ...]) -> pa.Table | None:
    """Read a table of CellProfiler; None where there is none, as for objects that no image has."""
    if not path.is_file() or not path.stat().st_size:
        return None
    # whole numbers are written with a point by some modules
    types = {name: pa.string() if kind == pa.string() else pa.float64() for name, kind in columns}
    return pyarrow.csv.read_csv(
        path,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, null_values=_NULLS, strings_can_be_null=False
        ),
    )


def _read(
    piece: _Piece, name: str, columns: dict[str, pa.DataType], drop: tuple[str, ...]
) -> tuple[pa.Table, np.ndarray]:
    """Return the rows of a piece's images, with all columns but some, and the place of the image of each row."""
    kept = {column: kind for column, kind in columns.items() if not column.startswith(drop)}
    schema = pa.schema(list(kept.items()))
    table = _read_csv(piece.folder / f"{name}.csv", tuple(columns.items()))
    if table is None or not len(table):
        return schema.empty_table(), np.zeros(0, int)
    numbers = table.column("ImageNumber").to_numpy().astype(int)
    place_of = np.full(max(numbers.max(), piece.numbers.max()) + 1, -1)
    place_of[piece.numbers] = piece.places
    places = place_of[numbers]
    rows = np.flatnonzero(places >= 0)
    rows = rows[np.argsort(places[rows], kind="stable")]
    if len(rows) < len(table) or (np.diff(rows) != 1).any():
        table = table.take(pa.array(rows))
    present = set(table.column_names)
    arrays = [
        table.column(column).cast(kind) if column in present else pa.nulls(len(table), kind)
        for column, kind in kept.items()
    ]
    return pa.Table.from_arrays(arrays, schema=schema), places[rows]


def _assemble(
    schema: pa.Schema,
    table: pa.Table,
    own: dict[str, pa.Array],
    metadata: dict[str, pa.Array],
    places: np.ndarray,
) -> pa.Table:
    indices = pa.array(places)
    arrays = []
    for field in schema:
        if field.name in own:
            arrays.append(own[field.name])
        elif field.name in metadata:
            arrays.append(metadata[field.name].take(indices))
        else:
            arrays.append(table.column(field.name))
    return pa.Table.from_arrays(arrays, schema=schema)


class _ImageFacts:
    """What the objects say of each image."""

    def __init__(self, count: int, plan: dict[str, Any]) -> None:
        self._cells, self._image = plan["pipeline"]["cells"], plan["pipeline"]["image"]
        self._tile, self._diameter = plan["cellprofiler"]["tile"], plan["cellprofiler"]["cell_diameter"]
        self.covered = np.zeros(count)
        self.score = np.full(count, np.nan)
        self.densest = np.zeros(count)
        self.pixels = np.full(count, np.nan)
        self.has_area = False

    def add_images(self, table: pa.Table) -> None:
        sides = [f"{side}_{self._image}" for side in ("Height", "Width")]
        if set(sides) <= set(table.column_names):
            self.pixels = np.prod([table.column(side).to_numpy() for side in sides], axis=0)

    def add_objects(self, name: str, table: pa.Table, places: np.ndarray) -> None:
        if name != self._cells:
            return
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        pieces = list(zip(starts, [*starts[1:], len(places)]))
        scores = table.column("EVICAN_Score").to_numpy()
        for start, end in pieces:
            self.score[places[start]] = np.median(scores[start:end])
        if not {"AreaShape_Area", "Location_Center_X", "Location_Center_Y"} <= set(table.column_names):
            return
        self.has_area = True
        areas, x, y = (
            table.column(f).to_numpy() for f in ("AreaShape_Area", "Location_Center_X", "Location_Center_Y")
        )
        for start, end in pieces:
            one = slice(start, end)
            self.covered[places[start]] = areas[one].sum()
            self.densest[places[start]] = quality.tile_counts(
                x[one], y[one], areas[one], self._tile, self._diameter
            )

    @property
    def confluency(self) -> np.ndarray:
        return self.covered / self.pixels if self.has_area else np.full(len(self.pixels), np.nan)


def _with_quality(
    table: pa.Table,
    facts: _ImageFacts,
    entries: Sequence[dict[str, Any]],
    images: Sequence[dict[str, Any]],
    plan: dict[str, Any],
) -> pa.Table:
    """Add the columns ``QC_*`` to the table of images."""
    measures = {
        "focus": quality.as_array([entry["quality"].get("focus") for entry in entries]),
        "saturated": quality.as_array([entry["quality"].get("saturated") for entry in entries]),
        "confluency": facts.confluency,
        "score": facts.score,
        "cells": table.column(f"Count_{plan['pipeline']['cells']}").to_numpy(),
        "nuclei": table.column(f"Count_{plan['pipeline']['nuclei']}").to_numpy(),
        "densest": facts.densest,
    }
    flags = quality.flag_images(
        [image["plate"] for image in images], measures, plan["cellprofiler"]["detections"]
    )
    names = {
        "Focus": "focus",
        "SaturatedShare": "saturated",
        "Confluency": "confluency",
        "MedianScore": "score",
    }
    columns = {
        f"QC_{name}": pa.array(measures[key], pa.float64(), from_pandas=True) for name, key in names.items()
    }
    columns["QC_DensestTile"] = pa.array(measures["densest"].astype(int), pa.int64())
    columns.update({f"QC_{name}": pa.array(flag.astype(int), pa.int64()) for name, flag in flags.items()})
    texts = [";".join(name for name in quality.FLAGS if flags[name][i]) for i in range(len(images))]
    columns["QC_Flags"] = pa.array(texts, pa.string())
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def _image_table(
    table: pa.Table, numbers: pa.Array, images: Sequence[dict[str, Any]], metadata: dict[str, pa.Array]
) -> pa.Table:
    own = {"ImageNumber": numbers}
    for name in images[0]["files"]:
        paths = [image["files"][name] for image in images]
        own[f"FileName_{name}"] = pa.array([os.path.basename(path) for path in paths], pa.string())
        own[f"PathName_{name}"] = pa.array([os.path.dirname(path) for path in paths], pa.string())
        own[f"URL_{name}"] = pa.array([Path(path).as_uri() for path in paths], pa.string())
    rest = {field.name: field.type for field in table.schema if field.name not in own}
    fields = [("ImageNumber", pa.int64()), *((name, column.type) for name, column in metadata.items())]
    fields += [(name, column.type) for name, column in own.items() if name != "ImageNumber"]
    schema = pa.schema([*fields, *sorted(rest.items())])
    return _assemble(schema, table, own, metadata, np.arange(len(images)))
