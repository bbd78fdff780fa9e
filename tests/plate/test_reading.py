"""The tables in the hands of others: CytoTable, pycytominer, and the queries of CellProfiler Analyst."""

from __future__ import annotations

import io
import shutil
import sqlite3
import subprocess
import sys

import pytest

pytest.importorskip(
    "pyarrow", reason="evican_plate is not installed here: EVICAN_CELLPROFILER=plate script/test"
)

from generated import make_output  # noqa: E402

from evican_plate.finish import finish  # noqa: E402
from evican_plate.platemap import PlateMap  # noqa: E402

WELLS = ["A01", "A02", "A03", "B01", "B02", "B03"]
CYTOTABLE = """
import sys
import duckdb, cytotable
from parsl.config import Config
from parsl.executors import ThreadPoolExecutor

def without_download():
    # CytoTable has DuckDB download its SQLite reader, also to read CSV files
    return duckdb.connect()

for module in list(sys.modules.values()):
    if getattr(module, "__name__", "").startswith("cytotable") and hasattr(module, "_duckdb_reader"):
        module._duckdb_reader = without_download
if __name__ == "__main__":
    config = Config(executors=[ThreadPoolExecutor(max_threads=1)], run_dir=sys.argv[3])
    cytotable.convert(source_path=sys.argv[1], dest_path=sys.argv[2], dest_datatype="parquet",
                      source_datatype="csv", preset="cellprofiler_csv", parsl_config=config)
"""


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    layout, plan = make_output(tmp_path_factory.mktemp("plate"), WELLS, sites=2)
    treatments = {("", well): {"Metadata_Treatment": "DMSO" if well < "B" else "drug"} for well in WELLS}
    about = {"command": "test", "finished": "now", "seconds": 1, "workers": 1}
    platemap = PlateMap(("Metadata_Treatment",), treatments)
    assert finish(layout, plan, platemap, [], about, io.StringIO()) == 0
    return layout.output


def test_cytotable_joins_cells_nuclei_and_cytoplasm(plate, tmp_path):
    pytest.importorskip("cytotable")
    import pandas

    (tmp_path / "tables").mkdir()
    for name, known in [
        ("cells", "cells"),
        ("nuclei", "nuclei"),
        ("cytoplasm", "cytoplasm"),
        ("images", "image"),
    ]:
        shutil.copy(plate / f"{name}.csv", tmp_path / "tables" / f"{known}.csv")
    (tmp_path / "convert.py").write_text(CYTOTABLE, encoding="utf-8")
    command = [sys.executable, "convert.py", "tables", "joined.parquet", str(tmp_path / "log")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    joined = pandas.read_parquet(tmp_path / "joined.parquet")
    cells = pandas.read_parquet(plate / "cells.parquet")
    assert len(joined) == len(cells)
    assert sorted(joined["Cells_AreaShape_Area"]) == pytest.approx(sorted(cells["AreaShape_Area"]))


def test_pycytominer_normalizes_the_wells(plate):
    pycytominer = pytest.importorskip("pycytominer")
    import pandas

    wells = pandas.read_parquet(plate / "wells.parquet")
    features = [name for name in wells if name.endswith("_Median")]
    found = pycytominer.normalize(
        wells,
        features=features,
        meta_features="infer",
        samples="Metadata_Treatment == 'DMSO'",
        method="standardize",
    )
    assert found["Metadata_Well"].tolist() == WELLS
    area = wells["Cells_AreaShape_Area_Median"]
    expected = (area - area[:3].mean()) / area[:3].std(ddof=0)
    assert found["Cells_AreaShape_Area_Median"].to_numpy() == pytest.approx(expected.to_numpy())


def test_pycytominer_aggregates_the_cells(plate):
    pycytominer = pytest.importorskip("pycytominer")
    import pandas

    cells = pandas.read_parquet(plate / "cells.parquet").rename(
        columns=lambda n: n if "Meta" in n else f"Cells_{n}"
    )
    found = pycytominer.aggregate(cells, strata=["Metadata_Well"], features=["Cells_AreaShape_Area"])
    wells = pandas.read_parquet(plate / "wells.parquet")
    assert found["Cells_AreaShape_Area"].to_numpy() == pytest.approx(
        wells["Cells_AreaShape_Area_Median"].to_numpy()
    )


def test_cellprofiler_analyst_finds_what_its_properties_name(plate):
    lines = (plate / "plate.properties").read_text(encoding="utf-8").splitlines()
    named = dict(line.split(" = ") for line in lines if " = " in line and not line.startswith("#"))
    with sqlite3.connect(plate / named["db_sqlite_file"]) as database:
        columns = {
            table: [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
            for table in (named["image_table"], named["object_table"])
        }
        for key in ("plate_id", "well_id", "image_path_cols", "image_file_cols", "image_id"):
            assert set(named[key].split(", ")) <= set(columns[named["image_table"]]), key
        for key in ("object_id", "cell_x_loc", "cell_y_loc", "image_id"):
            assert named[key] in columns[named["object_table"]], key
        # how it counts objects of wells for the plate viewer
        query = (
            f"SELECT {named['plate_id']}, {named['well_id']}, COUNT(*) FROM {named['image_table']} JOIN "
            f"{named['object_table']} USING ({named['image_id']}) GROUP BY {named['plate_id']}, {named['well_id']}"
        )
        rows = list(database.execute(query))
    database.close()
    assert [row[:2] for row in rows] == [("P1", well) for well in WELLS]
    assert named["plate_type"] == "6"
