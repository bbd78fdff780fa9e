"""What a training leaves to look at: ``log.csv``, ``validation.csv``, TensorBoard events, and a figure of both."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np

from evican_model.errors import EvicanError

__all__ = ["TrainingLog", "draw_figure", "truncate"]

LOSSES = "log.csv"
VALIDATION = "validation.csv"
FIGURE = "training.png"


class TrainingLog:
    """Loss parts, averaged over some steps, and AP, into CSV files and TensorBoard.

    Parameters
    ----------
    folder : Path
        The run folder.
    first : int
        Step that the run goes on from; rows of later steps, of a run that was killed, are dropped.
    batch : int
        Images a step.
    """

    def __init__(self, folder: Path, first: int, batch: int):
        import tensorflow as tf

        self.folder, self.batch, self.begin = folder, batch, time.time()
        self.rows: list[dict[str, float]] = []
        for name in (LOSSES, VALIDATION):
            truncate(folder / name, first)
        self.writer = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def add(self, step: int, parts) -> None:
        """Take the losses of a step; one that is no number stops the training."""
        row = {name: float(value) for name, value in parts.items()}
        if not np.isfinite(row["total"]):
            raise EvicanError(f"The loss is not finite at step {step}: {row}. Lower --learning-rate.")
        self.rows.append(row)

    def flush(self, step: int, rate: float) -> dict[str, float]:
        """Write the mean of the steps since the last time; return it."""
        if not self.rows:
            return {}
        mean = {name: float(np.mean([row[name] for row in self.rows])) for name in self.rows[0]}
        seconds, self.begin = time.time() - self.begin, time.time()
        speed = len(self.rows) * self.batch / max(seconds, 1e-9)
        self.rows = []
        self._write(LOSSES, step, {"rate": rate, "images_per_second": speed, **mean}, "loss/")
        return {"rate": rate, "images_per_second": speed, **mean}

    def validated(self, step: int, values: dict[str, float]) -> None:
        """Write what a validation gave."""
        self._write(VALIDATION, step, values, "validation/")
        self.begin = time.time()  # the time that it took is none of the training's speed

    def close(self) -> None:
        """Write what is still held back."""
        self.writer.close()

    def _write(self, name: str, step: int, values: dict[str, float], group: str) -> None:
        import tensorflow as tf

        path = self.folder / name
        new = not path.exists()
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *values])
            writer.writerow([step, *(f"{value:.6g}" for value in values.values())])
        with self.writer.as_default(step=step):
            for key, value in values.items():
                tf.summary.scalar(group + key, value)
        self.writer.flush()


def truncate(path: Path, last_step: int) -> None:
    """Drop the rows of a CSV file after a step, and a row that was cut short when its run was killed."""
    if not path.exists():
        return
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    kept = [row for row in rows if len(row) == len(header) and row[0].isdigit() and int(row[0]) <= last_step]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *kept] if header else [])


def draw_figure(folder: Path) -> Path | None:
    """Draw loss, learning rate and AP of a run over its steps into ``training.png``.

    Returns
    -------
    Path or None
        None where matplotlib is not installed, or nothing has been logged yet.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    losses, validation = _columns(folder / LOSSES), _columns(folder / VALIDATION)
    if not losses:
        return None
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for name, values in losses.items():
        if name not in ("step", "rate", "images_per_second"):
            upper.plot(losses["step"], values, label=name, linewidth=2 if name == "total" else 1)
    upper.set_ylabel("loss")
    upper.set_ylim(bottom=0)
    upper.legend(fontsize=8, ncols=3)
    rate = upper.twinx()
    rate.plot(losses["step"], losses["rate"], color="0.75", linestyle=":")
    rate.set_ylabel("learning rate (dotted)", color="0.5")
    for name, values in validation.items():
        if name != "step":
            lower.plot(validation["step"], values, marker="o", markersize=3, label=name)
    if validation:
        lower.legend(fontsize=8, ncols=3)
    else:
        lower.text(0.5, 0.5, "no validation images", ha="center", transform=lower.transAxes, color="0.5")
    lower.set_ylabel("average precision")
    lower.set_ylim(0, 1)
    lower.set_xlabel("step")
    figure.savefig(folder / FIGURE, dpi=120)
    return folder / FIGURE


def _columns(path: Path) -> dict[str, list[float]]:
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}
