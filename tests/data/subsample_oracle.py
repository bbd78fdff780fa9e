"""Make `matterport_resnet50.npz` and `matterport_resnet101.npz`: ``python tests/data/subsample_oracle.py FOLDER``.

FOLDER holds what an independent port of Matterport's Mask R-CNN computed from random weights (`small50`, `small101`:
an ``.npz`` with outputs and a ``_tensors.json`` with the names and shapes of the weights). Kept is what the parity test
needs: all proposals, class scores, box offsets and detections; of the anchors and of the RPN's offsets every fifth; of
the masks, 28 x 28, that of each detection's own class.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

EVERY = 5  # coprime to the three anchors of a place


def main(folder: Path) -> None:
    """Write both files beside this script."""
    for source, name in (("small50", "resnet50"), ("small101", "resnet101")):
        full = np.load(folder / f"{source}.npz")
        kept = {key: full[key] for key in full if key.startswith("weight/")}
        kept["image"] = full["image"]
        kept["anchors"], kept["rpn_bbox"] = full["anchors"][0, ::EVERY], full["rpn_bbox"][0, ::EVERY]
        kept["rpn_class"] = full["rpn_class"][0, :, 1]
        for key in ("rpn_rois", "mrcnn_class", "mrcnn_bbox", "detections"):
            kept[key] = full[key][0]
        for key in ("rois", "class_ids", "scores"):
            kept[key] = full[key]
        masks, classes = full["mrcnn_mask"][0], full["detections"][0, :, 4].astype(int)
        kept["mrcnn_mask"] = masks[np.arange(len(masks)), :, :, classes]
        tensors = json.loads((folder / f"{source}_tensors.json").read_text(encoding="utf-8"))
        kept["tensors"] = np.array([f"{layer}/{weight} {shape}" for layer, weight, shape in tensors])
        np.savez_compressed(Path(__file__).parent / f"matterport_{name}.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
