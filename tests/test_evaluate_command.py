"""The whole command with the bundled weights, and its report as a phone shows it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import browser
import numpy as np
import pytest
from PIL import Image

import evican_model
from evican_model import predict
from evican_model.dataset import read_dataset
from evican_model.evaluate import average_precision
from evican_model.evaluate.command import main
from evican_model.images import read_image

DATA = Path(__file__).parent / "data"
ANNOTATIONS = DATA / "evican_sample.json"


@pytest.fixture(scope="module", autouse=True)
def bundled():
    """The bundled model, for all commands here: loading it takes longer than the images."""
    model = evican_model.load_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evican_model, "load_model", lambda weights: model)
        yield model


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """The sample images saved anew, so that their files are none of those that the weights were trained on."""
    folder = tmp_path_factory.mktemp("unseen")
    content = json.loads(ANNOTATIONS.read_text())
    for entry in content["images"]:
        with Image.open(DATA / entry["file_name"]) as image:
            entry["file_name"] = f"{Path(entry['file_name']).stem}.png"
            image.save(folder / entry["file_name"])
    (folder / "a.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def report(bundled, unseen):
    """A report of the bundled weights beside their own label images and a threshold."""
    assert predict.main([str(unseen / "15_Caco-2.png"), str(unseen / "46_HT1080.png"), "--labels", "--csv",
                         "--output", str(unseen / "labels")]) == 0  # fmt: skip
    (unseen / "threshold").mkdir()
    for path in unseen.glob("*.png"):
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
        blocks = (np.indices(grey.shape) // 40).sum(0) % 2 * (np.indices(grey.shape)[0] // 40 + 1)
        Image.fromarray(blocks.astype(np.uint8)).save(unseen / "threshold" / f"{path.stem}_masks.png")
    assert main(["--annotations", str(unseen / "a.json"), "--output", str(unseen / "report"), "--bootstrap", "100",
                 "--compare", f"labels={unseen / 'labels'}", f"blocks={unseen / 'threshold'}:Cell"]) == 0  # fmt: skip
    return unseen / "report"


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_figures_are_those_of_the_model(bundled, unseen, report):
    items = read_dataset(unseen / "a.json", unseen, bundled.config.categories)
    pairs = [(item, bundled.detect(read_image(item.path))) for item in items]
    figures = {(row["tool"], row["category"], row["metric"]): row for row in rows(report / "metrics.csv")}
    for category in ("Cell", "Nucleus"):
        expected = average_precision(pairs, category)["AP50"]
        assert float(figures["bundled", category, "AP50@1000"]["value"]) == pytest.approx(expected, abs=1e-5)
        assert expected > 0.3
        # its own label images are what it gives at the working confidence
        for metric in ("F1_50", "F1_75", "PQ", "count_error", "area_bias"):
            assert (
                figures["bundled", category, metric]["value"] == figures["labels", category, metric]["value"]
            )
    assert (
        figures["bundled", "Nucleus", "link_whole"]["value"]
        == figures["labels", "Nucleus", "link_whole"]["value"]
    )
    assert ("blocks", "Nucleus", "F1_50") not in figures


def test_tables_agree_with_each_other(report):
    content = json.loads((report / "report.json").read_text(encoding="utf-8"))
    images = rows(report / "images.csv")
    assert len(images) == 2 * 2 + 2 * 2 + 2 == len(content["images"])
    hits = sum(int(row["TP"]) for row in images if (row["tool"], row["category"]) == ("bundled", "Cell"))
    true = sum(int(row["true"]) for row in images if (row["tool"], row["category"]) == ("bundled", "Cell"))
    recall = next(row["value"] for row in content["metrics"]
                  if (row["tool"], row["category"], row["metric"]) == ("bundled", "Cell", "recall50"))  # fmt: skip
    assert recall == pytest.approx(hits / true)
    assert {row["cell_line"] for row in rows(report / "cell_lines.csv")} == {"Caco-2", "HT1080"}
    differences = {
        (row["other"], row["category"], row["metric"]): row for row in rows(report / "differences.csv")
    }
    assert float(differences["labels", "Cell", "PQ"]["difference"]) == 0
    assert float(differences["blocks", "Cell", "F1_50"]["low"]) > 0
    assert set(content["definitions"]) >= {row["metric"] for row in content["metrics"]}


def test_the_report_needs_nothing_else(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", page) and "<script" not in page
    assert "url(" not in page and len(page) < 6_000_000


def test_the_report_on_a_phone(report, tmp_path):
    if browser.missing():
        pytest.skip(browser.missing())
    with browser.phone(tmp_path) as page:
        page.open(report / "report.html")
        assert page.complaints() == []
        assert page.run("return window.innerWidth") == 390
        assert (
            page.run("return document.documentElement.scrollWidth") <= 390
        )  # nothing to push aside but tables
        broken = "return [...document.images].filter(one => !(one.complete && one.naturalWidth > 40)).length"
        page.run("document.querySelectorAll('img').forEach(one => one.loading = 'eager')")
        page.run("return Promise.all([...document.images].map(one => one.decode()))")
        assert page.run("return document.images.length") >= 4 + 4 and page.run(broken) == 0
        small = """return [...document.querySelectorAll('main *')].filter(one => one.childElementCount == 0 &&
            one.textContent.trim() && parseFloat(getComputedStyle(one).fontSize) < 12).length"""
        assert page.run(small) == 0
        wide = """return [...document.querySelectorAll('table')].filter(one => one.checkVisibility() &&
            one.scrollWidth > one.parentElement.clientWidth + 1 &&
            getComputedStyle(one.parentElement).overflowX != 'auto').length"""
        assert page.run(wide) == 0
        page.photograph(tmp_path / "top.png")
        with Image.open(tmp_path / "top.png") as shot:
            assert shot.size == (780, 1688) and np.asarray(shot.convert("L")).std() > 10


def test_images_that_were_trained_on_are_left_out_and_named(tmp_path, unseen, capsys):
    folder = tmp_path
    content = json.loads((unseen / "a.json").read_text())
    names = ["15_Caco-2.jpg", "46_HT1080.png"]  # the first as it was trained on, the second saved anew
    for entry, name in zip(content["images"], names):
        entry["file_name"] = name
        (folder / name).write_bytes(((DATA if name.endswith("jpg") else unseen) / name).read_bytes())
    (folder / "a.json").write_text(json.dumps(content))
    command = ["--annotations", str(folder / "a.json"), "--bootstrap", "10", "--output", str(folder / "out")]
    assert main(command) == 0
    assert "left out, as the weights were trained on them: 15_Caco-2.jpg" in capsys.readouterr().out
    assert {row["image"] for row in rows(folder / "out" / "images.csv")} == {"46_HT1080.png"}
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "Left out of a" in page and "15_Caco-2.jpg" in page and 'id="trained"' not in page
    assert main([*command, "--include-trained"]) == 0
    assert len({row["image"] for row in rows(folder / "out" / "images.csv")}) == 2
    assert 'id="trained"' in (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_nothing_is_left_to_evaluate(capsys, tmp_path):
    output = tmp_path / "out"
    assert main(["--annotations", str(ANNOTATIONS), "--images", str(DATA), "--output", str(output)]) == 2
    assert "trained on all 2 images" in capsys.readouterr().err
