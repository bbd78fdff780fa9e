"""The three presets side by side on one image, as a table: ``python benchmarks/presets.py > benchmarks/presets.md``.

All are loaded in one process and take turns: whatever else the machine does slows them alike, and the ratios hold.
`fast` has its bundled weights; `paper` and `resnet50` have random ones, and as many masks to draw as Matterport's
network draws at most (100). Timed is the network itself on an input of 1024 x 1024 pixels.

The row ``segment()`` is the whole call of a user with the preset ``fast``: scaling, network, masks at full size,
overlaps.

With ``pip install stardist``, the network of StarDist 2D (Schmidt et al. 2018; as in its model ``2D_versatile_fluo``,
with initial weights, before its non-maximum suppression) takes its turn as well: something well known to compare with
on any machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from functools import partial
from pathlib import Path

import _where
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIDE = 1024
ROUNDS = 5


def contestants(pixels) -> dict:
    """Return, by name: backbone, parameters in millions, and what is timed, which returns how many masks it drew."""
    import tensorflow as tf

    from evican_model.config import PRESETS, NetworkConfig
    from evican_model.model import load_model
    from evican_model.network import MaskRCNN

    model = load_model("fast")
    whole = partial(model.segment, pixels.numpy()[0, :, :, 0], cell_diameter=model.config.cell_diameter)
    ready = {}
    for name in PRESETS:
        if name == "fast":
            network = model.network
        else:
            tf.random.set_seed(0)
            # Random scores must not decide how many masks there are: every category may claim an ROI.
            network = MaskRCNN(NetworkConfig.for_preset(name, detections=100, one_category=False))
            network.fold()
        parameters = sum(int(np.prod(v.shape)) for v in network.named_variables().values()) / 1e6
        least = model.config.confidence if name == "fast" else 0.0
        ready[name] = (network.config.backbone, parameters, partial(_detect, network, pixels, least))
        if name == "fast":
            ready["fast, segment()"] = (network.config.backbone, parameters, lambda: len(whole()))
    with contextlib.suppress(ImportError), contextlib.redirect_stdout(sys.stderr):
        from stardist.models import Config2D, StarDist2D

        stardist = StarDist2D(Config2D(n_rays=32, grid=(2, 2), n_channel_in=1), name=None, basedir=None).keras_model
        graph = tf.function(partial(stardist, training=False))
        ready["StarDist 2D"] = ("U-Net", stardist.count_params() / 1e6, lambda: len(graph(pixels)[0].numpy()) - 1)
    return ready


def _detect(network, pixels, least: float) -> int:
    found = network.detect(pixels, least)
    return len({key: value.numpy() for key, value in found.items()}["scores"])


def image() -> np.ndarray:
    """Return a real image, mirrored to the size of the input: float32 [1, side, side, 1]."""
    from PIL import Image

    from evican_model.scaling import normalise

    (path,) = (ROOT / "pipelines" / "example_plate").glob("*_D02_*.jpg")
    with Image.open(path) as file:
        grey = np.asarray(file.convert("L"))
    grey = np.pad(grey, [(0, max(0, SIDE - extent)) for extent in grey.shape], mode="reflect")[:SIDE, :SIDE]
    return normalise(grey)[None, :, :, None]


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    import tensorflow as tf

    ready = contestants(tf.constant(image()))
    walls: dict[str, list[float]] = {name: [] for name in ready}
    cpus: dict[str, list[float]] = {name: [] for name in ready}
    objects = {}
    for turn in range(ROUNDS + 1):  # the first is not counted
        for name, (_, _, run) in ready.items():
            wall, cpu = time.perf_counter(), time.process_time()
            objects[name] = run()
            if turn:
                walls[name].append(time.perf_counter() - wall)
                cpus[name].append(time.process_time() - cpu)
    print("# Speed of the presets\n")
    print(f"`python {' '.join(sys.argv)}`; {_machine()}. Input of {SIDE} x {SIDE} pixels,")
    print(f"median of {ROUNDS} turns.\n")
    print("| network | backbone | parameters, million | masks drawn | wall s | CPU s | CPU s, segment() = 1 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (backbone, parameters, _) in ready.items():
        wall, cpu = np.median(walls[name]), np.median(cpus[name])
        print(f"| {name} | {backbone} | {parameters:.1f} | {objects[name]} | {wall:.2f} | {cpu:.2f} "
              f"| {cpu / np.median(cpus['fast, segment()']):.1f} |")  # fmt: skip
    load = os.getloadavg()[0]
    print(f"\nLoad of the machine at the end: {load:.1f}. Below the number of cores it was quiet; above it, only the")
    print("CPU seconds and their ratios mean something.")


def _machine() -> str:
    import tensorflow as tf

    return f"{_where.machine()}, TensorFlow {tf.__version__}, commit {_where.commit()}"


if __name__ == "__main__":
    main()
