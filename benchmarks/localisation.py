"""What costs outlines their tightness: the size of the masks, the boxes, or the masks drawn in them.

    python benchmarks/localisation.py NAME=annotations.json:images:CATEGORY ... [--weights W] [--every N]

For each object that keeps off the image's edges, at the scale of its image's typical objects: the IoU that its own
outline keeps when it is sampled as the mask head would draw it; that of the mask that the network draws in the object's
true box; that of the detected box with the true one; and that of the mask drawn in the detected box.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import _where
import numpy as np
from scipy import ndimage

import evican_model
from evican_model import boxes as box_math
from evican_model import rpn
from evican_model.augment import natural_scale
from evican_model.dataset import read_dataset
from evican_model.masks import paste_masks
from evican_model.scaling import resize

LARGEST = 1600  # pixels of an image at its scale: larger ones are left out
FOUND = 0.3  # IoU of boxes from which an object counts as found
COLUMNS = ("own outline, sampled", "mask in the true box", "detected box", "mask in the detected box")


class Look:
    """One image as the network sees it, and the objects of one category in it."""

    def __init__(self, model, item, category: str):
        self.network, self.config = model.network, model.config
        self.category_id = self.config.categories.index(category) + 1
        levels, scale = item.grey_levels(self.config), natural_scale(item, self.config)
        self.shape = levels.shape
        rows, columns = (max(1, round(side * scale)) for side in levels.shape)
        self.back = np.array([levels.shape[0] / rows, levels.shape[1] / columns] * 2, np.float32)
        coarsest = self.config.strides[-1]
        self.size = tuple(-(-side // coarsest) * coarsest for side in (rows, columns))
        self.image = np.full(self.size, self.config.padding, np.float32)
        self.image[:rows, :columns] = resize(levels.astype(np.float32), rows, columns)
        truth = item.truth.of(category)
        inner = truth.select(~truth.touching_border())
        self.masks, self.true_boxes = list(inner.masks()), inner.all_boxes / self.back

    def ious(self) -> dict[str, np.ndarray]:
        """Return each column's IoU of the objects that it applies to."""
        import tensorflow as tf

        config, network = self.config, self.network
        pyramid, objectness, offsets = network.propose(tf.constant(self.image[None, :, :, None]), network.folded)
        whole = tf.constant([0, 0, *self.size], tf.float32)
        anchors = partial(box_math.anchors_at, height=self.size[0], width=self.size[1], config=config)
        rois = rpn.propose(objectness[0], offsets[0], anchors, whole, config.proposals, config)

        def pooled(regions, bins):
            index = tf.zeros(len(regions), tf.int32)
            return network.align(pyramid, tf.constant(regions, tf.float32), index, bins, tf.constant(self.size))

        def drawn(frames):
            return tf.sigmoid(network.mask_head(pooled(frames, config.mask_pool))[..., self.category_id - 1]).numpy()

        def framed(boxes):
            return box_math.grow(tf.constant(boxes, tf.float32), config.mask_context).numpy()

        logits, refinements = network.box_head(pooled(rois, config.box_pool))
        refined = box_math.decode(refinements[:, self.category_id - 1], rois, config.box_std)
        scores = tf.nn.softmax(logits)[:, self.category_id]
        keep = tf.image.non_max_suppression(refined, scores, config.detections, config.detection_iou)
        detected = tf.gather(refined, keep).numpy()
        overlap = box_math.pairwise_iou(detected, tf.constant(self.true_boxes, tf.float32)).numpy()
        best, found = overlap.argmax(0), np.flatnonzero(overlap.max(0) >= FOUND)

        true_frames, own_frames = framed(self.true_boxes), framed(detected[best[found]])
        every = np.arange(len(self.masks))
        return {
            COLUMNS[0]: self._mask_ious(self._sampled(true_frames), true_frames, every),
            COLUMNS[1]: self._mask_ious(drawn(true_frames), true_frames, every),
            COLUMNS[2]: overlap.max(0)[found],
            COLUMNS[3]: self._mask_ious(drawn(own_frames), own_frames, found) if len(found) else np.zeros(0),
        }

    def _sampled(self, frames):
        """Sample the true masks where the mask head's outputs stand."""
        side, masks = 2 * self.config.mask_pool, []
        for mask, (y1, x1, y2, x2) in zip(self.masks, frames * self.back):
            places = (np.arange(side) + 0.5) / side
            grid = np.meshgrid(y1 + places * (y2 - y1) - 0.5, x1 + places * (x2 - x1) - 0.5, indexing="ij")
            masks.append(ndimage.map_coordinates(mask.astype(np.float32), grid, order=1) >= 0.5)
        return np.array(masks, np.float32)

    def _mask_ious(self, probabilities, frames, index):
        pasted_boxes, crops = paste_masks(probabilities, frames * self.back, self.shape)
        values = []
        for i, (y1, x1, y2, x2), crop in zip(index, pasted_boxes, crops):
            pasted = np.zeros(self.shape, bool)
            pasted[y1:y2, x1:x2] = crop
            values.append((pasted & self.masks[i]).sum() / (pasted | self.masks[i]).sum())
        return np.array(values)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=JSON:IMAGES:CATEGORY")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th image of each set")
    options = parser.parse_args()
    model = evican_model.load_model(options.weights)
    print("# What costs outlines their tightness\n\n"
          f"`python benchmarks/localisation.py --every {options.every}`; commit {_where.commit()}, weights "
          f"{options.weights}, SHA-256 {model.info.sha256[:12]}. Median IoU, and the share of objects above 0.75; a "
          "detected box is the one that fits an object best, if any does.\n")  # fmt: skip
    print("| set | category | objects | " + " | ".join(COLUMNS) + " |\n" + "| --- " * (3 + len(COLUMNS)) + "|")
    for one in options.sets:
        name, _, place = one.partition("=")
        annotations, images, category = place.split(":")
        found: dict[str, list] = {column: [] for column in COLUMNS}
        for item in read_dataset(annotations, images, model.config.categories)[:: options.every]:
            look = Look(model, item, category)
            if look.masks and max(look.size) <= LARGEST:
                for column, values in look.ious().items():
                    found[column].extend(values)
        cells = [f"{np.median(values):.2f}, {np.mean(np.array(values) > 0.75):.0%}" for values in found.values()]
        print(f"| {name} | {category} | {len(found[COLUMNS[0]])} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
