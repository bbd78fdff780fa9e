"""The real `cellprofiler` command, headless, with the shipped pipelines on the example plate."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

cellprofiler_core = pytest.importorskip("cellprofiler_core", reason="CellProfiler is not installed here")

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent
PLATE = ROOT / "pipelines" / "example_plate"
NAMES = sorted(path.name for path in PLATE.glob("*.jpg"))
VERSION = int(cellprofiler_core.__version__.split(".")[0])
# Version 5 reads everything without Java when it is told to.
WITHOUT_JAVA = ["-e", "imageio_reader", "imageio_reader_v3"] if VERSION >= 5 else []
IMAGE_COLUMNS = (
    "Count_Cells",
    "Count_Nuclei",
    "Count_Cytoplasm",
    "FileName_Unstained",
    "Metadata_Plate",
    "Metadata_Well",
)
OBJECT_COLUMNS = {
    "Cells": ("EVICAN_Score", "Children_Nuclei_Count", "Neighbors_NumberOfNeighbors_Expanded"),
    "Nuclei": ("EVICAN_Score", "Parent_Cells", "Neighbors_NumberOfNeighbors_Expanded"),
    "Cytoplasm": ("Parent_Cells", "Parent_Nuclei"),
}
COMMON_COLUMNS = ("ObjectNumber", "AreaShape_Area", "Intensity_MeanIntensity_Unstained", "Location_Center_X")


def cellprofiler(pipeline, images, output, *options):
    """Run the command; return its exit code and all that it printed."""
    command = [str(Path(sys.executable).with_name("cellprofiler")), "-c", "-r", *WITHOUT_JAVA]
    command += ["-p", str(pipeline), "-i", str(images), "-o", str(output)]
    command += ["--plugins-directory", str(ROOT / "plugins"), *options]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
    return done.returncode, done.stdout


def table(folder, name):
    with open(folder / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def labels(folder, file_name, kind):
    return tifffile.imread(folder / "labels" / f"{Path(file_name).stem}_{kind}.tiff")


@pytest.fixture(scope="session")
def plate_run(tmp_path_factory):
    """The output folder of morphology.cppipe on the whole example plate."""
    output = tmp_path_factory.mktemp("plate")
    code, printed = cellprofiler(ROOT / "pipelines" / "morphology.cppipe", PLATE, output)
    assert code == 0, printed[-3000:]
    return output


class TestPlate:
    def test_image_table(self, plate_run):
        rows = table(plate_run, "Image")
        assert [row["FileName_Unstained"] for row in rows] == NAMES
        assert set(IMAGE_COLUMNS) <= set(rows[0])
        assert [row["Metadata_Well"] for row in rows] == [f"{r}0{c}" for r in "BCD" for c in (2, 3, 4, 5)]
        assert {row["Metadata_Plate"] for row in rows} == {"EVICAN"}
        assert len({row["Metadata_CellLine"] for row in rows}) == 12
        assert (plate_run / "Experiment.csv").is_file()

    @pytest.mark.parametrize("name", ["Cells", "Nuclei", "Cytoplasm"])
    def test_object_tables_agree_with_counts(self, plate_run, name):
        rows = table(plate_run, name)
        assert {*OBJECT_COLUMNS[name], *COMMON_COLUMNS} <= set(rows[0])
        for image in table(plate_run, "Image"):
            numbers = [int(row["ObjectNumber"]) for row in rows if row["ImageNumber"] == image["ImageNumber"]]
            assert numbers == list(range(1, int(float(image[f"Count_{name}"])) + 1))

    @pytest.mark.parametrize("name", ["Cells", "Nuclei"])
    def test_label_images_agree_with_tables(self, plate_run, name):
        rows = table(plate_run, name)
        for image in table(plate_run, "Image"):
            pixels = labels(plate_run, image["FileName_Unstained"], name.lower())
            assert pixels.dtype == np.uint16
            areas = np.bincount(pixels.ravel())[1:]
            mine = [row for row in rows if row["ImageNumber"] == image["ImageNumber"]]
            assert [int(float(row["AreaShape_Area"])) for row in mine] == areas.tolist()
            assert all(0.5 <= float(row["EVICAN_Score"]) <= 1 for row in mine)

    def test_parents_hold_their_nuclei(self, plate_run):
        names = {row["ImageNumber"]: row["FileName_Unstained"] for row in table(plate_run, "Image")}
        children = {(row["ImageNumber"], row["ObjectNumber"]): 0 for row in table(plate_run, "Cells")}
        for row in table(plate_run, "Nuclei"):
            name, parent = names[row["ImageNumber"]], int(float(row["Parent_Cells"]))
            nucleus = labels(plate_run, name, "nuclei") == int(row["ObjectNumber"])
            cells = labels(plate_run, name, "cells")
            if parent > 0:
                assert 2 * (nucleus & (cells == parent)).sum() >= nucleus.sum()
                children[row["ImageNumber"], str(parent)] += 1
        for row in table(plate_run, "Cells"):
            number = row["ImageNumber"], row["ObjectNumber"]
            assert int(float(row["Children_Nuclei_Count"])) == children[number]

    def test_each_cell_has_its_cytoplasm(self, plate_run):
        cells, cytoplasm = table(plate_run, "Cells"), table(plate_run, "Cytoplasm")
        numbers = [(row["ImageNumber"], row["ObjectNumber"]) for row in cells]
        assert [(row["ImageNumber"], str(int(float(row["Parent_Cells"])))) for row in cytoplasm] == numbers
        for whole, part in zip(cells, cytoplasm):
            assert 0 < float(part["AreaShape_Area"]) <= float(whole["AreaShape_Area"])

    def test_cells_are_found(self, plate_run):
        counts = [int(float(row["Count_Cells"])) for row in table(plate_run, "Image")]
        assert sum(count > 0 for count in counts) >= 10 and sum(counts) >= 30
        parents = [float(row["Parent_Cells"]) for row in table(plate_run, "Nuclei")]
        assert np.mean(np.array(parents) > 0) > 0.5

    def test_overlays(self, plate_run, pipelines):
        colors = {"cells": pipelines.CELL_COLOR, "nuclei": pipelines.NUCLEUS_COLOR}
        for name in NAMES:
            with Image.open(plate_run / "overlays" / f"{Path(name).stem}_overlay.png") as image:
                overlay = np.asarray(image)
            assert overlay.shape == (*labels(plate_run, name, "cells").shape, 3)
            for kind, color in colors.items():
                drawn = (overlay == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
                if kind == "nuclei" or not labels(plate_run, name, "nuclei").any():
                    assert drawn.any() == labels(plate_run, name, kind).any()
                assert not drawn[(labels(plate_run, name, kind) == 0)].any()

    def test_load_data_gives_the_same_tables(self, plate_run, tmp_path):
        code, printed = cellprofiler(
            ROOT / "pipelines" / "morphology_loaddata.cppipe", PLATE, tmp_path, "-f", "1", "-l", "4"
        )
        assert code == 0, printed[-3000:]
        for name in ("Cells", "Nuclei", "Cytoplasm"):
            expected = [row for row in table(plate_run, name) if int(row["ImageNumber"]) <= 4]
            found = table(tmp_path, name)
            assert len(found) == len(expected)
            for column in set(found[0]) if found else ():
                pair = [[row[column] for row in rows] for rows in (found, expected)]
                try:
                    values = np.array(pair, float)
                except ValueError:
                    assert pair[0] == pair[1], column
                    continue
                # The Images modules average the three channels of a JPEG, which rounds the eighth digit: a pixel on the
                # brink of a mask may fall to the other side, and with it what is measured of that object.
                # Which of several brightest pixels is named changes with the number of pixels in the image's objects.
                same = np.isclose(*values, rtol=1e-4, atol=1e-6, equal_nan=True)
                assert same.mean() > 0.9 or column.startswith("Location_MaxIntensity"), column
                if column in ("AreaShape_Area", "EVICAN_Score", "Parent_Cells", "Number_Object_Number"):
                    np.testing.assert_allclose(*values, rtol=2e-3, err_msg=column)


class TestBadInput:
    @pytest.fixture
    def one_image(self, tmp_path):
        (tmp_path / "in").mkdir()
        shutil.copy(PLATE / NAMES[-1], tmp_path / "in")
        return tmp_path / "in"

    def test_missing_model_stops_the_run(self, one_image, tmp_path):
        text = (ROOT / "pipelines" / "morphology.cppipe").read_text(encoding="utf-8")
        for setting, value in [
            ("Select the model", "Weights file"),
            ("Select the folder of the weights file", "Default Input Folder|"),
            ("Name of the weights file", "absent.h5"),
        ]:
            text, replaced = re.subn(f"(?m)^    {setting}:.*$", f"    {setting}:{value}", text)
            assert replaced == 1
        (tmp_path / "broken.cppipe").write_text(text, encoding="utf-8")
        code, printed = cellprofiler(tmp_path / "broken.cppipe", one_image, tmp_path / "out")
        assert code != 0
        assert str(one_image / "absent.h5") in printed
        assert not list(tmp_path.glob("out/*.csv"))

    @pytest.mark.parametrize("suffix", [".tif", ".jpg"])
    def test_truncated_image_is_reported(self, one_image, tmp_path, suffix):
        path = one_image / f"EVICAN_A01_s1_w1_X{suffix}"  # the first image set
        with Image.open(PLATE / NAMES[0]) as image:
            image.convert("L").save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        code, printed = cellprofiler(ROOT / "pipelines" / "morphology.cppipe", one_image, tmp_path / "out")
        assert code != 0
        assert re.search(f"image file {re.escape(str(path))}: .*truncated", printed)


class TestShippedPipelines:
    @pytest.mark.parametrize("source, name", [("images", "morphology"), ("loaddata", "morphology_loaddata")])
    def test_they_are_what_the_script_builds(self, pipelines, source, name):
        from cellprofiler_core.pipeline import Pipeline

        path = ROOT / "pipelines" / f"{name}.cppipe"
        shipped = Pipeline()
        shipped.load(str(path))
        built = pipelines.build(source)
        if VERSION == 4:
            assert pipelines.text_of(built) == path.read_text(encoding="utf-8")
        for mine, theirs in zip(built.modules(), shipped.modules()):
            assert mine.module_name == theirs.module_name
            values = [[s.value for s in module.visible_settings()] for module in (mine, theirs)]
            assert values[0] == values[1], mine.module_name
        assert len(built.modules()) == len(shipped.modules())

    def test_load_data_table(self, pipelines):
        with open(PLATE / "load_data.csv", encoding="utf-8", newline="") as file:
            assert list(csv.DictReader(file)) == pipelines.load_data_rows()
        assert len(NAMES) == 12

    @pytest.mark.skipif(
        VERSION == 4, reason="version 4 checks Metadata in a Java machine that only its command starts"
    )
    def test_modules_are_valid(self, pipelines):
        from cellprofiler_core.pipeline import Pipeline

        pipeline = Pipeline()
        pipeline.load(str(ROOT / "pipelines" / "morphology.cppipe"))
        for module in pipeline.modules()[
            4:
        ]:  # those before, which version 4 checks in Java, prove it by running
            module.test_valid(pipeline)
