"""report.html: one file with everything in it, made for a phone as well as for a desk.

Jinja2 fills the page (it escapes what comes from file names) and matplotlib draws the curves as SVG; both come with
CellProfiler. No script and nothing from the network is in it, so it can be mailed and opened anywhere.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Sequence

from evican_model.errors import EvicanError
from evican_model.evaluate.analysis import Analysis
from evican_model.evaluate.evaluation import Judgement, Settings
from evican_model.evaluate.ground_truth import DIFFICULTIES
from evican_model.evaluate.metrics import ALL, Interval, Metric, interval, metrics_for
from evican_model.evaluate.overlays import COLORS, best_median_worst
from evican_model.evaluate.published import PUBLISHED, SOURCES
from evican_model.evaluate.tables import difference_rows, write_file

__all__ = ["require_report", "write_report"]

_HEADLINE = ("AP50@{cap}", "F1_50", "PQ")
_COMPARED = ("AP@{cap}", "AP50@{cap}", "F1_50", "jaccard50", "PQ", "count_error")


def require_report() -> None:
    """Fail before the work, not after it, where the report cannot be made."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise EvicanError(
            f"the report needs Jinja2 and matplotlib (pip install Jinja2 matplotlib): {error}"
        ) from error


def write_report(path: Path, analyses: Sequence[Analysis], settings: Settings, about: dict[str, Any]) -> None:
    """Write the report.

    Parameters
    ----------
    path : Path
    analyses : sequence of Analysis
        Set by set, the judged tool first.
    settings : Settings
    about : dict
        As report.json has it.
    """
    import jinja2

    from evican_model.evaluate.figures import draw_figures

    judgements = [one.judgement for one in analyses]
    sets = []
    for facts in about["sets"]:
        mine = [one for one in analyses if one.judgement.scenes.name == facts["name"]]
        first = mine[0].judgement
        sets.append({
            **facts,
            "headline": _headline(first, settings),
            "confidences": _confidences(mine),
            "figures": draw_figures(mine),
            "overlays": [(name, best_median_worst(first, name)) for name in first.scenes.categories],
            "lines": [row for one in mine for row in one.lines],
            "rows": [row for one in mine for row in one.images],
        })  # fmt: skip
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(percent=_percent, number=_number)
    page = environment.get_template("report.html.jinja").render(
        about=about,
        sets=sets,
        tables=_tables(judgements, settings),
        differences=_differences(judgements, settings),
        published=_published(judgements, settings),
        sources=SOURCES,
        colors={name: "rgb({}, {}, {})".format(*color) for name, color in COLORS.items()},
        cap=max(settings.caps),
        several=len(about["tools"]) > 1,
    )
    write_file(path, page)


def _headline(one: Judgement, settings: Settings) -> list[dict[str, Any]]:
    """Return the figures that a reader sees first, of the judged tool."""
    metrics = {metric.key: metric for metric in metrics_for(settings.caps)}
    keys = [key.format(cap=min(settings.caps)) for key in _HEADLINE]
    return [
        {"category": category, "cells": [(metrics[key], _shown(one, category, metrics[key])) for key in keys]}
        for category in one.scenes.categories
        if (category, keys[0]) in one.figures
    ]


def _tables(judgements: Sequence[Judgement], settings: Settings) -> list[dict[str, Any]]:
    """One table for each kind of figure, so that no column holds two definitions."""
    groups: dict[str, list[Metric]] = {}
    for metric in metrics_for(settings.caps):
        groups.setdefault(metric.group, []).append(metric)
    tables = []
    for title, metrics in groups.items():
        rows = []
        for one in judgements:
            judged = [
                name for name in one.scenes.categories if any((name, m.key) in one.figures for m in metrics)
            ]
            for category in [*judged, ALL] if len(judged) > 1 else judged:
                cells = [_shown(one, category, metric) for metric in metrics]
                if any(cells):
                    rows.append(
                        {"set": one.scenes.name, "tool": one.tool.name, "category": category, "cells": cells}
                    )
        if rows:
            used = [k for k in range(len(metrics)) if any(row["cells"][k] for row in rows)]
            for row in rows:
                row["cells"] = [row["cells"][k] for k in used]
            tables.append({"title": title, "metrics": [metrics[k] for k in used], "rows": rows})
    return _without_repeats(tables)


def _without_repeats(tables: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the tables of two caps that cut nothing off."""
    kept: list[dict[str, Any]] = []
    for table in tables:
        kind, comma, cap = table["title"].partition(", at most ")
        if comma and kept and kept[-1]["kind"] == kind and kept[-1]["rows"] == table["rows"]:
            kept[-1]["title"] = (
                f"{kept[-1]['title'].replace(' detections an image', '')} or {cap} (the same here)"
            )
        else:
            kept.append({**table, "kind": kind})
    return kept


def _differences(judgements: Sequence[Judgement], settings: Settings) -> list[dict[str, Any]]:
    """Return what the judged tool has over each other one, in the most read figures."""
    metrics = {metric.key: metric for metric in metrics_for(settings.caps)}
    keys = [key.format(cap=max(settings.caps)) for key in _COMPARED]
    table: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in difference_rows(judgements, settings):
        if row["metric"] in keys and math.isfinite(row["difference"]):
            cells = table.setdefault((row["set"], row["other"], row["category"]), {})
            figure = Interval(row["difference"], row["low"], row["high"])
            unit = "points" if row["unit"] == "share" else row["unit"]
            sure = figure.low > 0 or figure.high < 0
            cells[row["metric"]] = {**_cell(figure, unit, signed=True), "sure": sure}
    if not table:
        return []
    return [{"metrics": [metrics[key] for key in keys],
             "rows": [{"set": where[0], "tool": where[1], "category": where[2],
                       "cells": [cells.get(key) for key in keys]} for where, cells in table.items()]}]  # fmt: skip


def _confidences(analyses: Sequence[Analysis]) -> list[dict[str, Any]]:
    rows = []
    for one in analyses:
        for category, curves in one.curves.items():
            if curves.best is not None:
                # The best least score is that of an object; rounded down, so that this object is still in.
                rounded = math.floor(100 * curves.best.confidence) / 100
                gap = curves.calibration.error if curves.calibration else float("nan")
                rows.append({"tool": one.judgement.tool.name, "category": category, "best": curves.best,
                             "rounded": rounded, "gap": gap})  # fmt: skip
    return rows


def _published(judgements: Sequence[Judgement], settings: Settings) -> dict[str, Any]:
    """Others' figures on EVICAN's evaluation images, each tier after our own if it was judged."""
    cap = min(settings.caps)
    ours = []
    for one in judgements:
        for category in (*one.scenes.categories, ALL):
            if one.scenes.name in DIFFICULTIES and (category, f"AP@{cap}") in one.figures:
                values = [
                    100 * float(one.figures[category, f"{key}@{cap}"][0]) for key in ("AP", "AP50", "AP75")
                ]
                ours.append({"method": one.tool.name, "classes": category, "difficulty": one.scenes.name,
                             "values": values, "source": "this report", "own": True})  # fmt: skip
    theirs = [{"method": one.method, "classes": one.classes, "difficulty": one.difficulty,
               "values": [one.ap, one.ap50, one.ap75], "source": one.source, "own": False}
              for one in PUBLISHED]  # fmt: skip
    order = {name: place for place, name in enumerate((*DIFFICULTIES, "not stated"))}
    rows = sorted(
        [*ours, *theirs], key=lambda row: order[str(row["difficulty"])]
    )  # stable: our own stay first
    return {"rows": rows, "ours": bool(ours), "cap": cap}


def _shown(one: Judgement, category: str, metric: Metric) -> dict[str, Any] | None:
    if (category, metric.key) not in one.figures:
        return None
    figure = interval(one.figures[category, metric.key])
    if not math.isfinite(figure.value):
        return None
    cell = _cell(figure, metric.unit)
    uncertain = not one.results.scored and "AP" in metric.key
    return {**cell, "value": cell["value"] + ("*" if uncertain else "")}


def _cell(figure: Interval, unit: str, signed: bool = False) -> dict[str, Any]:
    signed = signed or unit == "points"
    low, high = (_in_unit(value, unit, signed) for value in (figure.low, figure.high))
    between = f"{low} to {high}" if signed else f"{low}\u2013{high}"
    return {"value": _in_unit(figure.value, unit, signed), "interval": between if math.isfinite(figure.low) else "",
            "sure": False}  # fmt: skip


def _in_unit(value: float, unit: str, signed: bool) -> str:
    text = f"{value:.2f}" if unit == "objects" else f"{100 * value:.1f}"
    if text in ("-0.0", "-0.00"):
        text = text[1:]
    return f"+{text}" if signed and not text.startswith("-") and float(text) else text


def _percent(value: Any) -> str:
    return f"{100 * value:.1f}" if isinstance(value, float) and math.isfinite(value) else "-"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if math.isfinite(value) else "-"
    return "-" if value is None else str(value)
