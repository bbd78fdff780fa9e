"""Find the images of one or several plates in a folder, and say where each belongs."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from evican_model.images import SUFFIXES
from evican_plate.errors import PlateError
from evican_plate.naming import Pattern, Place, custom, detect, row_letters, row_number

__all__ = ["Failure", "Found", "ImageSet", "draw", "scan"]


_DRAWN = 6  # plates that are drawn; of others only the line


@dataclass(frozen=True)
class Failure:
    """What did not work: a row of failures.csv. ``stage``: scan, place, read, start, segment, save or run."""

    plate: str
    well: str
    site: str
    time: str
    file: str
    stage: str
    message: str


@dataclass(frozen=True)
class ImageSet:
    """The images of one field of view at one time: a row of the LoadData table.

    ``files`` gives the absolute path by the name that the pipeline has for the image.
    """

    plate: str
    well: str
    site: int
    time: str
    files: dict[str, str]

    @property
    def row(self) -> str:
        """The letters of the well."""
        return self.well.rstrip("0123456789")

    @property
    def column(self) -> int:
        """The number of the well."""
        return int(self.well[len(self.row) :])

    def failure(self, stage: str, message: str) -> Failure:
        """Return a failure of this image."""
        file = "; ".join(self.files.values())
        return Failure(self.plate, self.well, str(self.site), self.time, file, stage, message)


@dataclass
class Found:
    """What `scan` found: image sets in the order of the tables, and what it could not use."""

    folder: Path
    pattern: Pattern
    images: list[ImageSet] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    unplaced: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    planes: list[str] = field(default_factory=list)


def scan(
    folder: Path, channels: dict[str, str | None], pattern: str | None = None, z: str | None = None
) -> Found:
    """Find and place the images below a folder.

    Parameters
    ----------
    folder : Path
        With the images of a plate, or with a folder for each of several plates.
    channels : dict of str to str or None
        For each image that the pipeline loads, the channel in the file name; None where there is only one.
    pattern : str, optional
        A regular expression with the groups of `naming.custom`; without it the pattern is detected.
    z : str, optional
        The plane to take; needed where there are several.

    Returns
    -------
    Found
        Image sets sorted by plate, well, time and site: `ImageNumber` counts along them.

    Raises
    ------
    PlateError
        No such folder, no image, no known pattern, or a choice of channel or plane that is missing or impossible.
    """
    if not folder.is_dir():
        raise PlateError(f"{folder}: no such folder")
    files, failures = _files_below(folder)
    if not files and not failures:
        raise PlateError(f"{folder}: no image; looked for files ending in {', '.join(SUFFIXES)}")
    chosen = custom(pattern) if pattern else detect(files)
    if chosen is None:
        raise PlateError(
            f"{folder}: no file name of a known pattern, for instance {(files or ['(none readable)'])[0]}; describe "
            "the names with --pattern, for instance --pattern '(?P<well>[A-H][0-9]{2})_(?P<site>[0-9]+)'"
        )
    found = Found(folder, chosen, failures=failures)
    placed: dict[str, Place] = {}
    for file in files:
        place = chosen.place(file)
        if place is None:
            found.unplaced.append(file)
        else:
            placed[file] = place
    if not placed:
        raise PlateError(
            f"{folder}: the pattern {chosen.example} fits none of {len(files)} files, as {files[0]}"
        )
    found.channels = sorted({place.channel for place in placed.values()}, key=_natural)
    found.planes = sorted({place.z for place in placed.values()}, key=_natural)
    wanted = _wanted_channels(found, channels)
    plane = _wanted_plane(found, z)
    _group(found, {file: place for file, place in placed.items() if place.z == plane}, wanted)
    if not found.images and not found.failures:
        raise PlateError(f"{folder}: no image of channel {', '.join(wanted.values())}")
    return found


def _files_below(folder: Path) -> tuple[list[str], list[Failure]]:
    """Return the relative paths of all image files, and the folders that cannot be read. Hidden ones are left out."""
    files: list[str] = []
    failures: list[Failure] = []

    def unreadable(error: OSError) -> None:
        message = f"the folder cannot be read: {error.strerror}"
        failures.append(Failure("", "", "", "", str(error.filename), "scan", message))

    for root, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # an output folder: what lies in it are results, not images of the plate
        if "evican_plate.lock" in names:
            folders[:] = []
            continue
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                files.append(Path(os.path.relpath(os.path.join(root, name), folder)).as_posix())
    return sorted(files), failures


def _wanted_channels(found: Found, channels: dict[str, str | None]) -> dict[str, str]:
    """Return the channel in the file names for each image of the pipeline."""
    here = ", ".join(channel or "(none)" for channel in found.channels)
    wanted = {}
    for name, channel in channels.items():
        if channel is None and len(found.channels) > 1:
            raise PlateError(
                f"{found.folder} has the channels {here}: say which is the image {name!r} of the pipeline, for "
                f"instance --channel {found.channels[0] or '1'}"
            )
        wanted[name] = found.channels[0] if channel is None else _plain(channel)
        if wanted[name] not in found.channels:
            raise PlateError(f"--channel {channel}: {found.folder} has only the channels {here}")
    return wanted


def _wanted_plane(found: Found, z: str | None) -> str:
    here = ", ".join(plane or "(none)" for plane in found.planes)
    if z is None:
        if len(found.planes) > 1:
            raise PlateError(
                f"{found.folder} has the z planes {here}: choose one, for instance --z {found.planes[0]}"
            )
        return found.planes[0]
    if _plain(z) not in found.planes:
        raise PlateError(f"--z {z}: {found.folder} has only the planes {here}")
    return _plain(z)


def _group(found: Found, placed: dict[str, Place], wanted: dict[str, str]) -> None:
    """Put the files of one field together; twice the same place, or a channel that is missing, is a failure."""
    groups: dict[tuple[str, str, int, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    names = {channel: name for name, channel in wanted.items()}
    for file, place in placed.items():
        if place.channel in names:
            plate = place.plate or found.folder.resolve().name
            groups[plate, place.well, place.site, place.time][names[place.channel]].append(file)
    for (plate, well, site, time), files in groups.items():
        image = ImageSet(plate, well, site, time, {})
        doubles = {name: paths for name, paths in files.items() if len(paths) > 1}
        missing = [name for name in wanted if name not in files]
        if doubles:
            for same in doubles.values():
                for path in same:
                    others = ", ".join(other for other in same if other != path)
                    message = f"the same plate, well, site and time as {others}; neither is used"
                    found.failures.append(
                        Failure(plate, well, str(site), time, str(found.folder / path), "place", message)
                    )
        elif missing:
            message = f"no file of channel {', '.join(wanted[name] for name in missing)} at this place"
            found.failures.append(image.failure("place", message))
        else:
            paths = {name: str((found.folder / files[name][0]).absolute()) for name in wanted}
            found.images.append(ImageSet(plate, well, site, time, paths))
    found.images.sort(key=sort_key)


def sort_key(image: ImageSet) -> tuple[object, ...]:
    """Order image sets: plate, well along the rows, time, site."""
    return (_natural(image.plate), row_number(image.row), image.column, _natural(image.time), image.site)


def draw(found: Found) -> str:
    """Return a plate map in letters: the number of images in each well, a dot where there is none."""
    lines = []
    plates = list(dict.fromkeys(image.plate for image in found.images))
    for plate in plates:
        images = [image for image in found.images if image.plate == plate]
        counts = Counter((image.row, image.column) for image in images)
        last_row = max(row_number(row) for row, _ in counts)
        last_column = max(column for _, column in counts)
        # the smallest usual plate that holds the wells
        sizes = [(4, 6), (8, 12), (16, 24), (32, 48)]
        rows, columns = next(size for size in sizes if last_row <= size[0] and last_column <= size[1])
        sites, times = len({image.site for image in images}), len({image.time for image in images})
        what = [
            f"{len(counts)} well{'s' * (len(counts) > 1)}",
            f"{sites} site{'s' * (sites > 1)}",
            f"{times} time point{'s' * (times > 1)}",
        ]
        lines.append(f"plate {plate}: {', '.join(what)}, {len(images)} images")
        if plates.index(plate) >= _DRAWN:
            continue
        width = max(3, len(str(max(counts.values()))) + 1)
        lines.append("   " + "".join(f"{column:>{width}}" for column in range(1, columns + 1)))
        for row in map(row_letters, range(1, rows + 1)):
            cells = (str(counts.get((row, column), ".")) for column in range(1, columns + 1))
            lines.append(f"{row:>3}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that counts numbers as numbers."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", text)
    )


def _plain(text: str) -> str:
    return str(int(text)) if text.isdigit() else text
