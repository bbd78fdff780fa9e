"""Region heads: RoIAlign, then class and box, then mask (He et al. 2017, section 3 and figure 4)."""

from __future__ import annotations

import tensorflow as tf

from evican_model import boxes, losses, rpn
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.fpn import convolution
from evican_model.geometry import Centres, geometry

__all__ = ["box_head", "detections", "mask_certainty", "mask_head", "mask_loss", "read_box_head", "roi_align",
           "roi_loss", "sample_rois"]  # fmt: skip

layers = tf.keras.layers


def box_head(config: NetworkConfig) -> tf.keras.Model:
    """Build the head that names an ROI and refines its box.

    Returns
    -------
    keras.Model
        Maps [rois, pool, pool, channels] to class logits [rois, categories + 1] (0 is background) and
        offsets [rois, categories, 4].
    """
    pooled = layers.Input((config.box_pool, config.box_pool, config.fpn_channels), name="box_roi")
    x = layers.Flatten(name="box_flat")(pooled)
    for i in (1, 2):
        x = _activated(layers.Dense(config.box_channels, name=f"box_fc{i}")(x), f"box_{{}}{i}", config)
    logits = layers.Dense(len(config.categories) + 1, dtype="float32", name="class_logits")(x)
    offsets = layers.Dense(len(config.categories) * 4, kernel_initializer="zeros", dtype="float32",
                           name="box_offsets")(x)  # fmt: skip
    offsets = layers.Reshape((len(config.categories), 4), dtype="float32", name="box_offsets_by_category")(
        offsets
    )
    return tf.keras.Model(pooled, [logits, offsets], name="box_head")


def mask_head(config: NetworkConfig) -> tf.keras.Model:
    """Build the head that draws an ROI's mask, one for each category.

    Returns
    -------
    keras.Model
        Maps [rois, pool, pool, channels] to mask logits [rois, 2 pool, 2 pool, categories].
    """
    x = pooled = layers.Input((config.mask_pool, config.mask_pool, config.fpn_channels), name="mask_roi")
    for i in range(1, config.mask_convolutions + 1):
        x = convolution(config, config.mask_channels, f"mask_conv{i}")(x)
        x = _activated(x, f"mask_{{}}{i}", config)
    x = _Deconvolution(config.mask_channels, 2, 2, activation="relu", name="mask_deconv")(x)
    x = layers.Conv2D(len(config.categories), 1, dtype="float32", name="mask_logits")(x)
    return tf.keras.Model(pooled, _Unfold(dtype="float32", name="mask_places")(x), name="mask_head")


def _activated(x, name: str, config: NetworkConfig):
    """Batch norm, where the config wants one, and ReLU."""
    if config.head_norms:  # with its own statistics kept, as in the backbone
        x = layers.BatchNormalization(epsilon=1e-3, name=name.format("bn"))(x, training=False)
    return layers.ReLU(name=name.format("relu"))(x)


class _Deconvolution(tf.keras.layers.Conv2DTranspose):
    """A 2 x 2 deconvolution of stride 2 as one matrix product: its outputs do not overlap, so nothing has to be summed.

    The same numbers from the same weights as TensorFlow's own kernel for it, which takes ten times as long. The four
    places that it makes of one stand side by side, [n, side, 4 side, filters]: `_Unfold` puts them where they belong
    when two channels are left of a hundred.
    """

    def call(self, rois):
        side, channels = rois.shape[1], rois.shape[-1]
        kernel = tf.transpose(self.kernel, [3, 0, 1, 2])  # [in, row, column, out]
        # Not a 1 x 1 convolution: without any ROI, oneDNN's gives the shape of its input.
        out = tf.reshape(rois, [-1, channels]) @ tf.reshape(kernel, [channels, 4 * self.filters])
        out = self.activation(tf.nn.bias_add(out, tf.tile(self.bias, [4])))
        return tf.reshape(out, [-1, side, 4 * side, self.filters])

    def compute_output_shape(self, shape):
        return (shape[0], shape[1], 4 * shape[2], self.filters)


class _Unfold(tf.keras.layers.Layer):
    """From [n, side, 4 side, channels], as `_Deconvolution` leaves it, to [n, 2 side, 2 side, channels]."""

    def call(self, folded):
        side, channels = folded.shape[1], folded.shape[-1]
        return tf.nn.depth_to_space(tf.reshape(folded, [-1, side, side, 4 * channels]), 2)


def roi_align(pyramid, rois, batch_index, size: int, image_size, layout: Centres):
    """Sample each ROI on a size x size grid from the level that suits its size (He et al. 2017, RoIAlign).

    One bilinear sample a bin; where it lies, the geometry says.

    Parameters
    ----------
    pyramid : list of tensors [batch, rows, columns, channels]
        P2 and up.
    rois : tensor [n, 4]
        Boxes of the geometry, in pixels of the input.
    batch_index : int tensor [n]
        Which image each ROI is of.
    size : int
        Bins a side.
    image_size : int tensor [2]
        Height and width of the input.
    layout : Centres or Corners

    Returns
    -------
    tensor [n, size, size, channels]
    """
    image_size = tf.cast(image_size, tf.float32)
    level = layout.levels(rois, image_size)
    parts, places = [], []
    for index, feature in enumerate(pyramid[:4]):
        place = tf.where(level == index)[:, 0]
        map_size = tf.cast(tf.shape(feature)[1:3], tf.float32)
        corners = layout.crop_corners(tf.gather(rois, place), size, map_size, image_size)
        parts.append(tf.image.crop_and_resize(feature, corners, tf.gather(batch_index, place), (size, size)))
        places.append(place)
    return tf.gather(tf.concat(parts, 0), tf.argsort(tf.concat(places, 0)))


def sample_rois(proposals, truth, network: NetworkConfig, training: TrainConfig):
    """Choose the ROIs of one image that the heads learn from; positive ones first (Girshick 2015, section 2.3).

    Parameters
    ----------
    proposals : tensor [n, 4]
    truth : dict of tensors
        As for `rpn.rpn_loss`.

    Returns
    -------
    dict of tensors
        ``rois`` [rois, 4]; ``match`` [rois] index of the matched object; ``positive`` and ``used`` bool [rois];
        ``possible`` bool [rois, categories + 1] the classes that the annotation allows. The first
        ``positive_rois`` rows are the positive ones, as far as there are any; row counts are fixed.
    """
    real = truth["category_ids"] > 0
    candidates = tf.concat([proposals, tf.boolean_mask(truth["boxes"], real)], 0)
    candidates = tf.concat([candidates, tf.zeros([1, 4])], 0)  # a row to gather from where there is no other
    iou = boxes.pairwise_iou(candidates, truth["boxes"])  # [n, instances]
    best, match = tf.reduce_max(iou, 1), tf.argmax(iou, 1)
    positive = best >= training.positive_roi_iou
    negative = ~positive & (boxes.area(candidates) > 0)
    positive_rows = _draw(positive, training.positive_rois, truth["seed"] + 2)
    negative_rows = _draw(negative, training.rois - training.positive_rois, truth["seed"] + 3)
    rows = tf.concat([positive_rows, negative_rows], 0)  # [rois], -1: empty
    used, rows = rows >= 0, tf.maximum(rows, 0)

    rois, positive, match = (
        tf.gather(candidates, rows),
        tf.gather(positive, rows) & used,
        tf.gather(match, rows),
    )
    known = (
        rpn.known_share(truth["known"], rois, network.strides[0]) >= training.known_share
    )  # [rois, categories]
    background = tf.concat([tf.ones_like(used)[:, None], ~known], 1)
    category = tf.one_hot(tf.gather(truth["category_ids"], match), len(network.categories) + 1, True, False)
    possible = tf.where(positive[:, None], tf.cast(category, tf.bool), background)
    return {"rois": rois, "match": match, "positive": positive, "used": used, "possible": possible}


def _draw(eligible, wanted: int, seed):
    """Rows of `wanted` random eligible entries, -1 where there are fewer."""
    rows = tf.where(eligible)[:, 0]
    rows = tf.gather(rows, tf.argsort(tf.random.stateless_uniform(tf.shape(rows), seed)))[:wanted]
    return tf.concat([rows, tf.fill([wanted - tf.shape(rows)[0]], tf.constant(-1, rows.dtype))], 0)


def roi_loss(logits, offsets, sample, truth, network: NetworkConfig, training: TrainConfig):
    """Class and box loss over the sampled ROIs of one image.

    Parameters
    ----------
    logits : tensor [rois, categories + 1]
    offsets : tensor [rois, categories, 4]
    sample : dict
        From `sample_rois`.
    truth : dict
        ``boxes`` [rois, 4] and ``category_ids`` [rois] of each ROI's matched object.

    Returns
    -------
    tuple of scalar tensors
        Class loss, box loss.
    """
    used, positive = tf.cast(sample["used"], tf.float32), tf.cast(sample["positive"], tf.float32)
    class_loss = losses.masked_mean(losses.partial_label(logits, sample["possible"]), used)
    target = boxes.encode(truth["boxes"], sample["rois"], network.box_std)
    own = tf.gather(offsets, tf.maximum(truth["category_ids"] - 1, 0), axis=1, batch_dims=1)  # [rois, 4]
    box_terms = tf.where(sample["positive"], losses.smooth_l1(target, own, training.box_beta), tf.zeros_like(positive))
    return class_loss, tf.reduce_sum(box_terms * positive) / tf.maximum(tf.reduce_sum(used), 1.0)


def mask_loss(logits, rois, masks, category_ids, positive, network: NetworkConfig, training: TrainConfig):
    """Binary cross entropy of the matched category's mask (He et al. 2017, section 3), and where wanted soft Dice.

    Parameters
    ----------
    logits : tensor [n, side, side, categories]
    rois : tensor [n, 4]
        Boxes of the network's geometry, in pixels of the masks' image.
    masks : uint8 tensor [n, height, width]
        The matched object of each ROI.
    category_ids : int tensor [n]
    positive : bool tensor [n]

    Returns
    -------
    scalar tensor
    """
    side = logits.shape[1]
    image = tf.cast(masks, tf.float32)[..., None]
    image_size = tf.cast(tf.shape(masks)[1:], tf.float32)
    corners = geometry(network).crop_corners(rois, side, image_size, image_size)
    target = tf.image.crop_and_resize(image, corners, tf.range(tf.shape(rois)[0]), (side, side))[..., 0]
    target = tf.cast(target >= 0.5, tf.float32)
    own = tf.gather(logits, tf.maximum(category_ids - 1, 0), axis=3, batch_dims=1)  # [n, side, side]
    loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(target, own), [1, 2])
    if training.mask_dice > 0:
        loss += training.mask_dice * losses.soft_dice(target, own)
    return losses.masked_mean(loss, tf.cast(positive, tf.float32))


def mask_certainty(masks):
    """Mean probability of the pixels of each mask: 1 where its outline is sharp, towards 0.5 where it is vague.

    The probability of the category does not tell how well the mask fits, and this does in part, without a head that
    learns it (Huang et al. 2019, Mask Scoring R-CNN, have one).

    Parameters
    ----------
    masks : tensor [n, side, side]
        Probabilities; what is at least 0.5 belongs to the mask.

    Returns
    -------
    tensor [n]
        0 for a mask of no pixel.
    """
    inside = tf.cast(masks >= 0.5, masks.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(masks * inside, [1, 2]), tf.reduce_sum(inside, [1, 2]))


def read_box_head(logits, offsets, rois, config: NetworkConfig):
    """Turn the box head's output into probabilities and boxes.

    Parameters
    ----------
    logits : tensor [n, categories + 1]
    offsets : tensor [n, categories, 4]
    rois : tensor [n, 4]

    Returns
    -------
    tuple of tensors
        Probabilities [n, categories + 1] (0 is background) and boxes [n, categories, 4].
    """
    return tf.nn.softmax(logits), boxes.decode(offsets, rois[:, None], config.box_std)


def detections(scores, candidates, window, minimum_score, config: NetworkConfig):
    """Choose one image's detections among the boxes of its ROIs, best first.

    Every category may claim an ROI, since a nucleus can fill its cell, unless ``one_category`` leaves it to the
    likeliest, background included (Matterport).

    Parameters
    ----------
    scores : tensor [n, categories + 1]
    candidates : tensor [n, categories, 4]
        As `read_box_head` gives them.
    window : tensor [4]
        Boxes are clipped to this one.
    minimum_score : tensor [] or [categories]

    Returns
    -------
    tuple of tensors
        Boxes [detections, 4], category ids int32 [detections], scores [detections].
    """
    categories = len(config.categories)
    if config.one_category:
        likeliest = tf.one_hot(tf.argmax(scores, -1), categories + 1, True, False, dtype=tf.bool)
        scores = tf.where(likeliest, scores, -tf.ones_like(scores))
    category = tf.tile(tf.range(categories), [tf.shape(scores)[0]])
    least = tf.broadcast_to(tf.cast(minimum_score, tf.float32), [categories])
    scores = tf.reshape(scores[:, 1:], [-1])  # [n * categories]
    candidates = boxes.clip(tf.reshape(candidates, [-1, 4]), window)
    worth = tf.where((scores >= tf.gather(least, category)) & (boxes.area(candidates) >= config.smallest_box))[:, 0]
    scores, candidates, category = (tf.gather(x, worth) for x in (scores, candidates, category))
    # One pass suppresses within each category: the categories are moved apart by more than an image.
    apart = tf.cast(category, tf.float32)[:, None] * (tf.reduce_max(window) + 1)
    keep = tf.image.non_max_suppression(candidates + apart, scores, config.detections, config.detection_iou)
    return tf.gather(candidates, keep), tf.gather(category, keep) + 1, tf.gather(scores, keep)
