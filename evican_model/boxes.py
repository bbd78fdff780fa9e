"""Boxes ``[y1, x1, y2, x2]``, half open, in pixels: anchors, overlap, and the offsets that box regression learns."""

from __future__ import annotations

import math

import tensorflow as tf

from evican_model.config import NetworkConfig
from evican_model.geometry import geometry

__all__ = ["anchors", "anchors_at", "area", "clip", "decode", "encode", "grow", "pairwise_iou"]

_LARGEST_LOG_SCALE = math.log(1000.0 / 16)  # keeps exp() finite for an untrained or damaged head


def anchors(height, width, config: NetworkConfig):
    """Return the anchors of every level that has some, level by level, row by row (Ren et al. 2015, section 3.1.1).

    Parameters
    ----------
    height, width : int or int tensor
        Size of the network's input in pixels.
    config : NetworkConfig
        Its ``anchor_scales`` (one a level), ``anchor_ratios`` (width over height), ``anchor_strides`` and
        ``geometry`` are used.

    Returns
    -------
    tensor [anchors, 4]
        Boxes of the config's geometry.
    """
    return anchors_at(tf.range(_level_starts(height, width, config)[-1]), height, width, config)


def anchors_at(index, height, width, config: NetworkConfig):
    """Return some of the anchors: detection needs a hundredth of them, and making all takes longer than using these.

    Parameters
    ----------
    index : int32 tensor [n]
        Rows of what `anchors` returns.
    height, width, config
        As there.

    Returns
    -------
    tensor [n, 4]
    """
    layout, starts = geometry(config), _level_starts(height, width, config)
    level = tf.searchsorted(starts[1:], index, side="right")
    # One anchor of each ratio in each place of the level, which stands for stride x stride pixels.
    local, ratios = index - tf.gather(starts, level), len(config.anchor_ratios)
    place, ratio = local // ratios, local % ratios
    columns = tf.gather(tf.stack([-(-width // stride) for stride in config.anchor_strides]), level)
    stride = tf.gather(tf.constant(config.anchor_strides, tf.float32), level)[:, None]
    grid = tf.cast(tf.stack([place // columns, place % columns], -1), tf.float32)
    centres = (grid + layout.place) * stride  # [n, 2]
    scale = tf.gather(tf.constant(config.anchor_scales, tf.float32), level)
    root = tf.gather(tf.sqrt(tf.constant(config.anchor_ratios, tf.float32)), ratio)
    half = tf.stack([scale / root, scale * root], -1) / 2  # height, width
    return layout.inner(tf.concat([centres - half, centres + half], -1))


def _level_starts(height, width, config: NetworkConfig):
    """Return the index of the first anchor of each level, and after the last one the number of all, [levels + 1]."""
    places = [-(-height // stride) * -(-width // stride) for stride in config.anchor_strides]
    counts = [of_level * len(config.anchor_ratios) for of_level in places]
    return tf.cumsum(tf.stack([0, *counts]))


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


def grow(boxes, factor: float):
    """Boxes [..., 4] of the same centres, with sides `factor` times as long."""
    margin = (boxes[..., 2:] - boxes[..., :2]) * ((factor - 1) / 2)
    return boxes + tf.concat([-margin, margin], -1)


def _size_and_centre(boxes):
    size = tf.maximum(boxes[..., 2:] - boxes[..., :2], 1e-3)
    return size, (boxes[..., 2:] + boxes[..., :2]) / 2
