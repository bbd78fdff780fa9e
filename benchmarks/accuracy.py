"""Accuracy of weights on annotated sets, as a table.

    python benchmarks/accuracy.py NAME=annotations.json:images ... [--weights W] [--blank N] [--trained [--every N]]

Masks, at most 1000 detections an image, object scale automatic, 95 % intervals over images; docs/evaluation.md says
what the figures are. Images that the weights were trained on are left out; with `--trained`, only those are judged, to
tell what the weights have not learnt from what they do not carry over to other images. `--blank N` counts what is
found, at the working confidence, in N synthetic empty fields.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import _where
import numpy as np

import evican_model
from evican_model.augment import blank_sample
from evican_model.config import TrainConfig
from evican_model.evaluate.detection import detect_all
from evican_model.evaluate.evaluation import Settings, Tool, evaluate
from evican_model.evaluate.ground_truth import read_scenes, split_trained
from evican_model.evaluate.metrics import interval

COLUMNS = {"AP@1000": "AP", "AP50@1000": "AP50", "AP75@1000": "AP75", "flat_AP50@1000": "AP50 after flattening",
           "F1_50": "F1", "PQ": "PQ"}  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=JSON:IMAGES")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--blank", type=int, default=0, metavar="N")
    parser.add_argument("--trained", action="store_true", help="judge the images of the training, no others")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="judge every Nth image")
    options = parser.parse_args()
    model = evican_model.load_model(options.weights)
    names = " ".join(one.split("=")[0] for one in options.sets)
    flags = " --trained" * options.trained + f" --every {options.every}" * (options.every > 1)
    seen = "" if options.trained else "not "
    print(f"# Accuracy of the bundled weights on images they were {seen}trained on\n")
    print(
        f"`python benchmarks/accuracy.py{flags}` on {names}; commit {_where.commit()}, weights {options.weights}, "
        f"SHA-256 {model.info.sha256[:12]}. Masks, all images pooled, at most 1000 detections an image, automatic "
        f"scale; F1 and PQ at IoU 0.5 and the working confidence of {model.config.confidence}; 95 % "
        "intervals over images.\n"
    )
    print("| set | images (left out) | category | objects | " + " | ".join(COLUMNS.values()) + " |")
    print("| --- " * (4 + len(COLUMNS)) + "|")
    for one in options.sets:
        name, _, place = one.partition("=")
        scenes = read_scenes(*place.split(":"), name=name)
        judged_scenes, others = split_trained(scenes.scenes, [model.info.training])
        if options.trained:
            judged_scenes, others = others, judged_scenes
        scenes = replace(scenes, scenes=tuple(judged_scenes[:: options.every]))
        confidence = dict.fromkeys(scenes.categories, model.config.confidence)
        tool = Tool(options.weights, "", confidence, (detect_all(model, scenes, options.weights),))
        (judged,) = evaluate([scenes], [tool], Settings((1000,)))
        for category in scenes.categories:
            tallies = [tally.categories[category] for tally in judged.tallies if category in tally.categories]
            objects = sum(tally.outcome.true for tally in tallies)
            if objects:
                cells = [interval(judged.figures[category, key]) for key in COLUMNS]
                shown = " | ".join(f"{c.value:.3f} ({c.low:.2f} to {c.high:.2f})" for c in cells)
                print(
                    f"| {name} | {len(tallies)} ({len(others)}) | {category} | {objects} | {shown} |",
                    flush=True,
                )
    if options.blank:
        training = TrainConfig(crop=512, seed=1)
        found = [
            len(
                model.segment(
                    blank_sample(np.random.default_rng([7, i]), model.config, training)["image"][..., 0]
                )
            )
            for i in range(options.blank)
        ]
        print(f"\nIn {options.blank} synthetic empty fields of 512 x 512 pixels: {sum(found)} false finds, in "
              f"{sum(n > 0 for n in found)} of the fields.")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
