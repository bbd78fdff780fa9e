"""Train the network: ``python -m evican_model.train --dataset a.json --images a/ --output runs/a``.

One traced step, AdamW with warm-up and cosine decay, an exponential moving average of the weights. A run can be stopped
at any moment and goes on with ``--resume``: the checkpoint holds weights, average, optimiser and step, and every sample
depends only on the seed and its number.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import re
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np

from evican_model import weights as weights_file
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.dataset import AnnotatedImage, read_dataset
from evican_model.errors import DatasetError, EvicanError
from evican_model.model import read_into
from evican_model.runtime import start_tensorflow, without_chatter

__all__ = ["Trainer", "main"]

_LOSS_WEIGHTS = {"rpn_class": 1.0, "rpn_box": 1.0, "class": 1.0, "box": 1.0, "mask": 1.0}
_CHECKPOINT = "checkpoint"


class SampleSource:
    """Samples by number: sample ``i`` is the same whenever it is asked for.

    Parameters
    ----------
    datasets : list of list of AnnotatedImage
    shares : list of float
        How often a sample comes from each dataset, relative to the others.
    network, training : configs
    """

    def __init__(self, datasets, shares, network: NetworkConfig, training: TrainConfig):
        from evican_model.augment import natural_scale

        self.network, self.training = network, training
        self.datasets: list[list[AnnotatedImage]] = datasets
        self.shares = np.asarray(shares, float) / np.sum(shares)
        self.levels = [[item.grey_levels() for item in items] for items in datasets]
        self.scales = [[natural_scale(item, network) for item in items] for items in datasets]

    def sample(self, number: int) -> dict[str, np.ndarray]:
        """Return sample `number`; see `augment.make_sample` for its arrays."""
        from evican_model.augment import blank_sample, make_sample

        rng = np.random.default_rng([self.training.seed, int(number)])
        if rng.random() < self.training.blank_share:
            return blank_sample(rng, self.network, self.training)
        source = int(rng.choice(len(self.datasets), p=self.shares))
        i = int(rng.integers(len(self.datasets[source])))
        return make_sample(self.datasets[source][i], self.levels[source][i], self.scales[source][i], rng,
                           self.network, self.training)  # fmt: skip

    def batches(self, first_step: int):
        """Return a `tf.data.Dataset` of the batches from `first_step` on."""
        import tensorflow as tf

        network, training = self.network, self.training
        keys = ("image", "boxes", "category_ids", "masks", "known")
        types = (tf.float32, tf.float32, tf.int32, tf.uint8, tf.float32)
        side, count = training.crop, training.instances
        shapes = ((side, side, 1), (count, 4), (count,), (count, side, side),
                  (side // network.strides[0], side // network.strides[0], len(network.categories)))  # fmt: skip

        def load(number):
            arrays = tf.numpy_function(lambda n: tuple(self.sample(n)[key] for key in keys), [number], types)
            return {k: tf.ensure_shape(array, shape) for k, array, shape in zip(keys, arrays, shapes)}

        numbers = tf.data.Dataset.range(first_step * training.batch, training.steps * training.batch)
        samples = numbers.map(load, num_parallel_calls=2, deterministic=True)
        return samples.batch(training.batch, drop_remainder=True).prefetch(2)


class Trainer:
    """A training run in a folder.

    Parameters
    ----------
    network : NetworkConfig
    training : TrainConfig
    source : SampleSource
    output : Path
        The run folder; made if need be.
    record : dict
        What is kept beside the weights: images, licences, command.
    start : str or Path, optional
        Weights to start from; random ones by default.
    """

    def __init__(self, network, training, source, output, record, start=None):
        tf = start_tensorflow()
        from evican_model.network import MaskRCNN

        self.network_config, self.training, self.source, self.record = network, training, source, record
        self.output = Path(output)
        tf.random.set_seed(training.seed)
        self.network = MaskRCNN(network)
        self.variables = self.network.named_variables()
        if start is not None:
            read_into(self.network, weights_file.check(start))
        trainable = {id(v) for part in self.network.parts for v in part.trainable_variables}
        self.trainable = [
            variable
            for name, variable in self.variables.items()
            if id(variable) in trainable and re.split("[_/]", name)[0] not in training.frozen
        ]
        decay = training.steps - training.warmup_steps
        rate = tf.keras.optimizers.schedules.CosineDecay(
            0.0,
            max(decay, 1),
            alpha=0.01,
            warmup_target=training.learning_rate,
            warmup_steps=training.warmup_steps,
        )
        self.optimizer = tf.keras.optimizers.AdamW(
            rate, weight_decay=training.weight_decay, global_clipnorm=training.clip_norm
        )
        self.optimizer.build(self.trainable)
        self.average = [tf.Variable(v, trainable=False) for v in self.trainable]
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.checkpoint = tf.train.Checkpoint(
            step=self.step,
            optimizer=self.optimizer,
            average=self.average,
            weights=list(self.variables.values()),
        )
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, str(self.output / _CHECKPOINT), max_to_keep=2
        )

    def resume(self) -> int:
        """Restore the newest checkpoint, if there is one; return the step it was made at."""
        if self.manager.latest_checkpoint:
            self.checkpoint.restore(self.manager.latest_checkpoint).assert_existing_objects_matched()
        return int(self.step.numpy())

    def run(self, stop_after: float | None = None) -> None:
        """Train to the last step, saving on the way; Ctrl-C saves and stops.

        Parameters
        ----------
        stop_after : float, optional
            Seconds after which to save and stop (the run can be resumed).
        """
        import tensorflow as tf
        from tqdm import tqdm

        first, begin = self.resume(), time.time()
        train_step = tf.function(self._train_step)
        log = _Log(self.output / "log.csv", first)
        progress = tqdm(
            total=self.training.steps, initial=first, unit="step", dynamic_ncols=True, file=sys.stderr
        )
        try:
            for batch in self.source.batches(first):
                with without_chatter() if log.step == first else contextlib.nullcontext():
                    parts = train_step(batch)
                step = int(self.step.numpy())
                log.add(step, parts)
                progress.update()
                if step % 50 == 0:
                    progress.set_postfix_str(log.flush(float(self.optimizer.learning_rate)))
                late = stop_after is not None and time.time() - begin > stop_after
                if step % self.training.save_every == 0 or step == self.training.steps or late:
                    self.save()
                if late:
                    break
        except KeyboardInterrupt:
            self.save()
            raise
        finally:
            progress.close()

    def _train_step(self, batch):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            parts = self.network.losses(batch, self.training)
            total = tf.add_n([_LOSS_WEIGHTS[name] * value for name, value in parts.items()])
        gradients = tape.gradient(total, self.trainable)
        self.optimizer.apply_gradients(zip(gradients, self.trainable))
        self.step.assign_add(1)
        # A young average would be dominated by the random start: it follows faster at first.
        age = tf.cast(self.step, tf.float32)
        decay = tf.minimum(self.training.average_decay, (1 + age) / (10 + age))
        for mean, variable in zip(self.average, self.trainable):
            mean.assign(decay * mean + (1 - decay) * variable)
        return {**parts, "total": total}

    def save(self) -> None:
        """Write the checkpoint and the averaged weights (``last.h5``)."""
        self.manager.save()
        mean = {id(v): average for v, average in zip(self.trainable, self.average)}
        tensors = {name: mean.get(id(v), v).numpy() for name, v in self.variables.items()}
        record = {**self.record, "step": int(self.step.numpy()), "training": self.training.to_dict()}
        weights_file.write(self.output / "last.h5", tensors, self.network_config, record)


class _Log:
    """Loss parts, averaged over some steps, into a CSV file."""

    def __init__(self, path: Path, first: int):
        self.path, self.step, self.begin = path, first, time.time()
        self.rows: list[dict[str, float]] = []

    def add(self, step, parts) -> None:
        self.rows.append({name: float(value) for name, value in parts.items()})
        self.step = step
        if not np.isfinite(self.rows[-1]["total"]):
            raise EvicanError(
                f"The loss is not finite at step {step}: {self.rows[-1]}. Lower the learning rate."
            )

    def flush(self, rate: float) -> str:
        mean = {name: float(np.mean([row[name] for row in self.rows])) for name in self.rows[0]}
        seconds, self.begin = time.time() - self.begin, time.time()
        line = {"step": self.step, "rate": rate, "steps_per_second": len(self.rows) / seconds, **mean}
        new = not self.path.exists()
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(line))
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" for k, v in line.items()})
        self.rows = []
        return " ".join(f"{name} {value:.3f}" for name, value in mean.items())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        trainer = _prepare(options)
        trainer.run(options.stop_after)
    except EvicanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; go on with: python -m evican_model.train --resume {options.output}", file=sys.stderr)
        return 130
    print(f"weights: {trainer.output / 'last.h5'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evican_model.train", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="JSON", help="COCO file; may be repeated"
    )
    parser.add_argument(
        "--images", action="append", default=[], metavar="DIR", help="its images, one for each --dataset"
    )
    parser.add_argument(
        "--share", action="append", default=[], type=float, help="how often it is drawn (default 1)"
    )
    parser.add_argument(
        "--licence", action="append", default=[], help="its licence, kept in the training record"
    )
    parser.add_argument("--output", metavar="DIR", help="run folder")
    parser.add_argument("--resume", metavar="DIR", help="go on with the run in this folder")
    parser.add_argument(
        "--weights", default="bundled", help="weights to start from: bundled, a .h5 file, or none"
    )
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="save and stop after this time")
    for field in fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(
                "--no-" + flag[2:], dest=field.name, action="store_false", help="switch this variation off"
            )
        elif isinstance(field.default, tuple):
            parser.add_argument(flag, nargs="*", default=list(field.default), help="default: %(default)s")
        else:
            parser.add_argument(
                flag, type=type(field.default), default=field.default, help="default: %(default)s"
            )
    return parser


def _prepare(options) -> Trainer:
    if options.resume:
        output = Path(options.resume)
        run = _read_run(output / "run.json")
        options = argparse.Namespace(**{**vars(options), **run["options"], "output": str(output)})
        training = TrainConfig.from_dict(run["training"], output / "run.json")
    else:
        if not options.output:
            raise EvicanError("--output is missing: name the folder of the run.")
        output = Path(options.output)
        if (output / "run.json").exists():
            raise EvicanError(
                f"{output} holds a run already; go on with --resume {output}, or name another folder."
            )
        values = {field.name: getattr(options, field.name) for field in fields(TrainConfig)}
        training = TrainConfig.from_dict(values, "command line")
        if training.crop % 64 or training.crop <= 0:
            raise EvicanError(
                f"--crop {training.crop} does not fit the network; it must be a multiple of 64 pixels."
            )
    if not options.dataset or len(options.dataset) != len(options.images):
        raise DatasetError(f"{len(options.dataset)} --dataset and {len(options.images)} --images given; "
                           "each COCO file needs its folder of images.")  # fmt: skip
    shares = options.share or [1.0] * len(options.dataset)
    if len(shares) != len(options.dataset):
        raise DatasetError(
            f"{len(shares)} --share given for {len(options.dataset)} --dataset; give one for each."
        )
    start = None if options.weights == "none" else options.weights
    network = weights_file.check(start).config if start else NetworkConfig()
    datasets = [read_dataset(a, i, network.categories) for a, i in zip(options.dataset, options.images)]
    for name, items in zip(options.dataset, datasets):
        if not any(len(item.truth) for item in items):
            raise DatasetError(f"{name} holds no annotation; there is nothing to learn from it.")
    output.mkdir(parents=True, exist_ok=True)
    licences = options.licence or ["" for _ in options.dataset]
    if len(licences) != len(options.dataset):
        raise DatasetError(
            f"{len(licences)} --licence given for {len(options.dataset)} --dataset; give one for each."
        )
    kept = {key: getattr(options, key) for key in ("dataset", "images", "share", "licence", "weights")}
    run = {"options": kept, "training": training.to_dict(), "network": network.to_dict()}
    (output / "run.json").write_text(json.dumps(run, indent=1), encoding="utf-8")
    record = {
        "datasets": [_describe(*each) for each in zip(options.dataset, datasets, licences)],
        "start": _describe_start(start),
        "shares": shares,
    }
    return Trainer(
        network, training, SampleSource(datasets, shares, network, training), output, record, start
    )


def _describe_start(start: str | None) -> dict:
    """Name the weights that a run starts from, and what they in turn were made from."""
    if start is None:
        return {}
    info = weights_file.check(start)
    return {"weights": info.path.name, "sha256": info.sha256, "training": info.training}


def _describe(annotations: str, items: list[AnnotatedImage], licence: str) -> dict:
    info = json.loads(Path(annotations).read_text(encoding="utf-8")).get("info", {})
    info = {**info, "licence": licence} if licence else info
    return {"annotations": Path(annotations).name, "info": info, "images": len(items),
            "instances": sum(len(item.truth) for item in items), "sha256": [item.sha256 for item in items]}  # fmt: skip


def _read_run(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvicanError(
            f"{path} cannot be read ({error}); --resume needs the folder of an earlier run."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
