"""File names of microscopes, and finding the images of plates."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip(
    "pyarrow", reason="evican_plate is not installed here: EVICAN_CELLPROFILER=plate script/test"
)

from evican_plate.errors import PlateError  # noqa: E402
from evican_plate.naming import PATTERNS, custom, detect, normal_well  # noqa: E402
from evican_plate.plates import draw, scan  # noqa: E402

NAMES = [
    ("Opera Phenix, Operetta", "r01c01f01p01-ch1sk1fk1fl1.tiff", ("", "A01", 1, "1", "1", "1")),
    (
        "Opera Phenix, Operetta",
        "Run__2021/Images/r16c24f09p02-ch2sk3fk1fl1.tiff",
        ("Run__2021", "P24", 9, "3", "2", "2"),
    ),
    ("ImageXpress", "A01_s1_w1.tif", ("", "A01", 1, "1", "1", "")),
    ("ImageXpress", "A01_s10_w1.tif", ("", "A01", 10, "1", "1", "")),
    ("ImageXpress", "x/TimePoint_3/ZStep_2/Dose_1_B12_s3_w2.TIF", ("Dose_1", "B12", 3, "3", "2", "2")),
    ("ImageXpress", "007/2021-08-06/4711/TimePoint_1/B12_w2.tif", ("007", "B12", 1, "1", "2", "")),
    ("ImageXpress", "P_B12_w2A1B2C3D4-AAAA-BBBB-CCCC-0123456789AB.tif", ("P", "B12", 1, "1", "2", "")),
    ("ImageXpress", "EVICAN_B02_s1_w1_786O.jpg", ("EVICAN", "B02", 1, "1", "1", "")),
    ("Yokogawa CV7000", "MFG_A01_T0002F003L01A01Z04C05.tif", ("MFG", "A01", 3, "2", "5", "4")),
    ("Incucyte", "VID1_A1_1_2021y08m06d_11h39m.tif", ("VID1", "A01", 1, "2021-08-06T11:39", "", "")),
    ("Incucyte", "VID1_H12_4_00d04h00m.tif", ("VID1", "H12", 4, "00d04h00m", "", "")),
    ("Keyence", "A05/Image_XY02_Z003_CH4.tif", ("", "A05", 2, "1", "4", "3")),
    ("Keyence", "Image_W013_P00001_CH1.tif", ("", "B01", 1, "1", "1", "")),
    ("Keyence", "Image_B03_T0002_XY01_CH4.tif", ("", "B03", 1, "2", "4", "")),
    ("Leica, Olympus", "A01_f01.tif", ("", "A01", 1, "1", "", "")),
    ("Leica, Olympus", "Täglich 1_AF48_f03_z2_t4.tif", ("Täglich 1", "AF48", 3, "4", "", "2")),
    ("Leica, Olympus", "Plate_A01f00d0.TIF", ("Plate", "A01", 0, "1", "0", "")),
]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


class TestPatterns:
    @pytest.mark.parametrize("name, path, place", NAMES)
    def test_place(self, name, path, place):
        found = detect([path])
        assert found is not None and found.name == name
        assert vars(found.place(path)) == dict(zip(("plate", "well", "site", "time", "channel", "z"), place))

    @pytest.mark.parametrize(
        "path", ["noise.tif", "A49_f01.tif", "A01_s1_w1_thumb0AB.tif", "XY01/Image_XY01_CH1.tif"]
    )
    def test_what_names_no_well_is_not_placed(self, path):
        assert [pattern.name for pattern in PATTERNS if pattern.place(path)] == []

    def test_the_commoner_pattern_wins(self):
        assert detect(["A01_f01.tif", "A01_s1_w1.tif", "A02_s1_w1.tif"]).name == "ImageXpress"

    def test_custom(self):
        place = custom(r"(?P<row>\d)-(?P<column>\d+)_(?P<site>\d+)").place("plate/2-11_03.tif")
        assert (place.plate, place.well, place.site) == ("plate", "B11", 3)

    @pytest.mark.parametrize("regex", ["(", r"(?P<site>\d)", r"(?P<well>..)(?P<colour>.)", r"(?P<row>.)"])
    def test_custom_that_cannot_work(self, regex):
        with pytest.raises(PlateError, match="--pattern"):
            custom(regex)

    def test_wells(self):
        assert [normal_well(text) for text in ("a1", "H12", "AF48", "A0", "A49", "AG01", "Z9", "")] == [
            "A01", "H12", "AF48", None, None, None, "Z09", None,
        ]  # fmt: skip


class TestScan:
    def test_plates_times_and_order(self, tmp_path):
        touch(tmp_path, *(f"P{p}/TimePoint_{t}/{w}_s{s}_w1.tif" for p in (10, 2) for t in (1, 2) for w in ("A10", "A02")
                          for s in (1, 2)))  # fmt: skip
        found = scan(tmp_path, {"Unstained": None})
        places = [(i.plate, i.well, i.time, i.site) for i in found.images]
        assert places[:5] == [("P2", "A02", "1", 1), ("P2", "A02", "1", 2), ("P2", "A02", "2", 1),
                              ("P2", "A02", "2", 2), ("P2", "A10", "1", 1)]  # fmt: skip
        assert len(places) == 16 and places[8][0] == "P10"
        drawn = draw(found)
        assert "plate P2: 2 wells, 2 sites, 2 time points, 8 images" in drawn
        assert [line.split() for line in drawn.splitlines() if line.startswith("  A")][0][1:3] == [".", "4"]

    def test_a_choice_of_channel_is_asked_for(self, tmp_path):
        touch(tmp_path, "A01_s1_w1.tif", "A01_s1_w2.tif")
        with pytest.raises(PlateError, match="channels 1, 2"):
            scan(tmp_path, {"Unstained": None})
        found = scan(tmp_path, {"Unstained": "2"})
        assert [os.path.basename(i.files["Unstained"]) for i in found.images] == ["A01_s1_w2.tif"]
        both = scan(tmp_path, {"Unstained": "2", "DNA": "1"}).images
        assert {k: os.path.basename(v) for k, v in both[0].files.items()} == {
            "Unstained": "A01_s1_w2.tif", "DNA": "A01_s1_w1.tif",
        }  # fmt: skip
        with pytest.raises(PlateError, match="--channel 7"):
            scan(tmp_path, {"Unstained": "7"})

    def test_a_choice_of_plane_is_asked_for(self, tmp_path):
        touch(tmp_path, *(f"r01c01f01p0{z}-ch1sk1fk1fl1.tiff" for z in (1, 2)))
        with pytest.raises(PlateError, match="z planes 1, 2"):
            scan(tmp_path, {"Unstained": None})
        assert len(scan(tmp_path, {"Unstained": None}, z="02").images) == 1

    def test_a_missing_channel_costs_one_image(self, tmp_path):
        touch(tmp_path, "A01_s1_w1.tif", "A01_s1_w2.tif", "A02_s1_w1.tif")
        found = scan(tmp_path, {"Unstained": "1", "DNA": "2"})
        assert [i.well for i in found.images] == ["A01"]
        assert [(f.well, f.stage) for f in found.failures] == [("A02", "place")]

    def test_twice_the_same_place(self, tmp_path):
        touch(tmp_path, "P/A01_s1_w1.tif", "P/again/P_A01_s1_w1.tif", "P/A02_s1_w1.tif")
        found = scan(tmp_path, {"Unstained": None})
        assert [i.well for i in found.images] == ["A02"]
        assert sorted(os.path.basename(f.file) for f in found.failures) == [
            "A01_s1_w1.tif",
            "P_A01_s1_w1.tif",
        ]
        assert all("neither is used" in f.message for f in found.failures)

    def test_unplaced_files_are_listed(self, tmp_path):
        touch(tmp_path, "A01_s1_w1.tif", "overview.png", "notes.txt", ".hidden_A03_s1_w1.tif")
        found = scan(tmp_path, {"Unstained": None})
        assert found.unplaced == ["overview.png"] and len(found.images) == 1

    def test_results_in_the_plate_folder_are_no_images(self, tmp_path):
        touch(tmp_path, "A01_s1_w1.tif", "results/evican_plate.lock", "results/images/P/A01_s1_w1.tif")
        assert len(scan(tmp_path, {"Unstained": None}).images) == 1

    @pytest.mark.parametrize("names, message", [((), "no image"), (("one.tif", "two.tif"), "--pattern")])
    def test_nothing_to_run(self, tmp_path, names, message):
        touch(tmp_path, *names)
        with pytest.raises(PlateError, match=message):
            scan(tmp_path, {"Unstained": None})
        with pytest.raises(PlateError, match="no such folder"):
            scan(tmp_path / "absent", {"Unstained": None})

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that may not read the folder")
    def test_unreadable_folder(self, tmp_path):
        touch(tmp_path, "P/A01_s1_w1.tif", "P/locked/A02_s1_w1.tif")
        os.chmod(tmp_path / "P" / "locked", 0)
        code = (
            "import os, sys; from pathlib import Path\n"
            "from evican_plate.plates import scan\n"
            "os.chdir(sys.argv[1]); os.setuid(65534)\n"
            "found = scan(Path('.'), {'Unstained': None})\n"
            "print([i.well for i in found.images], [(f.file, f.stage) for f in found.failures])"
        )
        # to the folder from inside, as its parents may be closed to others
        os.chmod(tmp_path, 0o755)
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert done.stdout.strip() == "['A01'] [('./P/locked', 'scan')]", done.stderr
