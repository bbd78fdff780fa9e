"""The model as users hold it: an image in, `Instances` out, whatever the image's size and grey levels."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

import numpy as np

from evican_model import weights as weights_file
from evican_model.errors import EvicanError
from evican_model.instances import Instances, paste_masks
from evican_model.runtime import start_tensorflow, without_chatter
from evican_model.scaling import GREY, choose_scale, normalise, resize, to_grey
from evican_model.tiling import Tile, merge_tiles, plan_tiles

__all__ = ["Model", "load_model"]


def load_model(weights: str | Path = "bundled") -> Model:
    """Load weights into the network they were made for.

    Parameters
    ----------
    weights : str or Path
        ``"bundled"``, the name of bundled weights (see `available_weights`), or the path of a ``.h5`` file with its
        ``.json`` beside it.

    Returns
    -------
    Model

    Raises
    ------
    WeightsError
        If there is no such file, or it does not fit; never are other weights taken instead.
    """
    info = weights_file.check(weights)  # before TensorFlow: a wrong path is answered at once
    tf = start_tensorflow()
    from evican_model.network import MaskRCNN

    network = MaskRCNN(info.config)
    variables = network.named_variables()
    tensors = weights_file.read_tensors(info.path, {name: tuple(v.shape) for name, v in variables.items()})
    for name, variable in variables.items():
        variable.assign(tensors[name])
    network.fold()
    with without_chatter():  # the one trace that serves all sizes is made here, not in the user's first image
        network.detect(tf.zeros([1, info.config.strides[-1], info.config.strides[-1], 1]), 0.5)
    return Model(network, info)


class Model:
    """A trained network that segments images.

    Parameters
    ----------
    network : evican_model.network.MaskRCNN
    info : WeightsInfo
        Where its weights come from.

    Examples
    --------
    >>> import evican_model
    >>> model = evican_model.load_model()
    >>> result = model.segment(np.zeros((64, 64), np.uint8))
    >>> result.labels("Nucleus").max()
    0
    """

    def __init__(self, network, info: weights_file.WeightsInfo):
        self.network, self.info = network, info

    @property
    def config(self):
        """The network's `NetworkConfig`."""
        return self.info.config

    def segment(
        self,
        image: np.ndarray,
        *,
        confidence: float | Mapping[str, float] | None = None,
        cell_diameter: float | None = None,
        mask: np.ndarray | None = None,
    ) -> Instances:
        """Segment the cells and nuclei of an image into objects that do not overlap within their category.

        Parameters
        ----------
        image : array [height, width] or [height, width, 3 or 4]
            One plane of any integer or float type and any size, or a grey image stored as colour.
        confidence : float or mapping of category to float, optional
            Least score, 0 to 1; the model's own working confidence by default.
        cell_diameter : float, optional
            Diameter of a typical cell in pixels; found from the image by default.
        mask : bool array [height, width], optional
            Objects are cut to it, and searched for only where it is True.

        Returns
        -------
        Instances
            Best first in each category. Each object is one connected piece.

        Raises
        ------
        ImageError
            If the image is not one finite plane.
        EvicanError
            If a parameter is out of its range.
        """
        least = float(self._confidences(confidence).min())
        found = self.detect(image, minimum_score=least, cell_diameter=cell_diameter)
        return self.resolve(found, confidence=confidence, mask=mask)

    def resolve(
        self,
        found: Instances,
        *,
        confidence: float | Mapping[str, float] | None = None,
        mask: np.ndarray | None = None,
    ) -> Instances:
        """Turn what `detect` found into what `segment` returns: confident, not doubled, not overlapping.

        Parameters
        ----------
        found : Instances
        confidence, mask
            As for `segment`.

        Returns
        -------
        Instances
        """
        least = self._confidences(confidence)
        found = found.select(found.all_scores >= least[found.category_ids - 1])
        if mask is not None:
            mask = np.asarray(mask, bool)
            if mask.shape != found.shape:
                raise EvicanError(f"The mask has shape {mask.shape}; the image {found.shape}.")
            found = found.clip(mask)
        return found.without_duplicates().without_overlaps().sorted_by_score()

    def detect(
        self, image: np.ndarray, *, minimum_score: float | None = None, cell_diameter: float | None = None
    ) -> Instances:
        """Find all objects, as they are: they may overlap, and weak ones are there as well.

        This is what average precision is computed from. Parameters and errors are those of `segment`;
        `minimum_score`, 0 to 1, is ``config.minimum_score`` by default.
        """
        if minimum_score is None:
            minimum_score = self.config.minimum_score
        # The scale is measured on confident objects, whatever else is asked for.
        least = min(minimum_score, self.config.confidence)
        levels = normalise(to_grey(image))
        if levels.min() == levels.max():
            return Instances.empty(levels.shape, self.config.categories)
        if cell_diameter is None:
            found = choose_scale(
                levels, lambda image, scale: self._detect_at(image, scale, least), self.config
            )
        elif cell_diameter > 0:
            found = self._detect_at(levels, self.config.cell_diameter / cell_diameter, least)
        else:
            raise EvicanError(
                f"cell_diameter is {cell_diameter}; expected pixels above 0, or None for automatic."
            )
        return found.select(found.all_scores >= minimum_score).sorted_by_score()

    def _detect_at(self, levels: np.ndarray, scale: float, minimum_score: float) -> Instances:
        """Detect with the image scaled by `scale`, tile by tile; masks come out at the image's own size."""
        tile, overlap = (max(1, round(side / scale)) for side in (self.config.tile, self.config.tile_overlap))
        tiles = plan_tiles(levels.shape, tile, overlap)
        parts = []
        for part in tiles:
            found = self._detect_tile(levels, part, scale, minimum_score)
            parts.append((part, found.select(~_in_seam(found.all_boxes, part, found.shape, overlap // 2))))
        if len(parts) == 1:
            return parts[0][1]
        return merge_tiles(parts, levels.shape, self.config.categories)

    def _detect_tile(self, levels: np.ndarray, tile: Tile, scale: float, minimum_score: float) -> Instances:
        import tensorflow as tf

        height, width = tile.y2 - tile.y1, tile.x2 - tile.x1
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        coarsest = self.config.strides[-1]
        canvas = np.full(
            (-(-rows // coarsest) * coarsest, -(-columns // coarsest) * coarsest), GREY, np.float32
        )
        canvas[:rows, :columns] = resize(levels[tile.y1 : tile.y2, tile.x1 : tile.x2], rows, columns)
        found = self.network.detect(tf.constant(canvas[None, :, :, None]), minimum_score)
        boxes, masks = found["boxes"].numpy(), found["masks"].numpy()
        back = np.array([height / rows, width / columns] * 2, np.float32)
        boxes, crops = paste_masks(masks, boxes * back, (height, width))
        category_ids, scores = found["category_ids"].numpy(), found["scores"].numpy()
        inside = Instances((height, width), self.config.categories, category_ids, scores, boxes, crops)
        return inside.select(inside.areas() > 0).shifted(tile.y1, tile.x1, levels.shape)

    def _confidences(self, confidence) -> np.ndarray:
        """Return the least score of each category [categories]."""
        categories = self.config.categories
        if confidence is None:
            confidence = self.config.confidence
        if not isinstance(confidence, Mapping):
            confidence = {name: confidence for name in categories}
        unknown = set(confidence) - set(categories)
        if unknown:
            raise EvicanError(f"confidence names {sorted(unknown)}; the model knows {list(categories)}.")
        least = np.array([float(confidence.get(name, self.config.confidence)) for name in categories])
        if not ((least >= 0) & (least <= 1)).all():
            raise EvicanError(f"confidence is {dict(confidence)}; expected values from 0 to 1.")
        return least


def _in_seam(boxes: np.ndarray, tile: Tile, shape: tuple[int, ...], width: int) -> np.ndarray:
    """Tell which boxes lie whole in the strip along an inner edge of their tile, bool [N].

    There the network sees half of the surroundings and finds what is not there; the neighbouring tile, in which the
    strip is not at the edge, judges better.
    """
    y1, x1, y2, x2 = boxes.T
    return (
        ((tile.y1 > 0) & (y2 <= tile.y1 + width))
        | ((tile.x1 > 0) & (x2 <= tile.x1 + width))
        | ((tile.y2 < shape[0]) & (y1 >= tile.y2 - width))
        | ((tile.x2 < shape[1]) & (x1 >= tile.x2 - width))
    )
