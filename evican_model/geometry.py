"""Where boxes and the places of a feature map lie on the pixels of the image, and where RoIAlign samples.

There are two answers. `Centres` is exact: pixel ``i`` of a map of stride ``s`` stands for the pixels around
``(i + 0.5) s``, and RoIAlign takes its samples from the centres of its bins (He et al. 2017). `Corners` is
Matterport's, which its weights have learnt to live with: boxes are normalised by the image's size less one, their far
edges lie *on* their last pixel, anchors stand on the corners of their places, and RoIAlign takes its outer samples from
a box's edges. Everything else of the network is the same for both.
"""

from __future__ import annotations

import tensorflow as tf

from evican_model.config import NetworkConfig

__all__ = ["Centres", "Corners", "geometry"]

_CANONICAL = 224.0  # the ROI size that belongs to P4 (Lin et al. 2017, equation 1)


class Centres:
    """Boxes are half open, a place of a map is a square of pixels, a sample lies in the centre of its bin."""

    place = 0.5  # a map's place i has its anchors at (i + place) * stride
    far = 0.0  # pixels by which a box's lower and right edge lie inside the half-open box

    def inner(self, boxes):
        """Half-open boxes [..., 4] in pixels to boxes of this geometry."""
        return boxes - tf.constant([0.0, 0.0, self.far, self.far])

    def outer(self, boxes):
        """Boxes [..., 4] of this geometry to half-open boxes in pixels."""
        return boxes + tf.constant([0.0, 0.0, self.far, self.far])

    def levels(self, rois, image_size):
        """Return which level each ROI is pooled from, int32 [n]: 0 for P2 to 3 for P5 (P6 is for proposals only)."""
        return _bounded(2 + tf.floor(_octaves(rois, 1.0)))

    def crop_corners(self, rois, size, map_size, image_size):
        """Return the corners [n, 4] for `tf.image.crop_and_resize`: its first and last sample, in units of the map.

        Parameters
        ----------
        rois : tensor [n, 4]
            Boxes of this geometry in pixels of the image.
        size : int
            Samples a side.
        map_size, image_size : float tensor [2]
            Height and width of the feature map and of the image.
        """
        half_bin = (rois[:, 2:] - rois[:, :2]) / (2.0 * size)
        centres = tf.concat([rois[:, :2] + half_bin, rois[:, 2:] - half_bin], 1)
        stride, extent = image_size / map_size, tf.maximum(map_size - 1, 1.0)
        return (centres / tf.tile(stride, [2]) - 0.5) / tf.tile(extent, [2])


class Corners(Centres):
    """Matterport's boxes: ``[y1, x1, y2 - 1, x2 - 1]`` of the half-open one, and all places on corners."""

    place = 0.0
    far = 1.0

    def levels(self, rois, image_size):
        """As above, but rounded, and with ROIs measured against an image that is one pixel smaller."""
        return _bounded(2 + tf.round(_octaves(rois, tf.sqrt(tf.reduce_prod(image_size / (image_size - 1))))))

    def crop_corners(self, rois, size, map_size, image_size):
        """As above: the box itself, normalised by the image's size less one."""
        return rois / tf.tile(tf.maximum(image_size - 1, 1.0), [2])


def geometry(config: NetworkConfig) -> Centres:
    """Return the geometry that a config names."""
    return {"centres": Centres, "corners": Corners}[config.geometry]()


def _octaves(rois, factor):
    """log2 of each ROI's side over the canonical one."""
    extent = tf.maximum(rois[:, 2:] - rois[:, :2], 0)
    side = tf.sqrt(tf.maximum(extent[:, 0] * extent[:, 1], 1e-6)) * factor
    return tf.math.log(side / _CANONICAL + 1e-8) / tf.math.log(2.0)


def _bounded(level):
    return tf.clip_by_value(tf.cast(level, tf.int32), 0, 3)
