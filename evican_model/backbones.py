"""Backbones: an image in, feature maps C2 to C5 (strides 4 to 32) out. Layer names are the keys of the weights file."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from evican_model.errors import EvicanError

__all__ = ["backbone", "fold"]

layers = tf.keras.layers

_EPSILON = 1e-3
_NORM_OF = {"conv": "bn", "expand": "bn0", "dw": "bn1", "project": "bn2"}

# EfficientNet-Lite (Tan & Le 2019, table 1, without squeeze-and-excite and with ReLU6):
# repeats, kernel, stride, expansion, channels out
_LITE_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
                (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip


def backbone(name: str, folded: bool = False) -> tf.keras.Model:
    """Build a backbone.

    Parameters
    ----------
    name : str
        ``efficientnet_lite0``.
    folded : bool
        Without batch norms and for grey images, for weights that `fold` has made.

    Returns
    -------
    keras.Model
        Maps float32 [batch, height, width, 3], or 1 when folded, to the list C2, C3, C4, C5.

    Raises
    ------
    EvicanError
        If there is no backbone of that name.
    """
    builders = {"efficientnet_lite0": _efficientnet_lite0}
    if name not in builders:
        raise EvicanError(f"There is no backbone {name!r}; known are {sorted(builders)}.")
    return builders[name](folded)


def fold(source: tf.keras.Model, name: str) -> tf.keras.Model:
    """Put each frozen batch norm into the convolution before it, and colour into grey: the same outputs, sooner.

    Parameters
    ----------
    source : keras.Model
        A backbone with its weights.
    name : str
        Its name.

    Returns
    -------
    keras.Model
        For inference; it holds a copy of the weights.
    """
    target = backbone(name, folded=True)
    for layer in target.layers:
        if not layer.weights:
            continue
        part, kind = layer.name.rsplit("_", 1)
        gamma, beta, mean, variance = source.get_layer(f"{part}_{_NORM_OF[kind]}").get_weights()
        (kernel,) = source.get_layer(layer.name).get_weights()
        if layer.name == "stem_conv":  # the three colours of a grey image are one: their kernels add up
            kernel = kernel.sum(2, keepdims=True)
        gain = gamma / np.sqrt(variance + _EPSILON)
        # A depthwise kernel has its channels on the third axis [rows, columns, channels, 1], the others on the last.
        layer.set_weights([kernel * (gain[:, None] if kind == "dw" else gain), beta - mean * gain])
    return target


def _efficientnet_lite0(folded: bool) -> tf.keras.Model:
    image = layers.Input((None, None, 1 if folded else 3), name="image")
    x = _convolve(image, layers.Conv2D(32, 3, 2, "same", use_bias=folded, name="stem_conv"), folded)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    features, block, channels = [], 0, 32
    for repeats, kernel, stride, expansion, filters in _LITE_STAGES:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            y = _inverted_residual(x, f"b{block}", kernel, step, expansion, channels, filters, folded)
            x = layers.Add(name=f"b{block}_add")([x, y]) if step == 1 and channels == filters else y
            block, channels = block + 1, filters
        features.append(x)
    return tf.keras.Model(image, [features[i] for i in (1, 2, 4, 6)], name="efficientnet_lite0")


def _inverted_residual(x, name, kernel, stride, expansion, channels, filters, folded):
    if expansion != 1:
        expand = layers.Conv2D(channels * expansion, 1, use_bias=folded, name=f"{name}_expand")
        x = layers.ReLU(6.0, name=f"{name}_relu0")(_convolve(x, expand, folded))
    depthwise = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=folded, name=f"{name}_dw")
    x = layers.ReLU(6.0, name=f"{name}_relu1")(_convolve(x, depthwise, folded))
    return _convolve(x, layers.Conv2D(filters, 1, use_bias=folded, name=f"{name}_project"), folded)


def _convolve(x, layer, folded):
    """Convolution and batch norm, or the convolution that has taken the norm in."""
    if folded:
        return layer(x)
    # Batches of one or two crops are too small for batch statistics, so the pre-trained ones are kept
    # (He et al. 2017, section 3.1); scale and shift still learn.
    part, kind = layer.name.rsplit("_", 1)
    norm = layers.BatchNormalization(epsilon=_EPSILON, name=f"{part}_{_NORM_OF[kind]}")
    return norm(layer(x), training=False)
