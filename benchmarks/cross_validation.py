r"""Cross-validation over the images of a small set, as a table: each is judged by weights that never saw its kind.

    python benchmarks/cross_validation.py --set evican/train.json:evican/images --share 40 --folds 5 \
        --start runs/base/last.h5 --output runs/folds -- --dataset other.json --images other/ --share 20 --steps 800 ...

Images are dealt to the folds by cell line (or by file where none is given). What stands after ``--`` goes to
``evican_model.train`` as it is; the images of the other folds are added with ``--share``. The weights to start from
must not have seen the set either: that is checked. A fold that is complete is not trained again, one that was
interrupted goes on; the figures are those of all held-out images pooled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import _where

from evican_model import convert, weights
from evican_model.errors import EvicanError
from evican_model.evaluate.detection import detect_all
from evican_model.evaluate.evaluation import Settings, Tool, evaluate
from evican_model.evaluate.found import Results
from evican_model.evaluate.ground_truth import read_scenes, split_trained
from evican_model.evaluate.metrics import ALL, interval
from evican_model.model import load_model

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = {"AP@1000": "AP", "AP50@1000": "AP50", "AP75@1000": "AP75", "F1_50": "F1", "PQ": "PQ"}


def deal(content: dict, folds: int) -> list[set[int]]:
    """Return the image ids of each fold; images of one cell line stay together."""
    lines = sorted({image.get("cell_line") or image["file_name"] for image in content["images"]})
    fold_of = {line: i % folds for i, line in enumerate(lines)}
    found: list[set[int]] = [set() for _ in range(folds)]
    for image in content["images"]:
        found[fold_of[image.get("cell_line") or image["file_name"]]].add(image["id"])
    return found


def write_subset(content: dict, ids: set[int], path: Path) -> Path:
    """Write the annotations of some images."""
    images = [image for image in content["images"] if image["id"] in ids]
    outlines = [outline for outline in content["annotations"] if outline["image_id"] in ids]
    path.write_text(json.dumps({**content, "images": images, "annotations": outlines}), encoding="utf-8")
    return path


def train(fold: Path, annotations: Path, images: str, options) -> Path:
    """Train the weights of a fold, or go on where it was interrupted; return them."""
    command = [sys.executable, "-m", "evican_model.train"]
    if (fold / "run" / "run.json").exists():
        command += ["--resume", str(fold / "run")]
    else:
        command += ["--weights", options.start, "--output", str(fold / "run"), "--dataset", str(annotations)]
        command += ["--images", images, "--share", str(options.share), "--hold-out", "0", *options.training]
    if not (fold / "complete").exists():
        subprocess.run(command, cwd=ROOT, check=True)
        (fold / "complete").touch()
    return fold / "run" / "last.h5"


def main() -> int:
    """Train, judge and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", required=True, metavar="JSON:IMAGES", dest="set_")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--start", required=True, metavar="WEIGHTS")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--judged-with", nargs="+", default=[], metavar="FIELD=JSON",
                        help="fields of NetworkConfig in which detection shall differ from training")  # fmt: skip
    parser.add_argument("training", nargs="*")
    options = parser.parse_args()
    annotations, images = options.set_.split(":")
    content = json.loads(Path(annotations).read_text(encoding="utf-8"))
    scenes = read_scenes(annotations, images)
    start = weights.check(options.start)
    if len(split_trained(scenes.scenes, [start.training])[0]) < len(scenes.scenes):
        raise EvicanError(f"{options.start} was trained on images of {annotations}; nothing is held out from it.")

    found: dict = {}
    every = {image["id"] for image in content["images"]}
    offered: frozenset = frozenset()
    steps = 0
    for number, held in enumerate(deal(content, options.folds)):
        folder = Path(options.output) / f"fold{number}"
        folder.mkdir(parents=True, exist_ok=True)
        rest = write_subset(content, every - held, folder / "train.json")
        path = train(folder, rest.resolve(), str(Path(images).resolve()), options)
        if options.judged_with:
            judged_by = folder / "judged.h5"
            with contextlib.redirect_stdout(sys.stderr):
                refused = convert.main([str(path), "--set", *options.judged_with, "--output", str(judged_by)])
            if refused:
                raise EvicanError(f"{path} cannot be judged with {' '.join(options.judged_with)}.")
            path = judged_by
        model = load_model(path)
        mine = read_scenes(write_subset(content, held, folder / "held_out.json"), images)
        new, known = split_trained(mine.scenes, [model.info.training])
        if known:
            raise EvicanError(f"{path} was trained on {known[0].name}, which it should be judged on.")
        results = detect_all(model, mine, f"fold {number}")
        offered, steps = results.offered, model.info.training["step"]
        found.update(zip((scene.name for scene in mine.scenes), results.found))
        confidence = model.config.confidence

    pooled = Results(offered, True, False, [found[scene.name] for scene in scenes.scenes])
    tool = Tool("cross-validation", "", dict.fromkeys(scenes.categories, confidence), (pooled,))
    (judged,) = evaluate([replace(scenes, name="held out")], [tool], Settings((1000,)))
    print(f"# Cross-validation in {options.folds} folds\n")
    print(f"`python {shlex.join(sys.argv)}`; commit {_where.commit()}, {_where.machine()}, {steps} steps a fold from "
          f"weights with SHA-256 {start.sha256[:12]}. Masks, {len(scenes.scenes)} held-out images pooled, at most 1000 "
          "detections an image, automatic scale; F1 and PQ at IoU 0.5 and the working confidence of "
          f"{confidence}; 95 % intervals over images.\n")  # fmt: skip
    print("| category | objects | " + " | ".join(COLUMNS.values()) + " |")
    print("| --- " * (2 + len(COLUMNS)) + "|")
    for category in (*scenes.categories, ALL):
        parts = scenes.categories if category == ALL else (category,)
        objects = sum(len(scene.true(part)[0]) for scene in scenes.scenes for part in parts)
        known = [judged.figures.get((category, key)) for key in COLUMNS]
        cells = [interval(values) if values is not None else None for values in known]
        shown = " | ".join(f"{c.value:.3f} ({c.low:.2f} to {c.high:.2f})" if c else "" for c in cells)
        print(f"| {'mean of both' if category == ALL else category} | {objects} | {shown} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
