"""The curves of the report, as small SVG pictures."""

from __future__ import annotations

import base64
import io
from typing import Sequence

import numpy as np

from evican_model.evaluate.analysis import Analysis

__all__ = ["draw_figures"]

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9")  # Okabe and Ito
_DASHES = ("-", "--", "-.", ":")
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small files that read well at any size
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def draw_figures(analyses: Sequence[Analysis]) -> list[tuple[str, str, str]]:
    """Draw the curves of one set of images, a line for each tool (colour) and category (dashes).

    Parameters
    ----------
    analyses : sequence of Analysis
        Of the same set.

    Returns
    -------
    list of (title, what it says, data URI)
    """
    import matplotlib

    lines = [
        (curves, _COLORS[number % len(_COLORS)], _DASHES[kind % len(_DASHES)],
         category if len(analyses) == 1 else f"{one.judgement.tool.name}, {category}")
        for number, one in enumerate(analyses)
        for kind, (category, curves) in enumerate(one.curves.items())
    ]  # fmt: skip
    if not lines:
        return []
    with matplotlib.rc_context(_STYLE):
        return [
            ("Precision against recall", "All images pooled, IoU 0.5; the dotted lines are IoU 0.75.",
             _draw(_precision_recall, lines)),
            ("F1 against the least score", "After flattening, IoU 0.5. The dot is the best, the cross the working "
             "confidence.", _draw(_f1, lines)),
            ("Are the scores right?", "Share of the objects with about this score that are right (IoU 0.5), after "
             "flattening. On the grey line a score of 0.8 means that 80 % are right.", _draw(_calibration, lines)),
            ("AP against object size", "Four classes of sizes with equally many true objects each; the diameter is "
             "that of a circle of the same area.", _draw(_sizes, lines)),
        ]  # fmt: skip


def _draw(plot, lines) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.3), layout="constrained")
    axes = figure.subplots()
    plot(axes, lines)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(2, len(handles)))
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _precision_recall(axes, lines) -> None:
    for curves, color, dash, label in lines:
        curve = curves.precision_recall
        # COCO's precision is 0 beyond the recall that is reached; the line ends there instead
        for iou, style, name in (("0.5", dash, label), ("0.75", ":", None)):
            reached = curve[iou] > 0
            axes.plot(curve["recall"][reached], curve[iou][reached], style, color=color, label=name,
                      linewidth=1.8 if name else 1.0)  # fmt: skip
    _unit(axes, "recall", "precision")


def _f1(axes, lines) -> None:
    for curves, color, dash, label in lines:
        if curves.best is not None:
            axes.plot(*curves.f1, dash, color=color, label=label)
            axes.plot([curves.best.confidence], [curves.best.f1], "o", color=color)
            axes.plot([curves.best.working], [curves.best.working_f1], "x", color=color)
    _unit(axes, "least score", "F1")


def _calibration(axes, lines) -> None:
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    for curves, color, dash, label in lines:
        result = curves.calibration
        if result is not None:
            axes.plot(result.score, result.right, dash, marker="o", markersize=4, color=color,
                      label=f"{label} (mean gap {100 * result.error:.0f} points)")  # fmt: skip
    _unit(axes, "score", "share that is right")


def _sizes(axes, lines) -> None:
    for curves, color, dash, label in lines:
        classes = [one for one in curves.sizes if one.objects and np.isfinite(one.ap)]
        # The outermost classes are open; they are drawn a little beyond their inner edge.
        middles = [
            np.sqrt((one.low or one.high / 1.4) * min(one.high, (one.low or np.inf) * 1.4)) for one in classes
        ]
        axes.plot(
            middles, [one.ap for one in classes], dash, marker="o", markersize=4, color=color, label=label
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter("{x:.0f}")
    axes.tick_params(axis="x", which="minor", labelsize=8)
    axes.set(xlabel="diameter, pixels", ylabel="AP", ylim=(0, 1.02))


def _unit(axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1.02), ylim=(0, 1.02))
