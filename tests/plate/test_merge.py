"""Tables of generated shards: what is in them, and that nothing depends on how the work was cut."""

from __future__ import annotations

import csv
import io
import sqlite3

import numpy as np
import pytest

pa = pytest.importorskip(
    "pyarrow", reason="evican_plate is not installed here: EVICAN_CELLPROFILER=plate script/test"
)

import pyarrow.parquet  # noqa: E402, F401  pa.parquet
from generated import make_output  # noqa: E402
from small_plates import tables  # noqa: E402

from evican_plate.finish import finish, outcome_of, report_again  # noqa: E402
from evican_plate.platemap import PlateMap  # noqa: E402
from evican_plate.quality import flag_images, image_quality, tile_counts  # noqa: E402
from evican_plate.status import status  # noqa: E402

WELLS = ["A01", "A02", "A03", "B01", "B02", "B03"]
ABOUT = {"command": "test", "finished": "now", "seconds": 1, "workers": 1}


def platemap():
    wells = {("", well): {"Metadata_Treatment": "=DMSO" if well < "B" else "drug"} for well in WELLS}
    return PlateMap(("Metadata_Treatment",), wells, ("Metadata_Treatment", "=DMSO"))


def finished(path, **options):
    """Make a plate, finish it, and return its folder, plan and exit code."""
    layout, plan = make_output(path, WELLS, sites=3, **options)
    layout.lock.touch()
    return layout, plan, finish(layout, plan, platemap(), [], ABOUT, io.StringIO())


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    layout, _, code = finished(tmp_path_factory.mktemp("plate"))
    assert code == 0
    return layout.output


def read(plate, name):
    return pa.parquet.read_table(plate / f"{name}.parquet")


@pytest.mark.parametrize("shard_size", [1, 4, 18])
def test_shards_do_not_show(plate, tmp_path, shard_size):
    layout, _, _ = finished(tmp_path, shard_size=shard_size)
    mine, theirs = tables(layout.output), tables(plate)
    assert sorted(mine) == sorted(theirs) and len(mine) == 13
    for name in mine:
        assert mine[name] == theirs[name], name


def test_rows_and_keys(plate):
    images = read(plate, "images").to_pandas()
    assert images["ImageNumber"].tolist() == list(range(1, 19))
    assert images["Metadata_Well"].tolist() == [well for well in WELLS for _ in range(3)]
    assert images["PathName_Unstained"].unique().tolist() == ["/data/P1"]
    assert not [c for c in images if c.startswith(("ExecutionTime", "ModuleError", "Group_"))]
    for name in ("cells", "nuclei", "cytoplasm"):
        objects = read(plate, name).to_pandas()
        counts = objects.groupby("ImageNumber").size().reindex(images["ImageNumber"], fill_value=0)
        assert counts.tolist() == images["Count_Cells"].tolist()
        keys = ["Plate", "Well", "Row", "Column", "Site", "Time", "Treatment"]
        assert objects.columns[:9].tolist() == [
            "ImageNumber",
            "ObjectNumber",
            *(f"Metadata_{key}" for key in keys),
        ]
        assert objects["Metadata_Well"].tolist() == [WELLS[(n - 1) // 3] for n in objects["ImageNumber"]]
        assert objects["ObjectNumber"].dtype == np.int64 and objects["AreaShape_Area"].dtype == np.float64


def test_csv_says_the_same(plate):
    for name in ("cells", "images", "wells"):
        table = read(plate, name)
        with open(plate / f"{name}.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == table.column_names and len(rows) == len(table)
        for column in table.column_names:
            values = table.column(column).to_pylist()
            if table.schema.field(column).type == pa.string():
                # a spreadsheet must not take text for a formula
                assert [row[column] for row in rows] == [
                    ("'" + v if v.startswith("=") else v) for v in values
                ]
            else:
                assert [float(row[column]) if row[column] else None for row in rows] == values


def test_database(plate):
    with sqlite3.connect(plate / "plate.sqlite") as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert names == {"Per_Image", "Per_Cells", "Per_Nuclei", "Per_Cytoplasm", "Per_Well"}
        query = (
            "SELECT Image_Metadata_Well, SUM(Image_Count_Cells), COUNT(Cells_AreaShape_Area) FROM Per_Image "
            "LEFT JOIN Per_Cells USING (ImageNumber) GROUP BY ImageNumber"
        )
        for _, count, rows in database.execute(query):
            assert count == rows * max(rows, 1)  # each image's row is repeated for each of its cells
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_wells(plate):
    wells, cells = read(plate, "wells").to_pandas(), read(plate, "cells").to_pandas()
    feature = "Intensity_Feature002_Unstained"
    assert wells["Metadata_Well"].tolist() == WELLS
    medians = cells.groupby("Metadata_Well")[feature].median()
    assert wells[f"Cells_{feature}_Median"].to_numpy() == pytest.approx(medians[WELLS].to_numpy())
    for i, well in enumerate(WELLS):
        values = cells.loc[cells["Metadata_Well"] == well, feature].dropna()
        assert wells[f"Cells_{feature}_MAD"][i] == pytest.approx((values - values.median()).abs().median())
    area = cells.groupby("Metadata_Well")["AreaShape_Area"].sum()[WELLS].to_numpy()
    assert wells["Confluency"].to_numpy() == pytest.approx(area / (3 * 1000 * 1200))
    controls = medians[["A01", "A02", "A03"]]
    spread = 1.4826 * (controls - controls.median()).abs().median()
    expected = (medians[WELLS] - controls.median()) / spread
    assert wells[f"Cells_{feature}_RobustZ"].to_numpy() == pytest.approx(expected.to_numpy())


def test_failed_images_leave_the_rest(tmp_path, plate):
    layout, plan, code = finished(tmp_path, failed=(2, 18))
    assert code == 3
    with open(layout.output / "failures.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["well"], row["site"], row["stage"]) for row in rows] == [
        ("A01", "2", "run"),
        ("B03", "3", "run"),
    ]
    mine, theirs = read(layout.output, "cells").to_pandas(), read(plate, "cells").to_pandas()
    kept = theirs[~theirs["ImageNumber"].isin([2, 18])].reset_index(drop=True)
    assert mine.equals(kept)
    wells = read(layout.output, "wells").to_pandas()
    assert wells["Count_FailedImages"].tolist() == [1, 0, 0, 0, 0, 1]
    assert len(outcome_of(layout, plan)[0]) == 16


def test_nothing_usable(tmp_path):
    layout, _, code = finished(tmp_path, failed=range(1, 19))
    assert code == 1 and not (layout.output / "cells.csv").exists() and not layout.manifest.exists()


def test_no_object_anywhere(tmp_path):
    layout, _, code = finished(tmp_path, cells=0)
    assert code == 0
    assert read(layout.output, "images")["QC_Empty"].to_pylist() == [1] * 18
    assert len(read(layout.output, "cells")) == 0 and len(read(layout.output, "wells")) == 6


def test_two_plates_are_compared_within_themselves(tmp_path):
    layout, _, _ = finished(tmp_path, plates=("P1", "P2"))
    wells = read(layout.output, "wells").to_pandas()
    z = wells.loc[wells["Metadata_Treatment"] == "=DMSO"].groupby("Metadata_Plate")[
        "Cells_AreaShape_Area_RobustZ"
    ]
    assert z.median().abs().tolist() == pytest.approx([0, 0])


def test_report_again_and_status(tmp_path):
    layout, _, _ = finished(tmp_path)
    before = tables(layout.output)
    (layout.output / "cells.csv").write_text("spoilt", encoding="utf-8")
    said = io.StringIO()
    assert report_again(layout.output, said) == 0 and tables(layout.output) == before
    assert status(layout.output, said) == 0
    assert "18 of 18 done" in said.getvalue() and "complete" in said.getvalue()


def test_a_table_that_was_spoilt_is_made_again(tmp_path):
    layout, plan, _ = finished(tmp_path)
    before = tables(layout.output)
    (layout.output / "cells.parquet").write_bytes(b"half")
    assert finish(layout, plan, platemap(), [], ABOUT, io.StringIO()) == 0
    assert tables(layout.output) == before


class TestQuality:
    def test_blur_and_saturation_show(self, tmp_path):
        from PIL import Image, ImageFilter

        noise = np.random.default_rng(0).integers(20, 200, (64, 64), np.uint8)
        sharp = Image.fromarray(noise)
        sharp.save(tmp_path / "sharp.png")
        sharp.filter(ImageFilter.GaussianBlur(3)).save(tmp_path / "blurred.png")
        noise[:16] = 255
        Image.fromarray(noise).save(tmp_path / "bright.png")
        found = {name: image_quality(tmp_path / f"{name}.png") for name in ("sharp", "blurred", "bright")}
        assert found["blurred"]["focus"] < 0.1 * found["sharp"]["focus"]
        assert found["bright"]["saturated"] == pytest.approx(0.25) and found["sharp"]["saturated"] == 0

    def test_flags(self):
        count = 12
        normal = {
            "focus": np.linspace(1, 1.1, count), "saturated": np.zeros(count), "confluency": np.full(count, 0.4),
            "score": np.linspace(0.9, 0.95, count), "cells": np.full(count, 50.0), "nuclei": np.full(count, 45.0),
            "densest": np.full(count, 50.0),
        }  # fmt: skip
        clean = flag_images(["P"] * count, normal, 400)
        assert not any(flag.any() for flag in clean.values())
        changes = {
            "OutOfFocus": {"focus": 0.01}, "Saturated": {"saturated": 0.2}, "Empty": {"cells": 0.0, "nuclei": 0.0},
            "TooDense": {"confluency": 0.97}, "DetectionCap": {"densest": 190.0}, "ScoreDrop": {"score": 0.7},
        }  # fmt: skip
        for name, change in changes.items():
            measures = {key: values.copy() for key, values in normal.items()}
            for key, value in change.items():
                measures[key][3] = value
            flags = flag_images(["P"] * count, measures, 400)
            assert [key for key, flag in flags.items() if flag.any()] == [name]
            assert np.flatnonzero(flags[name]).tolist() == [3]

    def test_densest_tile(self):
        x, y = np.array([5.0, 6, 7, 900]), np.array([5.0, 6, 7, 900])
        assert tile_counts(x, y, np.full(4, np.pi * 32**2), 100, 64.0) == 3
        assert tile_counts(np.zeros(0), np.zeros(0), np.zeros(0), 100, 64.0) == 0
