"""Seconds, memory and where the time goes, as a table: ``python benchmarks/inference_speed.py [--cellprofiler]``.

Each size runs in a process of its own, so that its peak memory is its own. The image is a real one of the example
plate, mirrored until it fills the size; cells are as large in it as the network likes them, so a size is one network
pass for each tile and the numbers compare.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _where
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PLATE = ROOT / "pipelines" / "example_plate"
SIZES = (512, 1024, 2048, 4096)
REPEATS = 3


def mirrored(side: int) -> np.ndarray:
    """Return a real image, mirrored to side x side pixels, with cells of about 60 pixels."""
    from PIL import Image

    (path,) = PLATE.glob("*_D02_*.jpg")
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L"))
    return np.pad(grey, [(0, max(0, side - extent)) for extent in grey.shape], mode="reflect")[:side, :side]


def measure(side: int, weights: str) -> dict:
    """Time one size in this process."""
    import evican_model
    from evican_model.runtime import start_tensorflow

    begin = time.perf_counter()
    start_tensorflow()
    imported = _peak()
    model = evican_model.load_model(weights)
    load = time.perf_counter() - begin
    in_network = [0.0]
    detect = model.network.detect

    def timed(*inputs):
        start = time.perf_counter()
        found = {key: value.numpy() for key, value in detect(*inputs).items()}
        in_network[0] += time.perf_counter() - start
        return {key: _Array(value) for key, value in found.items()}

    model.network.detect = timed
    image = mirrored(side)
    model.segment(image, cell_diameter=model.config.cell_diameter)
    walls, cpus, network, automatic = [], [], [], []
    for _ in range(REPEATS):
        in_network[0] = 0.0
        wall, cpu = time.perf_counter(), time.process_time()
        found = model.segment(image, cell_diameter=model.config.cell_diameter)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        network.append(in_network[0])
    for _ in range(REPEATS):
        wall = time.perf_counter()
        model.segment(image)
        automatic.append(time.perf_counter() - wall)
    return {
        "side": side,
        "objects": len(found),
        "load": load,
        "wall": float(np.median(walls)),
        "cpu": float(np.median(cpus)),
        "network": float(np.median(network)),
        "automatic": float(np.median(automatic)),
        "peak": _peak(),
        "imported": imported,
    }


def _peak() -> float:
    """Return the most memory that this process has held, in GB of 2**30 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class _Array:
    """What the timed network gives in place of a tensor: its values are in memory already."""

    def __init__(self, values):
        self.values = values

    def numpy(self):
        return self.values


def share_of_cellprofiler() -> dict:
    """Run the demo's pipeline and read how long each module took."""
    import csv

    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(sys.executable).with_name("cellprofiler")),
            "-c",
            "-r",
            "-p",
            "pipelines/morphology.cppipe",
        ]
        command += ["-i", str(PLATE), "-o", folder, "--plugins-directory", "plugins"]
        command += ["-e", "imageio_reader", "imageio_reader_v3"] if _is_five() else []
        begin = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        total = time.perf_counter() - begin
        with open(Path(folder) / "Image.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    modules: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("ExecutionTime_"):
                module = name.split("_", 2)[2] if name.split("_")[1].isdigit() else name.split("_")[1][2:]
                modules[module] = modules.get(module, 0.0) + float(value or 0)
    return {"images": len(rows), "total": total, "modules": modules}


def _is_five() -> bool:
    from importlib.metadata import distributions

    return any((d.metadata["Name"] or "").startswith("cellprofiler-nightly") for d in distributions())


def _machine() -> str:
    import tensorflow as tf

    return (
        f"{_where.machine()}, TensorFlow {tf.__version__}, commit {_where.commit()}"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", default="bundled", help="a bundled name, or a .h5 file (default: bundled)")
    parser.add_argument("--one", type=int)
    parser.add_argument("--cellprofiler", action="store_true", help="also time the pipeline of the demo")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.weights)))
        return
    print("# Speed of `Model.segment`\n")
    print(
        f"`python {' '.join(sys.argv)}`; {_machine()}. Median of {REPEATS} runs after one that is not counted.\n"
    )
    print("| image | objects | wall s | of it network | CPU s | automatic scale, wall s | peak GB "
          "| after importing TensorFlow, GB | load s |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for side in SIZES:
        command = [sys.executable, __file__, "--weights", options.weights, "--one", str(side)]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        m = json.loads(out.stdout)
        print(
            f"| {side} x {side} | {m['objects']} | {m['wall']:.2f} | {m['network'] / m['wall']:.0%} | {m['cpu']:.2f} "
            f"| {m['automatic']:.2f} | {m['peak']:.2f} | {m['imported']:.2f} | {m['load']:.1f} |",
            flush=True,
        )
    if options.cellprofiler:
        run = share_of_cellprofiler()
        what = f"`pipelines/morphology.cppipe` on the {run['images']} images of the example plate"
        print(f"\n{what}: {run['total']:.1f} s.\n")
        print("| module | s | share of the run |\n| --- | --- | --- |")
        rest = run["total"] - sum(run["modules"].values())
        for name, seconds in sorted(
            {**run["modules"], "start, stop, between": rest}.items(), key=lambda kv: -kv[1]
        ):
            if seconds > 0.005 * run["total"]:
                print(f"| {name} | {seconds:.1f} | {seconds / run['total']:.0%} |")


if __name__ == "__main__":
    main()
