"""What the tests of the CellProfiler module share."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def pipelines():
    """`pipelines/build_pipelines.py` as a Python module, with all modules of CellProfiler loaded."""
    pytest.importorskip("cellprofiler_core", reason="CellProfiler is not installed in this environment")
    spec = importlib.util.spec_from_file_location(
        "build_pipelines", ROOT / "pipelines" / "build_pipelines.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.load_modules()
    return module


@pytest.fixture(scope="session")
def plugin(pipelines):
    """`plugins/segmentevican.py` as the Python module that CellProfiler loaded."""
    return sys.modules["segmentevican"]


@pytest.fixture(scope="session")
def plate_image():
    """Return a function that reads an image of the example plate by its well: uint8 [height, width]."""
    from PIL import Image

    def read(well):
        (path,) = (ROOT / "pipelines" / "example_plate").glob(f"*_{well}_*.jpg")
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))

    return read
