"""What kind of errors limit weights on annotated sets, as tables.

    python benchmarks/errors.py NAME=annotations.json:images:CATEGORY ... [--weights W] [--every N]

An object is found if a detection of any score has an IoU of 0.5 with it. Missed objects and, at the working confidence,
false finds are told apart by their best IoU with what is there: one that is nearly right, or nothing at all. Then which
objects are found, by size and by whether the image's edge cuts them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _where
import numpy as np

import evican_model
from evican_model.dataset import read_dataset
from evican_model.evaluate.matching import mask_overlaps, match

FOUND = 0.5  # IoU
BINS = (0.0, 0.1, 0.3, 0.5)  # best IoU of what is wrong; from the last on it fits an object that another one has
SIZES = (0, 2, 10, 25, 50, 75, 90, 100)  # percentiles of the areas


def judge(model, items, category: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what is known of each true object and of each false find of all images."""
    objects: dict[str, list] = {key: [] for key in ("found", "score", "iou", "area", "cut")}
    false: dict[str, list] = {key: [] for key in ("score", "iou")}
    for item in items:
        found = model.detect(item.grey_levels(model.config)).of(category)
        truth = item.truth.of(category)
        overlaps = mask_overlaps(found, truth, np.zeros(len(truth), bool))
        matches = match(overlaps, [FOUND])[0]
        score, right = np.zeros(len(truth)), matches >= 0
        score[matches[right]] = found.all_scores[right]
        best_of_truth, best_of_found = np.zeros(len(truth)), np.zeros(len(found))
        np.maximum.at(best_of_truth, overlaps.truth, overlaps.iou)
        np.maximum.at(best_of_found, overlaps.found, overlaps.iou)
        for key, values in (("found", score > 0), ("score", score), ("iou", best_of_truth),
                            ("area", truth.areas()), ("cut", truth.touching_border())):  # fmt: skip
            objects[key].extend(values.tolist())
        false["score"].extend(found.all_scores[~right].tolist())
        false["iou"].extend(best_of_found[~right].tolist())
    return ({key: np.array(values) for key, values in objects.items()},
            {key: np.array(values) for key, values in false.items()})  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="NAME=JSON:IMAGES:CATEGORY")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="judge every Nth image")
    options = parser.parse_args()
    model = evican_model.load_model(options.weights)
    names = " ".join(one.split("=")[0] for one in options.sets)
    every = f" --every {options.every}" * (options.every > 1)
    shown = Path(options.weights).name
    print("# Which errors limit the bundled weights\n")
    print(
        f"`python benchmarks/errors.py{every}` on {names}; commit {_where.commit()}, weights {shown}, SHA-256 "
        f"{model.info.sha256[:12]}. Masks, automatic scale; false finds at the working confidence of "
        f"{model.config.confidence}.\n"
    )
    judged = {}
    print("| set | category | objects | found | missed | IoU 0.3 to 0.5 | 0.1 to 0.3 | less "
          "| false finds | one more of an object | IoU 0.3 to 0.5 | 0.1 to 0.3 | less |")  # fmt: skip
    print("| --- " * 13 + "|")
    for one in options.sets:
        name, _, place = one.partition("=")
        annotations, images, category = place.split(":")
        items = read_dataset(annotations, images, model.config.categories)[:: options.every]
        objects, false = judged[name, category] = judge(model, items, category)
        missed = np.histogram(objects["iou"][~objects["found"]], (*BINS, 1.01))[0][::-1]
        wrong = np.histogram(false["iou"][false["score"] >= model.config.confidence], (*BINS, 1.01))[0][::-1]
        # A missed object that something fits was taken by it as the second choice: it counts with the near ones.
        missed = [int(missed.sum()), int(missed[0] + missed[1]), *missed[2:].tolist()]
        cells = [len(objects["found"]), int(objects["found"].sum()), *missed, int(wrong.sum()), *wrong.tolist()]
        print(f"| {name} | {category} | {' | '.join(map(str, cells))} |", flush=True)
    print("\n| set | category | which | area, pixels | objects | found | at the working confidence | median IoU |")
    print("| --- " * 8 + "|")
    for (name, category), (objects, _) in judged.items():
        edges = np.percentile(objects["area"], SIZES)
        groups = [("cut by the edge", objects["cut"]), ("whole", ~objects["cut"])]
        groups += [("all", (objects["area"] >= low) & ((objects["area"] < high) | (high == edges[-1])))
                   for low, high in zip(edges[:-1], edges[1:])]  # fmt: skip
        for which, of_group in groups:
            areas = objects["area"][of_group]
            if len(areas):
                sure = objects["score"][of_group] >= model.config.confidence
                print(f"| {name} | {category} | {which} | {areas.min():.0f} to {areas.max():.0f} | {len(areas)} | "
                      f"{objects['found'][of_group].mean():.2f} | {sure.mean():.2f} | "
                      f"{np.median(objects['iou'][of_group]):.2f} |")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
