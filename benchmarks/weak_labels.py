"""How true weak labels are, on images in which both categories are known, as a table.

    python benchmarks/weak_labels.py [--weights W] [NAME=annotations.json:images ...] > benchmarks/weak_labels.md

Besides the sets named, 8 simulated fields of each modality. Of every set, one category is hidden and then added again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _where
import numpy as np

import evican_model
from evican_model.dataset import AnnotatedImage, read_dataset
from evican_model.simulate import CATEGORIES, simulate_field
from evican_model.weak_labels import grow_from_nuclei, weak_cells, weak_nuclei


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="*", metavar="NAME=JSON:IMAGES")
    parser.add_argument("--weights", default="bundled")
    options = parser.parse_args()
    model = evican_model.load_model(options.weights)
    names = " ".join(["--weights", options.weights, *(one.split("=")[0] for one in options.sets)])
    print("# How true weak labels are\n")
    print(
        f"`python benchmarks/weak_labels.py {names}`; commit {_where.commit()}, weights {options.weights}, SHA-256 "
        f"{model.info.sha256[:12]}. The share of what is added whose IoU with a true object is above 0.5 and 0.7. The "
        "weights were trained on EVICAN: what stands there for the model is too good; the watershed knows no weights.\n"
    )
    print("| set | category | rule | hidden | added | IoU > 0.5 | IoU > 0.7 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    sets = {f"simulated {modality}": [_simulated(modality, seed) for seed in range(8)]
            for modality in ("brightfield", "phase")}  # fmt: skip
    for one in options.sets:
        name, _, paths = one.partition("=")
        items = read_dataset(*paths.split(":"), CATEGORIES)
        sets[name] = [(item, item.grey_levels()) for item in items]
    for name, pairs in sets.items():
        found = [(item, levels, model.detect(levels)) for item, levels in pairs]
        for category, rule, function in _rules():
            good = [_best_iou(mask, item.truth, category) for item, levels, every in found
                    for mask in function(item, levels, every)]  # fmt: skip
            hidden = sum(item.truth.count(category) for item, _ in pairs)
            shares = " | ".join(
                f"{np.mean(np.array(good) > least):.2f}" if good else "-" for least in (0.5, 0.7)
            )
            print(f"| {name} | {category} | {rule} | {hidden} | {len(good)} | {shares} |", flush=True)


def _rules():
    """Name each rule, and what it adds to (item, levels, found): an iterable of masks."""

    def chosen(category, least):
        return lambda item, levels, found: (
            found.of(category).select(found.of(category).all_scores >= least).masks()
        )

    def grown(item, levels, found):
        labels = grow_from_nuclei(levels, item.truth.of("Nucleus"))
        return [labels == k + 1 for k in range(item.truth.count("Nucleus")) if (labels == k + 1).any()]

    def cells(least, agreement):
        return lambda item, levels, found: weak_cells(levels, item.truth, found, least, agreement).masks()

    def nuclei(least):
        return lambda item, levels, found: weak_nuclei(item.truth, found, least).masks()

    yield "Cell", "model, score 0.3", chosen("Cell", 0.3)
    yield "Cell", "model, score 0.7", chosen("Cell", 0.7)
    yield "Cell", "watershed alone", grown
    yield "Cell", "holds one nucleus, score 0.3", cells(0.3, 0.0)
    yield "Cell", "holds one nucleus, score 0.7", cells(0.7, 0.0)
    yield "Cell", "and agrees with the watershed, score 0.3 (default)", cells(0.3, 0.5)
    yield "Cell", "and agrees to 0.7, score 0.3", cells(0.3, 0.7)
    yield "Nucleus", "model, score 0.7", chosen("Nucleus", 0.7)
    yield "Nucleus", "in a cell, score 0.3", nuclei(0.3)
    yield "Nucleus", "in a cell, score 0.45", nuclei(0.45)
    yield "Nucleus", "in a cell, score 0.6 (default)", nuclei(0.6)
    yield "Nucleus", "in a cell, score 0.7", nuclei(0.7)


def _simulated(modality, seed):
    field = simulate_field(200 + seed, modality=modality, cell_diameter=(50, 90))
    truth = field.truth
    return AnnotatedImage(
        Path(modality), seed, truth.shape, truth, frozenset(CATEGORIES), True, ""
    ), field.image


def _best_iou(mask, truth, category) -> float:
    labels = truth.labels(category)
    shared = np.bincount(labels[mask], minlength=2)[1:]
    best = int(shared.argmax()) + 1
    return float(shared[best - 1] / (mask.sum() + (labels == best).sum() - shared[best - 1]))


if __name__ == "__main__":
    main()
