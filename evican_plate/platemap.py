"""The plate map: a CSV file that says what is in each well."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evican_plate.errors import PlateError
from evican_plate.naming import normal_well

__all__ = ["PlateMap", "read_platemap"]

_TRUE = {"1", "true", "yes", "y", "x"}
_RESERVED = ("Plate", "Well", "Row", "Column", "Site", "Time")


@dataclass(frozen=True)
class PlateMap:
    """What a plate map says. ``columns`` are the names in the tables, ``Metadata_Treatment``."""

    columns: tuple[str, ...] = ()
    wells: dict[tuple[str, str], dict[str, str]] | None = None
    control: tuple[str, str] | None = None  # a column and the value of control wells

    def of(self, plate: str, well: str) -> dict[str, str]:
        """Return the columns of a well; those of wells that the map leaves out are empty."""
        wells = self.wells or {}
        return wells.get((plate, well)) or wells.get(("", well)) or dict.fromkeys(self.columns, "")

    def is_control(self, plate: str, well: str) -> bool:
        """Whether the map names the well as a control."""
        if self.control is None:
            return False
        column, value = self.control
        found = self.of(plate, well).get(column, "")
        return found.strip().lower() in _TRUE if value == "" else found == value

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        wells = [[plate, well, row] for (plate, well), row in (self.wells or {}).items()]
        return {"columns": self.columns, "wells": wells, "control": self.control}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> PlateMap:
        """Return the plate map that `to_json` was called on."""
        wells = {(plate, well): row for plate, well, row in saved["wells"]}
        control = saved["control"]
        return cls(tuple(saved["columns"]), wells, tuple(control) if control else None)


def read_platemap(path: Path, controls: str | None = None) -> PlateMap:
    """Read a plate map.

    Parameters
    ----------
    path : Path
        A CSV file (comma, semicolon or tab) with a column ``well``, perhaps ``plate``, and any others.
    controls : str, optional
        ``column=value`` of the control wells. Without it a column ``control`` is taken, if there is one.

    Raises
    ------
    PlateError
        No such file, no well column, a well that does not exist or comes twice, or an unknown control column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PlateError(f"--platemap {path}: cannot be read: {error}") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = [
        row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(cell.strip() for cell in row)
    ]
    header = [cell.strip() for cell in rows[0]] if rows else []
    lower = [name.lower() for name in header]
    well_at = next(
        (i for i, name in enumerate(lower) if name in ("well", "metadata_well", "well_position")), None
    )
    plate_at = next((i for i, name in enumerate(lower) if name in ("plate", "metadata_plate")), None)
    if well_at is None:
        raise PlateError(
            f"--platemap {path}: no column 'well'; the columns are {', '.join(header) or '(none)'}"
        )
    named = {i: _column(path, name) for i, name in enumerate(header) if i not in (well_at, plate_at) and name}
    if len(set(named.values())) < len(named):
        raise PlateError(f"--platemap {path}: two columns have the same name")
    wells: dict[tuple[str, str], dict[str, str]] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise PlateError(
                f"--platemap {path}, row {number}: {len(row)} cells; the header has {len(header)}"
            )
        well = normal_well(row[well_at])
        if well is None:
            raise PlateError(
                f"--platemap {path}, row {number}: {row[well_at]!r} is no well; expected A01 to AF48"
            )
        key = (row[plate_at].strip() if plate_at is not None else "", well)
        if key in wells:
            raise PlateError(f"--platemap {path}, row {number}: well {well} comes twice")
        wells[key] = {name: row[i].strip() for i, name in named.items()}
    return PlateMap(tuple(named.values()), wells, _control(path, controls, tuple(named.values())))


def _column(path: Path, name: str) -> str:
    """Return the name of a column in the tables: cell line -> Metadata_CellLine."""
    name = re.sub("^Metadata_", "", name)
    plain = "".join(part[:1].upper() + part[1:] for part in re.findall(r"[A-Za-z0-9]+", name))
    if not plain or plain in _RESERVED:
        raise PlateError(
            f"--platemap {path}: a column may not be named {name!r}; the tables have one of their own"
        )
    return f"Metadata_{plain}"


def _control(path: Path, controls: str | None, columns: tuple[str, ...]) -> tuple[str, str] | None:
    if controls is None:
        return ("Metadata_Control", "") if "Metadata_Control" in columns else None
    name, equals, value = controls.partition("=")
    if not equals or _column(path, name) not in columns:
        raise PlateError(
            f"--controls {controls}: expected COLUMN=VALUE with a column of {path}: "
            + ", ".join(column[len("Metadata_") :] for column in columns)
        )
    return _column(path, name), value
