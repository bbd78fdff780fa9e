"""What weights find in simulated fields that no training used, as a table.

    python benchmarks/simulated.py [--fields N] [--blank N] [--litter N] [--weights W] > benchmarks/simulated.md

Average precision says how far simulated cells are taken for cells; blank fields, how often dirt and texture are. The
fields are of other seeds than those that the bundled weights were trained on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import _where
import numpy as np

import evican_model
from evican_model.dataset import AnnotatedImage
from evican_model.evaluate import average_precision
from evican_model.simulate import CATEGORIES, simulate_field
from evican_model.specimen import STYLES


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fields", type=int, default=4, help="of each style and modality")
    parser.add_argument("--blank", type=int, default=24, help="blank fields")
    parser.add_argument("--litter", type=float, default=0.0, help="pieces for a million pixels (default: none)")
    parser.add_argument("--weights", default="bundled")
    options = parser.parse_args()
    model = evican_model.load_model(options.weights)
    print("# Simulated fields that no training used\n")
    print(
        f"`python benchmarks/simulated.py --fields {options.fields} --blank {options.blank} --litter "
        f"{options.litter:g}`; commit "
        f"{_where.commit()}, weights {options.weights}, SHA-256 {model.info.sha256[:12]}. Fields of 512 x 512 "
        "pixels, typical cells 40 to 100 pixels. Masks, pooled COCO, cap 1000, automatic "
        "scale; CPU seconds are those of one field's making.\n"
    )
    print("| modality | style | cells | AP50 | AP75 | nuclei | AP50 | AP75 | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for modality in ("phase", "brightfield", "dic"):
        for style in STYLES:
            pairs, seconds = [], 0.0
            for seed in range(options.fields):
                begin = time.process_time()
                field = simulate_field(seed, modality=modality, style=style, cell_diameter=(40, 100),
                                       litter=options.litter)  # fmt: skip
                seconds += time.process_time() - begin
                item = AnnotatedImage(
                    Path(style), seed, field.image.shape, field.truth, frozenset(CATEGORIES), True, ""
                )
                pairs.append((item, model.detect(field.image)))
            rows = [average_precision(pairs, category) for category in CATEGORIES]
            numbers = " | ".join(f"{row['objects']} | {row['AP50']:.2f} | {row['AP75']:.2f}" for row in rows)
            print(f"| {modality} | {style} | {numbers} | {seconds / options.fields:.2f} |", flush=True)
    blank = (simulate_field(1000 + i, blank=True, litter=options.litter).image for i in range(options.blank))
    found = [len(model.segment(image)) for image in blank]
    print(
        f"\nIn {options.blank} blank fields, at the working confidence: {sum(found)} false finds, in "
        f"{np.count_nonzero(found)} of the fields (median {np.median(found):g}, most {max(found)})."
    )


if __name__ == "__main__":
    main()
