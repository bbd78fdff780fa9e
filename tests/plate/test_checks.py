"""A shard is done only when everything is there: each way in which CellProfiler is known to lie."""

from __future__ import annotations

import csv

import pytest

pytest.importorskip(
    "pyarrow", reason="evican_plate is not installed here: EVICAN_CELLPROFILER=plate script/test"
)

from evican_plate.checks import IncompleteError, NotSegmentedError, check_run  # noqa: E402

PIPELINE = {"image": "Unstained", "cells": "Cells", "nuclei": "Nuclei", "segment_module": 2, "modules": 5}
IMAGES = [{"files": {"Unstained": f"/data/{name}.tif"}} for name in ("a", "b")]


def rows_of_images():
    return [
        {
            "ImageNumber": str(i + 1), "FileName_Unstained": f"{name}.tif", "Count_Cells": "2.0", "Count_Nuclei": "0",
            "ModuleError_02SegmentEVICAN": "0", "ExecutionTime_02SegmentEVICAN": "1.5",
        }
        for i, name in enumerate("ab")
    ]  # fmt: skip


def rows_of_cells():
    return [{"ImageNumber": i, "ObjectNumber": o, "AreaShape_Area": "7"} for i in "12" for o in "12"]


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "Image.csv", rows_of_images())
    write(tmp_path / "Cells.csv", rows_of_cells())
    return tmp_path


def test_whole_tables_pass(folder):
    found = check_run(folder, IMAGES, PIPELINE)
    assert found["Cells"] == {"columns": ["ImageNumber", "ObjectNumber", "AreaShape_Area"], "text": []}
    assert found["Image"]["text"] == ["FileName_Unstained"]


def test_no_table(folder):
    (folder / "Image.csv").unlink()
    with pytest.raises(NotSegmentedError, match=r"no row of Image\.csv"):
        check_run(folder, IMAGES, PIPELINE)


def test_plugin_was_left_out(folder):
    kept = [{k: v for k, v in row.items() if "SegmentEVICAN" not in k} for row in rows_of_images()]
    write(folder / "Image.csv", kept)
    with pytest.raises(NotSegmentedError, match="plug-in"):
        check_run(folder, IMAGES, PIPELINE)


@pytest.mark.parametrize(
    "change",
    [
        {"Count_Cells": ""},
        {"Count_Cells": "nan"},
        {"ModuleError_02SegmentEVICAN": ""},
        {"ModuleError_02SegmentEVICAN": "1"},
        {"FileName_Unstained": "a.tif"},
        {"ImageNumber": "3"},
        {"Count_Cells": "3.0"},
    ],
)
def test_one_wrong_row(folder, change):
    rows = rows_of_images()
    rows[1].update(change)
    write(folder / "Image.csv", rows)
    with pytest.raises(IncompleteError):
        check_run(folder, IMAGES, PIPELINE)


def test_too_few_rows(folder):
    write(folder / "Image.csv", rows_of_images()[:1])
    with pytest.raises(IncompleteError, match="1 rows; 2 images"):
        check_run(folder, IMAGES, PIPELINE)


@pytest.mark.parametrize("cut", [1, 2, 3, 9])
def test_cut_short_anywhere(folder, cut):
    path = folder / "Cells.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(IncompleteError):
        check_run(folder, IMAGES, PIPELINE)


def test_objects_without_table(folder):
    (folder / "Cells.csv").unlink()
    with pytest.raises(IncompleteError, match=r"no Cells\.csv"):
        check_run(folder, IMAGES, PIPELINE)
