"""Train the network: ``python -m evican_model.train --dataset my.json --images my/ --output runs/my``.

The run folder holds the weights (``last.h5``, and ``best.h5`` by AP on the validation images), each with its settings
and training record, a preview of the samples, logs and a figure. A run that was stopped, by Ctrl-C or by force, goes
on exactly where its last checkpoint was: ``--resume runs/my``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np

from evican_model import run_folder, weights
from evican_model.config import PAPER_TRAINING, PRESETS, TRAINING_BEFORE, NetworkConfig, TrainConfig
from evican_model.dataset import AnnotatedImage
from evican_model.errors import DatasetError, EvicanError
from evican_model.run_folder import RUN, Source

__all__ = ["main", "train"]

_KEPT = ("dataset", "images", "share", "licence", "classes", "weights", "preset", "new_heads", "rename",
         "validation", "validation_images", "hold_out", "cache")  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        return train(options, command)
    except EvicanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        output = Path(options.resume or options.output)
        if (output / RUN).exists():
            print(f"stopped; go on with: python -m evican_model.train --resume {output}", file=sys.stderr)
        else:
            print("stopped before the first step", file=sys.stderr)
        return 130


def train(options: argparse.Namespace, command: list[str]) -> int:
    """Do what the options say; return the exit code."""
    output, training = _folder_and_settings(options)
    rename = _rename_of(options.rename)
    sources = run_folder.sources_of(
        options.dataset, options.images, options.share, options.licence, options.classes
    )
    run = run_folder.read_run(output) if options.resume else {}
    if run:  # its weights are in the checkpoint, or in last.h5 before the first
        start, network = None, weights.saved_config(run["network"], output / RUN)
    else:
        start = _start_of(options)
        categories = [name for source in sources for name in source.categories(rename)]
        network = run_folder.network_of(start, options.preset, categories, options.new_heads)
    datasets, validation = _read(options, sources, network, training, rename)
    if run:
        run_folder.check_same_images(run["record"], datasets, output)
    run_folder.make_folder(output)
    _say(sources, datasets, validation, network, start)

    from evican_model.preview import draw_samples
    from evican_model.samples import SampleSource

    cache = Path(options.cache) if options.cache else output / "blurred"
    source = SampleSource(datasets, [one.share for one in sources], network, training, cache)
    source.check_images()
    draw_samples(source, output / "preview.png")
    print(f"samples to look at: {output / 'preview.png'}", file=sys.stderr)
    if options.preview:
        return 0

    from evican_model.trainer import Trainer, choose_strategy

    strategy = choose_strategy(options.devices)
    record = run.get("record") or run_folder.record_of(sources, datasets, start, validation, command)
    tensors = run_folder.start_tensors(run["start"] if run else start, network, output)
    trainer = Trainer(network, training, source, output, record, tensors, validation, strategy)
    run_folder.check_room(output, sum(int(np.prod(v.shape)) for v in trainer.variables.values()))
    if not options.resume:
        run = {
            "options": {key: run_folder.absolute(getattr(options, key)) for key in _KEPT},
            "start": run_folder.absolute(start),
            "training": training.to_dict(),
            "network": network.to_dict(),
            "record": record,
        }
        (output / RUN).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    complete = trainer.run(options.stop_after)
    best = trainer.output / "best.h5"
    print(f"weights: {best if best.exists() else trainer.output / 'last.h5'}")
    if not complete:
        print(f"not complete; go on with: python -m evican_model.train --resume {output}")
    return 0


def _folder_and_settings(options) -> tuple[Path, TrainConfig]:
    """Return the run folder and its settings; a resumed run brings the options it was started with."""
    if options.resume:
        output = Path(options.resume)
        run = run_folder.read_run(output)
        for key, value in run["options"].items():
            setattr(options, key, value)
        training = TrainConfig.from_dict({**TRAINING_BEFORE, **run["training"]}, output / RUN)
        changed = [name for name in _field_names() if getattr(options, name) is not None]
        if changed:
            raise EvicanError(f"--resume goes on with the settings of the run; leave out {_flags(changed)}.")
        return output, training
    if not options.output:
        raise EvicanError("--output is missing: name the folder of the run.")
    output = Path(options.output)
    if (output / RUN).exists():
        raise EvicanError(
            f"{output} holds a run already; go on with --resume {output}, or name another folder."
        )
    values = dict(PAPER_TRAINING) if options.schedule == "paper" else {}
    values.update(
        {name: getattr(options, name) for name in _field_names() if getattr(options, name) is not None}
    )
    return output, TrainConfig.from_dict({**TrainConfig().to_dict(), **values}, "command line")


def _start_of(options) -> str | None:
    if options.weights == "none":
        return None
    if options.weights is not None:
        return options.weights
    if options.preset in (None, "fast"):
        return "bundled"
    print(
        f"note: no weights come with the preset {options.preset!r}, so training begins with random ones; give "
        "--weights to start from others.",
        file=sys.stderr,
    )
    return None


def _read(
    options, sources: list[Source], network: NetworkConfig, training: TrainConfig, rename
) -> tuple[list[list[AnnotatedImage]], list[AnnotatedImage]]:
    """Read all images and split off those for validation."""
    datasets = [source.read(network.categories, rename) for source in sources]
    outlined = [any(len(item.truth) for item in items) for items in datasets]
    for source, items, some in zip(sources, datasets, outlined):
        # Empty fields teach what is no object, beside a dataset that teaches what is one.
        empty_fields = any(item.dense and item.annotated for item in items)
        if not some and not (empty_fields and any(outlined)):
            raise DatasetError(
                f"{source.annotations} holds no annotation; there is nothing to learn from it."
            )
    given = []
    if options.validation:
        given = run_folder.sources_of(options.validation, options.validation_images, [], [], options.classes,
                                      "val")  # fmt: skip
    else:
        there = [run_folder.validation_of(dataset, options.classes) for dataset in options.dataset]
        given = [source for source in there if source is not None]
    if given:
        validation = [item for source in given for item in source.read(network.categories, rename)]
        trained = {item.sha256 for items in datasets for item in items}
        same = [item.path.name for item in validation if item.sha256 in trained]
        if same:
            raise DatasetError(
                f"{len(same)} validation images are among those trained on, the first is {same[0]}."
            )
    else:
        split = [run_folder.hold_out(items, options.hold_out, training.seed) for items in datasets]
        datasets, validation = [rest for rest, _ in split], [item for _, held in split for item in held]
    if len(validation) > training.validation_limit:
        places = np.linspace(0, len(validation) - 1, training.validation_limit).round().astype(int)
        validation = [validation[i] for i in places]
    return datasets, validation


def _say(sources, datasets, validation, network, start) -> None:
    for source, items in zip(sources, datasets):
        count = sum(len(item.truth) for item in items)
        partly = sum(not item.dense or item.annotated < set(network.categories) for item in items)
        print(f"{source.annotations}: {len(items)} images, {count} outlines, {partly} images partly annotated",
              file=sys.stderr)  # fmt: skip
    names = network.categories if len(network.categories) <= 4 else f"{len(network.categories)} categories"
    print(f"network: {network.preset}, {names}, from {start or 'random weights'}", file=sys.stderr)
    if validation:
        print(f"validation: {len(validation)} images, not trained on", file=sys.stderr)
    else:
        print("validation: none (too few images to hold any out; give --validation)",
              file=sys.stderr)  # fmt: skip


def _rename_of(pairs: list[str]) -> dict[str, str]:
    wrong = [pair for pair in pairs if pair.count("=") != 1 or pair.startswith("=") or pair.endswith("=")]
    if wrong:
        raise EvicanError(f"--rename {wrong[0]}: expected OLD=NEW, the file's name and the network's.")
    return dict((pair.split("=")[0], pair.split("=")[1]) for pair in pairs)


def _field_names() -> list[str]:
    return [field.name for field in fields(TrainConfig)]


def _flags(names: list[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evican_model.train", description=__doc__.splitlines()[0])
    data = parser.add_argument_group("data")
    add = data.add_argument
    add("--dataset", action="append", default=[], metavar="JSON|DIR", help="COCO file, or the folder of EVICAN; "
        "may be repeated")  # fmt: skip
    add("--images", action="append", default=[], metavar="DIR", help="images of a COCO file, one for each")
    add("--share", action="append", default=[], type=float, help="how often a dataset is drawn (default 1)")
    add("--licence", action="append", default=[], help="its licence, kept in the training record")
    add("--classes", choices=["EVICAN2", "EVICAN60"], default="EVICAN2", help="of an EVICAN folder")
    add("--rename", action="append", default=[], metavar="OLD=NEW", help="the network's name of a category")
    add("--validation", action="append", default=[], metavar="JSON|DIR", help="images to measure the AP on")
    add(
        "--validation-images",
        action="append",
        default=[],
        metavar="DIR",
        help="images of --validation",
    )
    add("--hold-out", type=float, default=0.1, metavar="SHARE", help="of the images, for validation where none is "
        "given (default: %(default)s; an EVICAN folder brings its own)")  # fmt: skip
    add("--cache", metavar="DIR", help="folder for blurred images (default: in the run folder)")
    run = parser.add_argument_group("run")
    add = run.add_argument
    add("--output", metavar="DIR", help="run folder")
    add("--resume", metavar="DIR", help="go on with the run in this folder")
    add("--weights", help="weights to start from: bundled (the default), a .h5 file, or none")
    add("--preset", choices=sorted(PRESETS), help="network to build where no weights say it")
    add("--new-heads", action="store_true", help="keep only backbone and pyramid of the weights; categories from the "
        "data")  # fmt: skip
    add("--preview", action="store_true", help="check everything, save a picture of samples and stop")
    add("--devices", nargs="+", metavar="NAME", help="such as GPU:0 GPU:1 (default: all GPUs, or the CPU)")
    add("--stop-after", type=float, metavar="SECONDS", help="save and stop after this time")
    settings = parser.add_argument_group(
        "settings", "defaults are those of the schedule quick; paper has its own"
    )
    for field in fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            settings.add_argument(flag, dest=field.name, action="store_true", default=None, help="switch on")
            settings.add_argument(
                "--no-" + flag[2:], dest=field.name, action="store_false", help="switch off"
            )
        elif isinstance(field.default, tuple):
            settings.add_argument(flag, nargs="*", help=f"default: {' '.join(field.default)}")
        else:
            settings.add_argument(flag, type=type(field.default), help=f"default: {field.default}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
