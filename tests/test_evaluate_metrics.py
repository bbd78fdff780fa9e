"""The figures beyond pycocotools, against cases small enough to compute by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from evican_model.dataset import AnnotatedImage
from evican_model.evaluate.analysis import analyse
from evican_model.evaluate.evaluation import Settings, Tool, evaluate
from evican_model.evaluate.found import Results, best_first
from evican_model.evaluate.ground_truth import Scene, SceneSet
from evican_model.evaluate.metrics import interval, measure, metrics_for, sample_weights
from evican_model.evaluate.tally import tally_image
from evican_model.instances import Instances

NAMES = ("Cell", "Nucleus")
SHAPE = (40, 100)
EDGES = {name: np.array([0, np.inf]) for name in NAMES}


def objects(*boxes):
    """Rectangles: (category, y1, x1, y2, x2[, score])."""
    boxes = [(*box, 1.0) if len(box) == 5 else box for box in boxes]
    crops = tuple(np.ones((y2 - y1, x2 - x1), bool) for _, y1, x1, y2, x2, _ in boxes)
    ids = [NAMES.index(box[0]) + 1 for box in boxes]
    corners = np.array([box[1:5] for box in boxes]).reshape(-1, 4)
    return Instances(SHAPE, NAMES, ids, [box[5] for box in boxes], corners, crops)


def scene(*boxes, crowd=(), annotated=NAMES, dense=True, line="HeLa", name="a.png"):
    truth = objects(*boxes)
    image = AnnotatedImage(Path(name), 1, SHAPE, truth, frozenset(annotated), dense, name)
    return Scene(image, np.isin(np.arange(len(truth)), crowd), line)


def tally(one, *boxes, flat=True, confidence=0.5, offered=NAMES):
    found = objects(*boxes)
    least = dict.fromkeys(NAMES, confidence)
    return tally_image(one, best_first(found, found.all_scores), flat, frozenset(offered), least, EDGES)


def figures(*tallies):
    rows = measure(list(tallies), NAMES, np.ones((1, len(tallies)), int), [100])
    return {key: float(row[0]) for key, row in rows.items()}


def test_counts_at_the_working_confidence_by_hand():
    # 10 x 10 cells; found: one exact, one 10 x 8 of it (IoU 0.8), one 10 x 6 (IoU 0.6), one false, one too unsure
    one = tally(
        scene(*[("Cell", 0, x, 10, x + 10) for x in (0, 20, 40, 60)]),
        ("Cell", 0, 0, 10, 10, 0.9),
        ("Cell", 0, 20, 10, 28, 0.8),
        ("Cell", 0, 40, 10, 46, 0.7),
        ("Cell", 20, 0, 30, 10, 0.6),
        ("Cell", 0, 60, 10, 70, 0.4),
    )
    got = figures(one)
    assert got["Cell", "jaccard50"] == pytest.approx(3 / (3 + 1 + 1))
    assert got["Cell", "jaccard75"] == pytest.approx(2 / (2 + 2 + 2))
    assert got["Cell", "jaccard90"] == pytest.approx(1 / (1 + 3 + 3))
    assert got["Cell", "F1_50"] == pytest.approx(6 / 8) and got["Cell", "F1_90"] == pytest.approx(2 / 8)
    assert got["Cell", "precision50"] == 3 / 4 and got["Cell", "recall50"] == 3 / 4
    assert got["Cell", "SQ"] == pytest.approx((1 + 0.8 + 0.6) / 3)
    assert got["Cell", "PQ"] == pytest.approx((1 + 0.8 + 0.6) / (3 + 0.5 + 0.5))
    assert got["Cell", "count_error"] == 0 and got["Cell", "count_bias"] == 0
    assert got["Cell", "area_bias"] == pytest.approx((100 + 80 + 60 + 100 - 400) / 4000)
    # nothing is there of nuclei and nothing was found: no figure, and no mean of the classes
    assert np.isnan(got["Nucleus", "F1_50"]) and got["all", "F1_50"] == got["Cell", "F1_50"]


def test_pooled_and_image_averages_are_not_the_same():
    """One image with one cell, found; one with nine, none found; one without any, where something was found."""
    first = tally(scene(("Cell", 0, 0, 9, 9)), ("Cell", 0, 0, 9, 9))
    second = tally(scene(*[("Cell", 0, 10 * k, 9, 10 * k + 9) for k in range(9)]))
    third = tally(scene(), ("Cell", 20, 0, 30, 10))
    got = figures(first, second, third)
    assert got["Cell", "jaccard50"] == pytest.approx(1 / (1 + 1 + 9))
    assert got["Cell", "image_jaccard50"] == pytest.approx((1 + 0 + 0) / 3)
    assert got["Cell", "image_AP@100"] == pytest.approx(
        (1 + 0) / 2, abs=1e-9
    )  # the third has no true cell, so no AP
    assert got["Cell", "count_error"] == pytest.approx((0 + 9 + 1) / 3)
    assert got["Cell", "count_bias"] == pytest.approx(2 / 10 - 1)


def test_what_is_not_annotated_is_not_judged():
    nuclei_only = scene(("Nucleus", 0, 0, 9, 9), annotated=["Nucleus"])
    one = tally(nuclei_only, ("Nucleus", 0, 0, 9, 9), ("Cell", 0, 0, 20, 20), ("Cell", 0, 30, 20, 50))
    got = figures(one)
    assert got["Nucleus", "F1_50"] == 1 and ("Cell", "F1_50") not in got and one.links is None
    # and a tool that finds no nuclei at all has no figure for them, not a zero
    assert ("Nucleus", "F1_50") not in figures(tally(scene(("Nucleus", 0, 0, 9, 9)), offered=["Cell"]))


def test_partly_annotated_images_give_recall_and_nothing_else():
    partly = scene(("Cell", 0, 0, 10, 10), ("Cell", 0, 20, 10, 30), dense=False, annotated=["Cell"])
    got = figures(
        tally(partly, ("Cell", 0, 0, 10, 10), *[("Cell", 20, 12 * k, 30, 12 * k + 9) for k in range(5)])
    )
    assert {key for _, key in got} == {"partial_recall50", "partial_recall75"}
    assert got["Cell", "partial_recall50"] == 0.5


def test_what_lies_in_a_crowd_counts_neither_way():
    one = scene(("Cell", 0, 0, 10, 40), ("Cell", 20, 0, 30, 10), crowd=[0])
    got = figures(tally(one, ("Cell", 0, 0, 10, 10), ("Cell", 0, 12, 10, 20), ("Cell", 20, 0, 30, 10)))
    assert got["Cell", "F1_50"] == 1 and got["Cell", "PQ"] == 1 and got["Cell", "count_error"] == 0


def test_links_by_hand():
    """Nucleus a in its cell; b in the other cell than it is found in; c in none, found in none; d missed."""
    true = scene(
        ("Cell", 0, 0, 20, 20), ("Cell", 0, 30, 20, 50), ("Cell", 0, 60, 20, 80),
        ("Nucleus", 5, 5, 10, 10), ("Nucleus", 5, 32, 10, 38), ("Nucleus", 30, 0, 36, 6), ("Nucleus", 5, 65, 10, 70),
    )  # fmt: skip
    found = [
        ("Cell", 0, 0, 20, 20), ("Cell", 0, 38, 20, 50), ("Cell", 0, 60, 20, 80),
        ("Nucleus", 5, 5, 10, 10), ("Nucleus", 5, 32, 10, 38), ("Nucleus", 30, 0, 36, 6),
    ]  # fmt: skip
    one = tally(true, *found)
    assert (one.links.right, one.links.matched, one.links.whole, one.links.linked) == (2, 3, 1, 3)
    got = figures(one)
    assert got["Nucleus", "link_matched"] == pytest.approx(2 / 3)
    assert got["Nucleus", "link_whole"] == pytest.approx(1 / 3)


def test_flattening_keeps_scores_and_makes_objects_disjoint():
    boxes = [("Cell", 0, 0, 10, 10, 0.9), ("Cell", 0, 0, 10, 9, 0.8), ("Cell", 0, 8, 10, 30, 0.7)]
    found = objects(*boxes)
    scores = np.array([0.9000000001, 0.8, 0.7])
    flat = best_first(found, scores).flattened()
    assert flat.scores.tolist() == [0.9000000001, 0.7]  # the second is a double of the first
    assert flat.objects.all_boxes.tolist() == [[0, 0, 10, 10], [0, 10, 10, 30]]
    truth = scene(("Cell", 0, 0, 10, 10), ("Cell", 0, 10, 10, 30))
    got = figures(tally(truth, *boxes, flat=False))
    assert got["Cell", "F1_50"] == 1 and got["Cell", "flat_AP50@100"] > got["Cell", "AP50@100"] - 1e-9


def test_counts_are_those_of_the_best_assignment_on_label_images():
    """StarDist and Cellpose assign objects with the Hungarian method; on label images it is the same matching."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        places = [(x, int(rng.integers(0, 4))) for x in range(0, 96, 12)]
        true = [("Cell", 0, x, 20, x + 10) for x, _ in places]
        found = [
            ("Cell", 0, x + d, 20, x + d + int(rng.integers(6, 11)), float(rng.random())) for x, d in places
        ]
        one = tally(scene(*true), *found, confidence=0.0).categories["Cell"].outcome
        for place, least in enumerate((0.5, 0.75, 0.9)):
            ious = np.array([[_iou(a[1:5], b[1:5]) for b in found] for a in true])
            rows, columns = linear_sum_assignment(-(ious >= least).astype(float))
            assert one.hits[place] == (ious[rows, columns] >= least).sum()


def _iou(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def scene_set(scenes):
    return SceneSet("s", Path("a.json"), NAMES, {1: "Cell", 2: "Nucleus"}, tuple(scenes))


def tool(name, founds, scored=True):
    found = [best_first(one, one.all_scores) for one in founds]
    results = Results(frozenset(NAMES), scored, True, found)
    return Tool(name, name, dict.fromkeys(NAMES, 0.5 if scored else 0.0), (results,))


def test_intervals_come_from_images_and_pairs_narrow_them():
    """A tool that finds one cell more in every image: F1 varies from image to image, the difference is always there."""
    rng = np.random.default_rng(0)
    scenes, better, worse = [], [], []
    for number in range(40):
        cells = [("Cell", 0, 12 * k, 10, 12 * k + 10) for k in range(8)]
        scenes.append(scene(*cells, annotated=["Cell"], name=f"{number}.png"))
        hits = int(rng.integers(1, 7))
        better.append(objects(*[(*cell, 0.9) for cell in cells[: hits + 1]]))
        worse.append(objects(*[(*cell, 0.9) for cell in cells[:hits]]))
    one, other = evaluate(
        [scene_set(scenes)], [tool("one", better), tool("other", worse)], Settings((100,), 400, 1)
    )
    key = ("Cell", "F1_50")
    value = interval(one.figures[key])
    assert value.low < value.value < value.high and 0.05 < value.high - value.low < 0.4
    gain = interval(one.figures[key] - other.figures[key])
    assert gain.low > 0 and gain.high - gain.low < 0.5 * (value.high - value.low)
    again = evaluate([scene_set(scenes)], [tool("one", better)], Settings((100,), 400, 1))[0]
    np.testing.assert_array_equal(one.figures[key], again.figures[key])


def test_bootstrap_weights_take_as_many_images_as_there_are():
    weights = sample_weights(13, 200, 0)
    assert (weights[0] == 1).all() and (weights.sum(1) == 13).all() and weights.shape == (201, 13)


def test_the_best_confidence_and_calibration():
    """Right objects have scores from 0.5, false ones below: the best least score is the lowest right one."""
    cells = [("Cell", 0, 12 * k, 10, 12 * k + 10) for k in range(8)]
    right = [(*cell, 0.5 + 0.05 * k) for k, cell in enumerate(cells)]
    false = [("Cell", 20, 12 * k, 30, 12 * k + 10, 0.4 - 0.05 * k) for k in range(6)]
    (one,) = evaluate(
        [scene_set([scene(*cells)])], [tool("t", [objects(*right, *false)])], Settings((100,), 0)
    )
    curves = analyse(one, 100).curves["Cell"]
    assert (
        curves.best.confidence == pytest.approx(0.5) and curves.best.f1 == 1 and curves.best.working_f1 == 1
    )
    assert curves.calibration.right.tolist() == [0] * 4 + [1] * 4
    assert curves.calibration.error == pytest.approx(
        np.mean([1 - box[5] for box in right] + [b[5] for b in false]), abs=0.12
    )
    assert curves.precision_recall["0.5"].min() > 0.99
    (unscored,) = evaluate(
        [scene_set([scene(*cells)])], [tool("t", [objects(*right)], False)], Settings((100,), 0)
    )
    assert analyse(unscored, 100).curves["Cell"].best is None


def test_size_classes_judge_objects_of_their_size_only():
    """Small cells are all found, large ones never."""
    small = [("Cell", 0, 6 * k, 4, 6 * k + 4) for k in range(8)]
    large = [("Cell", 20, 12 * k, 31, 12 * k + 11) for k in range(8)]
    found = objects(*[(*cell, 0.9) for cell in small], ("Cell", 8, 0, 19, 11, 0.95))
    (one,) = evaluate([scene_set([scene(*small, *large)])], [tool("t", [found])], Settings((100,), 0))
    classes = analyse(one, 100).curves["Cell"].sizes
    assert [size.objects for size in classes] == [8, 8] or sum(size.objects for size in classes) == 16
    assert classes[0].ap == pytest.approx(1) and classes[-1].ap == 0


def test_rows_of_images_and_cell_lines():
    cells = [("Cell", 0, 0, 10, 10), ("Cell", 0, 20, 10, 30)]
    scenes = [scene(*cells, line="HeLa", name="a.png"), scene(*cells, line="", name="b.png"),
              scene(*cells, line="HeLa", name="c.png", dense=False, annotated=["Cell"])]  # fmt: skip
    founds = [objects(("Cell", 0, 0, 10, 10, 0.9)), objects(), objects(("Cell", 0, 0, 10, 10, 0.9))]
    (one,) = evaluate([scene_set(scenes)], [tool("t", founds)], Settings((100,), 0))
    analysis = analyse(one, 100)
    cell_rows = [row for row in analysis.images if row["category"] == "Cell"]
    assert [(row["image"], row["judged"], row["TP"]) for row in cell_rows] == [
        ("a.png", "yes", 1), ("b.png", "yes", 0), ("c.png", "recall only", 1)]  # fmt: skip
    lines = {row["cell_line"]: row for row in analysis.lines if row["category"] == "Cell"}
    assert lines["HeLa"]["images"] == 1 and lines["HeLa"]["F1_50"] == pytest.approx(2 / 3)
    assert lines["not stated"]["F1_50"] == 0


def test_every_figure_is_explained():
    text = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for metric in metrics_for([100]):
        assert f"`{metric.key.replace('@100', '@N')}`" in text, metric.key
