"""Files of Matterport's Mask R-CNN with random weights, and what an independent port computed from them."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import h5py
import numpy as np

DATA = Path(__file__).parent / "data"


def computed(name):
    """Return `tests/data/matterport_<name>.npz`: inputs and outputs of each stage, and the weights not from a seed."""
    with np.load(DATA / f"matterport_{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file}


def tensors(name):
    """Return every weight by ``layer/tensor``: drawn from a generator seeded with the CRC-32 of that name."""
    known = computed(name)
    made = {}
    for line in known["tensors"]:
        key, shape = str(line).split(" ", 1)
        shape = tuple(map(int, re.findall(r"\d+", shape)))
        made[key] = known.get(f"weight/{key}", _drawn(key, shape)).astype(np.float32)
    return made


def _drawn(key, shape):
    random = np.random.default_rng(zlib.crc32(key.encode()))
    layer, kind = key.split("/")
    if kind == "kernel":
        return random.normal(0, np.sqrt(1.6 / np.prod(shape[:-1])), shape)
    if kind == "gamma":
        return random.uniform(*((0.2, 0.4) if layer.endswith("2c") else (0.7, 1.0)), shape)
    if kind == "moving_variance":
        return random.uniform(0.7, 1.4, shape)
    return random.normal(0, 0.05 if kind == "bias" else 0.1, shape)


def write(path, weights, style="keras2"):
    """Write weights as Keras 2 (nested groups, ``kernel:0``), Keras 1 (``layer_W:0``) or `model.save` of Keras 2 do."""
    keras1 = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "1.2.2" if style == "keras1" else "2.2.4"
        top = file.create_group("model_weights") if style == "whole" else file
        for name in ("input_image", "zero_padding2d_1", "ROI"):
            top.create_group(name).attrs["weight_names"] = np.array([], "S1")
        if style == "whole":
            file["optimizer_weights/SGD/iterations:0"] = np.int64(7)
        for key, value in weights.items():
            layer, kind = key.split("/")
            group = "rpn_model" if layer.startswith("rpn_") else layer
            inner = f"{layer}_2" if style == "whole" else layer
            last = f"{layer}_{keras1.get(kind, kind)}_1:0" if style == "keras1" else f"{kind}:0"
            top[f"{group}/{inner}/{last}"] = value
    return path
