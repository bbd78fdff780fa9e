"""Images a second, memory and the cost of each part of a training step, as a table.

    python benchmarks/training_speed.py --dataset a.json --images a/ [--only fast]

Each configuration runs in a process of its own, so that its peak memory is its own. The parts are timed by traces that
end after them: forward through the backbone, and so on, then the same with all gradients; what a part costs is the
difference. CPU seconds are given beside wall seconds: on a busy machine they are the better measure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import _where

# name: preset, then settings of TrainConfig
CONFIGURATIONS: dict = {
    "fast": ("fast", {"crop": 512, "batch": 2}),
    "fast, all layers": ("fast", {"crop": 512, "batch": 2, "frozen": ()}),
    "fast, crop 256": ("fast", {"crop": 256, "batch": 2}),
    "paper, heads": ("paper", {"schedule": "paper", "optimizer": "sgd", "crop": 1024, "batch": 1, "average_decay": 0.0,
                               "frozen": (), "rois": 200, "positive_rois": 66, "instances": 100}),
    "paper, all layers": ("paper", {"optimizer": "sgd", "crop": 1024, "batch": 1, "average_decay": 0.0, "frozen": (),
                                    "rois": 200, "positive_rois": 66, "instances": 100}),
}  # fmt: skip


def timed(function, repeats: int) -> tuple[float, float]:
    """Median wall and mean CPU seconds of some calls after one that is not counted."""
    from evican_model.runtime import without_chatter

    with without_chatter():
        function()
    walls, cpu = [], time.process_time()
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        walls.append(time.perf_counter() - begin)
    return sorted(walls)[len(walls) // 2], (time.process_time() - cpu) / repeats


def measure(name: str, annotations: str, images: str, repeats: int) -> dict:
    """Measure one configuration in this process."""
    import tempfile

    from evican_model.config import NetworkConfig, TrainConfig
    from evican_model.dataset import read_dataset
    from evican_model.runtime import start_tensorflow
    from evican_model.samples import SampleSource
    from evican_model.trainer import Trainer

    tf = start_tensorflow()
    preset, settings = CONFIGURATIONS[name]
    network, training = NetworkConfig.for_preset(preset), TrainConfig(**settings)
    items = read_dataset(annotations, images, network.categories)
    source = SampleSource([items], [1.0], network, training)
    begin = time.perf_counter()
    samples = [source.sample(i) for i in range(10)]
    sample_seconds = (time.perf_counter() - begin) / len(samples)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(network, training, source, Path(folder), {})
        (batch,) = source.batches(0, 1)
        begin = time.perf_counter()
        trainer.train_step(batch)
        trace = time.perf_counter() - begin
        step, step_cpu = timed(lambda: trainer.train_step(batch), repeats)
        parts = profile(tf, trainer, batch, repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"step": step, "step_cpu": step_cpu, "batch": training.batch, "crop": training.crop, "peak": peak,
            "trace": trace, "sample": sample_seconds, "parts": parts, "tensorflow": tf.__version__}  # fmt: skip


def profile(tf, trainer, batch, repeats: int) -> dict[str, float]:
    """CPU seconds of the parts of a step, as differences of traces that end after each."""
    network, training = trainer.network, trainer.training

    def backbone():
        images = (batch["image"] - network.config.pixel_mean) / network.config.pixel_std
        images = tf.repeat(images, 3 // images.shape[-1], -1)
        return [tf.reduce_sum(c) for c in network.backbone(images)]

    def proposals():
        return [tf.reduce_sum(x) for x in network.propose(batch["image"])[1:3]]

    def losses():
        return list(network.losses(batch, training).values())

    def gradients():
        with tf.GradientTape() as tape:
            total = tf.add_n(losses())
        found = tape.gradient(total, trainer.learning, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.reduce_sum(gradient) for gradient in found]

    seconds = {
        f.__name__: timed(tf.function(f), repeats)[1] for f in (backbone, proposals, losses, gradients)
    }
    whole = timed(lambda: trainer.train_step(batch), repeats)[1]
    return {
        "backbone": seconds["backbone"],
        "pyramid, RPN": seconds["proposals"] - seconds["backbone"],
        "proposals, sampling, heads, losses": seconds["losses"] - seconds["proposals"],
        "gradients": seconds["gradients"] - seconds["losses"],
        "clipping, optimiser, average": whole - seconds["gradients"],
    }


def main() -> None:
    """Print the table, or with ``--measure`` the figures of one configuration as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", required=True, metavar="JSON")
    parser.add_argument("--images", required=True, metavar="DIR")
    parser.add_argument("--only", action="append", choices=list(CONFIGURATIONS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", choices=list(CONFIGURATIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.dataset, options.images, options.repeats)))
        return
    found = {}
    for name in options.only or CONFIGURATIONS:
        command = [
            sys.executable,
            __file__,
            "--dataset",
            options.dataset,
            "--images",
            options.images,
            "--measure",
            name,
        ]
        done = subprocess.run(
            [*command, "--repeats", str(options.repeats)], stdout=subprocess.PIPE, text=True, check=True
        )
        found[name] = json.loads(done.stdout.splitlines()[-1])
    print_tables(found, options)


def print_tables(found: dict, options) -> None:
    """Print the Markdown tables."""
    load = f"{os.getloadavg()[1]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    version = next(iter(found.values()))["tensorflow"]
    print("# Speed of training\n")
    where = _where.machine()
    where += f", TensorFlow {version}, commit {_where.commit()}"
    print(f"`python benchmarks/training_speed.py`; {where}; five-minute load average at the end: {load}; median of "
          f"{options.repeats} steps after one that is not counted.\n")  # fmt: skip
    print("| network | crop | batch | s a step | CPU s a step | images a second | images a CPU second | peak GB "
          "| s for the first step | s a sample |")  # fmt: skip
    print("| --- " * 10 + "|")
    for name, f in found.items():
        print(f"| {name} | {f['crop']} | {f['batch']} | {f['step']:.2f} | {f['step_cpu']:.2f} "
              f"| {f['batch'] / f['step']:.2f} | {f['batch'] / f['step_cpu']:.2f} | {f['peak']:.2f} | {f['trace']:.0f} "
              f"| {f['sample']:.3f} |")  # fmt: skip
    print("\nWhere a step's CPU seconds go:\n")
    parts = list(next(iter(found.values()))["parts"])
    print("| network | " + " | ".join(parts) + " |\n" + "| --- " * (len(parts) + 1) + "|")
    for name, f in found.items():
        total = sum(f["parts"].values())
        shares = (f"{f['parts'][part]:.2f} ({f['parts'][part] / total:.0%})" for part in parts)
        print(f"| {name} | " + " | ".join(shares) + " |")


if __name__ == "__main__":
    main()
