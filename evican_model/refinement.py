"""A second look at each detection: a tighter box, and how well its mask is likely to fit.

The box head learns from proposals, which fit loosely; a second one, which learns from the boxes that the first makes,
tightens those (Cai & Vasconcelos 2018, Cascade R-CNN). A score says how surely there is an object of the category, not
how good its outline is; times the overlap that the mask is expected to have, it says both (Huang et al. 2019, Mask
Scoring R-CNN). Only detections are looked at again, not proposals, so neither costs noticeable time.
"""

from __future__ import annotations

import tensorflow as tf

from evican_model import boxes, losses
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.fpn import convolution
from evican_model.roi import mask_targets, two_layers

__all__ = ["quality_head", "quality_loss", "refine", "refinement_head", "refinement_loss"]

layers = tf.keras.layers


def refinement_head(config: NetworkConfig) -> tf.keras.Model:
    """Build the head that refines a detected box.

    Returns
    -------
    keras.Model
        Maps [n, pool, pool, channels] to offsets [n, categories, 4], in units of ``refinement_std``.
    """
    pooled = layers.Input((config.box_pool, config.box_pool, config.fpn_channels), name="box_refine_roi")
    x = two_layers(pooled, "box_refine", config)
    x = layers.Dense(len(config.categories) * 4, kernel_initializer="zeros", dtype="float32",
                     name="box_refine_offsets")(x)  # fmt: skip
    x = layers.Reshape((len(config.categories), 4), dtype="float32", name="box_refine_by_category")(x)
    return tf.keras.Model(pooled, x, name="refinement_head")


def quality_head(config: NetworkConfig) -> tf.keras.Model:
    """Build the head that says how well a mask is likely to fit.

    Returns
    -------
    keras.Model
        Maps what the mask was drawn from, [n, pool, pool, channels], and its probabilities [n, 2 pool, 2 pool, 1] to
        the logit of its expected IoU [n].
    """
    pooled = layers.Input((config.mask_pool, config.mask_pool, config.fpn_channels), name="mask_quality_roi")
    mask = layers.Input((2 * config.mask_pool, 2 * config.mask_pool, 1), name="mask_quality_mask")
    # To each place of the features come the four places of the mask that it stands for.
    x = layers.Dense(config.fpn_channels, name="mask_quality_places")(_Fold(name="mask_quality_fold")(mask))
    x = layers.Add(name="mask_quality_both")([pooled, x])
    for i in (1, 2):
        x = convolution(config, config.fpn_channels, f"mask_quality_conv{i}")(x)
        x = layers.ReLU(name=f"mask_quality_relu{i}")(x)
        x = layers.MaxPooling2D(2, name=f"mask_quality_pool{i}")(x)
    x = layers.Dense(config.box_channels // 2, activation="relu", name="mask_quality_fc")(layers.Flatten()(x))
    x = layers.Dense(1, dtype="float32", name="mask_quality_logit")(x)
    return tf.keras.Model([pooled, mask], layers.Reshape((), dtype="float32")(x), name="quality_head")


class _Fold(tf.keras.layers.Layer):
    """[n, 2 side, 2 side, 1] to [n, side, side, 4]."""

    def call(self, mask):
        return tf.nn.space_to_depth(mask, 2)


def refine(offsets, regions, category_ids, windows, config: NetworkConfig):
    """Return detected boxes as the refinement head wants them.

    Parameters
    ----------
    offsets : tensor [n, categories, 4]
        From `refinement_head`.
    regions : tensor [n, 4]
    category_ids : int tensor [n]
        From 1; 0, of no object, is read as 1.
    windows : tensor [n, 4] or [4]
        Boxes are clipped to these.

    Returns
    -------
    tensor [n, 4]
    """
    own = tf.gather(offsets, tf.maximum(category_ids - 1, 0), axis=1, batch_dims=1)
    return boxes.clip(boxes.decode(own, regions, config.refinement_std), windows)


def refinement_loss(offsets, regions, positive, truth, used, network: NetworkConfig, training: TrainConfig):
    """Smooth L1 of the refined boxes of one image, counted as the first box loss is (`roi.roi_loss`).

    Its unit is ``refinement_std`` instead of ``box_std``, half as large: it counts half, so that a pixel counts alike
    in both (Cai & Vasconcelos 2018 have it so as well).

    Parameters
    ----------
    offsets : tensor [n, categories, 4]
    regions : tensor [n, 4]
        What the box head made of positive ROIs.
    positive : bool tensor [n]
        Those that overlap their object enough to learn from.
    truth : dict
        ``boxes`` [n, 4] and ``category_ids`` [n] of each one's object.
    used : tensor []
        How many ROIs of the image the box head learns from.

    Returns
    -------
    scalar tensor
    """
    target = boxes.encode(truth["boxes"], regions, network.refinement_std)
    own = tf.gather(offsets, tf.maximum(truth["category_ids"] - 1, 0), axis=1, batch_dims=1)
    terms = tf.where(positive, losses.smooth_l1(target, own, training.box_beta), tf.zeros_like(target[:, 0]))
    unit = network.refinement_std[0] / network.box_std[0]
    return unit * tf.reduce_sum(terms) / tf.maximum(used, 1.0)


def quality_loss(logits, masks, frames, drawn, positive, network: NetworkConfig):
    """Cross entropy of the expected IoU with the one that each mask has in its frame.

    Parameters
    ----------
    logits : tensor [n]
        From `quality_head`.
    masks : tensor [n, side, side]
        Probabilities, of the category of each ROI's object.
    frames : tensor [n, 4]
    drawn : uint8 tensor [n, height, width]
        The matched object of each ROI.
    positive : bool tensor [n]

    Returns
    -------
    scalar tensor
    """
    target = mask_targets(drawn, frames, masks.shape[1], network)
    own = tf.cast(masks >= 0.5, tf.float32)
    both, either = (tf.reduce_sum(x, [1, 2]) for x in (target * own, tf.maximum(target, own)))
    iou = tf.math.divide_no_nan(both, either)
    loss = tf.nn.sigmoid_cross_entropy_with_logits(iou, logits)
    return losses.masked_mean(loss, tf.cast(positive, tf.float32))
