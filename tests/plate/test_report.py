"""report.html in a real browser, without a network."""

from __future__ import annotations

import io
import json
import re
import subprocess

import pytest

pytest.importorskip(
    "pyarrow", reason="evican_plate is not installed here: EVICAN_CELLPROFILER=plate script/test"
)

from generated import make_output  # noqa: E402

from evican_plate.finish import finish  # noqa: E402
from evican_plate.platemap import PlateMap  # noqa: E402

WELLS = [f"{row}{column:02d}" for row in "ABCD" for column in range(1, 7)]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--hide-scrollbars", "--window-size=1280,1000"]  # fmt: skip
# What a user does, written into the page as a script after its own; what it saw goes into a <pre>.
USER = """
<script>
const seen = {};
const wells = () => [...document.querySelectorAll("rect.well")].map((r) => [r.dataset.well, r.getAttribute("fill"),
  r.querySelector("title").textContent]);
seen.first = wells();
const choose = (id, value) => {
  const select = document.getElementById(id);
  select.value = value;
  select.dispatchEvent(new Event("change"));
};
choose("feature", "Cells_AreaShape_Area_Median");
seen.area = wells();
document.querySelector('rect.well[data-well="B03"]').dispatchEvent(new MouseEvent("click"));
seen.detail = document.getElementById("detail").textContent;
seen.links = [...document.querySelectorAll("#detail a")].map((a) => a.getAttribute("href"));
choose("plate", "P2");
seen.second = wells();
choose("distribution", "Nuclei_Intensity_Feature001_Unstained");
seen.histograms = document.querySelectorAll("#histograms path").length;
seen.groups = [...document.querySelectorAll("#histograms text")].map((t) => t.textContent);
seen.failures = document.getElementById("failures").textContent;
seen.facts = document.getElementById("facts").textContent;
seen.flags = document.getElementById("flags").textContent;
const pre = document.createElement("pre");
pre.id = "seen";
pre.textContent = JSON.stringify(seen);
document.body.appendChild(pre);
</script>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of two generated plates with a failure and names that want to be code."""
    folder = tmp_path_factory.mktemp("report")
    layout, plan = make_output(folder, WELLS, sites=2, plates=("P1", "P2"), failed=(7,))
    layout.lock.touch()
    plan["images"][6]["files"]["Unstained"] = "/data/</script><b id='bad'>&.tif"
    treatments = {("", well): {"Metadata_Treatment": f"<i>{well[0]}</i>"} for well in WELLS}
    platemap = PlateMap(("Metadata_Treatment",), treatments, ("Metadata_Treatment", "<i>A</i>"))
    about = {"command": "python -m evican_plate run", "finished": "2026", "seconds": 12.5, "workers": 2}
    assert finish(layout, plan, platemap, [], about, io.StringIO()) == 3
    return layout.output / "report.html"


def browse(chromium, page):
    """Open a page; return what it looks like in the end, and what the browser's console said."""
    profile = page.parent / "profile"
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", "--enable-logging=stderr", "--virtual-time-budget=5000",
               "--dump-dom", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def seen(report, chromium):
    page = report.parent / "as a user.html"
    page.write_text(report.read_text(encoding="utf-8").replace("</body>", USER + "</body>"), encoding="utf-8")
    dom, console = browse(chromium, page)
    assert console == []
    text = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)[1]
    for code, character in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(code, character)
    return json.loads(text)


def test_one_file_that_needs_no_other(report):
    page = report.read_text(encoding="utf-8")
    fetched = re.findall(
        r"""(?:src|href)\s*=\s*["']([^"']+)|url\(([^)]+)\)|@import|fetch\(|XMLHttp|import\(""", page
    )
    assert all(address[0].startswith("data:") for address in fetched)


def test_heat_map_choice(seen):
    assert [well for well, _, _ in seen["first"]] == WELLS
    assert len({color for _, color, _ in seen["first"]}) > 3
    assert seen["area"] != seen["first"] != seen["second"]
    well, _, title = seen["area"][8]
    assert title.startswith(f"{well}: ") and float(title.split(": ")[1]) > 500


def test_chosen_well(seen):
    assert seen["detail"].startswith("B03")
    assert "Treatment<i>B</i>" in seen["detail"] and "Cells_AreaShape_Area_Median" in seen["detail"]


def test_other_parts(seen):
    assert seen["histograms"] == 4 and "<i>C</i>" in seen["groups"]
    assert "</script><b id='bad'>&.tif" in seen["failures"] and "A04" in seen["failures"]
    for fact in ("python -m evican_plate run", "12.5 s", "SHA-256 2", "5.0.0"):
        assert fact in seen["facts"]


def test_screenshot_is_not_blank(report, chromium, tmp_path):
    from PIL import Image

    picture = tmp_path / "shot.png"
    command = [
        chromium,
        *FLAGS,
        f"--user-data-dir={tmp_path}/profile",
        f"--screenshot={picture}",
        report.as_uri(),
    ]
    subprocess.run(command, capture_output=True, timeout=180, check=True)
    with Image.open(picture) as image:
        colors = image.convert("RGB").getcolors(1 << 20)
    assert len(colors) > 200
