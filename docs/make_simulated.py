"""Draw docs/simulated.png: fields of `evican_model.simulate`, half of each with the true outlines.

Run from the repository: ``python docs/make_simulated.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evican_model.overlay import draw_outlines
from evican_model.scaling import normalise
from evican_model.simulate import simulate_field

SIDE, GAP = 236, 4  # pixels of a tile, and between tiles
STYLES = ("epithelial", "spread", "fibroblast", "stellate")


def tile(modality: str, style: str, seed: int) -> np.ndarray:
    """Return one field, uint8 [SIDE, SIDE, 3]; its right half shows cells orange and nuclei blue."""
    field = simulate_field(seed, size=SIDE, modality=modality, style=style, cell_diameter=(34, 46))
    plain = np.repeat(normalise(field.image).astype(np.uint8)[..., None], 3, -1)
    plain[:, SIDE // 2 :] = draw_outlines(field.image, field.truth)[:, SIDE // 2 :]
    return np.pad(plain, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def main() -> None:
    """Write the picture beside this file: phase contrast, brightfield, DIC, from the top."""
    rows = []
    for modality, first in (("phase", 40), ("brightfield", 50), ("dic", 60)):
        rows.append(np.hstack([tile(modality, style, first + i) for i, style in enumerate(STYLES)]))
    sheet = np.vstack(rows)[:-GAP, :-GAP]
    Image.fromarray(sheet).quantize(128, dither=Image.Dither.NONE).save(
        Path(__file__).with_name("simulated.png"), optimize=True
    )


if __name__ == "__main__":
    main()
