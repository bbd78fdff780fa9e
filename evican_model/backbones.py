"""Backbones: an image in, feature maps C2 to C5 (strides 4 to 32) out. Layer names are the keys of the weights file."""

from __future__ import annotations

from functools import reduce
from itertools import accumulate
from typing import Callable, Sequence

import numpy as np
import tensorflow as tf

from evican_model.errors import EvicanError
from evican_model.strips import in_strips

__all__ = ["backbone", "fold", "frozen_layers", "stages"]

layers = tf.keras.layers

_EPSILON = 1e-3

# EfficientNet-Lite (Tan & Le 2019, table 1, without squeeze-and-excite and with ReLU6): kernel, stride and expansion of
# the seven stages, the same in all variants, and repeats and channels out, which grow.
_LITE_STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
_LITE_SIZES = {
    "efficientnet_lite0": ((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite1": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite2": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}
_LITE_NORMS = {"conv": "bn", "expand": "bn0", "dw": "bn1", "project": "bn2"}

# ResNet (He et al. 2016, table 1): blocks in the stages conv2_x to conv5_x
_RESNET_BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def backbone(name: str, folded: bool = False, channels: int = 3) -> tf.keras.Model:
    """Build a backbone.

    Parameters
    ----------
    name : str
        ``efficientnet_lite0``, ``efficientnet_lite1``, ``efficientnet_lite2``, ``resnet50`` or ``resnet101``.
    folded : bool
        Without batch norms, for weights that `fold` has made.
    channels : int
        Of the image: 3, or 1 for grey images where folded.

    Returns
    -------
    keras.Model
        Maps float32 [batch, height, width, channels] to the list C2, C3, C4, C5.

    Raises
    ------
    EvicanError
        If there is no backbone of that name.
    """
    image = layers.Input((None, None, channels), name="image")
    if _is_lite(name):
        features = _lite(image, *_LITE_SIZES[name], folded)
    else:
        features = _resnet(image, _RESNET_BLOCKS[name], folded)
    return tf.keras.Model(image, features, name=name)


def fold(source: tf.keras.Model, name: str, channels: int = 3) -> tf.keras.Model:
    """Put each frozen batch norm into the convolution before it, and colour into grey: the same outputs, sooner.

    Parameters
    ----------
    source : keras.Model
        A backbone with its weights.
    name : str
        Its name.
    channels : int
        Of the image. 1: what `source` makes of three equal colours, from one.

    Returns
    -------
    keras.Model
        For inference; it holds a copy of the weights.
    """
    target = backbone(name, True, channels)
    for layer in target.layers:
        if not layer.weights:
            continue
        gamma, beta, mean, variance = source.get_layer(_norm_name(layer.name)).get_weights()
        kernel, *bias = source.get_layer(layer.name).get_weights()
        if (
            kernel.shape[2] > layer.get_weights()[0].shape[2]
        ):  # the image: the kernels of equal colours add up
            kernel = kernel.sum(2, keepdims=True)
        gain = gamma / np.sqrt(variance + _EPSILON)
        # A depthwise kernel has its channels on the third axis [rows, columns, channels, 1], the others on the last.
        depthwise = isinstance(layer, tf.keras.layers.DepthwiseConv2D)
        layer.set_weights([kernel * (gain[:, None] if depthwise else gain), beta + (sum(bias) - mean) * gain])
    return target


def stages(name: str) -> dict[int, tuple[str, ...]]:
    """Return the layers of each stage of a backbone, by the beginning of their names up to the first ``_``.

    Stage 1 is the stem, stages 2 to 5 end in C2 to C5. What is in no stage is a head: pyramid, RPN, box and mask.

    Parameters
    ----------
    name : str

    Returns
    -------
    dict of int to tuple of str

    Examples
    --------
    >>> stages("resnet50")[5]
    ('res5a', 'res5b', 'res5c', 'bn5a', 'bn5b', 'bn5c')
    >>> stages("efficientnet_lite0")[2]
    ('b1', 'b2')
    """
    if _is_lite(name):
        ends = list(accumulate(_LITE_SIZES[name][0]))  # C2 to C5 are what stages 2, 3, 5 and 7 of the paper end in
        bounds = [ends[i] for i in (0, 1, 2, 4, 6)]
        blocks = [tuple(f"b{k}" for k in range(low, high)) for low, high in zip(bounds, bounds[1:])]
        return {1: ("stem", "b0"), **dict(enumerate(blocks, start=2))}
    parts: dict[int, tuple[str, ...]] = {1: ("conv1", "bn")}  # bn_conv1
    for stage, count in enumerate(_RESNET_BLOCKS[name], start=2):
        parts[stage] = tuple(f"{kind}{stage}{chr(97 + i)}" for kind in ("res", "bn") for i in range(count))
    return parts


def frozen_layers(name: str, trained: str) -> tuple[str, ...]:
    """Return the layers that stay as they are in a training stage of Matterport's, as `TrainConfig.frozen` wants them.

    Parameters
    ----------
    name : str
        The backbone.
    trained : str
        ``heads`` (pyramid, RPN, box and mask head), ``3+``, ``4+``, ``5+`` (these and the backbone from that stage
        up), or ``all``.

    Returns
    -------
    tuple of str

    Raises
    ------
    EvicanError
        If there is no such backbone or training stage.

    Examples
    --------
    >>> frozen_layers("efficientnet_lite0", "3+")
    ('stem', 'b0', 'b1', 'b2')
    """
    first = {"heads": 6, "5+": 5, "4+": 4, "3+": 3, "all": 1}
    if trained not in first:
        raise EvicanError(f"There is no group of layers {trained!r}; known are {list(first)}.")
    return tuple(part for stage, parts in stages(name).items() if stage < first[trained] for part in parts)


def _is_lite(name: str) -> bool:
    known = [*_LITE_SIZES, *_RESNET_BLOCKS]
    if name not in known:
        raise EvicanError(f"There is no backbone {name!r}; known are {known}.")
    return name in _LITE_SIZES


def _lite(image, repeats: tuple[int, ...], channels_out: tuple[int, ...], folded: bool) -> list:
    stem = layers.Conv2D(32, 3, 2, "same", use_bias=folded, name="stem_conv")
    stem_relu = layers.ReLU(6.0, name="stem_relu")
    parts: list[list[Callable]] = [[lambda x: stem_relu(_convolve(x, stem, folded))]]  # the stem, then the stages
    block, channels = 0, 32
    for count, filters, (kernel, stride, expansion) in zip(repeats, channels_out, _LITE_STAGES):
        parts.append([])
        for step in [stride] + [1] * (count - 1):
            parts[-1].append(_inverted_residual(f"b{block}", kernel, step, expansion, channels, filters, folded))
            block, channels = block + 1, filters
    to_c2, (first, *to_c3) = [block for part in parts[:3] for block in part], parts[3]
    if folded:  # for detection, the widest maps by far, 100 MB for 1024 x 1024 pixels, are made in strips
        # Stem and b0 reach half a row of C2 into the strip above and one into that below, b1 the other half, which only
        # counts below, and each further block one row both ways.
        further = repeats[1] - 1
        c2 = in_strips(_chain(to_c2), image, 4, 1 + further, 2 + further, "to_c2")
        x = in_strips(first, c2, 2, 1, 1, "after_c2")
    else:
        c2 = _chain(to_c2)(image)
        x = first(c2)
    c3 = _chain(to_c3)(x)
    c4 = _chain([*parts[4], *parts[5]])(c3)
    return [c2, c3, c4, _chain([*parts[6], *parts[7]])(c4)]


def _chain(blocks: Sequence[Callable]) -> Callable:
    return lambda x: reduce(lambda y, block: block(y), blocks, x)


def _inverted_residual(name, kernel, stride, expansion, channels, filters, folded):
    """Return the block as a function, whose layers are the same ones whenever it is called."""
    if expansion != 1:
        expand = layers.Conv2D(channels * expansion, 1, use_bias=folded, name=f"{name}_expand")
        relu0 = layers.ReLU(6.0, name=f"{name}_relu0")
    depthwise = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=folded, name=f"{name}_dw")
    relu1 = layers.ReLU(6.0, name=f"{name}_relu1")
    project = layers.Conv2D(filters, 1, use_bias=folded, name=f"{name}_project")
    add = layers.Add(name=f"{name}_add")

    def block(x):
        y = relu0(_convolve(x, expand, folded)) if expansion != 1 else x
        y = _convolve(relu1(_convolve(y, depthwise, folded)), project, folded)
        return add([x, y]) if stride == 1 and channels == filters else y

    return block


def _resnet(image, blocks: tuple[int, ...], folded: bool) -> list:
    """ResNet with bottlenecks, in Matterport's form: biases, and the stride in each stage's first 1 x 1."""
    x = layers.ZeroPadding2D(3, name="conv1_pad")(image)
    x = layers.ReLU(name="conv1_relu")(_convolve(x, layers.Conv2D(64, 7, 2, name="conv1"), folded))
    x = layers.MaxPooling2D(3, 2, "same", name="pool1")(x)
    features = []
    for stage, count in enumerate(blocks, start=2):
        for i in range(count):
            stride = 2 if i == 0 and stage > 2 else 1
            x = _bottleneck(x, f"res{stage}{chr(97 + i)}", 32 * 2 ** (stage - 1), stride, i == 0, folded)
        features.append(x)
    return features


def _bottleneck(x, name, filters, stride, widens, folded):
    y = _convolve(x, layers.Conv2D(filters, 1, stride, name=f"{name}_branch2a"), folded)
    y = layers.ReLU(name=f"{name}_relu2a")(y)
    y = _convolve(y, layers.Conv2D(filters, 3, padding="same", name=f"{name}_branch2b"), folded)
    y = layers.ReLU(name=f"{name}_relu2b")(y)
    y = _convolve(y, layers.Conv2D(4 * filters, 1, name=f"{name}_branch2c"), folded)
    if widens:
        x = _convolve(x, layers.Conv2D(4 * filters, 1, stride, name=f"{name}_branch1"), folded)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([y, x]))


def _convolve(x, layer, folded):
    """Convolution and batch norm, or the convolution that has taken the norm in."""
    if folded:
        return layer(x)
    # Batches of one or two crops are too small for batch statistics, so the pre-trained ones are kept
    # (He et al. 2017, section 3.1); scale and shift still learn.
    norm = layers.BatchNormalization(epsilon=_EPSILON, name=_norm_name(layer.name))
    return norm(layer(x), training=False)


def _norm_name(layer: str) -> str:
    """Name of the batch norm after a convolution."""
    if layer == "conv1":
        return "bn_conv1"
    if layer.startswith("res"):
        return "bn" + layer[len("res") :]
    part, kind = layer.rsplit("_", 1)
    return f"{part}_{_LITE_NORMS[kind]}"
