"""The training loop: one traced step on one or several devices, checkpoints, validation, best and last weights.

A run can be stopped at any moment, even by kill -9, and goes on exactly where its last checkpoint was: that holds
weights, their average, the optimiser's state and the step, and all that is random depends on the step only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from evican_model import schedule
from evican_model import weights as weights_file
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.errors import EvicanError
from evican_model.runtime import start_tensorflow, without_chatter
from evican_model.samples import SampleSource
from evican_model.training_log import TrainingLog, draw_figure

__all__ = ["Trainer", "choose_strategy"]

_STATE = "state.json"


def choose_strategy(devices: list[str] | None = None):
    """Return the `tf.distribute.Strategy` for some devices.

    Parameters
    ----------
    devices : list of str, optional
        Such as ``["GPU:0", "GPU:1"]``. ``CPU:1`` and so on are parts of the one CPU, to try things out. All GPUs,
        or the CPU, by default.

    Raises
    ------
    EvicanError
        If there is no such device.
    """
    tf = start_tensorflow()
    for device in devices or []:
        if not re.fullmatch(r"(CPU|GPU):\d+", device):
            raise EvicanError(f"--devices {device}: expected names like GPU:0 or CPU:0.")
    cpus = [int(device[4:]) for device in devices or [] if device.startswith("CPU")]
    if cpus and max(cpus) > 0:
        parts = [tf.config.LogicalDeviceConfiguration()] * (max(cpus) + 1)
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    there = [
        device.name.split("device:")[1] for device in tf.config.list_logical_devices() if ":" in device.name
    ]
    missing = [device for device in devices or [] if device not in there]
    if missing:
        raise EvicanError(
            f"--devices {' '.join(missing)}: not on this computer, which has {', '.join(there)}."
        )
    chosen = devices or [device for device in there if device.startswith("GPU")]
    if len(chosen) > 1:
        with without_chatter():
            return tf.distribute.MirroredStrategy([f"/{device}" for device in chosen])
    if chosen and devices:
        return tf.distribute.OneDeviceStrategy(f"/{chosen[0]}")
    return tf.distribute.get_strategy()


class Trainer:
    """A training run in a folder.

    Parameters
    ----------
    network : NetworkConfig
    training : TrainConfig
    source : SampleSource
    output : Path
        The run folder, which exists.
    record : dict
        What is kept beside the weights: images, licences, command.
    tensors : mapping of str to array, optional
        Weights to start from; those that are missing start random.
    validation : list of AnnotatedImage
        Images to measure the AP on; none by default.
    strategy : tf.distribute.Strategy, optional
        See `choose_strategy`.
    """

    def __init__(
        self, network: NetworkConfig, training: TrainConfig, source: SampleSource, output: Path,
        record: dict[str, Any], tensors=None, validation=(), strategy=None,
    ):  # fmt: skip
        tf = start_tensorflow()
        from evican_model.network import MaskRCNN

        self.network_config, self.training, self.source, self.record = network, training, source, record
        self.output, self.validation = Path(output), list(validation)
        self.strategy = strategy or tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        if training.batch % self.replicas:
            raise EvicanError(f"A batch of {training.batch} cannot be shared by {self.replicas} devices; give a "
                              f"multiple of {self.replicas} with --batch.")  # fmt: skip
        tf.keras.utils.set_random_seed(training.seed)
        with self.strategy.scope():
            self.network = MaskRCNN(network, training.precision)
            self.variables = self.network.named_variables()
            for name, tensor in (tensors or {}).items():
                self.variables[name].assign(tensor)
            trainable = {id(v) for part in self.network.parts for v in part.trainable_variables}
            self.trainable = {name: v for name, v in self.variables.items() if id(v) in trainable}
            self.average = {}
            if training.average_decay > 0:
                self.average = {n: tf.Variable(v, trainable=False) for n, v in self.trainable.items()}
            self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.state: dict[str, Any] = {"best": -1.0, "best_step": 0, "validated": 0}
        self._stop = self._validated = self._traced = False
        self._enter_stage(0)

    # The course

    def run(self, stop_after: float | None = None) -> bool:
        """Train to the last step, saving on the way; Ctrl-C or SIGTERM finish the step, save and stop.

        Parameters
        ----------
        stop_after : float, optional
            Seconds after which to save and stop (the run can be resumed).

        Returns
        -------
        bool
            Whether the training is complete: all its steps, or stopped early as it got no better.
        """
        from tqdm import tqdm

        begin, step = time.time(), self.resume()
        last = schedule.stages(self.training)[-1].last
        log = TrainingLog(self.output, step, self.training.batch)
        images = self.training.batch  # the bar counts in them, so it shows images a second, and the time left
        progress = tqdm(total=last * images, initial=step * images, unit="image", dynamic_ncols=True,
                        file=sys.stderr, disable=None)  # fmt: skip
        try:
            with self._stoppable():
                for batch in self.source.batches(step, last):
                    if schedule.stage_at(step, self.training) != self.stage:
                        self._enter_stage(schedule.stage_at(step, self.training))
                    parts = self.train_step(batch)
                    step += 1
                    log.add(step, parts)
                    progress.update(images)
                    late = stop_after is not None and time.time() - begin > stop_after
                    if (
                        self._after_step(step, step == last, late or self._stop, log, progress)
                        or late
                        or self._stop
                    ):
                        break
        finally:
            progress.close()
            log.close()
        if self._stop:
            raise KeyboardInterrupt
        return step == last or self._has_stalled()

    def train_step(self, batch) -> dict[str, float]:
        """Do one step on a batch of `SampleSource.batches`; return its loss parts."""
        rate = schedule.learning_rate(int(self.step.numpy()), self.training)
        for _, share, optimizer in self.groups:
            optimizer.learning_rate.assign(rate * share)
        if self.replicas > 1:
            share = self.training.batch // self.replicas
            batch = self.strategy.experimental_distribute_values_from_function(
                lambda context: {
                    key: value[context.replica_id_in_sync_group * share :][:share]
                    for key, value in batch.items()
                }
            )
        with contextlib.nullcontext() if self._traced else without_chatter():
            parts = self._step(batch)
        self._traced = True
        return {name: float(value) for name, value in parts.items()}

    def _after_step(self, step: int, final: bool, stopping: bool, log: TrainingLog, progress) -> bool:
        """Log, validate and save when it is time; return whether to stop early."""
        training = self.training
        if step % 10 == 0:
            parts = " ".join(f"{name} {value:.2f}" for name, value in log.rows[-1].items())
            rate = schedule.learning_rate(step - 1, training)
            progress.set_postfix_str(f"step {step} {parts} rate {rate:.1e}", refresh=False)
        validate = bool(self.validation) and (final or step % training.validate_every == 0)
        save = validate or final or stopping or step % training.save_every == 0
        if step % 50 == 0 or save:
            mean = log.flush(step, schedule.learning_rate(step - 1, training))
            if not progress.disable or save:
                progress.write(_line(step, mean), file=sys.stderr)
        if validate:
            values = self.validate()
            log.validated(step, values)
            progress.write(_line(step, values), file=sys.stderr)
            self._note(step, values["AP"])
        if save:
            self.save()
        return validate and self._has_stalled()

    def _note(self, step: int, ap: float) -> None:
        self.state["validated"] += 1
        if ap > self.state["best"]:
            self.state.update(best=ap, best_step=step, validated=0)
            self._write_weights("best.h5", step)

    def _has_stalled(self) -> bool:
        return 0 < self.training.patience <= self.state["validated"]

    # A stage and its step

    def _enter_stage(self, stage: int) -> None:
        """Choose the layers that learn, with a fresh optimiser, as the original code has it too."""
        tf = start_tensorflow()
        training, self.stage = self.training, stage
        part = schedule.stages(training)[stage]
        backbone = self.network_config.backbone
        learning = {name: v for name, v in self.trainable.items()
                    if schedule.learns(name.split("/")[0], part, training, backbone)}  # fmt: skip
        pretrained = {name for name in learning if schedule.depth(name.split("/")[0], backbone) is not None}
        if not learning:
            raise EvicanError(f"frozen is {list(training.frozen)}: no layer is left to learn.")
        with self.strategy.scope():
            # Adam undoes any scaling of a gradient: layers of another rate need an optimiser of their own.
            self.groups = []
            for share, names in ((training.backbone_rate, pretrained), (1.0, set(learning) - pretrained)):
                variables = [learning[name] for name in sorted(names & set(learning))]
                if variables:
                    self.groups.append((variables, share, self._new_optimizer()))
                    self.groups[-1][2].build(variables)
        self.learning = [v for variables, _, _ in self.groups for v in variables]
        self.penalised = []
        if training.optimizer == "sgd" and training.weight_decay > 0:
            self.penalised = [v for name, v in learning.items() if not name.endswith(("/gamma", "/beta"))]
        self._step = tf.function(self._distributed_step)
        self._traced = False

    def _new_optimizer(self):
        tf = start_tensorflow()
        training = self.training
        if training.optimizer == "adamw":
            return tf.keras.optimizers.AdamW(training.learning_rate, weight_decay=training.weight_decay)
        return tf.keras.optimizers.SGD(training.learning_rate, momentum=training.momentum)

    def _distributed_step(self, batch):
        tf = start_tensorflow()
        parts = self.strategy.run(self._replica_step, args=(batch,))
        parts = {
            name: self.strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
            for name, value in parts.items()
        }
        self.step.assign_add(1)
        # A young average would be dominated by the random start: it follows faster at first.
        age = tf.cast(self.step, tf.float32)
        decay = tf.minimum(self.training.average_decay, (1 + age) / (10 + age))
        for name, mean in self.average.items():
            mean.assign(decay * mean + (1 - decay) * self.trainable[name])
        return parts

    def _replica_step(self, batch):
        import tensorflow as tf

        training = self.training
        with tf.GradientTape() as tape:
            parts = self.network.losses(batch, training)
            total = tf.add_n([value * training.box_weight if name == "box" else value for name, value in parts.items()])
            # The released code's weight decay: each tensor's squares by its size, norms left out.
            penalty = [tf.reduce_sum(tf.square(v)) / float(np.prod(v.shape)) for v in self.penalised]
            objective = total + training.weight_decay * tf.add_n(penalty) if penalty else total
        gradients = tape.gradient(objective, self.learning, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if self.replicas > 1:
            # Clipped must be what one device would clip: the gradient of the whole batch.
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        if training.clip_norm > 0 and training.clip_each:
            gradients = [tf.clip_by_norm(gradient, training.clip_norm) for gradient in gradients]
        elif training.clip_norm > 0:
            gradients, _ = tf.clip_by_global_norm(gradients, training.clip_norm)
        # The optimiser adds up what the devices have: equal parts of the one gradient.
        gradients = [gradient / self.replicas for gradient in gradients]
        for variables, _, optimizer in self.groups:
            mine, gradients = gradients[: len(variables)], gradients[len(variables) :]
            optimizer.apply_gradients(zip(mine, variables))
        return {**parts, "total": total}

    # Validation

    def validate(self) -> dict[str, float]:
        """Return the AP of the averaged weights on the validation images; see `validation.validate`."""
        from evican_model.model import Model
        from evican_model.validation import validate

        info = weights_file.WeightsInfo(self.output / "last.h5", self.network_config, "")
        quiet = contextlib.nullcontext() if self._validated else without_chatter()
        self._validated = True
        with self._averaged(), quiet:
            return validate(Model(self.network, info), self.validation, self.training.known_border)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights into the network for a while."""
        kept = {name: self.trainable[name].numpy() for name in self.average}
        try:
            for name, mean in self.average.items():
                self.trainable[name].assign(mean)
            yield
        finally:
            for name, value in kept.items():
                self.trainable[name].assign(value)

    # Saving

    def save(self) -> None:
        """Write the checkpoint, the averaged weights (``last.h5``) and the figure."""
        folder = self.output / "checkpoint"
        folder.mkdir(exist_ok=True)
        step = int(self.step.numpy())
        prefix = self._checkpoint().write(str(folder / f"step-{step}"))
        state = {**self.state, "step": step, "stage": self.stage, "checkpoint": Path(prefix).name}
        partial = folder / f"{_STATE}.part"
        partial.write_text(json.dumps(state, indent=1), encoding="utf-8")
        os.replace(partial, folder / _STATE)  # from here on the new checkpoint counts
        for path in folder.glob("step-*"):
            if not path.name.startswith(f"{Path(prefix).name}."):
                path.unlink()
        self._write_weights("last.h5", step)
        draw_figure(self.output)

    def resume(self) -> int:
        """Restore the last checkpoint, if there is one; return its step."""
        path = self.output / "checkpoint" / _STATE
        if not path.exists():
            return int(self.step.numpy())
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            self.state = {key: state[key] for key in self.state}
            if state["stage"] != self.stage:
                self._enter_stage(state["stage"])
            with without_chatter():
                self._checkpoint().read(str(path.parent / state["checkpoint"])).assert_consumed()
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise EvicanError(
                f"{path.parent} holds no checkpoint that fits this run: {error!r:.300}."
            ) from error
        return int(self.step.numpy())

    def _checkpoint(self):
        tf = start_tensorflow()
        return tf.train.Checkpoint(step=self.step, average=list(self.average.values()),
                                   optimizers=[optimizer for _, _, optimizer in self.groups],
                                   weights=list(self.variables.values()))  # fmt: skip

    def _write_weights(self, name: str, step: int) -> None:
        tensors = {key: np.asarray(v) for key, v in self.variables.items()}
        tensors.update({key: mean.numpy() for key, mean in self.average.items()})
        record = {**self.record, "step": step, "training": self.training.to_dict()}
        if name == "best.h5":
            record["validation"] = {**record.get("validation", {}), "AP": self.state["best"]}
        weights_file.write(self.output / name, tensors, self.network_config, record)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM finish the step first; a second one stops at once."""

        def stop(number, frame):
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        kept = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # only a program's main thread may do this
                kept[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)


def _line(step: int, values: dict[str, float]) -> str:
    return f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
