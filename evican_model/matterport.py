"""Weights of Matterport's Mask R-CNN (``mask_rcnn_coco.h5``, a lab's own): their layers, under our names.

The files are Keras weights files without a config, in the naming of Keras 1 or 2, with layers of nested models in
groups. What they tell of the network (backbone, sizes, number of classes) is read from names and shapes; what they do
not (names of the categories, anchor scales) is Matterport's default until a ``.json`` beside them says otherwise.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Mapping, Sequence

import h5py
import numpy as np

from evican_model import hdf5
from evican_model.config import NetworkConfig
from evican_model.errors import WeightsError

__all__ = ["CLASS_LAYERS", "config_of", "is_matterport", "list_layers", "read_tensors"]

# The layers whose shape depends on the categories, by our names.
CLASS_LAYERS = ("class_logits", "box_offsets", "mask_logits")

_NAMES = {
    "rpn_conv": "rpn_conv_shared",
    "rpn_objectness": "rpn_class_raw",
    "rpn_offsets": "rpn_bbox_pred",
    "class_logits": "mrcnn_class_logits",
    "box_offsets": "mrcnn_bbox_fc",
    "mask_deconv": "mrcnn_mask_deconv",
    "mask_logits": "mrcnn_mask",
    **{f"box_fc{i}": f"mrcnn_class_conv{i}" for i in (1, 2)},
    **{f"box_bn{i}": f"mrcnn_class_bn{i}" for i in (1, 2)},
    **{f"mask_{kind}{i}": f"mrcnn_mask_{kind}{i}" for kind in ("conv", "bn") for i in (1, 2, 3, 4)},
}  # backbone and pyramid have Matterport's names
_LAYER = re.compile(
    r"(conv1|bn_conv1|(?:res|bn)\d[a-z]_branch\d[abc]?|fpn_(?:c\dp\d|p\d)|"
    + "|".join(_NAMES.values())
    + r")(?:_\d+)?"
)  # Keras numbers a name that it meets again
# What Keras 1 called W, b, running_mean and running_std (which held the variance) is kernel, bias, moving_mean and
# moving_variance in Keras 2.
_TENSOR = re.compile(
    r"(?:.*_)?(kernel|W|bias|b|gamma|beta|(?:moving|running)_(?:mean|variance|std))(?:_\d+)?(?::\d+)?"
)
_TENSOR_NAMES = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}

_LARGEST = 4096  # channels or categories; what a stranger's file claims is not built before it is looked at
_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
).split(",")


def list_layers(file: h5py.File, path: Path) -> tuple[dict[str, h5py.Dataset], list[str]]:
    """List the tensors of a Matterport file by ``layer/tensor``, without reading any.

    Returns
    -------
    tuple
        Dict of name to dataset, and the names of the tensors that belong to no layer of Mask R-CNN.

    Raises
    ------
    WeightsError
        As `hdf5.list_tensors`, and if a layer has two tensors of the same name.
    """
    found: dict[str, h5py.Dataset] = {}
    others = []
    for name, dataset in hdf5.list_tensors(file, path, depth=6, skip=("optimizer_weights",)).items():
        *groups, last = name.split("/")
        layer = next(filter(None, map(_LAYER.fullmatch, groups)), None)
        tensor = _TENSOR.fullmatch(last)
        if layer is None or tensor is None:
            others.append(name)
            continue
        ours = f"{layer[1]}/{_TENSOR_NAMES.get(tensor[1], tensor[1])}"
        if ours in found:
            raise WeightsError(f"{path}: {name} and {found[ours].name} are both {ours}.")
        found[ours] = dataset
    return found, others


def is_matterport(file: h5py.File, path: Path) -> bool:
    """Tell whether a file holds layers that only Matterport's Mask R-CNN has."""
    names = list_layers(file, path)[0]
    return any(name.startswith(("mrcnn_", "fpn_")) for name in names)


def config_of(
    layers: Mapping[str, h5py.Dataset], path: Path, categories: Sequence[str] | None = None
) -> NetworkConfig:
    """Make the config that a Matterport file tells of by its names and shapes.

    Parameters
    ----------
    layers : mapping of str to dataset
        From `list_layers`.
    path : Path
        Its path, for errors.
    categories : sequence of str, optional
        Names of the categories, as many as the file has classes besides the background. By default COCO's 80, if it
        has as many, otherwise ``class 1``, ``class 2`` and so on: a Matterport file does not name them.

    Raises
    ------
    WeightsError
        If the file is of another backbone, lacks a layer this is read from, or `categories` are of another number.
    """
    count = _size(layers, "mrcnn_class_logits/bias", 0, path) - 1
    if count == 0:
        raise WeightsError(f"{path} knows no category but the background.")
    if categories is None:
        categories = _COCO if count == len(_COCO) else [f"class {i + 1}" for i in range(count)]
    if len(categories) != count:
        raise WeightsError(
            f"{path} has {count} categories besides the background; {len(categories)} names are given: "
            f"{list(categories)}. To start a training with other categories, convert the file first: python -m "
            "evican_model.convert drops the layers that depend on them."
        )
    logits = _size(layers, "rpn_class_raw/bias", 0, path)
    if logits != 6:
        raise WeightsError(
            f"{path}: rpn_class_raw/bias has {logits} values; expected 6, two for each of three anchor ratios."
        )
    depth = sum(name.startswith("res4") and name.endswith("branch2a/kernel") for name in layers)
    presets = {6: "resnet50", 23: "paper"}
    if depth not in presets:
        raise WeightsError(
            f"{path} has {depth} blocks in stage 4; expected 6 (ResNet-50) or 23 (ResNet-101)."
        )
    return NetworkConfig.for_preset(
        presets[depth],
        categories=tuple(categories),
        stretch=False,  # such networks were trained on grey levels as they were stored
        fpn_channels=_size(layers, "fpn_c5p5/bias", 0, path),
        rpn_channels=_size(layers, "rpn_conv_shared/bias", 0, path),
        box_pool=_size(layers, "mrcnn_class_conv1/kernel", 0, path),
        box_channels=_size(layers, "mrcnn_class_conv1/bias", 0, path),
        mask_channels=_size(layers, "mrcnn_mask_conv1/bias", 0, path),
    )


def read_tensors(
    path: str | Path,
    expected: Mapping[str, tuple[int, ...]],
    config: NetworkConfig,
    allow_others: bool = False,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read a Matterport file into the tensors of our network.

    Parameters
    ----------
    path : str or Path
    expected : mapping of str to tuple of int
        Shape of each wanted tensor, by our ``layer/tensor``.
    config : NetworkConfig
        Of the network they are for.
    allow_others : bool
        Whether the file may hold tensors that are not wanted.

    Returns
    -------
    tuple
        Dict of str to float32 array, and the names of the tensors that are left over.

    Raises
    ------
    WeightsError
        If a tensor is missing, left over (unless allowed) or of another shape, or as `hdf5.read`.
    """
    path = Path(path)
    sources = {name: _source(name, shape, config) for name, shape in expected.items()}
    shapes = {theirs: shape for theirs, shape, _ in sources.values()}
    with hdf5.open_file(path) as file:
        found, others = list_layers(file, path)
        others += [found[name].name for name in sorted(set(found) - set(shapes))]
        if others and not allow_others:
            raise WeightsError(
                f"{path} holds {len(others)} tensors that Matterport's Mask R-CNN does not have: {others[:3]}. If you "
                "know that they do not matter, convert the file: python -m evican_model.convert leaves them out."
            )
        hdf5.require_shapes({name: d for name, d in found.items() if name in shapes}, shapes, path)
        tensors = {}
        for name, (theirs, _, change) in sources.items():
            tensors[name] = change(hdf5.read(found[theirs], theirs, path)).reshape(expected[name])
    return tensors, others


def _source(name: str, shape: tuple[int, ...], config: NetworkConfig):
    """Matterport's name of a tensor, its shape there, and what makes ours of it (but for the shape)."""
    layer, tensor = name.split("/")
    theirs, shape = f"{_NAMES.get(layer, layer)}/{tensor}", tuple(shape)
    if (
        layer == "rpn_objectness"
    ):  # background and object in turn: softmax of two is the sigmoid of the difference
        return theirs, (*shape[:-1], 2 * shape[-1]), lambda x: x[..., 1::2] - x[..., 0::2]
    if layer == "box_offsets":  # the background's offsets move no detection
        return theirs, (*shape[:-1], shape[-1] + 4), lambda x: x[..., 4:]
    if layer == "mask_logits":  # nor has the background a mask
        return theirs, (*shape[:-1], shape[-1] + 1), lambda x: x[..., 1:]
    if name == "box_fc1/kernel":  # fully connected layers are convolutions over the whole ROI there
        shape = (config.box_pool, config.box_pool, config.fpn_channels, shape[-1])
    elif name == "box_fc2/kernel":
        shape = (1, 1, *shape)
    return theirs, shape, lambda x: x


def _size(layers: Mapping[str, h5py.Dataset], name: str, axis: int, path: Path) -> int:
    """Length of an axis of a tensor, if the file has it and it is believable."""
    if name not in layers:
        raise WeightsError(f"{path} has no {name}, which every Mask R-CNN of Matterport's has.")
    shape = layers[name].shape
    if len(shape) <= axis or not 1 <= shape[axis] <= _LARGEST:
        raise WeightsError(f"{path}: {name} has shape {shape}; expected axes of 1 to {_LARGEST}.")
    return int(shape[axis])
