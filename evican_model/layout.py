"""Where the parts of an EVICAN folder are, in the layout as published and in that of the original training code.

Published: ``instances_train2019_EVICAN2.json`` and so on, with the images of ``EVICAN_train2019.zip`` in a folder
``train2019`` or ``EVICAN_train2019``, or beside the JSON. The original code: ``annotations/instances_train2019.json``
and ``train2019/``. Both may be mixed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from evican_model.errors import DatasetError

__all__ = ["PARTS", "Part", "find_part", "find_parts"]

PARTS = ("train", "val", "eval_easy", "eval_medium", "eval_difficult")


@dataclass(frozen=True)
class Part:
    """One annotation file of EVICAN and the folder of its images."""

    name: str  # one of PARTS
    annotations: Path
    images: Path

    @property
    def partly_annotated(self) -> bool:
        """Whether images with annotations hold objects without (paper, section 2.2); blank images never do."""
        return self.name in ("train", "val")


def find_parts(
    folder: str | Path, classes: str = "EVICAN2", wanted: Sequence[str] = PARTS
) -> dict[str, Part]:
    """Return the parts that are in a folder, by name.

    Parameters
    ----------
    folder : str or Path
    classes : str
        ``"EVICAN2"`` or ``"EVICAN60"``. A file without either in its name is taken for both.
    wanted : sequence of str
        Which to look at; of the others not even the images need to be there.

    Raises
    ------
    DatasetError
        If there is no such folder, no part at all in it, or the images of a wanted part cannot be found.
    """
    there = _annotations(Path(folder), classes)
    return {
        part: Part(part, there[part], _image_folder(Path(folder), part.partition("_")[0], there[part]))
        for part in there
        if part in wanted
    }


def find_part(folder: str | Path, name: str, classes: str = "EVICAN2") -> Part:
    """Return one part; an error names those that are there."""
    found = find_parts(folder, classes, (name,))
    if name not in found:
        there = ", ".join(_annotations(Path(folder), classes))
        raise DatasetError(f"{folder} does not hold the part {name!r} of {classes}; there are {there}.")
    return found[name]


def _annotations(folder: Path, classes: str) -> dict[str, Path]:
    """Return the annotation file of each part that is there."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; give the one that holds EVICAN, or a COCO file.")
    files = [path for place in (folder, folder / "annotations") if place.is_dir() for path in place.iterdir()]
    by_name = {path.name.lower(): path for path in reversed(files)}
    found = {}
    for part in PARTS:
        split, _, tier = part.partition("_")
        stem = f"instances_{split}2019" + (f"_{tier}" if tier else "")
        for name in (f"{stem}_{classes}.json", f"{stem}.json"):
            if name.lower() in by_name:
                found[part] = by_name[name.lower()]
                break
    if not found:
        raise DatasetError(
            f"{folder} holds no annotations of {classes}; expected instances_train2019_{classes}.json or the like, "
            "there or in its folder annotations."
        )
    return found


def _image_folder(folder: Path, split: str, annotations: Path) -> Path:
    candidates = [
        folder / f"{split}2019",
        folder / f"EVICAN_{split}2019",
        folder / "images" / f"{split}2019",
        folder,
    ]
    try:
        images = json.loads(annotations.read_text(encoding="utf-8"))["images"]
        first = images[0]["file_name"] if images else ""
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DatasetError(f"{annotations} cannot be read as a COCO file: {error!r}.") from error
    for candidate in candidates:
        if (candidate / first).is_file() or (not first and candidate.is_dir()):
            return candidate
    for candidate in candidates:  # the first image may be the one that is missing: a check says which are
        if candidate != folder and candidate.is_dir():
            return candidate
    raise DatasetError(
        f"The images of {annotations.name} are not in {folder}; expected {first or 'them'} in {candidates[0]}."
    )
