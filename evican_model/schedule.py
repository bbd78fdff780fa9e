"""The course of a training: which layers learn at which rate at each step.

``quick`` is one stage with warm-up and cosine decay, for small data and few cores. ``paper`` is that of Schwendy et
al. 2020 (section 2.3): 40 epochs of the heads, 8 of stage 4 and up, 4 of all layers, each with its rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from evican_model.config import TrainConfig

__all__ = ["Stage", "depth", "learns", "learning_rate", "stage_at", "stages"]

# Paper, section 2.3: epochs, layers, and the share of the initial rate in the first and second half of the stage.
_PAPER = ((40, "heads", 1.0, 0.5), (8, "4+", 1.0, 0.5), (4, "all", 0.1, 0.05))


@dataclass(frozen=True)
class Stage:
    """A part of the training in which the same layers learn.

    Parameters
    ----------
    first, last : int
        Its steps, from 0, half open.
    layers : str
        ``"heads"``: all but the backbone; ``"4+"``: those and the backbone's stages 4 and 5; ``"all"``.
    """

    first: int
    last: int
    layers: str


def stages(training: TrainConfig) -> list[Stage]:
    """Return the stages of a schedule, without gaps from step 0.

    >>> [(s.first, s.last, s.layers) for s in stages(TrainConfig(schedule="paper", epoch=10))]
    [(0, 400, 'heads'), (400, 480, '4+'), (480, 520, 'all')]
    """
    if training.schedule == "quick":
        return [Stage(0, training.steps, "all")]
    found, first = [], 0
    for epochs, layers, _, _ in _PAPER:
        found.append(Stage(first, first + epochs * training.epoch, layers))
        first = found[-1].last
    return found


def stage_at(step: int, training: TrainConfig) -> int:
    """Return the index of the stage that a step, from 0, belongs to; past the end, that of the last."""
    found = stages(training)
    return next((i for i, stage in enumerate(found) if step < stage.last), len(found) - 1)


def learning_rate(step: int, training: TrainConfig) -> float:
    """Return the rate of a step, from 0.

    >>> paper = TrainConfig(schedule="paper", learning_rate=1e-3, epoch=1000)
    >>> [learning_rate(epoch * 1000, paper) for epoch in (0, 20, 40, 44, 48, 50)]
    [0.001, 0.0005, 0.001, 0.0005, 0.0001, 5e-05]
    """
    if training.schedule == "paper":
        i = stage_at(step, training)
        stage, (_, _, early, late) = stages(training)[i], _PAPER[i]
        share = early if step < (stage.first + stage.last) / 2 else late
        return float(f"{training.learning_rate * share:.12g}")  # 0.0001, not 0.00010000000000000002
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return training.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def depth(layer: str, backbone: str) -> int | None:
    """Return the stage of the backbone that a layer, by its name, is in; None if it is not in the backbone.

    >>> depth("b15_expand", "efficientnet_lite0"), depth("box_fc1", "efficientnet_lite0")
    (5, None)
    """
    from evican_model import backbones

    beginning = layer.split("_")[0]
    return next((depth for depth, names in backbones.stages(backbone).items() if beginning in names), None)


def learns(layer: str, stage: Stage, training: TrainConfig, backbone: str) -> bool:
    """Tell whether a layer learns in a stage; layers in `TrainConfig.frozen` never do.

    Parameters
    ----------
    layer : str
        Its name.
    stage : Stage
    training : TrainConfig
    backbone : str
        Name of the network's backbone: which layers are its stages (`backbones.stages`).
    """
    if layer.split("_")[0] in training.frozen:
        return False
    deep = depth(layer, backbone)
    return deep is None or stage.layers == "all" or (stage.layers == "4+" and deep >= 4)
