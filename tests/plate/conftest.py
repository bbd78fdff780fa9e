"""What the tests of evican_plate share."""

from __future__ import annotations

import shutil

import pytest
from small_plates import PLATE, ROOT, WELLS, make_plate, run


@pytest.fixture(scope="session")
def cellprofiler():
    """Path of the `cellprofiler` command that is beside this environment."""
    for name in ("cellprofiler5", "cellprofiler4"):
        path = ROOT / ".venv" / name / "bin" / "cellprofiler"
        if path.exists():
            return path
    pytest.skip("there is no CellProfiler in .venv (script/setup makes one)")


@pytest.fixture(scope="session")
def plate(tmp_path_factory):
    """The folder of a plate of four small images."""
    return make_plate(tmp_path_factory.mktemp("images") / PLATE, WELLS)


@pytest.fixture(scope="session")
def finished(plate, cellprofiler, tmp_path_factory):
    """The results of an undisturbed run of the plate, and what it printed."""
    output = tmp_path_factory.mktemp("finished") / "my results"
    code, printed = run(plate, output, cellprofiler, "--workers", 2, "--shard-size", 2)
    assert code == 0, printed
    return output, printed


@pytest.fixture(scope="session")
def chromium():
    """Path of a browser."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return shutil.which(name)
    pytest.skip("there is no Chromium on PATH (Debian: apt-get install chromium)")
