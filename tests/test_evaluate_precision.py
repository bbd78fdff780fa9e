"""Average precision is that of pycocotools to the last bit; its resampling is that of images taken twice or never."""

from __future__ import annotations

import contextlib
import copy
import doctest
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evican_model.dataset import AnnotatedImage
from evican_model.evaluate import matching
from evican_model.evaluate.evaluation import average_precision
from evican_model.evaluate.found import best_first
from evican_model.evaluate.ground_truth import Scene
from evican_model.evaluate.matching import THRESHOLDS, mask_and_box_overlaps, match
from evican_model.evaluate.metrics import measure
from evican_model.evaluate.pooling import Ranking, average_precisions, curves, pool
from evican_model.evaluate.tally import tally_image
from evican_model.instances import Instances
from evican_model.runs import read_outlines

SHAPE = (60, 70)
RANGES = [[0, 1e10], [0, 100], [100, 250], [250, 1e10]]
CAPS = [1, 3, 100]


def disc(rng):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    wide = rng.uniform(0.7, 1.3)
    y, x = rng.integers(0, SHAPE[0]), rng.integers(0, SHAPE[1])
    return np.hypot(rows - y, (columns - x) * wide) < rng.integers(2, 14)


def packed(mask):
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


def random_case(seed, categories=1):
    """Images, annotations (crowds and the useless key `ignore` among them) and results with many equal scores."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": k, "height": SHAPE[0], "width": SHAPE[1], "file_name": f"{k}.png"}
        for k in range(1, rng.integers(3, 7))
    ]
    truths, found = [], []
    for image in images:
        for category in range(1, categories + 1):
            for _ in range(rng.integers(0, 8)):
                mask = disc(rng)
                truths.append({"id": len(truths) + 1, "image_id": image["id"], "category_id": category,
                               "segmentation": packed(mask), "area": int(mask.sum()),
                               "bbox": coco_mask.toBbox(packed(mask)).tolist(), "iscrowd": int(rng.random() < 0.15),
                               "ignore": int(rng.random() < 0.2)})  # fmt: skip
                for _ in range(rng.integers(0, 4)):
                    moved = np.roll(mask, tuple(rng.integers(-2, 3, 2)), (0, 1))
                    found.append((image["id"], category, moved))
            found += [(image["id"], category, disc(rng)) for _ in range(rng.integers(0, 4))]
    rng.shuffle(found)
    results = [
        {
            "image_id": image,
            "category_id": category,
            "segmentation": packed(mask),
            "score": float(np.round(rng.random(), rng.integers(1, 17))),
        }
        for image, category, mask in found
    ]
    return images, truths, results


def coco_eval(images, truths, results, kind, image_ids=None, categories=1):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": copy.deepcopy(truths), "info": {},
                        "categories": [{"id": k, "name": str(k)} for k in range(1, categories + 1)]}  # fmt: skip
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), kind)
        evaluation.params.maxDets, evaluation.params.areaRng = CAPS, RANGES
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


def instances(entries):
    boxes, crops = read_outlines([entry["segmentation"] for entry in entries], SHAPE)
    return Instances(SHAPE, ("1",), np.ones(len(entries)), np.ones(len(entries)), boxes, crops)


def rankings(images, truths, results, kind, low, high):
    which = {"segm": 0, "bbox": 1}[kind]
    for image in images:
        true = [one for one in truths if one["image_id"] == image["id"]]
        scores = np.array([one["score"] for one in results if one["image_id"] == image["id"]])
        found = best_first(instances([one for one in results if one["image_id"] == image["id"]]), scores)
        crowd = np.array([one["iscrowd"] for one in true], bool)
        areas, true_areas = found.objects.areas(), instances(true).areas()
        ignored = crowd | (true_areas < low) | (true_areas > high)
        overlaps = mask_and_box_overlaps(found.objects, instances(true), crowd)[which]
        matches = match(overlaps, THRESHOLDS, ignored, crowd)
        yield Ranking.of(found.scores, matches, ignored, (areas < low) | (areas > high))


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("seed", range(12))
def test_precision_and_recall_are_those_of_pycocotools_to_the_last_bit(seed, kind):
    images, truths, results = random_case(seed)
    theirs = coco_eval(images, truths, results, kind)
    for a, (low, high) in enumerate(RANGES):
        ones = list(rankings(images, truths, results, kind, low, high))
        for m, cap in enumerate(CAPS):
            precision, recall = curves(pool(ones, cap))
            expected, expected_recall = theirs["precision"][:, :, 0, a, m], theirs["recall"][:, 0, a, m]
            if (expected == -1).all():
                assert np.isnan(precision).all()
                continue
            np.testing.assert_array_equal(precision, expected)
            np.testing.assert_array_equal(recall, expected_recall)
            value = average_precisions(pool(ones, cap), np.ones((1, len(ones)), int))[0]
            assert value[0] == np.mean(expected[expected > -1]) and value[1] == np.mean(expected[0])


@pytest.mark.parametrize("seed", range(6))
def test_a_resampling_is_the_evaluation_of_repeated_images(seed):
    """Pycocotools is given each image as often as it was drawn, under numbers that keep the order."""
    images, truths, results = random_case(100 + seed)
    drawn = np.random.default_rng(seed).multinomial(len(images), np.full(len(images), 1 / len(images)))
    results = [
        {**one, "score": k / 1e4} for k, one in enumerate(results)
    ]  # equal scores would be ordered otherwise
    many, true_many, found_many = [], [], []
    for image, times in zip(images, drawn):
        for _ in range(times):
            number = len(many) + 1
            many.append({**image, "id": number})
            true_many += [{**one, "image_id": number} for one in truths if one["image_id"] == image["id"]]
            found_many += [{**one, "image_id": number} for one in results if one["image_id"] == image["id"]]
    true_many = [{**one, "id": k} for k, one in enumerate(true_many, start=1)]
    theirs = coco_eval(many, true_many, found_many, "segm")["precision"][:, :, 0, 0, 2]
    ones = list(rankings(images, truths, results, "segm", 0, 1e10))
    ours = average_precisions(pool(ones, 100), np.stack([np.ones(len(images), int), drawn]))[1]
    # The copies of an image share each score; pycocotools sees their hits one after another, we together.
    np.testing.assert_allclose(ours[0], theirs.mean(), atol=0.02)
    once = np.minimum(drawn, 1)
    kept = [image["id"] for image, times in zip(images, once) if times]
    theirs = coco_eval(images, truths, results, "segm", kept)["precision"][:, :, 0, 0, 2]
    ours = average_precisions(pool(ones, 100), once[None])[0]
    assert ours[0] == theirs.mean()


@pytest.mark.parametrize("seed", range(6))
def test_each_category_is_judged_on_the_images_annotated_for_it(seed):
    """Images in random parts of annotated_classes: as pycocotools restricted to each category's images."""
    images, truths, results = random_case(200 + seed, categories=2)
    rng = np.random.default_rng(seed)
    names, confidence = ("1", "2"), {"1": 0.5, "2": 0.5}
    edges = {name: np.array([0, np.inf]) for name in names}
    annotated = [frozenset(name for name in names if rng.random() < 0.7) for _ in images]
    tallies = []
    for image, classes in zip(images, annotated):

        def of(entries, image=image):
            mine = [one for one in entries if one["image_id"] == image["id"]]
            boxes, crops = read_outlines([one["segmentation"] for one in mine], SHAPE)
            ids = np.array([one["category_id"] for one in mine], int)
            return mine, Instances(SHAPE, names, ids, np.ones(len(mine)), boxes, crops)

        true, objects = of(truths)
        item = AnnotatedImage(Path(image["file_name"]), image["id"], SHAPE, objects, classes, True, "")
        scene = Scene(item, np.array([one["iscrowd"] for one in true], bool), "")
        found, objects = of(results)
        found = best_first(objects, np.array([one["score"] for one in found]))
        tallies.append(tally_image(scene, found, False, frozenset(names), confidence, edges))
    figures = measure(tallies, names, np.ones((1, len(images)), int), CAPS)
    per_class = {cap: [] for cap in CAPS}
    for k, name in enumerate(names):
        ids = [image["id"] for image, classes in zip(images, annotated) if name in classes]
        theirs = coco_eval(images, truths, results, "segm", ids, 2)["precision"] if ids else None
        for m, cap in enumerate(CAPS):
            expected = -1 if theirs is None else theirs[:, :, k, 0, m].mean()
            if expected == -1:
                assert (name, f"AP@{cap}") not in figures or np.isnan(figures[name, f"AP@{cap}"][0])
            else:
                assert figures[name, f"AP@{cap}"][0] == expected
                per_class[cap].append(expected)
    for cap, values in per_class.items():
        if len(values) == 2:
            assert figures["all", f"AP@{cap}"][0] == pytest.approx(np.mean(values), rel=1e-14)


def test_average_precision_of_pairs_is_that_of_pycocotools():
    images, truths, results = random_case(7)
    truths = [{**one, "iscrowd": 0} for one in truths]
    results = [{**one, "score": float(np.float32(one["score"]))} for one in results]
    pairs = []
    for image in images:
        mine = [one for one in results if one["image_id"] == image["id"]]
        boxes, crops = read_outlines([one["segmentation"] for one in mine], SHAPE)
        found = Instances(SHAPE, ("1",), np.ones(len(mine)), [one["score"] for one in mine], boxes, crops)
        true = instances([one for one in truths if one["image_id"] == image["id"]])
        pairs.append((AnnotatedImage(Path("x"), image["id"], SHAPE, true, frozenset(["1"]), True, ""), found))
    theirs = coco_eval(images, truths, results, "segm")["precision"]
    for m, cap in enumerate(CAPS):
        ours = average_precision(pairs, "1", cap)
        assert ours["AP"] == theirs[:, :, 0, 0, m].mean() and ours["AP75"] == theirs[5, :, 0, 0, m].mean()
    assert ours["objects"] == len(truths) and ours["images"] == len(images)
    nothing = [(item, Instances.empty(SHAPE, ("1",))) for item, _ in pairs]
    assert average_precision(nothing, "1")["AP"] == 0
    partly = [(AnnotatedImage(*[getattr(i, f) for f in ("path", "image_id", "shape", "truth")], frozenset(), True, ""),
               found) for i, found in pairs]  # fmt: skip
    assert average_precision(partly, "1")["images"] == 0 and np.isnan(average_precision(partly, "1")["AP"])


def test_examples():
    assert doctest.testmod(matching).failed == 0
