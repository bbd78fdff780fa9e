"""Plate maps."""

from __future__ import annotations

import pytest

pytest.importorskip(
    "pyarrow", reason="evican_plate is not installed here: EVICAN_CELLPROFILER=plate script/test"
)

from evican_plate.errors import PlateError  # noqa: E402
from evican_plate.platemap import PlateMap, read_platemap  # noqa: E402


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_wells_and_names(tmp_path):
    found = read_platemap(
        write(tmp_path / "m.csv", "\ufeffWell;cell line;dose (µM)\na1;HeLa;0,5\nB12;CHO;\n\n")
    )
    assert found.columns == ("Metadata_CellLine", "Metadata_DoseM")
    assert found.of("any plate", "A01") == {"Metadata_CellLine": "HeLa", "Metadata_DoseM": "0,5"}
    assert found.of("any plate", "C01") == {"Metadata_CellLine": "", "Metadata_DoseM": ""}


def test_plates_differ(tmp_path):
    found = read_platemap(write(tmp_path / "m.csv", "plate,well,drug\n1,A01,x\n2,A01,y\n"))
    assert [found.of(plate, "A01")["Metadata_Drug"] for plate in ("1", "2", "3")] == ["x", "y", ""]


def test_controls(tmp_path):
    path = write(tmp_path / "m.csv", "well,treatment,control\nA01,DMSO,yes\nA02,DMSO,no\nA03,drug,\n")
    for controls, expected in [(None, [True, False, False]), ("treatment=DMSO", [True, True, False])]:
        found = read_platemap(path, controls)
        assert [found.is_control("P", well) for well in ("A01", "A02", "A03")] == expected
        again = PlateMap.from_json(found.to_json())
        assert again == found
    with pytest.raises(PlateError, match="--controls"):
        read_platemap(path, "drug=DMSO")


@pytest.mark.parametrize(
    "text, message",
    [
        ("position,dose\nA01,1\n", "no column 'well'"),
        ("well,dose\nA99,1\n", "row 2: 'A99'"),
        ("well,dose\nA01,1\nA1,2\n", "row 3: well A01 comes twice"),
        ("well,dose\nA01\n", "row 2: 1 cells"),
        ("well,site\nA01,1\n", "may not be named 'site'"),
        ("", "no column 'well'"),
    ],
)
def test_maps_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(PlateError, match=message):
        read_platemap(write(tmp_path / "m.csv", text))
