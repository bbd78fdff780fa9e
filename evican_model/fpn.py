"""Feature pyramid network (Lin et al. 2017): C2 to C5 in, P2 to P6 with equal channels out."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["feature_pyramid"]

layers = tf.keras.layers


def feature_pyramid(channels_in: list[int], channels: int) -> tf.keras.Model:
    """Build the top-down pathway.

    Parameters
    ----------
    channels_in : list of int
        Channels of C2, C3, C4, C5.
    channels : int
        Channels of every level of the pyramid.

    Returns
    -------
    keras.Model
        Maps the list C2 to C5 to the list P2 to P6. Each input side must be a multiple of 32 pixels of the image,
        so that each map is exactly twice the one above it.
    """
    inputs = [layers.Input((None, None, c), name=f"c{i}") for i, c in enumerate(channels_in, start=2)]
    lateral = [layers.Conv2D(channels, 1, name=f"fpn_c{i}p{i}")(c) for i, c in enumerate(inputs, start=2)]
    merged = [lateral[-1]]
    for below in reversed(lateral[:-1]):
        merged.insert(0, layers.Add()([_Double()(merged[0]), below]))
    # Separable: the 3 x 3 smoothing at stride 4 is the dearest layer of the whole network when it is dense.
    pyramid = [layers.SeparableConv2D(channels, 3, padding="same", name=f"fpn_p{i}")(m)
               for i, m in enumerate(merged, start=2)]  # fmt: skip
    pyramid.append(layers.MaxPooling2D(1, 2, name="fpn_p6")(pyramid[-1]))
    return tf.keras.Model(inputs, pyramid, name="feature_pyramid")


class _Double(tf.keras.layers.Layer):
    """Each pixel four times: what `UpSampling2D` does, which Keras 3 builds from two slow copies."""

    def call(self, level):
        return tf.image.resize(level, 2 * tf.shape(level)[1:3], method="nearest")
