"""The figures as files for other programs: metrics.csv, images.csv, cell_lines.csv, differences.csv, report.json."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any, Iterable, Sequence

from evican_model.evaluate.analysis import Analysis
from evican_model.evaluate.evaluation import Judgement, Settings
from evican_model.evaluate.metrics import ALL, interval, metrics_for

__all__ = ["difference_rows", "metric_rows", "write_file", "write_tables"]

_IMAGE_COLUMNS = (
    "set", "tool", "image", "cell_line", "category", "judged", "true", "found", "TP", "FP", "FN", "F1_50", "F1_75",
    "F1_90", "PQ", "AP", "AP50", "AP75", "true_area", "found_area",
)  # fmt: skip


def metric_rows(judgements: Sequence[Judgement], settings: Settings) -> list[dict[str, Any]]:
    """Return a row for each set, tool, category and figure, with its 95 % interval."""
    rows = []
    for one in judgements:
        for category in (ALL, *one.scenes.categories):
            for metric in metrics_for(settings.caps):
                if (category, metric.key) in one.figures:
                    figure = interval(one.figures[category, metric.key])
                    rows.append({"set": one.scenes.name, "tool": one.tool.name, "category": category,
                                 "metric": metric.key, "value": figure.value, "low": figure.low, "high": figure.high,
                                 "unit": metric.unit})  # fmt: skip
    return rows


def difference_rows(judgements: Sequence[Judgement], settings: Settings) -> list[dict[str, Any]]:
    """Return what the first tool has over each other one, on the same images and the same bootstrap samples."""
    rows = []
    firsts = {one.scenes.name: one for one in reversed(judgements)}
    for one in judgements:
        first = firsts[one.scenes.name]
        if one is first:
            continue
        for category in (ALL, *one.scenes.categories):
            if category == ALL and one.results.offered != first.results.offered:
                continue  # means over other classes are no pair
            for metric in metrics_for(settings.caps):
                key = (category, metric.key)
                if key in one.figures and key in first.figures:
                    figure = interval(first.figures[key] - one.figures[key])
                    rows.append({"set": one.scenes.name, "tool": first.tool.name, "other": one.tool.name,
                                 "category": category, "metric": metric.key, "difference": figure.value,
                                 "low": figure.low, "high": figure.high, "unit": metric.unit})  # fmt: skip
    return rows


def write_tables(
    folder: Path, analyses: Sequence[Analysis], settings: Settings, about: dict[str, Any]
) -> None:
    """Write the CSV files and report.json into a folder.

    Parameters
    ----------
    folder : Path
    analyses : sequence of Analysis
    settings : Settings
    about : dict
        What was judged, and how; goes into report.json as it is.
    """
    judgements = [one.judgement for one in analyses]
    metrics, differences = metric_rows(judgements, settings), difference_rows(judgements, settings)
    images = [row for one in analyses for row in one.images]
    lines = [row for one in analyses for row in one.lines]
    _write_csv(folder / "metrics.csv", metrics)
    _write_csv(folder / "images.csv", images, _IMAGE_COLUMNS)
    _write_csv(folder / "cell_lines.csv", lines)
    if differences:
        _write_csv(folder / "differences.csv", differences)
    definitions = {metric.key: {"heading": metric.heading, "definition": metric.definition, "unit": metric.unit,
                                "group": metric.group} for metric in metrics_for(settings.caps)}  # fmt: skip
    content = {
        "format": "evican-evaluation 1",
        **about,
        "definitions": definitions,
        "metrics": metrics,
        "differences": differences,
        "curves": [
            {"set": one.judgement.scenes.name, "tool": one.judgement.tool.name, "categories": one.curves}
            for one in analyses
        ],
        "images": images,
        "cell_lines": lines,
    }
    write_file(folder / "report.json", json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")


def write_file(path: Path, text: str) -> None:
    """Write a text file that takes its name only when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(text.encode("utf-8"))
        os.replace(partial, path)
    finally:
        if partial.exists():
            partial.unlink()


def _write_csv(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    rows = list(rows)
    columns = columns or (list(rows[0]) if rows else ["set", "tool"])
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(columns)
    table.writerows([[_cell(row.get(column)) for column in columns] for row in rows])
    write_file(path, text.getvalue())


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value  # no spreadsheet takes it for a formula
    return "" if value is None else value


def _plain(value: Any) -> Any:
    """Bring arrays, dataclasses and NaN to what JSON knows."""
    if hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
