"""File names of microscopes, and what they say of plate, well, site, time, channel and z."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Iterable

from evican_plate.errors import PlateError

__all__ = ["PATTERNS", "Pattern", "Place", "custom", "detect", "normal_well"]

_WELL = r"(?P<well>A?[A-Z]\d{2})"
_WELL2 = _WELL.replace("<well>", "<well2>")  # a name may hold a group once; the digit is dropped
_PREFIX = r"(?:(?P<plate>[^/]+?)_)??"  # the shortest, for a site (s10) looks like a well too
_END = r"\.(?i:tiff?|png|jpe?g|bmp)$"
_KNOWN = ("plate", "well", "row", "column", "site", "time", "channel", "z")


@dataclass(frozen=True)
class Place:
    """Where an image was taken, as its name says. A part that the name does not have is ``""``."""

    plate: str
    well: str  # A01
    site: int
    time: str
    channel: str
    z: str


@dataclass(frozen=True)
class Pattern:
    """A way of naming files.

    ``regex`` is searched in the path relative to the plate folder, with ``/`` between its parts.
    """

    name: str
    example: str
    regex: str

    def place(self, path: str) -> Place | None:
        """Return where the image of a path (relative, with ``/``) was taken, or None if the name does not say."""
        match = re.search(self.regex, path)
        if match is None:
            return None
        parts = {key.rstrip("2"): value for key, value in match.groupdict().items() if value}
        if "well" in parts:
            well = normal_well(parts["well"])
        else:
            well = _well_of(parts.get("row", ""), parts.get("column", ""))
        if well is None:
            return None
        folders = PurePosixPath(path).parts[:-1]
        return Place(
            plate=parts.get("plate", "").replace("/", "_") or _plate_of(folders, well),
            well=well,
            site=int(parts.get("site", 1)),
            time=_time_of(parts.get("time", "")) or _numbered(folders, "timepoint") or "1",
            channel=_number(parts.get("channel", "")),
            z=_number(parts.get("z", "")) or _numbered(folders, "zstep"),
        )


PATTERNS = (
    Pattern(
        "Opera Phenix, Operetta",
        "r01c01f01p01-ch1sk1fk1fl1.tiff",
        r"(?:^|/)r(?P<row>\d{2})c(?P<column>\d{2})f(?P<site>\d+)p(?P<z>\d+)-ch(?P<channel>\d+)sk(?P<time>\d+)fk\d+fl\d+"
        + _END,
    ),
    Pattern(
        "Yokogawa CV7000",
        "Plate_A01_T0001F001L01A01Z01C01.tif",
        rf"(?:^|/){_PREFIX}{_WELL}_T(?P<time>\d+)F(?P<site>\d+)L\d+A\d+Z(?P<z>\d+)C(?P<channel>\d+){_END}",
    ),
    Pattern(
        "Incucyte",
        "VID1_A1_1_2021y08m06d_11h39m.tif",
        rf"(?:^|/){_PREFIX}(?P<well>[A-Z]\d{{1,2}})_(?P<site>\d+)_(?P<time>(?:\d{{4}}y\d{{2}}m)?\d{{2}}d_?\d{{2}}h\d{{2}}m){_END}",
    ),
    Pattern(
        "ImageXpress",
        "A01_s1_w1.tif",
        rf"(?:^|/){_PREFIX}{_WELL}(?:_s(?P<site>\d+))?_w(?P<channel>\d+)(?:_z(?P<z>\d+))?(?:_t(?P<time>\d+))?"
        rf"(?:[0-9A-F]{{8}}-[0-9A-F-]{{27}})?(?:_(?!thumb)[^_/.]+)?{_END}",
    ),
    Pattern(
        "Keyence",
        "W001_T0001_XY01_Z001_CH1.tif, or a folder A01/ with Image_XY01_CH4.tif",
        rf"(?:^|/)(?:{_WELL}/(?:[^/]*/)*|(?:[^/]*_)?W(?P<column2>\d{{3}})(?=_)|(?:[^/]*_)?{_WELL2}(?=_))[^/]*?"
        rf"(?:_T(?P<time>\d{{4}}))?_?(?:XY|P)(?P<site>\d{{2,5}})(?:_\d{{5}})?(?:_T(?P<time2>\d{{4}}))?"
        rf"(?:_Z(?P<z>\d{{3}}))?_CH(?P<channel>\d){_END}",
    ),
    Pattern(
        "Leica, Olympus",
        "A01_f01.tif",
        rf"(?:^|/){_PREFIX}{_WELL}_?f(?P<site>\d+)(?:_?[dcw](?P<channel>\d+))?(?:_?z(?P<z>\d+))?(?:_?t(?P<time>\d+))?"
        + _END,
    ),
)


def custom(regex: str) -> Pattern:
    """Make a pattern of a regular expression with the named groups that ``--pattern`` takes.

    Raises
    ------
    PlateError
        The expression is wrong, has neither ``well`` nor ``row`` and ``column``, or a group of another name.
    """
    try:
        groups = set(re.compile(regex).groupindex)
    except re.error as error:
        raise PlateError(f"--pattern {regex!r} is no regular expression: {error}") from error
    if not ("well" in groups or {"row", "column"} <= groups) or groups - set(_KNOWN):
        raise PlateError(
            f"--pattern {regex!r} names the groups {', '.join(sorted(groups)) or '(none)'}; it needs (?P<well>...), or "
            f"(?P<row>...) and (?P<column>...), and may have {', '.join(_KNOWN)}"
        )
    return Pattern("--pattern", regex, regex)


def detect(paths: Iterable[str]) -> Pattern | None:
    """Return the pattern that places most of the paths (at a tie the first), or None if none places any."""
    paths = list(paths)
    counts = [sum(pattern.place(path) is not None for path in paths) for pattern in PATTERNS]
    best = max(counts, default=0)
    return PATTERNS[counts.index(best)] if best else None


def normal_well(text: str) -> str | None:
    """Return a well as ``A01``; None if a 1536-well plate has no such well.

    >>> normal_well("b2"), normal_well("AF48"), normal_well("XY01")
    ('B02', 'AF48', None)
    """
    match = re.match(r"^([A-Za-z]{1,2})0*(\d{1,2})$", text.strip())
    if match is None or not 1 <= row_number(match[1]) <= 32 or not 1 <= int(match[2]) <= 48:
        return None
    return f"{match[1].upper()}{int(match[2]):02d}"


def row_number(letters: str) -> int:
    """Return 1 for A, 26 for Z, 27 for AA.

    >>> row_number("A"), row_number("AF")
    (1, 32)
    """
    number = 0
    for letter in letters.upper():
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


def row_letters(number: int) -> str:
    """Return A for 1, AA for 27."""
    return chr(64 + number) if number <= 26 else "A" + chr(64 + number - 26)


def _well_of(row: str, column: str) -> str | None:
    if not row and column.isdigit():  # wells counted along the rows of a 96-well plate
        index = int(column) - 1
        return normal_well(f"{row_letters(index // 12 + 1)}{index % 12 + 1}") if 0 <= index < 96 else None
    if row.isdigit():
        row = row_letters(int(row)) if 1 <= int(row) <= 32 else ""
    return normal_well(row + column)


def _plate_of(folders: tuple[str, ...], well: str) -> str:
    """Return the innermost folder that is not one that a microscope makes below every plate."""
    path = "/".join(folders)
    # ImageXpress: plate/2021-08-06/1234/TimePoint_1
    path = re.sub(r"/\d{4}-\d{2}-\d{2}(/\d+)?(?=/|$)", "", path)
    inner = re.compile(r"^(images?|timepoint_?\d+|zstep_?\d+|tiff?s?|xy\d+)$", re.IGNORECASE)
    for folder in reversed(path.split("/")):
        if not inner.match(folder) and normal_well(folder) != well:
            return folder
    return ""


def _numbered(folders: tuple[str, ...], name: str) -> str:
    for folder in folders:
        match = re.match(rf"^{name}_?(\d+)$", folder, re.IGNORECASE)
        if match:
            return _number(match[1])
    return ""


def _number(text: str) -> str:
    return str(int(text)) if text.isdigit() else text


def _time_of(text: str) -> str:
    """Return a point in time as a number, or as a date and time that sorts."""
    clock = re.match(r"^(\d{4})y(\d{2})m(\d{2})d_?(\d{2})h(\d{2})m$", text)
    if clock:
        return "{}-{}-{}T{}:{}".format(*clock.groups())
    return _number(text)
