"""Wells: counts, confluency, median and MAD of every feature, and how far a well is from the controls."""

from __future__ import annotations

import re
from typing import Any, Sequence

import numpy as np
import pyarrow as pa

from evican_plate.platemap import PlateMap

__all__ = ["Summary", "group_images"]

_NO_FEATURE = ("ObjectNumber", "Number_", "Parent_", "ImageNumber")
_SAMPLE = 100  # objects of a well kept for the distributions of the report
_LEAST_CONTROLS = 3
MAD_TO_SIGMA = 1.4826  # of a normal distribution


def group_images(images: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], int]:
    """Return a number for each well (plate, well, time), in the order of the images."""
    groups: dict[tuple[str, str, str], int] = {}
    for image in images:
        groups.setdefault((image["plate"], image["well"], image["time"]), len(groups))
    return groups


class Summary:
    """Medians of wells, filled from object tables that come in the order of the images.

    Parameters
    ----------
    images : sequence of dict
        Of the plan, those that are done; `add` gets places in it.
    planned : sequence of dict
        All images of the plan.
    failed : set of int
        Numbers of images that are not done.
    metadata : dict of str to pyarrow.Array
        Columns of the images.
    platemap : PlateMap
    """

    def __init__(
        self,
        images: Sequence[dict[str, Any]],
        planned: Sequence[dict[str, Any]],
        failed: set[int],
        metadata: dict[str, pa.Array],
        platemap: PlateMap,
    ) -> None:
        self.groups = group_images(planned)
        self.features: dict[str, list[str]] = {}
        self.medians: dict[str, np.ndarray] = {}  # [wells, features]
        self.mads: dict[str, np.ndarray] = {}
        self.samples: dict[str, list[np.ndarray]] = {}  # [objects, features] for each well
        self._planned, self.failed, self.platemap = planned, failed, platemap
        self._group = np.array([self.groups[i["plate"], i["well"], i["time"]] for i in images], int)
        self._open: tuple[int, list[np.ndarray]] | None = None

    def add(self, name: str, table: pa.Table, places: np.ndarray) -> None:
        """Add rows of an object table; ``places`` [N] are those of their images."""
        if name not in self.features:
            columns = [
                f.name for f in table.schema if f.type != pa.string() and not f.name.startswith(_NO_FEATURE)
            ]
            self.features[name] = columns
            shape = (len(self.groups), len(columns))
            self.medians[name], self.mads[name] = np.full(shape, np.nan), np.full(shape, np.nan)
            self.samples[name] = [np.zeros((0, len(columns)), np.float32) for _ in self.groups]
        matrix = np.empty((len(table), len(self.features[name])))
        for i, column in enumerate(self.features[name]):
            matrix[:, i] = table.column(column).to_numpy()
        groups = self._group[places]
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(groups)]):
            if self._open is None or self._open[0] != groups[start]:
                self.close(name)
                self._open = (int(groups[start]), [])
            self._open[1].append(matrix[start:end])

    def close(self, name: str) -> None:
        """Finish the well at work; needed after the last row of a table."""
        if self._open is None:
            return
        group, parts = self._open
        self._open = None
        matrix = np.concatenate(parts)
        median = _median(matrix)
        self.medians[name][group] = median
        self.mads[name][group] = _median(np.abs(matrix - median))
        step = max(1, -(-len(matrix) // _SAMPLE))
        self.samples[name][group] = matrix[::step].astype(np.float32)

    def table(self, images: pa.Table, pipeline: dict[str, Any]) -> pa.Table:
        """Return a row for each well.

        Parameters
        ----------
        images : pyarrow.Table
            The final table of images.
        pipeline : dict
            Of the plan.
        """
        keys = list(self.groups)
        columns: dict[str, pa.Array] = {
            "Metadata_Plate": pa.array([plate for plate, _, _ in keys], pa.string()),
            "Metadata_Well": pa.array([well for _, well, _ in keys], pa.string()),
            "Metadata_Time": pa.array([time for _, _, time in keys], pa.string()),
        }
        for column in self.platemap.columns:
            columns[column] = pa.array(
                [self.platemap.of(plate, well)[column] for plate, well, _ in keys], pa.string()
            )
        failed = np.zeros(len(keys), int)
        for image in self._planned:
            failed[self.groups[image["plate"], image["well"], image["time"]]] += (
                image["number"] in self.failed
            )
        done = np.bincount(self._group, minlength=len(keys))
        columns["Count_Images"] = pa.array(done, pa.int64())
        columns["Count_FailedImages"] = pa.array(failed, pa.int64())
        numbers: dict[str, np.ndarray] = {}
        for column in images.column_names:
            if column.startswith("Count_"):
                total = np.bincount(self._group, images.column(column).to_numpy(), len(keys))
                numbers[column] = np.where(done > 0, total, np.nan)
        numbers["Confluency"] = self._confluency(images, pipeline["image"], len(keys))
        for name in sorted(self.features):
            for i, feature in enumerate(self.features[name]):
                numbers[f"{name}_{feature}_Median"] = self.medians[name][:, i]
                numbers[f"{name}_{feature}_MAD"] = self.mads[name][:, i]
        scores = self._robust_z(keys, {k: v for k, v in numbers.items() if not k.endswith("_MAD")})
        for column, values in {**numbers, **scores}.items():
            columns[column] = pa.array(values, pa.float64(), from_pandas=True)
        return pa.table(columns)

    def _confluency(self, images: pa.Table, image: str, wells: int) -> np.ndarray:
        """Return the share of the imaged area of each well that cells cover."""
        sides = [f"{side}_{image}" for side in ("Height", "Width")]
        if not set(sides) <= set(images.column_names):
            return np.full(wells, np.nan)
        pixels = np.prod([images.column(side).to_numpy() for side in sides], axis=0)
        share = images.column("QC_Confluency").to_numpy()
        total = np.bincount(self._group, pixels, wells)
        covered = np.bincount(self._group, share * pixels, wells)
        return np.divide(covered, total, out=np.full(wells, np.nan), where=total > 0)

    def _robust_z(
        self, keys: list[tuple[str, str, str]], numbers: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return, for each column, how far a well is from the control wells of its plate and time."""
        control = np.array([self.platemap.is_control(plate, well) for plate, well, _ in keys])
        if not control.any():
            return {}
        scores = {}
        places = np.array([f"{plate}\0{time}" for plate, _, time in keys])
        for column, values in numbers.items():
            z = np.full(len(keys), np.nan)
            for place in dict.fromkeys(places):
                here = places == place
                controls = values[here & control]
                controls = controls[np.isfinite(controls)]
                if len(controls) < _LEAST_CONTROLS:
                    continue
                center = np.median(controls)
                spread = MAD_TO_SIGMA * np.median(np.abs(controls - center))
                if spread > 0:
                    z[here] = (values[here] - center) / spread
            scores[re.sub("_Median$", "", column) + "_RobustZ"] = z
        return scores


def _median(matrix: np.ndarray) -> np.ndarray:
    """Return the median of each column [features] of [objects, features], without NaN; NaN where nothing is left."""
    ordered = np.sort(matrix, axis=0)  # NaN last
    known = np.isfinite(ordered).sum(0)
    columns = np.arange(matrix.shape[1])
    low, high = np.maximum((known - 1) // 2, 0), np.minimum(known // 2, len(matrix) - 1)
    return np.where(known > 0, (ordered[low, columns] + ordered[high, columns]) / 2, np.nan)
