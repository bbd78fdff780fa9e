"""Feature pyramid network (Lin et al. 2017): C2 to C5 in, P2 to P6 with equal channels out."""

from __future__ import annotations

import tensorflow as tf

from evican_model.config import NetworkConfig

__all__ = ["convolution", "feature_pyramid"]

layers = tf.keras.layers


def feature_pyramid(channels_in: list[int], config: NetworkConfig) -> tf.keras.Model:
    """Build the top-down pathway.

    Parameters
    ----------
    channels_in : list of int
        Channels of C2, C3, C4, C5.
    config : NetworkConfig
        Its ``fpn_channels`` (of every level) and ``separable`` are used.

    Returns
    -------
    keras.Model
        Maps the list C2 to C5 to the list P2 to P6. Each input side must be a multiple of 32 pixels of the image,
        so that each map is exactly twice the one above it.
    """
    inputs = [layers.Input((None, None, c), name=f"c{i}") for i, c in enumerate(channels_in, start=2)]
    channels = config.fpn_channels
    lateral = [layers.Conv2D(channels, 1, name=f"fpn_c{i}p{i}")(c) for i, c in enumerate(inputs, start=2)]
    merged = [lateral[-1]]
    for below in reversed(lateral[:-1]):
        merged.insert(0, layers.Add()([_Double()(merged[0]), below]))
    pyramid = [convolution(config, channels, f"fpn_p{i}")(m) for i, m in enumerate(merged, start=2)]
    pyramid.append(layers.MaxPooling2D(1, 2, name="fpn_p6")(pyramid[-1]))
    return tf.keras.Model(inputs, pyramid, name="feature_pyramid")


def convolution(config: NetworkConfig, channels: int, name: str) -> tf.keras.layers.Layer:
    """Return the 3 x 3 convolution that pyramid, RPN and mask head are made of.

    Separable ones are far cheaper: the smoothing at stride 4 is the dearest layer of the network when it is dense.
    """
    kind = layers.SeparableConv2D if config.separable else layers.Conv2D
    return kind(channels, 3, padding="same", name=name)


class _Double(tf.keras.layers.Layer):
    """Each pixel four times: what `UpSampling2D` does, which Keras 3 builds from two slow copies."""

    def call(self, level):
        return tf.image.resize(level, 2 * tf.shape(level)[1:3], method="nearest")
