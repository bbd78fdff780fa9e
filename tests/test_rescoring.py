"""A cell's score judged again by its nucleus and its rivals: what counts, and that it does not depend on the caller."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import expit

import evican_model
from evican_model.config import NetworkConfig
from evican_model.dataset import read_dataset
from evican_model.errors import EvicanError
from evican_model.instances import Instances
from evican_model.rescoring import evidence, fit, least_own, main, rescored
from evican_model.run_folder import network_of
from evican_model.simulate import write_dataset
from evican_model.weights import check

CATEGORIES = ("Cell", "Nucleus")
SHAPE = (200, 300)
WEIGHTS = (1.3, 2.8, -3.4, -0.5)


def objects(*discs, categories=CATEGORIES):
    """Instances from (category id, score, y, x, radius)."""
    y, x = np.indices(SHAPE)
    masks = [np.hypot(y - cy, x - cx) < radius for _, _, cy, cx, radius in discs]
    rows, columns = ([np.flatnonzero(mask.any(axis)) for mask in masks] for axis in (1, 0))
    boxes = [[r[0], c[0], r[-1] + 1, c[-1] + 1] for r, c in zip(rows, columns)]
    crops = tuple(mask[b[0] : b[2], b[1] : b[3]] for mask, b in zip(masks, boxes))
    ids, scores = ([disc[i] for disc in discs] for i in (0, 1))
    return Instances(SHAPE, categories, np.array(ids), np.array(scores), np.array(boxes), crops)


def random_objects(count, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 3, count)
    radii = np.where(ids == 1, 25, 10) * rng.uniform(0.7, 1.3, count)
    return objects(*zip(ids, rng.uniform(0.02, 0.98, count), rng.random(count) * 200, rng.random(count) * 300, radii))


@pytest.fixture(scope="module")
def model():
    return evican_model.load_model()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    write_dataset(folder, 3, seed=4, size=256)
    return folder


class TestEvidence:
    found = objects(
        (1, 0.8, 60, 60, 30), (2, 0.9, 60, 60, 10),  # a cell with its nucleus
        (1, 0.6, 60, 160, 30), (2, 0.9, 60, 190, 10),  # one that half of a nucleus lies in
        (1, 0.4, 60, 64, 30),  # the first again
        (1, 0.7, 150, 240, 30),  # one without
    )  # fmt: skip

    def test_is_the_own_score_the_nucleus_and_the_rival(self):
        own, nucleus, rival = evidence(self.found).T
        np.testing.assert_allclose(expit(own), [0.8, 0.6, 0.4, 0.7], atol=1e-6)
        with_it, half, again, without = nucleus
        assert with_it == again and with_it - without == pytest.approx(0.9, abs=1e-6)
        assert half - without == pytest.approx(0.45, abs=0.06)
        assert rival[[0, 1, 3]].tolist() == [0, 0, 0] and 0.7 < rival[2] < 0.9

    def test_weak_objects_are_none(self):
        weak = objects((2, 0.15, 150, 240, 10), (1, 0.12, 150, 240, 30), (1, 0.15, 150, 241, 30))
        both = Instances.concatenate([self.found, weak])
        np.testing.assert_array_equal(evidence(both)[:4], evidence(self.found))
        assert evidence(both)[4, 2] == 1 > evidence(both)[5, 2]  # the strong cell there is the rival of both, not they

    def test_counts_nuclei_against_what_is_usual_in_the_image(self):
        def last(nuclei):
            """Evidence of a nucleus for a cell without, among 20 other cells."""
            places = [(y, x) for y in range(20, 200, 40) for x in range(20, 180, 40)]
            cells = [(1, 0.9, y, x, 18) for y, x in places]
            shown = [(2, 0.9, *place, 7) for place in places[:nuclei]]
            return evidence(objects(*cells, (1, 0.9, 100, 260, 18), *shown))[-1, 1]

        assert last(0) > last(10) > last(20)
        assert last(0) > -0.2 and last(20) < -0.7

    def test_of_no_object(self):
        assert evidence(Instances.empty(SHAPE, CATEGORIES)).shape == (0, 3)
        assert len(rescored(Instances.empty(SHAPE, CATEGORIES), WEIGHTS)) == 0


class TestRescored:
    def test_cells_with_a_nucleus_gain_and_others_lose(self):
        found = TestEvidence.found
        new = rescored(found, WEIGHTS)
        np.testing.assert_array_equal(new.scores("Nucleus"), found.scores("Nucleus"))
        first, half, again, without = new.scores("Cell")
        assert first > 0.8 and without < 0.7 and again < 0.4
        assert first > half > without > again

    @pytest.mark.parametrize("categories", [("Cell", "Vacuole"), ("Zelle", "Nucleus")])
    def test_needs_cells_and_nuclei(self, categories):
        found = objects((1, 0.8, 60, 60, 30), (2, 0.9, 60, 60, 10), categories=categories)
        assert rescored(found, WEIGHTS) is found

    def test_by_default_scores_stay(self):
        assert rescored(TestEvidence.found, NetworkConfig().rescoring) is TestEvidence.found

    @pytest.mark.parametrize("weights", [WEIGHTS, (0.7, 0.5, -1.0, 1.5), (3.0, -2.0, -1.0, -2.0)])
    @pytest.mark.parametrize("score", [0.05, 0.3, 0.6, 0.95])
    def test_no_object_is_lost_that_was_too_weak_before(self, weights, score):
        for seed in range(4):
            found = random_objects(80, seed)
            least = np.array(least_own(score, weights, found.categories))
            kept = found.select(found.all_scores >= least[found.category_ids - 1])
            whole, part = rescored(found, weights), rescored(kept, weights)
            wanted = np.sort(whole.all_scores[whole.all_scores >= score])
            np.testing.assert_array_equal(np.sort(part.all_scores[part.all_scores >= score]), wanted)


class TestFit:
    def test_finds_the_weights_that_the_cells_were_drawn_by(self):
        rng, samples = np.random.default_rng(0), []
        for _ in range(40):
            known = np.stack([rng.normal(0, 2, 400), rng.uniform(-0.7, 0.3, 400), rng.uniform(0, 1, 400)], 1)
            right = rng.random(400) < expit(known @ WEIGHTS[:3] + WEIGHTS[3])
            samples.append((known, right, 1.0))
        np.testing.assert_allclose(fit(samples), WEIGHTS, atol=0.3)

    def test_needs_right_and_wrong_cells(self):
        with pytest.raises(EvicanError, match="all are right or none"):
            fit([(np.zeros((3, 3)), np.ones(3, bool), 1.0)])


class TestModel:
    def test_an_object_has_the_same_score_whatever_is_asked_for(self, model, plate_image):
        image = plate_image("C04")
        everything = model.detect(image)
        for least in (0.3, 0.6, 0.9):
            found = model.detect(image, minimum_score=least)
            assert found.all_scores.min(initial=1) >= least
            np.testing.assert_allclose(
                np.sort(found.all_scores), np.sort(everything.all_scores[everything.all_scores >= least]), atol=1e-5
            )

    def test_the_bundled_weights_rescore(self, model):
        own, nucleus, rival, _ = model.config.rescoring
        assert own > 0 and nucleus > 1 and rival < -1
        assert check("accurate").config.rescoring == model.config.rescoring

    def test_new_heads_start_with_scores_of_their_own(self):
        assert network_of("bundled", None, CATEGORIES, new_heads=False).rescoring == check().config.rescoring
        assert network_of("bundled", None, CATEGORIES, new_heads=True).rescoring == NetworkConfig().rescoring


class TestCommand:
    @pytest.mark.long
    def test_writes_weights_that_rescore(self, simulated, tmp_path):
        command = [sys.executable, "-m", "evican_model.rescoring", "bundled", "--dataset", simulated / "simulated.json",
                   "--images", simulated / "images", "--output", tmp_path / "my.h5"]  # fmt: skip
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        info = check(tmp_path / "my.h5")
        told = json.loads(done.stdout.split("rescoring: ")[1].splitlines()[0])
        assert list(info.config.rescoring) == told and info.config.rescoring != check().config.rescoring
        assert info.config.views == 1 and info.training["rescoring"][0]["images"] == 3
        row = next(line for line in done.stdout.splitlines() if "simulated.json" in line)
        items = read_dataset(simulated / "simulated.json", simulated / "images", CATEGORIES)
        assert int(row.split("|")[3]) == sum(len(item.truth.of("Cell")) for item in items)
        assert len(evican_model.load_model(tmp_path / "my.h5").segment(np.zeros((64, 64), np.uint8))) == 0

    def test_refuses_what_it_cannot_fit_to(self, simulated, tmp_path, capsys):
        content = json.loads((simulated / "simulated.json").read_text())
        for image in content["images"]:
            image["annotated_classes"] = ["Nucleus"]
        nuclei = tmp_path / "nuclei.json"
        nuclei.write_text(json.dumps(content))
        place = ["--images", str(simulated / "images"), "--output", str(tmp_path / "my.h5")]
        assert main(["bundled", "--dataset", str(nuclei), *place]) == 2
        assert "nuclei.json has no image in which all cells are outlined" in capsys.readouterr().err
        assert main(["bundled", "--dataset", str(nuclei), "--dataset", str(nuclei), *place]) == 2
        assert "2 --dataset and 1 --images" in capsys.readouterr().err
        assert main(["missing.h5", "--dataset", str(nuclei), *place]) == 2
        assert "missing.h5" in capsys.readouterr().err
        assert not (tmp_path / "my.h5").exists()

    @pytest.mark.parametrize("weights", [[1.0, 2.0], [0.0, 1.0, 1.0, 1.0], [1, "a", 0, 0]])
    def test_refuses_weights_that_are_none(self, weights):
        with pytest.raises(EvicanError, match="rescoring is"):
            NetworkConfig.from_dict({**NetworkConfig().to_dict(), "rescoring": weights})
