"""Weights are data, never code: plain HDF5 tensors (``name.h5``) with their config and training record (``name.json``).

The reader knows beforehand which tensors there must be and which shape each has. It follows no link, unpickles nothing
and never falls back to other weights: a file that does not fit is an error that names the tensor. Files of Matterport's
Mask R-CNN are read as well, as strictly.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import h5py
import numpy as np

from evican_model import hdf5, matterport
from evican_model.categories import are_lines
from evican_model.config import NetworkConfig
from evican_model.errors import EvicanError, WeightsError

__all__ = [
    "WeightsInfo",
    "available_weights",
    "check",
    "images_behind",
    "read_tensors",
    "records_behind",
    "saved_config",
    "tells_lines",
    "write",
]

BUNDLED_FOLDER = Path(__file__).parent / "weights"
BUNDLED_NAME = "fast"
# Each name's file, and what its config has otherwise: the same tensors, used with more care.
_LOOKS = {"views": 8, "close_views": 2}
_BUNDLED: dict[str, tuple[str, dict[str, Any]]] = {"fast": ("fast", {}), "accurate": ("fast", _LOOKS)}
_FORMAT = "evican-weights 1"
# What networks were before the config had a word for it, so that older files mean what they meant.
_BEFORE = {"mask_context": 1.0, "mask_certainty": False, "views": 1, "close_views": 0, "close_scale": 1.25,
           "rescoring": (1.0, 0.0, 0.0, 0.0)}  # fmt: skip


@dataclass(frozen=True)
class WeightsInfo:
    """What is known of a weights file without building the network."""

    path: Path
    config: NetworkConfig
    sha256: str
    training: dict[str, Any] = field(default_factory=dict)
    matterport: bool = False  # a file of Matterport's Mask R-CNN, to be read by its layer names

    def require_trained(self) -> None:
        """Raise a `WeightsError` if layers still hold the random numbers that a training is to start from."""
        untrained = self.training.get("untrained")
        if untrained:
            raise WeightsError(
                f"{self.path}: the layers {', '.join(untrained)} are not trained; they were made anew for the "
                f"categories {list(self.config.categories)}. Train them first (python -m evican_model.train "
                f"--weights {self.path})."
            )

    def read(self, expected: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Read the tensors, in either format, as `read_tensors` does."""
        if self.matterport:
            return matterport.read_tensors(self.path, expected, self.config)[0]
        return read_tensors(self.path, expected)


def available_weights() -> list[str]:
    """Names of the weights that come with the package.

    Examples
    --------
    >>> available_weights()
    ['accurate', 'fast']
    """
    return sorted(name for name, (stem, _) in _BUNDLED.items() if (BUNDLED_FOLDER / f"{stem}.h5").is_file())


def check(weights: str | Path = "bundled", categories: Sequence[str] | None = None) -> WeightsInfo:
    """Find a weights file and check all that can be checked without TensorFlow.

    Parameters
    ----------
    weights : str or Path
        ``"bundled"``, the name of bundled weights, the path of a ``.h5`` file with its ``.json`` beside it, or of a
        file of Matterport's Mask R-CNN, which needs none.
    categories : sequence of str, optional
        Names of the categories of a Matterport file without ``.json``.

    Returns
    -------
    WeightsInfo

    Raises
    ------
    WeightsError
        If there is no such file, it is no weights file of ours or of Matterport's, or its config cannot be read.
    """
    path = _locate(weights)
    sidecar = path.with_suffix(".json")
    with hdf5.open_file(path) as file:
        ours = file.attrs.get("format") == _FORMAT
        if ours:
            hdf5.list_tensors(file, path, depth=2)
        elif not matterport.is_matterport(file, path):
            raise WeightsError(
                f"{path} is an HDF5 file, but not one of ours (the attribute format={_FORMAT!r} is missing), and has "
                "no layer of Matterport's Mask R-CNN."
            )
        elif not sidecar.is_file():
            config = matterport.config_of(matterport.list_layers(file, path)[0], path, categories)
            return WeightsInfo(path, config, sha256_of(path), matterport=True)
    if not sidecar.is_file():
        raise WeightsError(f"{path} has no config beside it; expected {sidecar}.")
    record = _read_record(sidecar)
    try:
        config = replace(saved_config(record["network"], sidecar), **_changes(weights))
    except EvicanError as error:
        raise WeightsError(str(error)) from error
    if categories is not None and tuple(categories) != config.categories:
        raise WeightsError(
            f"{sidecar} names the categories {list(config.categories)}; {list(categories)} are given."
        )
    return WeightsInfo(path, config, sha256_of(path), record.get("training", {}), matterport=not ours)


def saved_config(network: dict[str, Any], source: str | Path) -> NetworkConfig:
    """Read the config of a network that was saved at some time: what it had no word for yet means what it meant.

    Parameters
    ----------
    network : dict
        As `NetworkConfig.to_dict` gave it then.
    source : str or Path
        Where it comes from; named in errors.

    Raises
    ------
    EvicanError
        As `NetworkConfig.from_dict` does.

    Examples
    --------
    >>> before = {k: v for k, v in NetworkConfig().to_dict().items() if k != "mask_certainty"}
    >>> saved_config(before, "run.json").mask_certainty
    False
    """
    return NetworkConfig.from_dict({**_BEFORE, **network} if isinstance(network, dict) else network, source)


def tells_lines(weights: str | Path) -> bool:
    """Tell whether weights know cells and nuclei of several cell lines apart; reads their config only.

    A Matterport file without a config does not name its categories: False.

    Raises
    ------
    WeightsError
        If there is no such file, or its config cannot be read.
    """
    path = _locate(weights).with_suffix(".json")
    if not path.is_file():
        return False
    return are_lines(tuple(map(str, _read_record(path)["network"].get("categories", ()))))


def read_tensors(path: str | Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Read the tensors of a weights file of ours, all of them and no other.

    Parameters
    ----------
    path : str or Path
    expected : mapping of str to tuple of int
        Shape of each tensor that the network has, by ``layer/tensor``.

    Returns
    -------
    dict of str to float32 numpy.ndarray

    Raises
    ------
    WeightsError
        If a tensor is missing, left over, of another shape or type, not finite, or not stored in the file itself.
    """
    path = Path(path)
    with hdf5.open_file(path) as file:
        found = hdf5.list_tensors(file, path, depth=2)
        hdf5.require_shapes(found, expected, path)  # a huge declared shape must cost nothing
        return {name: hdf5.read(dataset, name, path) for name, dataset in found.items()}


def write(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    config: NetworkConfig,
    training: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write ``name.h5`` and ``name.json``, each whole or not at all.

    Parameters
    ----------
    path : str or Path
        The ``.h5`` file.
    tensors : mapping of str to array
        By ``layer/tensor``.
    config : NetworkConfig
    training : mapping, optional
        The training record: images (SHA-256), licences, schedule, commit, command, and under ``start`` the record of
        the weights that it began with, and under ``mean_with`` those of weights averaged with it. An image that
        several stages saw is listed with the last of them.
    half : bool
        Store float16, half the size.
    """
    path = Path(path)
    if path.suffix != ".h5":
        raise WeightsError(f"{path}: weights are written to a file that ends in .h5.")
    partial = path.with_suffix(".h5.part")
    with h5py.File(partial, "w") as file:
        file.attrs["format"] = _FORMAT
        for name in sorted(tensors):
            file.create_dataset(name, data=np.asarray(tensors[name], np.float16 if half else np.float32))
    record = {"format": _FORMAT, "network": config.to_dict(), "training": _each_image_once(training or {})}
    record_partial = path.with_suffix(".json.part")
    record_partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    os.replace(record_partial, path.with_suffix(".json"))


def records_behind(training: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a training record, and those of all weights that the training began from or that were averaged with it."""
    yield training
    for part in (training.get("start"), *training.get("mean_with", ())):
        if isinstance(part, Mapping) and isinstance(part.get("training"), Mapping):
            yield from records_behind(part["training"])


def images_behind(training: Mapping[str, Any]) -> frozenset[str]:
    """Return the SHA-256 of every image that weights with this training record have seen."""
    datasets = [dataset for record in records_behind(training) for dataset in record.get("datasets", ())]
    return frozenset(digest for dataset in datasets for digest in dataset.get("sha256", ()))


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _each_image_once(training: Mapping[str, Any], listed: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return a training record without the images of earlier stages that a later one lists as well."""
    training = dict(training)
    if isinstance(training.get("datasets"), list):
        datasets = [{**one, "sha256": [digest for digest in one.get("sha256", ()) if digest not in listed]}
                    for one in training["datasets"]]  # fmt: skip
        listed = listed.union(*(one["sha256"] for one in datasets))
        training["datasets"] = datasets
    if "mean_with" in training:
        training["mean_with"] = [_once_in(part, listed) for part in training["mean_with"]]
        listed = listed.union(*(images_behind(part.get("training", {})) for part in training["mean_with"]))
    if isinstance(training.get("start"), dict):
        training["start"] = _once_in(training["start"], listed)
    return training


def _once_in(part: Mapping[str, Any], listed: frozenset[str]) -> Mapping[str, Any]:
    has_record = isinstance(part.get("training"), dict)
    return {**part, "training": _each_image_once(part["training"], listed)} if has_record else part


def _changes(weights: str | Path) -> dict[str, Any]:
    """Return what bundled weights of this name have otherwise than their file."""
    return _BUNDLED.get(str(weights), ("", {}))[1]


def _locate(weights: str | Path) -> Path:
    name = BUNDLED_NAME if str(weights) == "bundled" else str(weights)
    if name in available_weights():
        return BUNDLED_FOLDER / f"{_BUNDLED[name][0]}.h5"
    path = Path(weights).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(
            f"Weights {str(weights)!r}: the file {what}. Give the path of a .h5 file, or one of the bundled weights: "
            f"{', '.join(available_weights()) or '(none are installed)'}."
        )
    return path


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT or "network" not in record:
        raise WeightsError(
            f"{path} does not describe weights; expected the format {_FORMAT!r} and a network config."
        )
    return record
