"""The evaluation of tools on sets of images, and the same for one category in three lines of Python."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterable, Mapping, Sequence

import numpy as np

from evican_model.dataset import AnnotatedImage
from evican_model.evaluate.found import Results
from evican_model.evaluate.ground_truth import SceneSet
from evican_model.evaluate.matching import THRESHOLDS, mask_overlaps, match
from evican_model.evaluate.metrics import measure, sample_weights
from evican_model.evaluate.pooling import Ranking, average_precisions, pool
from evican_model.evaluate.tally import ImageTally, tally_image
from evican_model.instances import Instances

__all__ = ["Judgement", "Settings", "Tool", "average_precision", "evaluate", "size_classes"]


@dataclass(frozen=True)
class Settings:
    """How figures are made.

    Parameters
    ----------
    caps : tuple of int
        The most detections of an image that AP looks at; 100 is what COCO and the paper's code use.
    samples : int
        Bootstrap samples of the images.
    seed : int
        Of the samples; the same for all tools, so that they can be compared in pairs.
    """

    caps: tuple[int, ...] = (100, 1000)
    samples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Tool:
    """A model, or whatever else made results.

    Parameters
    ----------
    name : str
    source : str
        What a reader needs to find it again.
    confidence : dict of str to float
        The working confidence of each category.
    results : tuple of Results
        One for each set of images.
    """

    name: str
    source: str
    confidence: dict[str, float]
    results: tuple[Results, ...]


@dataclass(frozen=True)
class Judgement:
    """One tool on one set of images: what was counted, and every figure for every bootstrap sample."""

    tool: Tool
    results: Results
    scenes: SceneSet
    tallies: tuple[ImageTally, ...]
    sizes: dict[str, np.ndarray]
    figures: dict[tuple[str, str], np.ndarray]


def evaluate(sets: Sequence[SceneSet], tools: Sequence[Tool], settings: Settings) -> list[Judgement]:
    """Judge every tool on every set.

    Parameters
    ----------
    sets : sequence of SceneSet
    tools : sequence of Tool
        With results for each of the sets.
    settings : Settings

    Returns
    -------
    list of Judgement
        Set by set, the tools in their order.
    """
    judgements = []
    for number, scenes in enumerate(sets):
        sizes = size_classes(scenes)
        count = len(scenes.scenes)
        # One image cannot be drawn anew.
        weights = sample_weights(count, settings.samples if count > 1 else 0, settings.seed)
        for tool in tools:
            results = tool.results[number]
            tallies = tuple(
                tally_image(scene, found, results.flat, results.offered, tool.confidence, sizes)
                for scene, found in zip(scenes.scenes, results.found)
            )
            figures = measure(tallies, scenes.categories, weights, settings.caps)
            judgements.append(Judgement(tool, results, scenes, tallies, sizes, figures))
    return judgements


def size_classes(scenes: SceneSet, count: int = 4) -> dict[str, np.ndarray]:
    """Return the edges, areas in pixels, of classes with equally many true objects each, by category."""
    edges = {}
    for category in scenes.categories:
        areas = np.concatenate([scene.true(category)[0].areas() for scene in scenes.scenes])
        lower = (
            np.unique(np.quantile(areas, np.linspace(0, 1, count + 1)[:-1])) if len(areas) else np.zeros(1)
        )
        # Where many objects are of one size, quantiles coincide: a class without objects is none.
        full = np.bincount(np.searchsorted(lower, areas, "right") - 1, minlength=len(lower)) > 0
        edges[category] = np.concatenate([[0.0], lower[full][1:], [math.inf]])
    return edges


def average_precision(
    pairs: Iterable[tuple[AnnotatedImage, Instances]], category: str, cap: int = 1000
) -> Mapping[str, float]:
    """Pooled mask average precision of one category, as pycocotools computes it.

    Parameters
    ----------
    pairs : iterable of (AnnotatedImage, Instances)
        Images and what was found in them (overlapping, with scores down to the lowest).
    category : str
        Judged only on images in which all its objects are outlined.
    cap : int
        The most detections of an image that count, best first.

    Returns
    -------
    dict
        ``images``, ``objects``, and ``AP`` (0.50:0.95), ``AP50``, ``AP75`` as shares of 1 (NaN without objects).
    """
    rankings = []
    for item, found in pairs:
        if category not in item.annotated or not item.dense:
            continue
        truth, mine = item.truth.of(category), found.of(category).sorted_by_score()
        none = np.zeros(len(truth), bool)
        matches = match(mask_overlaps(mine, truth, none), THRESHOLDS)
        rankings.append(Ranking.of(mine.all_scores.astype(np.float64), matches, none))
    values = average_precisions(pool(rankings, cap), np.ones((1, len(rankings)), int))[0]
    counts = {"images": len(rankings), "objects": sum(one.truths for one in rankings)}
    return {**counts, **{name: float(value) for name, value in zip(("AP", "AP50", "AP75"), values)}}
