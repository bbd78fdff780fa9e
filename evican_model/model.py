"""The model as users hold it: an image in, `Instances` out, whatever the image's size and grey levels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import numpy as np

from evican_model import weights as weights_file
from evican_model.categories import CELL, NUCLEUS, are_lines
from evican_model.errors import EvicanError
from evican_model.instances import Instances, paste_masks
from evican_model.rescoring import least_own, rescored
from evican_model.runtime import start_tensorflow, without_chatter
from evican_model.scaling import choose_scale, grey_levels, resize, square_scale
from evican_model.tiling import Tile, merge_tiles, plan_tiles

__all__ = ["Model", "load_model", "read_into"]


def load_model(
    weights: str | Path = "bundled",
    *,
    categories: Sequence[str] | None = None,
    threads: int | None = None,
    precision: str = "float32",
    batch: int = 1,
) -> Model:
    """Load weights into the network they were made for.

    Parameters
    ----------
    weights : str or Path
        ``"bundled"``, the name of bundled weights (see `available_weights`; ``"accurate"`` are the bundled ones used in
        eight views of each image: tighter outlines for about thirteen times the time), the path of a ``.h5`` file with
        its ``.json`` beside it, or of a file of Matterport's Mask R-CNN (recognised by its layers), which needs none.
    categories : sequence of str, optional
        Names of the categories of a Matterport file, which does not tell them. Without them, and without a ``.json``,
        a warning says what the categories are called.
    threads : int, optional
        CPU threads that one operation of TensorFlow may use; all cores by default. It holds for the whole program, so
        it can only be chosen before TensorFlow has begun to work.
    precision : str
        In which the layers compute: ``float32``; ``float16`` or ``bfloat16`` for hardware that is faster in them.
    batch : int
        Tiles of a large image that go through the network at once: worth more than 1 on a GPU.

    Returns
    -------
    Model
        On the first GPU if TensorFlow sees one, otherwise on the CPU.

    Raises
    ------
    WeightsError
        If there is no such file, or it does not fit; never are other weights taken instead.
    EvicanError
        If another parameter is out of its range, or comes too late.
    """
    info = weights_file.check(weights, categories)  # before TensorFlow: a wrong path is answered at once
    info.require_trained()
    if info.matterport and categories is None and not info.path.with_suffix(".json").is_file():
        warnings.warn(_what_was_assumed(info), stacklevel=2)
    if batch < 1:
        raise EvicanError(f"batch is {batch}; expected 1 or more tiles.")
    tf = start_tensorflow(threads)
    from evican_model.network import MaskRCNN

    network = MaskRCNN(info.config, precision)
    read_into(network, info)
    network.fold()
    with without_chatter():  # the traces that serve all sizes are made here, not in the user's first image
        side = info.config.strides[-1]
        for count in {1, batch}:
            for several in {False, info.config.views > 1 or info.config.close_views > 0}:
                network.detect(tf.zeros([count, side, side, 1]), 0.5, view_count=1 + several)
    return Model(network, info, batch)


def read_into(network, info: weights_file.WeightsInfo) -> None:
    """Read a weights file into a network of the same architecture; every tensor or an error.

    Parameters
    ----------
    network : evican_model.network.MaskRCNN
    info : WeightsInfo

    Raises
    ------
    WeightsError
        If the file does not fit.
    """
    variables = network.named_variables()
    tensors = info.read({name: tuple(variable.shape) for name, variable in variables.items()})
    for name, variable in variables.items():
        variable.assign(tensors[name])


def _what_was_assumed(info: weights_file.WeightsInfo) -> str:
    names = info.config.categories
    named = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (
        f"{info.path} is a Matterport file without {info.path.with_suffix('.json').name}: its {len(names)} categories "
        f"are taken to be {named}, its anchors {list(info.config.anchor_scales)} pixels. Name them with "
        "load_model(categories=...), or convert it (python -m evican_model.convert --categories ... --set ...)."
    )


class Model:
    """A trained network that segments images.

    Parameters
    ----------
    network : evican_model.network.MaskRCNN
    info : WeightsInfo
        Where its weights come from.
    batch : int
        Tiles that go through the network at once.

    Examples
    --------
    >>> import evican_model
    >>> model = evican_model.load_model()
    >>> result = model.segment(np.zeros((64, 64), np.uint8))
    >>> result.labels("Nucleus").max()
    0
    """

    def __init__(self, network, info: weights_file.WeightsInfo, batch: int = 1):
        self.network, self.info, self.batch = network, info, batch

    @property
    def config(self):
        """The network's `NetworkConfig`."""
        return self.info.config

    @property
    def tells_lines(self) -> bool:
        """Whether the model knows cells and nuclei of several lines apart, as one trained on EVICAN60 does."""
        return are_lines(self.config.categories)

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
            Diameter of a typical cell in pixels; by default found from the image, or not needed (presets ``paper`` and
            ``resnet50`` see the whole image at the size of their square).
        mask : bool array [height, width], optional
            Objects are cut to it, and searched for only where it is True.

        Returns
        -------
        Instances
            Best first in each category. Each object is one connected piece. A model of many cell lines gives cells and
            nuclei too, and with each object its line (`Instances.grouped_by_kind`).

        Raises
        ------
        ImageError
            If the image is not one finite plane.
        EvicanError
            If a parameter is out of its range.
        """
        least = float(self._confidences(confidence).min())
        if self.tells_lines:  # an object of unsure line is found several times, each time with a low score
            least = min(least, self.config.minimum_score)
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
        found = found.grouped_by_kind()
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
        # The scale is measured on confident objects, whatever else is asked for; and weak ones may get higher scores.
        least = least_own(min(minimum_score, self.config.confidence), self.config.rescoring, self.config.categories)
        levels = grey_levels(image, self.config)
        if levels.min() == levels.max():
            return Instances.empty(levels.shape, self.config.categories)
        if cell_diameter is None and self.config.image_scale == "square":
            found, scale = None, square_scale(levels.shape, self.config)
        elif cell_diameter is None:  # one view is enough to measure the objects
            scale, found = choose_scale(
                levels, lambda image, scale: self._detect_at(image, scale, least), self.config
            )
        elif cell_diameter > 0:
            found, scale = None, self.config.cell_diameter / cell_diameter
        else:
            raise EvicanError(
                f"cell_diameter is {cell_diameter}; expected pixels above 0, or None for automatic."
            )
        if found is None or self.config.views > 1 or self.config.close_views:
            found = self._detect_at(levels, scale, least, self.config.views, self.config.close_views)
        found = rescored(found, self.config.rescoring)
        return found.select(found.all_scores >= minimum_score).sorted_by_score()

    def _detect_at(
        self, levels: np.ndarray, scale: float, least: Sequence[float], view_count: int = 1, close_count: int = 0
    ) -> Instances:
        """Detect with the image scaled by `scale`, tile by tile; masks come out at the image's own size."""
        tile, overlap = (max(1, round(side / scale)) for side in (self.config.tile, self.config.tile_overlap))
        tiles = plan_tiles(levels.shape, tile, overlap)
        parts = []
        for few in _batches(tiles, self.batch):
            for part, found in zip(few, self._detect_tiles(levels, few, scale, least, view_count, close_count)):
                parts.append(
                    (part, found.select(~_in_seam(found.all_boxes, part, found.shape, overlap // 2)))
                )
        if len(parts) == 1:
            return parts[0][1]
        return merge_tiles(parts, levels.shape, self.config.categories)

    def _detect_tiles(
        self, levels: np.ndarray, tiles: Sequence[Tile], scale: float, least: Sequence[float], view_count: int,
        close_count: int,
    ) -> list[Instances]:
        """Detect in some tiles of one size at once."""
        import tensorflow as tf

        from evican_model.views import Close, views

        height, width = tiles[0].y2 - tiles[0].y1, tiles[0].x2 - tiles[0].x1
        (rows, columns), images, (top, left), window = self._shown(levels, tiles, scale)
        windows = tf.constant([window] * len(tiles), tf.float32)
        close = None
        if close_count:
            (near_rows, near_columns), near, _, _ = self._shown(levels, tiles, scale * self.config.close_scale)
            close = Close(tf.constant(near), (near_rows / rows, near_columns / columns), views(close_count))
        out = self.network.detect(tf.constant(images), least, windows, view_count, close)
        out = {key: value.numpy() for key, value in out.items()}
        back = np.array([height / rows, width / columns] * 2, np.float32)
        frames = (out["frames"] - np.array([top, left] * 2, np.float32)) * back
        # A frame that reaches out of the image has samples of nothing; those of a plain box keep inside.
        margin = self.config.strides[0] * float(back.max()) if self.config.mask_context > 1 else 0.0
        found = []
        for i, tile in enumerate(tiles):
            own = out["image_index"] == i
            own_boxes, crops = paste_masks(out["masks"][own], frames[own], (height, width), margin=margin)
            category_ids, scores = out["category_ids"][own], out["scores"][own]
            inside = Instances(
                (height, width), self.config.categories, category_ids, scores, own_boxes, crops
            )
            found.append(inside.select(inside.areas() > 0).shifted(tile.y1, tile.x1, levels.shape))
        return found

    def _shown(self, levels: np.ndarray, tiles: Sequence[Tile], scale: float):
        """Return some tiles as the network sees them at a scale, [tiles, height, width, 1], and where they lie there.

        Their rows and columns stand before, and after what `_canvas` tells of the corner and the clipping.
        """
        height, width = tiles[0].y2 - tiles[0].y1, tiles[0].x2 - tiles[0].x1
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        if self.config.image_scale == "square":  # a tile's side is rounded: it may come out a pixel too long
            rows, columns = min(rows, self.config.tile), min(columns, self.config.tile)
        canvas, (top, left), window = self._canvas(rows, columns)
        images = np.repeat(canvas[None, :, :, None], len(tiles), 0)
        for image, tile in zip(images, tiles):
            image[top : top + rows, left : left + columns, 0] = resize(levels[tile.slices], rows, columns)
        return (rows, columns), images, (top, left), window

    def _canvas(self, rows: int, columns: int):
        """Return an empty input for a tile, where the tile's corner lies in it, and what detections are clipped to.

        Sizes come in buckets: each side is rounded up to a multiple of the coarsest stride, 64 pixels, or, for a
        square, is `tile`. The image lies in the upper left of the first, and in the middle of the second.
        """
        if self.config.image_scale == "square":
            side = self.config.tile
            top, left = (side - rows) // 2, (side - columns) // 2
            window = (top, left, top + rows, left + columns)
            return np.full((side, side), self.config.padding, np.float32), (top, left), window
        coarsest = self.config.strides[-1]
        height, width = (-(-length // coarsest) * coarsest for length in (rows, columns))
        return np.full((height, width), self.config.padding, np.float32), (0, 0), (0, 0, height, width)

    def _confidences(self, confidence) -> np.ndarray:
        """Return the least score of each category [categories]."""
        categories = (CELL, NUCLEUS) if self.tells_lines else self.config.categories
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


def _batches(tiles: Sequence[Tile], size: int) -> Iterator[Sequence[Tile]]:
    """Full batches, then single tiles: two traces of the network are enough."""
    full = len(tiles) // size * size
    yield from (tiles[i : i + size] for i in range(0, full, size))
    yield from ([tile] for tile in tiles[full:])
