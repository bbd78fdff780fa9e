"""The report of ``python -m evican_model.dataset check``: what a dataset holds, how varied it is, what is wrong."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable

import numpy as np

from evican_model.categories import line_of
from evican_model.dataset import outline, read_coco
from evican_model.errors import DatasetError, ImageError
from evican_model.images import read_image
from evican_model.layout import find_parts
from evican_model.outlines import crosses_itself, is_rectangle

__all__ = ["Report", "check_command", "inspect"]

_SHOWN = 5  # examples of each kind of problem
_INSTRUMENT = ("microscope", "objective", "magnification", "modality")
_AREA_TOLERANCE = 0.02  # and two pixels: polygons are drawn on pixels in more than one way


@dataclass
class Report:
    """What was found in one annotation file.

    ``problems`` are what training refuses or learns wrongly from; ``remarks`` are worth a look.
    """

    source: Path
    images: int = 0
    blank: int = 0
    partly: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    objects: Counter = field(default_factory=Counter)
    lines: Counter = field(default_factory=Counter)
    line_images: Counter = field(default_factory=Counter)
    instruments: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    combinations: set = field(default_factory=set)
    areas: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    without: Counter = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def lines_of_text(self) -> Iterable[str]:
        """Yield the report line by line."""
        yield f"{self.source}"
        yield (f"  images          {self.images}: {self.images - self.blank} with outlines, {self.blank} blank"
               + (f"; {self.partly} say that they are annotated in part" if self.partly else ""))  # fmt: skip
        if self.sizes:
            heights, widths = zip(*self.sizes)
            yield (f"  size            {min(widths)} x {min(heights)} to {max(widths)} x {max(heights)} pixels "
                   "(width x height)")  # fmt: skip
        for name, count in sorted(self.objects.items()):
            areas = self.areas[name]
            size = f", median diameter {2 * np.sqrt(np.median(areas) / np.pi):.0f} pixels" if areas else ""
            yield f"  {name:<16}{count}{size}"
        missing = ", ".join(f"{count} without {key}" for key, count in sorted(self.without.items()))
        if missing:
            yield f"  computed        {missing} (from the outlines)"
        yield from self._variation()
        for title, found in (("problem", self.problems), ("remark", self.remarks)):
            for kind, examples in found.items():
                shown = "; ".join(examples[:_SHOWN]) + ("; ..." if len(examples) > _SHOWN else "")
                yield f"  {title:<16}{len(examples)} x {kind}: {shown}"
        if not self.problems:
            yield "  problems        none"

    def _variation(self) -> Iterable[str]:
        """Yield what the paper's Table 4 compares datasets by: object variation and instrument variation."""
        if self.lines:
            total, largest = sum(self.lines.values()), self.lines.most_common(1)[0]
            yield (
                f"  object variation     {len(self.line_images)} cell lines x {len(self.objects)} categories; the "
                f"largest line, {largest[0]}, has {largest[1] / total:.0%} of the objects; "
                f"balance {_balance(self.lines):.2f}"
            )
            for line, count in sorted(self.lines.items(), key=lambda pair: (-pair[1], pair[0])):
                yield f"    {line:<14}{count:>7} objects in {self.line_images[line]} images"
        else:
            yield "  object variation     no cell lines are given (key cell_line, or files named NUMBER_LINE.jpg)"
        if self.instruments:
            parts = "; ".join(f"{key}: " + ", ".join(f"{value} ({n})" for value, n in sorted(counts.items()))
                              for key, counts in self.instruments.items())  # fmt: skip
            yield f"  instrument variation {len(self.combinations)} combinations of images; {parts}"
        else:
            yield f"  instrument variation not given (keys {', '.join(_INSTRUMENT)})"


def inspect(annotations: str | Path, images: str | Path, read_pixels: bool = True) -> Report:
    """Check one COCO file and its images.

    Parameters
    ----------
    annotations, images : str or Path
        The file, and the folder of its images.
    read_pixels : bool
        Whether every image is decoded. False: only looked for.

    Returns
    -------
    Report

    Raises
    ------
    DatasetError
        If the file is no COCO instance file at all.
    """
    report, folder = Report(Path(annotations)), Path(images)
    content = read_coco(annotations)
    categories = {c["id"]: str(c["name"]) for c in content["categories"]}
    by_image: dict[Any, list[dict]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    known = {image["id"] for image in content["images"]}
    for kind in ("images", "annotations", "categories"):
        counts = Counter(entry["id"] for entry in content[kind])
        report.problems[f"id used more than once among the {kind}"] += [
            str(i) for i, n in counts.items() if n > 1
        ]
    report.problems["file listed more than once"] += [
        name for name, n in Counter(image["file_name"] for image in content["images"]).items() if n > 1
    ]
    for image_id in sorted(set(by_image) - known, key=str):
        report.problems["annotation of an image that is not listed"].append(
            f"{len(by_image[image_id])} of image {image_id}"
        )
    for image in content["images"]:
        _look_at_image(report, image, by_image[image["id"]], folder, read_pixels, categories)
        for annotation in by_image[image["id"]]:
            _look_at_annotation(report, annotation, image, categories)
    report.problems = {kind: found for kind, found in report.problems.items() if found}
    report.remarks = {kind: found for kind, found in report.remarks.items() if found}
    return report


def _look_at_image(report: Report, image, annotations, folder: Path, read_pixels: bool, categories) -> None:
    shape, name = (int(image["height"]), int(image["width"])), image["file_name"]
    report.images += 1
    report.blank += not annotations
    report.partly += not image.get("dense", True) or set(
        image.get("annotated_classes", categories.values())
    ) < set(categories.values())
    report.sizes.append(shape)
    line = _line_of(image)
    if line:
        report.line_images[line] += 1
    given = {key: str(image[key]) for key in _INSTRUMENT if image.get(key) not in (None, "")}
    for key, value in given.items():
        report.instruments[key][value] += 1
    if given:
        report.combinations.add(tuple(sorted(given.items())))
    unknown = set(image.get("annotated_classes", [])) - set(categories.values())
    if unknown:
        report.problems["annotated_classes that are no category"].append(f"{name}: {sorted(unknown)}")
    path = folder / name
    if not path.is_file():
        report.problems[f"image missing in {folder}"].append(name)
    elif read_pixels:
        try:
            found = read_image(path).shape[:2]
        except ImageError as error:
            report.problems["image that cannot be read"].append(str(error))
            return
        if found != shape:
            report.problems["size in the file differs from the image's"].append(
                f"{name} is {found[1]} x {found[0]}, the file says {shape[1]} x {shape[0]}"
            )


def _look_at_annotation(report: Report, annotation, image, categories) -> None:
    label = f"annotation {annotation['id']} of {image['file_name']}"
    if annotation["category_id"] not in categories:
        report.problems["category that is not listed"].append(f"{label}: {annotation['category_id']}")
        return
    category, shape = categories[annotation["category_id"]], (int(image["height"]), int(image["width"]))
    report.objects[category] += 1
    line = line_of(category) or _line_of(image)
    if line:
        report.lines[line] += 1
    try:
        box, crop = outline(annotation, shape, report.source)
    except DatasetError as error:
        report.problems["outline that cannot be read"].append(str(error))
        return
    if not crop.size:
        report.problems["outline without any pixel"].append(label)
        return
    area = int(np.count_nonzero(crop))
    report.areas[category].append(area)
    for key in ("area", "bbox"):
        report.without[key] += annotation.get(key) is None
    given = annotation.get("area")
    if given is not None and abs(given - area) > max(2, _AREA_TOLERANCE * area):
        report.problems["area that is not the outline's"].append(f"{label}: {given:g} for {area}")
    if isinstance(annotation["segmentation"], list):
        _look_at_polygons(report, annotation["segmentation"], shape, label)
    if is_rectangle(crop):
        report.remarks["outline that is a plain rectangle"].append(label)
    if annotation.get("iscrowd"):
        report.remarks["crowd, which training takes for one object"].append(label)


def _look_at_polygons(report: Report, polygons, shape, label: str) -> None:
    for polygon in polygons:
        points = np.asarray(polygon[: len(polygon) // 2 * 2], float).reshape(-1, 2)
        if len(polygon) < 6 or len(polygon) % 2:
            report.problems["polygon with too few or odd numbers"].append(label)
        elif (points.min(0) < -1).any() or (points > np.array(shape[::-1]) + 1).any():
            report.remarks["polygon reaching out of the image, cut there"].append(label)
        elif crosses_itself(points):
            report.remarks["polygon that crosses itself"].append(label)


def _line_of(image) -> str:
    if image.get("cell_line"):
        return str(image["cell_line"])
    match = re.fullmatch(r"\d+_(.+)\.[A-Za-z]+", Path(image["file_name"]).name)  # EVICAN: number_line.jpg
    return match.group(1) if match else ""


def _balance(counts: Counter) -> float:
    """Entropy of the lines' shares over that of equal ones: 1 where all are equal."""
    shares = np.array(list(counts.values()), float) / sum(counts.values())
    return float(-(shares * np.log(shares)).sum() / np.log(len(shares))) if len(shares) > 1 else 1.0


def check_command(options) -> int:
    """Print the report of a COCO file or of all parts of an EVICAN folder; 1 if there are problems."""
    path = Path(options.dataset)
    if path.is_dir():
        if options.images:
            raise DatasetError("--images goes with a COCO file; a folder of EVICAN brings its own.")
        pairs = [(part.annotations, part.images) for part in find_parts(path, options.classes).values()]
    else:
        pairs = [(path, Path(options.images or path.parent))]
    failed = False
    for file, folder in pairs:
        report = inspect(file, folder)
        print("\n".join(report.lines_of_text()))
        failed |= bool(report.problems)
    return int(failed)
