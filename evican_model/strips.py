"""Layers that are called on a strip of rows at a time: the same result, without ever holding the whole of what is wide.

Inside of the first blocks of a backbone, maps are far larger than what goes in or comes out.
"""

from __future__ import annotations

from typing import Callable

import tensorflow as tf

__all__ = ["in_strips"]

_STRIPS = 4


def in_strips(function: Callable, x, stride: int, above: int, below: int, name: str):
    """Call layers on one strip of rows after another, and put the results together.

    Parameters
    ----------
    function : callable
        Maps a Keras tensor [batch, rows, columns, channels] to one of ``rows / stride`` rows; all its layers pad as
        "same". It is called several times, each time with the same layers.
    x : Keras tensor [batch, rows, columns, channels]
        Its rows are a multiple of 4 `stride`, and each strip has at least `above` and `below` rows of the result.
    stride : int
    above, below : int
        Rows of the result over which the edge of a strip is felt: they are made with the strip as well, and dropped.
    name : str
        What the names of the layers made here begin with.

    Returns
    -------
    Keras tensor
        What ``function(x)`` gives.
    """
    strips: list = []
    for part in range(_STRIPS):
        # Where the map itself begins and ends, the edge is real.
        margins = (above if part > 0 else 0, below if part < _STRIPS - 1 else 0)
        y = function(_Strip(part, stride, margins, name=f"{name}_strip{part}")([x, *strips[-1:]]))
        strips.append(tf.keras.layers.Cropping2D((margins, (0, 0)), name=f"{name}_crop{part}")(y))
    return tf.keras.layers.Concatenate(1, name=f"{name}_strips")(strips)


class _Strip(tf.keras.layers.Layer):
    """A strip of rows of a map with those beside it; taken only when the strip before, if given, is done.

    It begins at a multiple of the stride, so that "same" pads it below and at the right alone, as it does the map.
    """

    def __init__(self, part: int, stride: int, margins: tuple[int, int], **kwargs):
        super().__init__(**kwargs)
        self.part, self.stride, self.margins = part, stride, margins

    def call(self, inputs):
        x, *before = inputs
        rows = tf.shape(x)[1] // _STRIPS
        above, below = (rows_out * self.stride for rows_out in self.margins)
        with tf.control_dependencies(before):
            return x[:, self.part * rows - above : (self.part + 1) * rows + below]
