"""Backbones: an image in, feature maps C2 to C5 (strides 4 to 32) out. Layer names are the keys of the weights file."""

from __future__ import annotations

import tensorflow as tf

from evican_model.errors import EvicanError

__all__ = ["backbone"]

layers = tf.keras.layers

# EfficientNet-Lite (Tan & Le 2019, table 1, without squeeze-and-excite and with ReLU6):
# repeats, kernel, stride, expansion, channels out
_LITE_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
                (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip


def backbone(name: str) -> tf.keras.Model:
    """Build a backbone.

    Parameters
    ----------
    name : str
        ``efficientnet_lite0``.

    Returns
    -------
    keras.Model
        Maps float32 [batch, height, width, 3] to the list C2, C3, C4, C5.

    Raises
    ------
    EvicanError
        If there is no backbone of that name.
    """
    builders = {"efficientnet_lite0": _efficientnet_lite0}
    if name not in builders:
        raise EvicanError(f"There is no backbone {name!r}; known are {sorted(builders)}.")
    return builders[name]()


def _efficientnet_lite0() -> tf.keras.Model:
    image = layers.Input((None, None, 3), name="image")
    x = layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem_conv")(image)
    x = _relu6(_frozen_norm(x, "stem_bn"), "stem_relu")
    features, block, channels = [], 0, 32
    for repeats, kernel, stride, expansion, filters in _LITE_STAGES:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            y = _inverted_residual(x, f"b{block}", kernel, step, expansion, channels, filters)
            x = layers.Add(name=f"b{block}_add")([x, y]) if step == 1 and channels == filters else y
            block, channels = block + 1, filters
        features.append(x)
    return tf.keras.Model(image, [features[i] for i in (1, 2, 4, 6)], name="efficientnet_lite0")


def _inverted_residual(x, name, kernel, stride, expansion, channels, filters):
    if expansion != 1:
        x = layers.Conv2D(channels * expansion, 1, use_bias=False, name=f"{name}_expand")(x)
        x = _relu6(_frozen_norm(x, f"{name}_bn0"), f"{name}_relu0")
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_dw")(x)
    x = _relu6(_frozen_norm(x, f"{name}_bn1"), f"{name}_relu1")
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(x)
    return _frozen_norm(x, f"{name}_bn2")


def _frozen_norm(x, name):
    # Batches of one or two crops are too small for batch statistics, so the pre-trained ones are kept
    # (He et al. 2017, section 3.1); scale and shift still learn.
    return layers.BatchNormalization(epsilon=1e-3, name=name)(x, training=False)


def _relu6(x, name):
    return layers.ReLU(6.0, name=name)(x)
