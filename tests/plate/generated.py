"""Output folders of plates that were never run: shards with generated tables, of any size."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from evican_plate.files import write_json
from evican_plate.plan import FORMAT, Layout

TABLES = ("Cells", "Cytoplasm", "Nuclei")


def make_output(output, wells, sites=1, cells=8, features=6, shard_size=5, failed=(), seed=0, plates=("P1",)):
    """Make an output folder as the workers leave it.

    The rows of an image depend on its number alone, not on how images are put into shards.

    Returns
    -------
    Layout, dict
        The folder, and a plan for all images.
    """
    layout = Layout(Path(output))
    layout.make()
    images = []
    for plate in plates:
        for well in wells:
            for site in range(1, sites + 1):
                number = len(images) + 1
                images.append({
                    "number": number,
                    "plate": plate,
                    "well": well,
                    "site": site,
                    "time": "1",
                    "files": {"Unstained": f"/data/{plate}/{well}_s{site}.tif"},
                    "key": hashlib.sha256(f"{seed} {number}".encode()).hexdigest(),
                })  # fmt: skip
    good = [image for image in images if image["number"] not in failed]
    for start in range(0, len(good), shard_size):
        _write_shard(layout, good[start : start + shard_size], cells, features, seed)
    plan = {
        "format": FORMAT,
        "token": "[]",
        "folder": "/data",
        "pipeline": {
            "path": "x.cppipe",
            "sha256": "0",
            "image": "Unstained",
            "cells": "Cells",
            "nuclei": "Nuclei",
            "modules": 9,
            "segment_module": 2,
        },
        "cellprofiler": {
            "command": "cellprofiler",
            "plugins": "plugins",
            "python": "3.11.7",
            "cellprofiler": "5.0.0",
            "tensorflow": "2.20.0",
            "numpy": "1.26.4",
            "evican_model": "0.1.0",
            "code_sha256": "1",
            "weights": "fast.h5",
            "weights_sha256": "2",
            "settings_sha256": "3",
            "plugin_sha256": "4",
            "detections": 400,
            "tile": 1024,
            "cell_diameter": 64.0,
        },
        "threads": 1,
        "images": images,
        "failures": [],
        "shards": [],
    }
    write_json(layout.plan, plan)
    return layout, plan


def _write_shard(layout, images, cells, features, seed):
    folder = layout.shards / images[0]["key"][:20]
    run = folder / "run1"
    run.mkdir(parents=True)
    described = {}
    counts = [_count(image, cells, seed) for image in images]
    for table in TABLES:
        frame = _objects(images, counts, table, features, seed)
        pyarrow.csv.write_csv(frame, run / f"{table}.csv")
        described[table] = {"columns": frame.column_names, "text": []}
    numbers = list(range(1, len(images) + 1))
    frame = {
        "ImageNumber": numbers,
        "FileName_Unstained": [Path(image["files"]["Unstained"]).name for image in images],
        "PathName_Unstained": ["/somewhere/else"] * len(images),
        "ExecutionTime_02SegmentEVICAN": [float(len(images))] * len(images),
        "ModuleError_02SegmentEVICAN": [0] * len(images),
        "Group_Index": numbers,
        "Metadata_Well": [image["well"] for image in images],
        "Height_Unstained": [1000] * len(images),
        "Width_Unstained": [1200] * len(images),
        **{f"Count_{table}": [float(count) for count in counts] for table in TABLES},
    }
    frame = pa.table(dict(sorted(frame.items())))
    pyarrow.csv.write_csv(frame, run / "Image.csv")
    text = ["FileName_Unstained", "PathName_Unstained", "Metadata_Well"]
    described["Image"] = {"columns": frame.column_names, "text": text}
    entries = [
        {
            "key": image["key"],
            "run": "run1",
            "number": number,
            "saved": [],
            "quality": {"focus": 0.5, "saturated": 0.0},
        }
        for number, image in zip(numbers, images)
    ]
    record = {"format": FORMAT, "id": folder.name, "images": entries, "failures": [], "tables": described}
    write_json(folder / "done.json", record)


def _count(image, cells, seed):
    return int(np.random.default_rng([seed, image["number"]]).integers(0, 2 * cells + 1)) if cells else 0


def _objects(images, counts, table, features, seed):
    matrices = [
        np.random.default_rng([seed, image["number"], TABLES.index(table)]).gamma(
            2.0, 100.0, (count, features + 4)
        )
        for image, count in zip(images, counts)
    ]
    matrix = np.concatenate(matrices).round(6)
    frame = {
        "ImageNumber": np.repeat(np.arange(1, len(images) + 1), counts),
        "ObjectNumber": np.concatenate([np.arange(1, count + 1) for count in counts]),
        "AreaShape_Area": matrix[:, 0] + 500,
        "EVICAN_Score": 0.7 + matrix[:, 1] % 0.3,
        "Location_Center_X": matrix[:, 2] % 1200,
        "Location_Center_Y": matrix[:, 3] % 1000,
        "Number_Object_Number": np.concatenate([np.arange(1, count + 1) for count in counts]),
    }
    if table != "Cells":
        frame["Parent_Cells"] = frame["ObjectNumber"]
    if table == "Cytoplasm":
        frame["Parent_Nuclei"] = frame["ObjectNumber"]
    for i in range(features):
        values = matrix[:, 4 + i]
        frame[f"Intensity_Feature{i:03d}_Unstained"] = np.where(values < 10, np.nan, values)
    return pa.table(frame)
