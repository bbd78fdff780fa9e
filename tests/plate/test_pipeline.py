"""Pipelines as a plate run rewrites them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip(
    "pyarrow", reason="evican_plate is not installed here: EVICAN_CELLPROFILER=plate script/test"
)

from evican_plate.errors import PlateError  # noqa: E402
from evican_plate.pipeline import DEFAULT_PIPELINE, read_pipeline  # noqa: E402

FOLDER = DEFAULT_PIPELINE.parent


def edited(tmp_path, *changes):
    text = DEFAULT_PIPELINE.read_text(encoding="utf-8")
    for pattern, new in changes:
        text, count = re.subn(pattern, new, text, count=1, flags=re.MULTILINE)
        assert count == 1, pattern
    (tmp_path / "mine.cppipe").write_text(text, encoding="utf-8")
    return tmp_path / "mine.cppipe"


def test_images_modules_become_load_data(tmp_path):
    table, files = (
        read_pipeline(FOLDER / f"morphology{suffix}.cppipe", tmp_path) for suffix in ("_loaddata", "")
    )
    assert table.text == files.text
    names = re.findall(r"^(\w+):\[module_num:(\d+)\|", table.text, flags=re.MULTILINE)
    assert names[0] == ("LoadData", "1") and names[-1] == ("ExportToSpreadsheet", str(table.modules))
    assert [int(number) for _, number in names] == list(range(1, table.modules + 1))
    assert f"ModuleCount:{table.modules}\n" in table.text
    assert (table.image, table.cells, table.nuclei, table.weights) == (
        "Unstained",
        "Cells",
        "Nuclei",
        "bundled",
    )
    assert names[table.segment_module - 1][0] == "SegmentEVICAN"


def test_a_module_that_is_off_does_not_count(tmp_path):
    path = edited(tmp_path, (r"^(SegmentEVICAN:.*)enabled:True", r"\1enabled:False"))
    with pytest.raises(PlateError, match="has 0 SegmentEVICAN"):
        read_pipeline(path, tmp_path)


def test_the_image_that_is_loaded_is_found(tmp_path):
    module = (
        "RescaleIntensity:[module_num:2|svn_version:'Unknown'|variable_revision_number:3|show_window:False|notes:[]|"
        "batch_state:array([], dtype=uint8)|enabled:True|wants_pause:False]\n    Select the input image:Raw\n"
        "    Name the output image:Unstained\n\nSegmentEVICAN:"
    )
    path = edited(tmp_path, ("^SegmentEVICAN:", module.replace("\\", r"\\")))
    assert read_pipeline(path, tmp_path).image == "Raw"


def test_weights_files(tmp_path):
    def choose(place):
        return edited(
            tmp_path,
            ("Select the model:.*", "Select the model:Weights file"),
            ("Select the folder of the weights file:.*", f"Select the folder of the weights file:{place}"),
            ("Name of the weights file:.*", "Name of the weights file:mine.h5"),
        )

    accurate = edited(tmp_path, ("Select the model:.*", "Select the model:Bundled model, accurate but slow"))
    assert read_pipeline(accurate, tmp_path).weights == "accurate"
    with pytest.raises(PlateError, match="mine.h5"):
        read_pipeline(choose("Default Input Folder|"), tmp_path)
    for suffix in (".h5", ".json"):
        (tmp_path / f"mine{suffix}").write_bytes(b"x")
    for place in ("Default Input Folder|", f"Elsewhere...|{tmp_path}"):
        assert Path(read_pipeline(choose(place), tmp_path).weights) == tmp_path / "mine.h5"
    with pytest.raises(PlateError, match="Default Output Folder"):
        read_pipeline(choose("Default Output Folder|"), tmp_path)


def test_what_is_no_pipeline(tmp_path):
    (tmp_path / "x.cppipe").write_text("well,dose\n", encoding="utf-8")
    with pytest.raises(PlateError, match="is no CellProfiler pipeline"):
        read_pipeline(tmp_path / "x.cppipe", tmp_path)
    with pytest.raises(PlateError, match="cannot be read"):
        read_pipeline(tmp_path / "absent.cppipe", tmp_path)
