"""What a training run needs before its first step, all of it checked: data, weights, room on the disk, its record."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np

import evican_model
from evican_model import weights as weights_file
from evican_model.config import NetworkConfig
from evican_model.dataset import AnnotatedImage, read_categories, read_dataset
from evican_model.errors import DatasetError, EvicanError, WeightsError
from evican_model.layout import find_part, find_parts

__all__ = [
    "Source",
    "absolute",
    "check_room",
    "check_same_images",
    "hold_out",
    "make_folder",
    "read_run",
    "record_of",
    "sources_of",
    "start_tensors",
]

RUN = "run.json"
_FEWEST_TO_HOLD_OUT = 5  # with fewer images each is needed for training


@dataclass(frozen=True)
class Source:
    """One COCO file with its images, how often it is drawn and what is known of it."""

    annotations: Path
    images: Path
    share: float = 1.0
    licence: str = ""
    partly_annotated: bool = False

    def read(self, categories: tuple[str, ...], rename: dict[str, str]) -> list[AnnotatedImage]:
        """Read its images; see `read_dataset`."""
        return read_dataset(self.annotations, self.images, categories, rename, self.partly_annotated)

    def categories(self, rename: dict[str, str]) -> list[str]:
        """Names of its categories, renamed."""
        return [rename.get(name, name) for name in read_categories(self.annotations)]

    def describe(self, items: Sequence[AnnotatedImage]) -> dict[str, Any]:
        """Return what the training record says of it."""
        info = json.loads(self.annotations.read_text(encoding="utf-8")).get("info", {})
        info = {**info, "licence": self.licence} if self.licence else info
        return {
            "annotations": self.annotations.name,
            "info": info,
            "images": len(items),
            "instances": sum(len(item.truth) for item in items),
            "sha256": [item.sha256 for item in items],
        }


def sources_of(
    datasets: Sequence[str], images: Sequence[str], shares: Sequence[float], licences: Sequence[str], classes: str,
    part: str = "train",
) -> list[Source]:  # fmt: skip
    """Return the sources that options name: COCO files, each with its folder of images, and folders of EVICAN.

    Raises
    ------
    DatasetError
        If the options do not fit together, or an EVICAN folder lacks the part.
    """
    files = [dataset for dataset in datasets if not Path(dataset).is_dir()]
    if not datasets or len(files) != len(images):
        raise DatasetError(f"{len(datasets)} --dataset and {len(images)} --images given; each COCO file needs its "
                           "folder of images, a folder of EVICAN needs none.")  # fmt: skip
    for name, values in (("share", shares), ("licence", licences)):
        if values and len(values) != len(datasets):
            raise DatasetError(
                f"{len(values)} --{name} given for {len(datasets)} --dataset; give one for each."
            )
    folders, found = iter(images), []
    for i, dataset in enumerate(datasets):
        share = float(shares[i]) if shares else 1.0
        licence = licences[i] if licences else ""
        if not share > 0:
            raise DatasetError(f"--share {share}: how often a dataset is drawn must be above 0.")
        if dataset in files:
            found.append(Source(Path(dataset), Path(next(folders)), share, licence))
            continue
        one = find_part(dataset, part, classes)
        # The licence inside EVICAN's files is that of a template; the record at doi:10.17617/3.AJBV1S says CC BY 4.0.
        found.append(Source(one.annotations, one.images, share, licence or "CC BY 4.0", one.partly_annotated))
    return found


def validation_of(dataset: str, classes: str) -> Source | None:
    """Return the validation part of an EVICAN folder, or None for anything else."""
    if not Path(dataset).is_dir() or "val" not in find_parts(dataset, classes):
        return None
    part = find_part(dataset, "val", classes)
    return Source(part.annotations, part.images, partly_annotated=part.partly_annotated)


def network_of(
    start: str | None, preset: str | None, categories: Sequence[str], new_heads: bool
) -> NetworkConfig:
    """Return the network to train.

    Parameters
    ----------
    start : str or None
        Weights to start from.
    preset : str or None
        Only without weights, or the one of the weights.
    categories : sequence of str
        Of the datasets.
    new_heads : bool
        Whether only backbone and pyramid of the weights are kept, and the categories are those of the datasets.

    Raises
    ------
    WeightsError
        If the weights are of another preset, or know other categories.
    """
    unique = tuple(dict.fromkeys(categories))
    if start is None:
        return dataclasses.replace(NetworkConfig.for_preset(preset or "fast"), categories=unique)
    config = weights_file.check(start).config
    if preset and config.preset != preset:
        raise WeightsError(f"The weights {start} are of the preset {config.preset!r}, not {preset!r}; leave --preset "
                           "out, or give other --weights.")  # fmt: skip
    if new_heads:
        # New heads give other scores, which would have to be rescored otherwise.
        return dataclasses.replace(config, categories=unique, rescoring=NetworkConfig().rescoring)
    unknown = [name for name in unique if name not in config.categories]
    if unknown:
        raise WeightsError(
            f"The data have the categories {_some(unknown)}, the weights {start} know {_some(config.categories)}. "
            f"Rename what means the same (--rename {shlex.quote(unknown[0])}={config.categories[0]}), or train new "
            "heads for the categories of the data on the weights' backbone (--new-heads)."
        )
    return config


def start_tensors(
    start: str | None, network: NetworkConfig, output: Path | None = None
) -> dict[str, np.ndarray]:
    """Return the tensors to start from: all of the weights, or those of their backbone and pyramid for new heads.

    None are needed where a run folder, `output`, holds a checkpoint: the weights may be gone by then.
    """
    if start is None or (output is not None and (output / "checkpoint" / "state.json").exists()):
        return {}
    info = weights_file.check(start)
    from evican_model.network import MaskRCNN
    from evican_model.runtime import start_tensorflow

    start_tensorflow()
    shapes = {name: tuple(v.shape) for name, v in MaskRCNN(info.config).named_variables().items()}
    tensors = info.read(shapes)
    if info.config.categories == network.categories:
        return tensors
    heads = ("rpn_", "box_", "class_", "mask_", "mrcnn_")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(heads)}


def hold_out(
    items: list[AnnotatedImage], share: float, seed: int
) -> tuple[list[AnnotatedImage], list[AnnotatedImage]]:
    """Split off a share of the images with annotations for validation; none of fewer than five images.

    Returns
    -------
    tuple of list
        The rest, and those held out.
    """
    annotated = [i for i, item in enumerate(items) if len(item.truth)]
    count = round(share * len(annotated))
    if share > 0 and len(annotated) >= _FEWEST_TO_HOLD_OUT:
        count = max(1, count)
    elif len(annotated) < _FEWEST_TO_HOLD_OUT:
        count = 0
    chosen = set(np.random.default_rng([seed, 1]).permutation(annotated)[:count].tolist())
    return ([item for i, item in enumerate(items) if i not in chosen], [items[i] for i in sorted(chosen)])


def make_folder(output: Path) -> None:
    """Make the run folder, and find out whether it can be written to."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise EvicanError(
            f"{output} cannot be written to: {error.strerror}. Give another --output."
        ) from error


def check_room(output: Path, parameters: int) -> None:
    """Refuse a disk on which the run's weights and checkpoints do not fit.

    A checkpoint holds weights, average and the optimiser's state, four numbers a parameter, and exists twice while
    it is being replaced; weights are written three times, and logs take some room as well.
    """
    needed = parameters * 4 * (4 * 2 + 3) + 50_000_000
    free = shutil.disk_usage(output).free
    if free < needed:
        raise EvicanError(
            f"{output} has {free / 1e9:.2f} GB free; the run needs about {needed / 1e9:.2f} GB."
        )


def record_of(
    sources: Sequence[Source], datasets: Sequence[Sequence[AnnotatedImage]], start: str | None,
    validation: Sequence[AnnotatedImage], command: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Return the training record that goes with the weights: images, licences, start, command and commit."""
    record: dict[str, Any] = {
        "datasets": [source.describe(items) for source, items in zip(sources, datasets)],
        "shares": [source.share for source in sources],
        "start": {},
        "validation": {"images": len(validation), "sha256": [item.sha256 for item in validation]},
        "command": shlex.join(["python", "-m", "evican_model.train", *command]),
        "version": evican_model.__version__,
        "commit": _commit(),
    }
    if start is not None:
        info = weights_file.check(start)
        record["start"] = {"weights": info.path.name, "sha256": info.sha256, "training": info.training}
    return record


def read_run(output: Path) -> dict[str, Any]:
    """Read ``run.json`` of a run folder, to go on with it."""
    path = output / RUN
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("options", "start", "training", "network", "record") if key not in run]
    except (OSError, ValueError, TypeError) as error:
        raise EvicanError(
            f"{path} cannot be read ({error}); --resume needs the folder of an earlier run."
        ) from error
    if missing:
        raise EvicanError(f"{path} lacks {missing}; it was made by another version and cannot be resumed.")
    return run


def check_same_images(
    record: dict[str, Any], datasets: Sequence[Sequence[AnnotatedImage]], output: Path
) -> None:
    """Refuse to resume a run on other images than it was started with."""
    before = [dataset["sha256"] for dataset in record["datasets"]]
    now = [[item.sha256 for item in items] for items in datasets]
    if before != now:
        changed = len({d for each in before for d in each} ^ {d for each in now for d in each})
        raise DatasetError(
            f"The images of {output} are not those it was started with ({changed} differ, or their order does); put "
            "them back, or start a new run from its last.h5."
        )


def absolute(value: Any) -> Any:
    """Return options with paths that hold from any folder; what is no path stays as it is."""
    if isinstance(value, list):
        return [absolute(one) for one in value]
    if isinstance(value, str) and value and Path(value).exists():
        return str(Path(value).resolve())
    return value


def _commit() -> str:
    """Return the commit of the code, with a mark if it was changed since; "" where it is not a git checkout."""
    folder = Path(__file__).resolve().parent
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
            ).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.strip() + (" with changes" if changes.strip() else "")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
