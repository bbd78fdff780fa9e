"""Region proposal network (Ren et al. 2015): which anchors hold an object, and boxes that fit it better.

Unlike the paper's, the one of the preset ``fast`` has one objectness an anchor *and category*. An image with nuclei
outlined and cells not can then teach what is no nucleus without teaching that its cells are background. The paper's has
one objectness an anchor: Matterport's softmax of two logits is the sigmoid of their difference, and so it is kept.
"""

from __future__ import annotations

import math

import tensorflow as tf

from evican_model import boxes, losses
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.fpn import convolution

__all__ = ["known_share", "propose", "rpn_head", "rpn_loss"]

layers = tf.keras.layers

_RARE = 0.02  # share of anchors taken to be objects at the start (Lin et al. 2017, focal loss, section 3.3)
_BEST = 4  # anchors that learn an object which none fits
_LEAST_IOU = 0.05  # of an anchor that learns an object


def rpn_head(config: NetworkConfig) -> tf.keras.Model:
    """Build the head that slides over every level.

    Returns
    -------
    keras.Model
        Maps [batch, rows, columns, fpn_channels] to objectness logits [batch, anchors, categories, or 1] and
        box offsets [batch, anchors, 4].
    """
    per_place = len(config.anchor_ratios)
    categories = len(config.categories) if config.objectness_by_category else 1
    feature = layers.Input((None, None, config.fpn_channels), name="level")
    x = layers.ReLU(name="rpn_relu")(convolution(config, config.rpn_channels, "rpn_conv")(feature))
    bias = tf.keras.initializers.Constant(-math.log((1 - _RARE) / _RARE))
    # What comes out is float32, in whatever precision the layers before compute.
    objectness = layers.Conv2D(per_place * categories, 1, bias_initializer=bias, dtype="float32",
                               kernel_initializer="random_normal", name="rpn_objectness")(x)  # fmt: skip
    offsets = layers.Conv2D(
        per_place * 4, 1, kernel_initializer="zeros", dtype="float32", name="rpn_offsets"
    )(x)
    objectness = layers.Reshape((-1, categories), dtype="float32", name="rpn_objectness_flat")(objectness)
    offsets = layers.Reshape((-1, 4), dtype="float32", name="rpn_offsets_flat")(offsets)
    return tf.keras.Model(feature, [objectness, offsets], name="rpn")


def propose(objectness, offsets, anchors_at, window, count: int, config: NetworkConfig):
    """Turn one image's RPN output into proposals, best first.

    Parameters
    ----------
    objectness : tensor [anchors, categories, or 1]
        Logits.
    offsets : tensor [anchors, 4]
    anchors_at : callable
        ``anchors_at(index)`` returns the anchors [n, 4] of some rows of `offsets`.
    window : tensor [4]
        Proposals are clipped to this box.
    count : int
        Proposals at most.

    Returns
    -------
    tensor [proposals, 4]
        Without gradient.
    """
    scores = tf.sigmoid(tf.reduce_max(objectness, -1))  # [anchors]
    scores, best = tf.math.top_k(scores, tf.minimum(config.pre_nms_limit, tf.shape(scores)[0]))
    candidates = boxes.decode(tf.gather(offsets, best), anchors_at(best), config.rpn_box_std)
    candidates = boxes.clip(candidates, window)
    keep = tf.image.non_max_suppression(
        candidates, scores, count, config.proposal_iou, config.minimum_objectness
    )
    return tf.stop_gradient(tf.gather(candidates, keep))


def known_share(known, regions, stride: int):
    """Share of each box's area in which each category is completely annotated.

    Parameters
    ----------
    known : tensor [rows, columns, categories]
        1 where every object of the category is outlined, 0 where some may be missing.
    regions : tensor [n, 4]
        Boxes in pixels of the image.
    stride : int
        Image pixels for one step of `known`.

    Returns
    -------
    tensor [n, categories]
        1 for boxes outside the image, where there is nothing to miss.
    """
    integral = tf.pad(tf.cumsum(tf.cumsum(known, 0), 1), [[1, 0], [1, 0], [0, 0]])
    rows, columns = tf.shape(known)[0], tf.shape(known)[1]
    limit = tf.stack([rows, columns, rows, columns])
    corners = tf.clip_by_value(tf.cast(tf.round(regions / stride), tf.int32), 0, limit)  # [n, 4]
    y1, x1, y2, x2 = tf.unstack(corners, axis=-1)
    inside = sum(sign * tf.gather_nd(integral, tf.stack([y, x], -1))
                 for sign, y, x in ((1, y2, x2), (-1, y1, x2), (-1, y2, x1), (1, y1, x1)))  # fmt: skip
    size = tf.cast((y2 - y1) * (x2 - x1), known.dtype)[:, None]
    return tf.where(size > 0, inside / tf.maximum(size, 1), tf.ones_like(inside))


def rpn_loss(objectness, offsets, anchors, truth, window, network: NetworkConfig, training: TrainConfig):
    """Objectness and box loss of one image (Ren et al. 2015, equation 1) on a random, balanced sample of anchors.

    Parameters
    ----------
    objectness : tensor [anchors, categories, or 1]
    offsets, anchors : tensor [anchors, 4]
    truth : dict of tensors
        One image of a batch: ``boxes`` [instances, 4] of the network's geometry, ``category_ids`` [instances]
        (0: padding), ``known`` [rows, columns, categories] at the stride of P2, and ``seed`` int32 [2] of the draws.
    window : tensor [4]
        The whole image.

    Returns
    -------
    tuple of scalar tensors
        Objectness loss, box loss.
    """
    iou = _anchor_iou(anchors, truth["boxes"], window, training)  # [anchors, instances]
    # Small and odd objects reach no anchor's threshold: each object's best anchors count as well.
    matches = (iou >= training.anchor_positive_iou) | _best_anchors(iou, training)
    positive, negative = [], []
    known = known_share(truth["known"], anchors, network.strides[0]) >= training.known_share
    groups = [truth["category_ids"] == index + 1 for index in range(len(network.categories))]
    if not network.objectness_by_category:  # an anchor is background only where no category may be missing
        groups, known = [truth["category_ids"] > 0], tf.reduce_all(known, 1, keepdims=True)
    for index, of_group in enumerate(groups):
        positive.append(tf.reduce_any(matches & of_group, 1))
        overlap = tf.reduce_max(tf.where(of_group, iou, tf.zeros_like(iou)), 1)
        negative.append((overlap < training.anchor_negative_iou) & ~positive[-1] & known[:, index])
    positive, negative = tf.stack(positive, -1), tf.stack(negative, -1)  # [anchors, groups]

    positive_sample = _sample(positive, training.anchors_sampled // 2, truth["seed"])
    chosen = tf.reduce_sum(positive_sample, 0)
    weights = positive_sample + _sample(negative, training.anchors_sampled - chosen, truth["seed"] + 1)
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(positive, tf.float32), objectness)
    objectness_loss = losses.masked_mean(cross_entropy, weights)

    any_positive = tf.reduce_any(positive, -1)
    best = tf.gather(truth["boxes"], tf.argmax(tf.where(matches, iou, -tf.ones_like(iou)), 1))
    target = boxes.encode(tf.where(any_positive[:, None], best, anchors), anchors, network.rpn_box_std)
    box_terms = losses.smooth_l1(target, offsets, training.box_beta)
    box_loss = losses.masked_mean(box_terms, tf.cast(any_positive, tf.float32))
    return objectness_loss, box_loss


def _anchor_iou(anchors, objects, window, training: TrainConfig):
    """IoU [anchors, instances] of anchors and objects; 0 with padding, whose boxes are empty."""
    # Of an object that the image's edge cuts to a sliver, an anchor can only fit what lies in the image.
    return boxes.pairwise_iou(boxes.clip(anchors, window) if training.match_slivers else anchors, objects)


def _best_anchors(iou, training: TrainConfig):
    """Tell the best anchors of each object, bool [anchors, instances], from their IoU."""
    if not training.match_slivers:
        best = tf.reduce_max(iou, 0)
        return (iou >= best - 1e-4) & (best > 0.2)
    # A single anchor among thousands is hardly ever heard: four teach an object that is smaller than any of them.
    count = tf.minimum(_BEST, tf.shape(iou)[0])
    last = tf.math.top_k(tf.transpose(iou), count).values[:, -1]  # [instances]
    return iou >= tf.maximum(last, _LEAST_IOU)


def _sample(eligible, wanted, seed):
    """Weights 1 for about `wanted` of the eligible anchors of each category (a random draw for each, no sorting)."""
    count = tf.reduce_sum(tf.cast(eligible, tf.float32), 0)  # [categories]
    probability = tf.cast(wanted, tf.float32) / tf.maximum(count, 1.0)
    return tf.cast(eligible & (tf.random.stateless_uniform(tf.shape(eligible), seed) < probability), tf.float32)
