"""Draw the picture of the README: ``python docs/make_overlay.py`` writes docs/overlay.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import evican_model
from evican_model.images import read_image
from evican_model.overlay import draw_outlines

ROOT = Path(__file__).resolve().parent.parent
WELLS = ("C02", "B04", "D02", "D05", "B02", "D04")
WIDTH, HEIGHT = 420, 300


def main() -> None:
    """Segment six images of the example plate and put them side by side, three a row."""
    model = evican_model.load_model()
    sheet = np.full((2 * HEIGHT, 3 * WIDTH, 3), 255, np.uint8)
    for i, well in enumerate(WELLS):
        (path,) = (ROOT / "pipelines" / "example_plate").glob(f"*_{well}_*.jpg")
        image = read_image(path)
        drawn = Image.fromarray(draw_outlines(image, model.segment(image)))
        # Fill the frame: scaled to cover it, cut around the centre.
        scale = max(WIDTH / drawn.width, HEIGHT / drawn.height)
        size = (round(drawn.width * scale), round(drawn.height * scale))
        left, top = (size[0] - WIDTH) // 2, (size[1] - HEIGHT) // 2
        framed = drawn.resize(size, Image.LANCZOS).crop((left, top, left + WIDTH, top + HEIGHT))
        y, x = i // 3 * HEIGHT, i % 3 * WIDTH
        sheet[y : y + HEIGHT - 4, x : x + WIDTH - 4] = np.asarray(framed)[:-4, :-4]
    Image.fromarray(sheet[:-4, :-4]).save(ROOT / "docs" / "overlay.png", optimize=True)


if __name__ == "__main__":
    main()
