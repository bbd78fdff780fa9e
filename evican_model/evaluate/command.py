"""Judge a model, or the results of any tool, on annotated images, and write a report.

``python -m evican_model.evaluate --dataset EVICAN --difficulty easy --output report/`` or
``python -m evican_model.evaluate --annotations a.json --images dir --results results.json --output report/``.
Exit code 0: the report is written; 2: the input cannot be used.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Sequence

import evican_model
from evican_model.errors import DatasetError, EvicanError
from evican_model.evaluate.analysis import analyse
from evican_model.evaluate.detection import detect_all
from evican_model.evaluate.evaluation import Judgement, Settings, Tool, evaluate
from evican_model.evaluate.ground_truth import DIFFICULTIES, SceneSet, read_scenes, split_trained
from evican_model.evaluate.metrics import ALL, interval
from evican_model.evaluate.results import read_results
from evican_model.evaluate.tables import write_tables

__all__ = ["main"]

_SCORED_RESULTS = 0.5  # working confidence of results with scores whose maker did not say one


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        _run(options, "python -m evican_model.evaluate " + " ".join(shlex.quote(one) for one in given))
    except (EvicanError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evican_model.evaluate", description=(__doc__ or "").splitlines()[0]
    )
    images = parser.add_argument_group("the annotated images: an EVICAN folder, or a COCO file")
    images.add_argument(
        "--dataset", metavar="DIR", help="folder of EVICAN, as published or as its code has it"
    )
    images.add_argument(
        "--difficulty", nargs="+", choices=DIFFICULTIES, help="of --dataset (default: all there are)"
    )
    images.add_argument("--classes", choices=["EVICAN2", "EVICAN60"], default="EVICAN2", help="of --dataset")
    images.add_argument("--annotations", metavar="JSON", help="COCO instances")
    images.add_argument("--images", metavar="DIR", help="the images of --annotations (default: its folder)")
    images.add_argument("--first", type=_count, metavar="N", help="only the first N images of each set")
    images.add_argument("--include-trained", action="store_true",
                        help="also images that the weights were trained on; the report is marked")  # fmt: skip
    tools = parser.add_argument_group("what is judged")
    what = tools.add_mutually_exclusive_group()
    what.add_argument("--weights", metavar="W", help="a .h5 file or a bundled name (default: bundled)")
    what.add_argument("--results", metavar="PATH", help="of any tool: COCO results, or a folder of label images "
                      "(NAME_cells.tiff, NAME_nuclei.tiff; DIR:Cell for one class)")  # fmt: skip
    tools.add_argument("--compare", nargs="+", default=[], metavar="NAME=PATH",
                       help="results, label images or weights (.h5) of other tools, side by side")  # fmt: skip
    tools.add_argument("--confidence", nargs="+", default=[], metavar="[NAME=]F",
                       help="working confidence (default: of weights their own, of COCO results 0.5)")  # fmt: skip
    tools.add_argument(
        "--cell-diameter", type=float, metavar="PX", help="of a typical cell (default: automatic)"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--cap", type=_count, nargs="+", default=list(Settings.caps), metavar="N",
                     help="most detections an image that AP looks at (default: 100 1000)")  # fmt: skip
    how.add_argument("--bootstrap", type=int, default=Settings.samples, metavar="N",
                     help="samples of the images for the intervals (default: %(default)s; 0: none)")  # fmt: skip
    how.add_argument("--seed", type=int, default=Settings.seed, help="of the samples (default: %(default)s)")
    how.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="for report.html, CSV and JSON"
    )
    return parser


def _run(options: argparse.Namespace, command: str) -> None:
    from evican_model.evaluate.report import require_report, write_report

    require_report()
    settings = Settings(tuple(sorted(set(options.cap))), max(0, options.bootstrap), options.seed)
    named = _named_tools(options)
    confidences = _confidences(options.confidence, [name for name, _ in named])
    infos = {name: evican_model.weights.check(place) for name, place in named if _are_weights(place)}
    sets = _read_sets(options)
    options.output.mkdir(parents=True, exist_ok=True)
    sets, left_out, included = _leave_out(
        sets, [info.training for info in infos.values()], options.include_trained
    )
    tools = [
        _tool(name, place, sets, confidences.get(name), infos.get(name), options) for name, place in named
    ]
    judgements = evaluate(sets, tools, settings)
    about = _about(sets, tools, settings, left_out, included, bool(infos), command)
    analyses = [analyse(one, max(settings.caps)) for one in judgements]
    write_tables(options.output, analyses, settings, about)
    write_report(options.output / "report.html", analyses, settings, about)
    _print_summary(judgements, settings, left_out, included)
    print(f"{options.output / 'report.html'}")


def _named_tools(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return name and place of all tools, the judged one first."""
    if options.results:
        place = options.results
        named = [(Path(place).stem or "results", place)]
    else:
        place = options.weights or "bundled"
        named = [(Path(place).stem, place)]
    for one in options.compare:
        name, equals, place = one.partition("=")
        if not (name and equals and place):
            raise EvicanError(f"--compare {one}: expected NAME=PATH.")
        named.append((name, place))
    names = [name for name, _ in named]
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise EvicanError(f"two tools are called {double!r}; give --compare another NAME.")
    return named


def _are_weights(place: str) -> bool:
    return place.endswith(".h5") or place in ("bundled", *evican_model.available_weights())


def _confidences(given: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    chosen = {}
    for one in given:
        name, _, text = one.rpartition("=")
        name = name or names[0]
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if name not in names or not 0 <= value <= 1:
            raise EvicanError(
                f"--confidence {one}: expected 0 to 1, or NAME= one of {', '.join(names)} and 0 to 1."
            )
        chosen[name] = value
    return chosen


def _read_sets(options: argparse.Namespace) -> list[SceneSet]:
    if bool(options.dataset) == bool(options.annotations):
        raise EvicanError("give either --dataset (a folder of EVICAN) or --annotations (a COCO file).")
    if options.annotations:
        if options.difficulty:
            raise EvicanError("--difficulty is of --dataset; a COCO file is taken whole.")
        folder = options.images or Path(options.annotations).parent
        return [read_scenes(options.annotations, folder, first=options.first)]
    if options.images:
        raise EvicanError("--images is of --annotations; in a folder of EVICAN the images are found.")
    if Path(options.dataset).is_file():
        raise EvicanError(f"--dataset {options.dataset} is a file; give a COCO file with --annotations.")
    from evican_model.layout import find_parts

    names = [f"eval_{one}" for one in options.difficulty or DIFFICULTIES]
    parts = find_parts(options.dataset, options.classes, names)
    wanted = options.difficulty or [one for one in DIFFICULTIES if f"eval_{one}" in parts]
    missing = [one for one in wanted if f"eval_{one}" not in parts]
    if missing or not wanted:
        raise DatasetError(f"{options.dataset} has no annotations of the evaluation images "
                           f"({', '.join(missing or DIFFICULTIES)}); expected instances_eval2019_"
                           f"{(missing or DIFFICULTIES)[0]}_{options.classes}.json.")  # fmt: skip
    chosen = [parts[f"eval_{one}"] for one in dict.fromkeys(wanted)]
    return [read_scenes(part.annotations, part.images, name, options.first)
            for name, part in zip(dict.fromkeys(wanted), chosen)]  # fmt: skip


def _leave_out(
    sets: list[SceneSet], records: list[dict], include: bool
) -> tuple[list[SceneSet], dict[str, list[str]], dict[str, list[str]]]:
    """Return the sets without what weights were trained on, what was left out, and what is in all the same."""
    kept, left_out, included = [], {}, {}
    for scenes in sets:
        new, known = split_trained(scenes.scenes, records)
        if known and include:
            included[scenes.name] = [scene.name for scene in known]
            new = list(scenes.scenes)
        elif known:
            left_out[scenes.name] = [scene.name for scene in known]
        if not new:
            raise DatasetError(f"{scenes.source}: the weights were trained on all {len(known)} images; none is left to "
                               "evaluate (--include-trained keeps them, and marks the report).")  # fmt: skip
        kept.append(replace(scenes, scenes=tuple(new)))
    return kept, left_out, included


def _tool(name: str, place: str, sets: list[SceneSet], confidence, info, options: argparse.Namespace) -> Tool:
    categories = sorted({category for scenes in sets for category in scenes.categories})
    if info is not None:
        model = evican_model.load_model(place)
        results = tuple(detect_all(model, scenes, name, options.cell_diameter) for scenes in sets)
        least = model.config.confidence if confidence is None else confidence
        source = f"weights {Path(place).name}, SHA-256 {info.sha256[:12]}"
    else:
        several = len(sets) > 1
        results = tuple(
            read_results(place.replace("{difficulty}", scenes.name), scenes, several) for scenes in sets
        )
        default = _SCORED_RESULTS if results[0].scored and not results[0].flat else 0.0
        least = default if confidence is None else confidence
        source = str(place)
    return Tool(name, source, {category: least for category in categories}, results)


def _about(sets, tools, settings, left_out, included, has_weights: bool, command: str) -> dict[str, Any]:
    return {
        "version": evican_model.__version__,
        "command": command,
        "settings": {"caps": list(settings.caps), "bootstrap": settings.samples, "seed": settings.seed},
        "training_record": has_weights,
        "left_out": left_out,
        "included_although_trained_on": included,
        "sets": [
            {
                "name": scenes.name,
                "annotations": str(scenes.source),
                "images": len(scenes.scenes),
                "partly_annotated": sum(not scene.image.dense for scene in scenes.scenes),
                "objects": {name: sum(scene.image.truth.count(name) for scene in scenes.scenes)
                            for name in scenes.categories},
                "judged_images": {name: sum(name in scene.image.annotated and scene.image.dense
                                            for scene in scenes.scenes) for name in scenes.categories},
                "notes": list(scenes.notes),
            }
            for scenes in sets
        ],
        "tools": [
            {"name": tool.name, "source": tool.source, "confidence": tool.confidence,
             "scores": tool.results[0].scored, "label_images": tool.results[0].flat,
             "categories": sorted(tool.results[0].offered),
             "notes": sorted({note for one in tool.results for note in one.notes})}
            for tool in tools
        ],
    }  # fmt: skip


def _print_summary(judgements: Sequence[Judgement], settings: Settings, left_out, included) -> None:
    for what, names in (("left out, as the weights were trained on them", left_out),
                        ("INCLUDED, although the weights were trained on them", included)):  # fmt: skip
        for scenes, images in names.items():
            print(f"{scenes}: {what}: {', '.join(images)}")
    cap = max(settings.caps)
    print(
        f"masks: AP of all images pooled, at most {cap} detections an image; F1, PQ at the working confidence; in %"
    )
    print(f"{'set':<22}{'tool':<14}{'category':<10}{'AP':>7}{'AP50':>7}{'AP75':>7}{'F1 0.5':>8}{'PQ':>7}")
    for one in judgements:
        for category in (ALL, *one.scenes.categories):
            keys = (f"AP@{cap}", f"AP50@{cap}", f"AP75@{cap}", "F1_50", "PQ")
            partial = one.figures.get((category, "partial_recall50"))
            if partial is not None:
                recall = f"partly annotated images: recall {100 * partial[0]:.1f} at IoU 0.5"
                print(f"{one.scenes.name[:21]:<22}{one.tool.name[:13]:<14}{category:<10}{recall}")
            if (category, keys[0]) not in one.figures:
                continue
            values = [100 * interval(one.figures[category, key]).value for key in keys]
            print(f"{one.scenes.name[:21]:<22}{one.tool.name[:13]:<14}{category:<10}"
                  + "".join(f"{value:>{8 if k == 3 else 7}.1f}" for k, value in enumerate(values)))  # fmt: skip


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value
