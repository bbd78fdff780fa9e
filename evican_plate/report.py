"""report.html: one file with everything in it, to look at in any browser, without a network."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from evican_model.errors import ImageError
from evican_model.images import read_image
from evican_plate.merge import Merged
from evican_plate.plates import Failure
from evican_plate.quality import FLAGS
from evican_plate.summary import Summary

__all__ = ["write_report"]

_HERE = Path(__file__).parent
THUMBNAIL_PIXELS = 220
MAXIMUM_THUMBNAILS = 1536  # about 15 MB
MAXIMUM_VALUES = 2_000_000  # of wells times features
MAXIMUM_TREATMENTS = 24
MAXIMUM_ROWS = 2000  # of flagged images, and of failures
_BINS = 40


def write_report(
    path: Path,
    plan: dict[str, Any],
    merged: Merged,
    failures: Sequence[Failure],
    saved: dict[int, list[str]],
    facts: dict[str, Any],
    output: Path,
) -> None:
    """Write the report.

    Parameters
    ----------
    path : Path
        Of report.html.
    plan : dict
    merged : Merged
    failures : sequence of Failure
    saved : dict of int to list of str
        Files of each image, relative to the folder that the report will lie in.
    facts : dict
        Where the tables come from.
    output : Path
        The folder that the report will lie in.
    """
    wells = merged.wells.to_pylist()
    features, left_out = _features(merged.wells)
    data = {
        "title": Path(plan["folder"]).name,
        "wells": [
            {
                "plate": row["Metadata_Plate"],
                "well": row["Metadata_Well"],
                "time": row["Metadata_Time"],
                "about": {
                    name[len("Metadata_") :]: row[name]
                    for name in row
                    if name.startswith("Metadata_")
                    and name not in ("Metadata_Plate", "Metadata_Well", "Metadata_Time")
                },
                "images": row["Count_Images"],
                "failed": row["Count_FailedImages"],
            }
            for row in wells
        ],
        "features": features,
        "leftOut": left_out,
        "pictures": _pictures(plan, merged.summary, saved, output),
        "flags": _flagged(merged.images, saved),
        "flagNames": FLAGS,
        "flagCounts": {name: sum(merged.images.column(f"QC_{name}").to_pylist()) for name in FLAGS},
        "distributions": _distributions(merged.summary, wells),
        "failures": [vars(failure) for failure in failures[:MAXIMUM_ROWS]],
        "failureCount": len(failures),
        "rows": merged.rows,
        "facts": _facts(facts),
    }
    # "<" must not end the script element, whatever a file is named
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = (_HERE / "report_page.html").read_text(encoding="utf-8")
    script = (_HERE / "report_page.js").read_text(encoding="utf-8")
    page = page.replace("__TITLE__", html.escape(Path(plan["folder"]).name))
    before, _, after = page.partition("__SCRIPT__")
    path.write_text(f"{before}const DATA = {text};\n{script}{after}", encoding="utf-8")


def _features(wells: pa.Table) -> tuple[dict[str, list[float | None]], int]:
    """Return the values that a heat map can show, counts and confluency first, and how many did not fit."""
    names = [
        name
        for name in wells.column_names
        if not name.startswith(("Metadata_", "Count_Images", "Count_Failed"))
    ]
    names = [name for name in names if not name.endswith("_MAD")]
    order = sorted(
        names, key=lambda name: (not name.startswith(("Count_", "Confluency")), name.endswith("_RobustZ"))
    )
    fitting = order[: max(1, MAXIMUM_VALUES // max(1, len(wells)))]
    return {name: [_short(value) for value in wells.column(name).to_pylist()] for name in fitting}, len(
        order
    ) - len(fitting)


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _pictures(
    plan: dict[str, Any], summary: Summary, saved: dict[int, list[str]], output: Path
) -> dict[int, dict[str, Any]]:
    """Return, by well, a small picture of its middle image and the files of all of them."""
    images: dict[int, list[dict[str, Any]]] = {}
    for image in plan["images"]:
        if image["number"] in saved or image["number"] not in summary.failed:
            well = summary.groups[image["plate"], image["well"], image["time"]]
            images.setdefault(well, []).append(image)
    pictures: dict[int, dict[str, Any]] = {}
    for well, mine in images.items():
        links = [(f"site {image['site']}", _shown(saved.get(image["number"], []))) for image in mine]
        picture: dict[str, Any] = {"links": [(text, link) for text, link in links if link]}
        if len(pictures) < MAXIMUM_THUMBNAILS:
            middle = mine[len(mine) // 2]
            overlay = _shown(saved.get(middle["number"], []))
            source = output / overlay if overlay else Path(middle["files"][plan["pipeline"]["image"]])
            picture["picture"] = _thumbnail(source)
        pictures[well] = picture
    return pictures


def _shown(files: Sequence[str]) -> str | None:
    """Return the file that a browser can show."""
    return next((file for file in files if file.lower().endswith((".png", ".jpg", ".jpeg"))), None)


def _thumbnail(path: Path) -> str | None:
    """Return a small JPEG as a data URL; None for a file that only CellProfiler reads."""
    try:
        pixels = read_image(path)
    except ImageError:
        return None
    if pixels.dtype != np.uint8:
        low, high = np.percentile(pixels, [0.5, 99.5])
        pixels = np.clip((pixels - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels).convert("RGB")
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _flagged(images: pa.Table, saved: dict[int, list[str]]) -> list[dict[str, Any]]:
    columns = ["ImageNumber", "Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Time", "QC_Flags"]
    rows = [row for row in images.select(columns).to_pylist() if row["QC_Flags"]]
    return [
        {
            "plate": row["Metadata_Plate"],
            "well": row["Metadata_Well"],
            "site": row["Metadata_Site"],
            "time": row["Metadata_Time"],
            "flags": row["QC_Flags"].split(";"),
            "link": _shown(saved.get(row["ImageNumber"], [])),
        }
        for row in rows[:MAXIMUM_ROWS]
    ]


def _distributions(summary: Summary, wells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return histograms of each feature by treatment, of up to 100 evenly chosen objects of each well."""
    names = [name for name in summary.platemap.columns if name != "Metadata_Control"]
    by = next(
        (name for name in names if name.lower().endswith(("treatment", "compound"))),
        names[0] if names else None,
    )
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(wells):
        groups.setdefault(str(row[by]) if by else "all wells", []).append(i)
    shown = sorted(groups, key=lambda name: -len(groups[name]))[:MAXIMUM_TREATMENTS]
    found: dict[str, Any] = {}
    for table, features in summary.features.items():
        pooled = {name: np.concatenate([summary.samples[table][i] for i in groups[name]]) for name in shown}
        everything = np.concatenate(list(pooled.values()))
        for i, feature in enumerate(features):
            known = everything[:, i][np.isfinite(everything[:, i])]
            if not len(known):
                continue
            low, high = (float(f"{value:.4g}") for value in np.percentile(known, [0.5, 99.5]))
            if not high > low:
                continue
            counts = [
                np.histogram(np.clip(values[:, i], low, high), _BINS, (low, high))[0].tolist()
                for values in pooled.values()
            ]
            found[f"{table}_{feature}"] = {"low": low, "high": high, "counts": counts}
    by_text = by[len("Metadata_") :] if by else ""
    return {"by": by_text, "groups": sorted(shown), "order": shown, "all": len(groups), "features": found}


def _facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return where the tables come from, as lines to show."""
    program, pipeline = facts["cellprofiler"], facts["pipeline"]
    return [
        ("finished", str(facts["finished"])),
        ("run time of the last run", f"{facts['seconds']} s"),
        ("workers", str(facts["workers"])),
        ("images", f"{facts['images_done']} of {facts['images']} done"),
        ("plate folder", facts["plate_folder"]),
        ("command", facts["command"]),
        ("pipeline", f"{pipeline['path']} (SHA-256 as run {pipeline['sha256']})"),
        ("weights", f"{program['weights']} (SHA-256 {program['weights_sha256']})"),
        ("CellProfiler", f"{program['cellprofiler']}, Python {program['python']}, {program['command']}"),
        ("TensorFlow, NumPy", f"{program['tensorflow']}, {program['numpy']}"),
        ("evican_model", f"{program['evican_model']} (SHA-256 of its code {program['code_sha256']})"),
        ("SegmentEVICAN", f"SHA-256 {program['plugin_sha256']}"),
        ("evican_plate", f"{facts['evican_plate']}, Python {facts['python']}"),
        ("machine", facts["machine"]),
        ("threads of each worker", str(facts["threads"])),
    ]
