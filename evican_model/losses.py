"""The losses of He et al. 2017, section 3, in the form that partly annotated images need.

An image says which categories are complete. A background box in an image without cell outlines may well be a cell:
there the class loss asks only that the box is none of the categories that *are* known to be absent.
"""

from __future__ import annotations

import tensorflow as tf

__all__ = ["masked_mean", "partial_label", "smooth_l1", "soft_dice"]


def smooth_l1(target, prediction, beta: float = 1.0):
    """Smooth L1 (Girshick 2015, equation 3), summed over the last axis."""
    difference = tf.abs(target - prediction)
    return tf.reduce_sum(tf.where(difference < beta, 0.5 * difference**2 / beta, difference - 0.5 * beta), -1)


def masked_mean(values, weights):
    """Mean of values where weights are 1; 0 when there is none."""
    return tf.reduce_sum(values * weights) / tf.maximum(tf.reduce_sum(weights), 1.0)


def partial_label(logits, possible):
    """Cross entropy when all that is known is a set of possible classes: ``-log sum of p over the set``.

    With one possible class it is the usual cross entropy; with all of them it is 0 and has no gradient.

    Parameters
    ----------
    logits : tensor [..., classes]
    possible : bool tensor [..., classes]
        At least one True in each row.

    Returns
    -------
    tensor [...]
    """
    inside = tf.where(possible, logits, tf.fill(tf.shape(logits), tf.constant(-1e9, logits.dtype)))
    return tf.reduce_logsumexp(logits, -1) - tf.reduce_logsumexp(inside, -1)


def soft_dice(target, logits):
    """One less the Dice coefficient of masks, with probabilities for counts (Milletari et al. 2016, section 3).

    A thin mask weighs as much as one that fills its frame, and a pixel missing as much as one too many.

    Parameters
    ----------
    target : tensor [n, side, side]
        0 or 1.
    logits : tensor [n, side, side]

    Returns
    -------
    tensor [n]
    """
    probability = tf.sigmoid(logits)
    both = tf.reduce_sum(target * probability, [1, 2])
    each = tf.reduce_sum(target**2 + probability**2, [1, 2])
    return 1 - (2 * both + 1) / (each + 1)  # the 1 gives an empty mask, of a sliver between samples, its answer
