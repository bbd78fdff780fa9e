"""The eight ways to look at a picture: mirrored, upside down, with rows and columns swapped; and each from nearer.

A network answers a little differently to each, though what is in the picture stays the same: the mean of its answers is
nearer to the truth than each of them. How many of them are taken, `NetworkConfig.views` and `close_views` say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

__all__ = ["Close", "Look", "View", "views"]


@dataclass(frozen=True)
class View:
    """One way to look: what is done to a picture, in this order."""

    upside_down: bool = False
    mirrored: bool = False
    transposed: bool = False

    def images(self, images):
        """Show images [batch, height, width, channels] this way; transposed, height and width change places."""
        axes = [axis for axis, flipped in ((1, self.upside_down), (2, self.mirrored)) if flipped]
        images = tf.reverse(images, axes) if axes else images
        return tf.transpose(images, [0, 2, 1, 3]) if self.transposed else images

    def boxes(self, boxes, extent):
        """Bring boxes [..., 4] of the picture into the view.

        Parameters
        ----------
        boxes : tensor [..., 4]
        extent : float tensor [2]
            Where the far edge of the picture lies: its height and width, in the geometry of the boxes.
        """
        return self._transposed(self._flipped(boxes, extent))

    def boxes_back(self, boxes, extent):
        """Bring boxes [..., 4] of the view back into the picture, whose `extent` is as for `boxes`."""
        return self._flipped(self._transposed(boxes), extent)

    def masks_back(self, masks):
        """Bring masks [n, side, side] that were drawn in boxes of the view back into the picture."""
        masks = tf.transpose(masks, [0, 2, 1]) if self.transposed else masks
        axes = [axis for axis, flipped in ((1, self.upside_down), (2, self.mirrored)) if flipped]
        return tf.reverse(masks, axes) if axes else masks

    def _flipped(self, boxes, extent):
        y1, x1, y2, x2 = tf.unstack(boxes, axis=-1)
        if self.upside_down:
            y1, y2 = extent[0] - y2, extent[0] - y1
        if self.mirrored:
            x1, x2 = extent[1] - x2, extent[1] - x1
        return tf.stack([y1, x1, y2, x2], -1)

    def _transposed(self, boxes):
        return tf.gather(boxes, [1, 0, 3, 2], axis=-1) if self.transposed else boxes


class Close(NamedTuple):
    """The same pictures from nearer, and the ways to look at them."""

    images: Any  # tensor [batch, height, width, channels]
    zoom: tuple[float, float]  # by what they are larger, in rows and columns
    ways: tuple[View, ...]


class Look:
    """What a network makes of some images in one view, told in boxes and masks of the plain images.

    Parameters
    ----------
    view : View
    images : tensor [batch, height, width, channels]
    extent : float tensor [2]
        See `View.boxes`.
    parts
        What has the network's methods ``see``, ``judge`` and ``draw``.
    zoom : float tensor [2], optional
        By what `images` are larger than the plain ones, in rows and columns: `extent` is theirs, all boxes that are
        given or returned lie on the plain ones.
    """

    def __init__(self, view: View, images, extent, parts, zoom=(1.0, 1.0)):
        self.view, self.extent, self.parts = view, extent, parts
        self.zoom = tf.tile(tf.cast(zoom, tf.float32), [2])
        self.pyramid, self.size, rois = parts.see(view.images(images))
        self.rois = [self._back(of_image) for of_image in rois]

    def judge(self, rois, index):
        """Return how likely ROIs [n, 4] are of each category, and the boxes they are refined to."""
        scores, refined = self.parts.judge(self.pyramid, self.size, self._there(rois), index)
        return scores, self._back(refined)

    def draw(self, frames, index, category_ids):
        """Return the probability of each pixel of frames [n, 4], [n, side, side]."""
        masks = self.parts.draw(self.pyramid, self.size, self._there(frames), index, category_ids)
        return self.view.masks_back(masks)

    def _there(self, boxes):
        return self.view.boxes(boxes * self.zoom, self.extent)

    def _back(self, boxes):
        return self.view.boxes_back(boxes, self.extent) / self.zoom


_ALL = tuple(
    View(upside_down, mirrored, transposed)
    for transposed in (False, True)
    for upside_down in (False, True)
    for mirrored in (False, True)
)


def views(count: int) -> tuple[View, ...]:
    """Return the first ways to look, the plain one first.

    Parameters
    ----------
    count : int
        1, 2 (mirrored as well), 4 (upside down as well) or 8 (with rows and columns swapped as well).

    Examples
    --------
    >>> views(2) == (View(), View(mirrored=True))
    True
    """
    return _ALL[:count]
