"""Real runs of real CellProfiler over small plates, and everything that can happen to them.

The number of kills is small here; benchmarks/plate_faults.py does many.
"""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

pa = pytest.importorskip(
    "pyarrow", reason="evican_plate is not installed here: EVICAN_CELLPROFILER=plate script/test"
)

import psutil  # noqa: E402
import pyarrow.parquet  # noqa: E402, F401  pa.parquet
from small_plates import (  # noqa: E402
    PLATE,
    ROOT,
    WELLS,
    environment,
    evican_plate,
    make_plate,
    run,
    tables,
)

pytestmark = pytest.mark.long


def start(plate, output, cellprofiler, *options):
    """Start a run and return its process."""
    arguments = ["run", plate, "--output", output, "--cellprofiler", cellprofiler, *options]
    command = [sys.executable, "-m", "evican_plate", *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processes(run_process, what):
    """Return the processes below a run whose command line has a word."""
    found = []
    for process in psutil.Process(run_process.pid).children(recursive=True):
        try:
            if any(what in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("nothing happened")


def failures(output):
    with open(output / "failures.csv", encoding="utf-8", newline="") as file:
        return {row["well"]: row for row in csv.DictReader(file)}


def shards(output):
    """Return the shards and when their records were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in output.glob("work/shards/*/done.json")}


class TestFinished:
    def test_tables(self, finished):
        output, printed = finished
        images = pa.parquet.read_table(output / "images.parquet").to_pandas()
        assert images["Metadata_Well"].tolist() == WELLS and set(images["Metadata_Plate"]) == {PLATE}
        cells = pa.parquet.read_table(output / "cells.parquet").to_pandas()
        assert len(cells) == images["Count_Cells"].sum() > 0
        assert cells["EVICAN_Score"].between(0.6, 1).all()
        assert "file names as ImageXpress" in printed and "4/4 images" in printed
        assert failures(output) == {}

    def test_saved_images(self, finished):
        output, _ = finished
        names = {path.relative_to(output).as_posix() for path in (output / "images").rglob("*.*")}
        stem = f"{PLATE}_A01_s1_w1"
        for folder, suffix in [
            ("overlays", "overlay.png"),
            ("labels", "cells.tiff"),
            ("labels", "nuclei.tiff"),
        ]:
            assert f"images/{PLATE}/{folder}/A01_s1_{stem}_{suffix}" in names
        assert len(names) == 12

    def test_nothing_is_run_twice(self, plate, finished, cellprofiler):
        output, _ = finished
        before, made = tables(output), shards(output)
        # the clock is set back: all that is there now comes from the future
        future = time.time() + 1e6
        for path in [*output.rglob("*"), *plate.iterdir()]:
            if path.is_file():
                os.utime(path, (future, future))
        marked = shards(output)
        code, printed = run(plate, output, cellprofiler)
        assert code == 0 and "images to run" not in printed, printed
        assert tables(output) == before and shards(output) == marked and sorted(made) == sorted(marked)

    def test_status(self, finished):
        code, printed = evican_plate("status", finished[0])
        assert code == 0 and "4 of 4 done" in printed and "complete" in printed


class TestKilled:
    def test_kills_leave_no_trace(self, plate, finished, cellprofiler, tmp_path):
        """CellProfiler and the run, Snakemake, and a worker, each killed at a random moment."""
        chance = random.Random(7)
        for victims in (("--plugins-directory", "the run"), ("snakemake",)):
            process = start(plate, tmp_path, cellprofiler, "--workers", 1, "--shard-size", 2)
            wait_for(lambda: processes(process, "--plugins-directory"))  # noqa: B023
            code, printed = run(plate, tmp_path, cellprofiler)
            assert code == 2 and "another run works here" in printed
            time.sleep(chance.uniform(0, 6))
            workers = processes(process, "--plugins-directory")
            for word in victims:
                if word == "the run":
                    process.kill()
                for victim in processes(process, word) if word != "the run" else ():
                    victim.send_signal(signal.SIGKILL)
            assert process.wait(240) in (2, -signal.SIGKILL)
            # CellProfiler does not go on alone
            wait_for(lambda: not [p for p in workers if p.is_running() and p.status() != "zombie"], 60)  # noqa: B023
        # a worker that is killed is started again by the run itself
        process = start(plate, tmp_path, cellprofiler, "--workers", 2, "--shard-size", 2)
        wait_for(lambda: processes(process, "--plugins-directory"))
        for victim in processes(process, "evican_plate.worker"):
            victim.send_signal(signal.SIGKILL)
        assert process.wait(900) == 0
        assert not list(tmp_path.glob("work/shards/.*"))
        mine, theirs = tables(tmp_path), tables(finished[0])
        for name in theirs:
            assert mine[name] == theirs[name], name


class TestDamagedImages:
    def test_each_costs_itself_only(self, plate, finished, cellprofiler, tmp_path):
        """Truncated TIFF, empty PNG, missing file, a colour image that SegmentEVICAN refuses, twice the same place."""
        from PIL import Image

        mine = tmp_path / "Plättchen 7"
        shutil.copytree(plate, mine)
        whole = (plate / f"{PLATE}_A01_s1_w1.tif").read_bytes()
        (mine / f"{PLATE}_C01_s1_w1.tif").write_bytes(whole[: len(whole) // 2])
        (mine / f"{PLATE}_C02_s1_w1.png").write_bytes(b"")
        (mine / f"{PLATE}_C03_s1_w1.tif").symlink_to(tmp_path / "absent.tif")
        gray = Image.open(plate / f"{PLATE}_A01_s1_w1.tif")
        Image.merge("RGB", (gray, gray.point(lambda v: 255 - v), gray)).save(mine / f"{PLATE}_B03_s1_w1.png")
        for suffix in ("tif", "png"):
            gray.save(mine / f"{PLATE}_D01_s1_w1.{suffix}")
        output = tmp_path / "out"
        code, printed = run(mine, output, cellprofiler, "--workers", 1, "--shard-size", 9)
        assert code == 3, printed
        found = failures(output)
        assert {well: row["stage"] for well, row in found.items()} == {
            "B03": "segment", "C01": "read", "C02": "read", "C03": "read", "D01": "place",
        }  # fmt: skip
        assert "truncated" in found["C01"]["message"] and "empty" in found["C02"]["message"]
        assert "color" in found["B03"]["message"]
        good, same = (pa.parquet.read_table(o / "cells.parquet").to_pandas() for o in (output, finished[0]))
        keys = [c for c in good if c != "ImageNumber"]
        assert good[keys].equals(same[keys])

        # the file at fault is mended: one image is run, and only it
        before = shards(output)
        gray.save(mine / f"{PLATE}_C01_s1_w1.tif")
        (mine / f"{PLATE}_B03_s1_w1.png").unlink()
        code, printed = run(mine, output, cellprofiler)
        assert code == 3 and "2 of 6 images to run" in printed, printed
        assert set(before) < set(shards(output)) and "C01" not in failures(output)

    def test_only_damaged_images(self, cellprofiler, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "A01_s1_w1.tif").write_bytes(b"")
        code, printed = run(tmp_path / "in", tmp_path / "out", cellprofiler)
        assert code == 1 and "no image could be used" in printed
        assert failures(tmp_path / "out")["A01"]["stage"] == "read"


class TestCannotRun:
    def test_no_image(self, cellprofiler, tmp_path):
        (tmp_path / "in").mkdir()
        code, printed = run(tmp_path / "in", tmp_path / "out", cellprofiler)
        assert code == 2 and printed.startswith("error: ") and "no image" in printed

    def test_cellprofiler_that_leaves_the_plugin_out(self, plate, cellprofiler, tmp_path):
        """It exits with 0; no image may be taken for done, and none is tried again and again."""
        plugins = tmp_path / "plugins"
        plugins.mkdir()
        (plugins / "segmentevican.py").write_text("import absent_package\n", encoding="utf-8")
        code, printed = run(plate, tmp_path / "out", cellprofiler, "--plugins", plugins, "--shard-size", 2)
        assert code == 2 and "SegmentEVICAN did not run" in printed, printed
        assert evican_plate("status", tmp_path / "out")[0] == 1

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
    def test_disk_full(self, plate, finished, cellprofiler, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a tmpfs cannot be mounted here")
        try:
            output = disk / "out"
            code, printed = run(plate, output, cellprofiler, "--workers", 1, "--shard-size", 4)
            assert code == 2 and "is full" in printed, printed
            subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
            # in one shard, which the other run did in two
            code, printed = run(plate, output, cellprofiler, "--workers", 1, "--shard-size", 4)
            assert code == 0, printed
            assert tables(output) == tables(finished[0])
        finally:
            subprocess.run(["umount", str(disk)], check=True)


class TestChanges:
    def test_a_changed_image_or_pipeline_is_run_again(self, plate, finished, cellprofiler, tmp_path):
        """Which images are to be run is seen from the plan; running them is tested above."""
        from evican_plate.cellprofiler import find_cellprofiler
        from evican_plate.errors import PlateError
        from evican_plate.pipeline import DEFAULT_PIPELINE, read_pipeline
        from evican_plate.plan import Layout, Resources, make_plan
        from evican_plate.plates import scan

        output, mine = tmp_path / "out", tmp_path / "Plättchen 7"
        shutil.copytree(finished[0] / "work", output / "work")
        shutil.copytree(plate, mine)

        def to_run(pipeline_path=DEFAULT_PIPELINE, threads=1, plugins=None):
            pipeline = read_pipeline(pipeline_path, mine)
            program = find_cellprofiler(str(cellprofiler), plugins, pipeline.weights)
            found = scan(mine, {pipeline.image: None})
            plan = make_plan(found, pipeline, program, Resources(1, threads, 99, 1000), Layout(output), "[]")
            numbers = [number for shard in plan["shards"] for number in shard["images"]]
            return [plan["images"][number - 1]["well"] for number in numbers]

        assert to_run() == []
        shutil.copy(mine / f"{PLATE}_A01_s1_w1.tif", mine / f"{PLATE}_A02_s1_w1.tif")
        assert to_run() == ["A02"]
        shutil.copy(plate / f"{PLATE}_A02_s1_w1.tif", mine)
        assert to_run() == []
        text = DEFAULT_PIPELINE.read_text(encoding="utf-8").replace("cells:0.6", "cells:0.7")
        (tmp_path / "other.cppipe").write_text(text, encoding="utf-8")
        assert to_run(tmp_path / "other.cppipe") == WELLS
        assert to_run(threads=2) == WELLS
        plugins = tmp_path / "plugins"
        plugins.mkdir()
        (plugins / "segmentevican.py").write_bytes((ROOT / "plugins/segmentevican.py").read_bytes() + b"#\n")
        assert to_run(plugins=plugins) == WELLS
        assert to_run() == []  # what is not used now is kept
        other = make_plate(tmp_path / "another plate", ["H01"])
        pipeline = read_pipeline(DEFAULT_PIPELINE, other)
        program = find_cellprofiler(str(cellprofiler), None, "bundled")
        with pytest.raises(PlateError, match="another --output"):
            make_plan(
                scan(other, {pipeline.image: None}),
                pipeline,
                program,
                Resources(1, 1, 9, 9),
                Layout(output),
                "[]",
            )

    def test_changed_weights(self, cellprofiler, tmp_path):
        from evican_plate.cellprofiler import find_cellprofiler

        for suffix in (".h5", ".json"):
            shutil.copy(ROOT / f"evican_model/weights/fast{suffix}", tmp_path / f"mine{suffix}")
        first = find_cellprofiler(str(cellprofiler), None, str(tmp_path / "mine.h5")).identity
        assert first == find_cellprofiler(str(cellprofiler), None, "bundled").identity
        (tmp_path / "mine.json").write_text((tmp_path / "mine.json").read_text() + "\n")
        assert first != find_cellprofiler(str(cellprofiler), None, str(tmp_path / "mine.h5")).identity
