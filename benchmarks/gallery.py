"""Pictures of the images on which weights do worst: ``python benchmarks/gallery.py NAME=annotations.json:images ...``.

For each set and category the images of least panoptic quality are drawn, matched objects blue, missed ones yellow
and false finds orange, into the folder of ``--output``; the lines for the model card are printed. Images that the
weights were trained on are left out.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import evican_model
from evican_model.evaluate.detection import detect_all
from evican_model.evaluate.evaluation import Settings, Tool, evaluate
from evican_model.evaluate.ground_truth import read_scenes, split_trained
from evican_model.evaluate.overlays import draw_outcome
from evican_model.images import read_image
from evican_model.scaling import normalise, to_grey

LONGEST = 640  # pixels of a picture


def main() -> int:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=JSON:IMAGES")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--output", type=Path, default=Path("docs/failures"))
    parser.add_argument("--worst", type=int, default=1, help="images of each set and category (default: 1)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model = evican_model.load_model(options.weights)
    for one in options.sets:
        name, _, place = one.partition("=")
        scenes = read_scenes(*place.split(":"), name=name)
        scenes = replace(scenes, scenes=tuple(split_trained(scenes.scenes, [model.info.training])[0]))
        confidence = dict.fromkeys(scenes.categories, model.config.confidence)
        tool = Tool(options.weights, "", confidence, (detect_all(model, scenes, options.weights),))
        (judged,) = evaluate([scenes], [tool], Settings((1000,)))
        for category in scenes.categories:
            outcomes = [
                (tally.categories[category].outcome, scene)
                for scene, tally in zip(scenes.scenes, judged.tallies)
                if category in tally.categories and tally.categories[category].outcome.true
            ]
            outcomes.sort(key=lambda pair: pair[0].panoptic_quality)
            for rank, (outcome, scene) in enumerate(outcomes[: options.worst], 1):
                path = options.output / f"{name}-{category.lower()}-{rank}.jpg"
                grey = normalise(to_grey(read_image(scene.image.path))).astype(np.uint8)
                scale = LONGEST / max(grey.shape)
                size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
                shown = np.asarray(Image.fromarray(grey).resize(size, Image.BICUBIC))
                drawn = draw_outcome(shown, outcome, scene.true(category)[0], scale)
                Image.fromarray(drawn).save(path, quality=85, subsampling=0)
                hits = int(outcome.hits[0])
                print(f"![{category} in {scene.name}]({path.parent.name}/{path.name})\n\n`{scene.name}` ({name}): of "
                      f"{outcome.true} objects of {category} {hits} found, {outcome.true - hits} missed, "
                      f"{outcome.found - hits} false.\n")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
