"""Boxes ``[y1, x1, y2, x2]``, half open, in pixels: anchors, overlap, and the offsets that box regression learns."""

from __future__ import annotations

import math

import tensorflow as tf

from evican_model.config import NetworkConfig
from evican_model.geometry import geometry

__all__ = ["anchors", "area", "clip", "decode", "encode", "pairwise_iou"]

_LARGEST_LOG_SCALE = math.log(1000.0 / 16)  # keeps exp() finite for an untrained or damaged head


def anchors(height, width, config: NetworkConfig):
    """Return the anchors of every pyramid level, level by level, row by row (Ren et al. 2015, section 3.1.1).

    Parameters
    ----------
    height, width : int or int tensor
        Size of the network's input in pixels.
    config : NetworkConfig
        Its ``anchor_scales`` (one a level), ``anchor_ratios`` (width over height), ``strides`` and ``geometry``
        are used.

    Returns
    -------
    tensor [anchors, 4]
        Boxes of the config's geometry.
    """
    levels, layout = [], geometry(config)
    for scale, stride in zip(config.anchor_scales, config.strides):
        # One anchor set in each place of the level, which stands for stride x stride pixels.
        ys, xs = ((tf.range(-(-side // stride), dtype=tf.float32) + layout.place) * stride
                  for side in (height, width))  # fmt: skip
        ratios = tf.sqrt(tf.constant(config.anchor_ratios, tf.float32))
        half = tf.stack([scale / ratios, scale * ratios], -1) / 2  # [ratios, 2]: height, width
        centres = tf.stack(tf.meshgrid(ys, xs, indexing="ij"), -1)[:, :, None]  # [rows, columns, 1, 2]
        levels.append(tf.reshape(tf.concat([centres - half, centres + half], -1), [-1, 4]))
    return layout.inner(tf.concat(levels, 0))


def area(boxes):
    """Area of boxes [..., 4] in square pixels; degenerate boxes have none."""
    return tf.maximum(boxes[..., 2] - boxes[..., 0], 0) * tf.maximum(boxes[..., 3] - boxes[..., 1], 0)


def pairwise_iou(a, b):
    """Intersection over union of every box of a with every box of b.

    Parameters
    ----------
    a : tensor [..., n, 4]
    b : tensor [..., m, 4]

    Returns
    -------
    tensor [..., n, m]
        0 where the union is empty.
    """
    a_, b_ = a[..., :, None, :], b[..., None, :, :]
    height = tf.minimum(a_[..., 2], b_[..., 2]) - tf.maximum(a_[..., 0], b_[..., 0])  # [..., n, m]
    width = tf.minimum(a_[..., 3], b_[..., 3]) - tf.maximum(a_[..., 1], b_[..., 1])
    intersection = tf.maximum(height, 0) * tf.maximum(width, 0)
    union = area(a)[..., :, None] + area(b)[..., None, :] - intersection
    return tf.math.divide_no_nan(intersection, union)


def encode(boxes, reference, std):
    """Offsets that turn `reference` into `boxes` (Girshick et al. 2014, appendix C), divided by `std`.

    Parameters
    ----------
    boxes, reference : tensor [..., 4]
    std : sequence of 4 floats
        Scale of the centre's two and the size's two offsets.
    """
    size, centre = _size_and_centre(boxes)
    reference_size, reference_centre = _size_and_centre(reference)
    offsets = [(centre - reference_centre) / reference_size, tf.math.log(size / reference_size)]
    return tf.concat(offsets, -1) / tf.constant(std, boxes.dtype)


def decode(offsets, reference, std):
    """Boxes that `offsets` [..., 4] make of `reference` [..., 4]; the inverse of `encode`."""
    offsets = offsets * tf.constant(std, offsets.dtype)
    reference_size, reference_centre = _size_and_centre(reference)
    centre = reference_centre + offsets[..., :2] * reference_size
    size = reference_size * tf.exp(tf.minimum(offsets[..., 2:], _LARGEST_LOG_SCALE))
    return tf.concat([centre - size / 2, centre + size / 2], -1)


def clip(boxes, window):
    """Move the corners of boxes [..., 4] into the box `window` [4]."""
    return tf.clip_by_value(boxes, tf.tile(window[:2], [2]), tf.tile(window[2:], [2]))


def _size_and_centre(boxes):
    size = tf.maximum(boxes[..., 2:] - boxes[..., :2], 1e-3)
    return size, (boxes[..., 2:] + boxes[..., :2]) / 2
