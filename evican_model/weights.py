"""Weights are data, never code: plain HDF5 tensors (``name.h5``) with their config and training record (``name.json``).

The reader knows beforehand which tensors there must be and which shape each has. It follows no link, unpickles nothing
and never falls back to other weights: a file that does not fit is an error that names the tensor.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

import h5py
import numpy as np

from evican_model.config import NetworkConfig
from evican_model.errors import EvicanError, WeightsError

__all__ = ["WeightsInfo", "available_weights", "check", "read_tensors", "write"]

BUNDLED_FOLDER = Path(__file__).parent / "weights"
BUNDLED_NAME = "fast"
_FORMAT = "evican-weights 1"


@dataclass(frozen=True)
class WeightsInfo:
    """What is known of a weights file without building the network."""

    path: Path
    config: NetworkConfig
    sha256: str
    training: dict[str, Any] = field(default_factory=dict)


def available_weights() -> list[str]:
    """Names of the weights that come with the package.

    Examples
    --------
    >>> "fast" in available_weights()
    True
    """
    return sorted(path.stem for path in BUNDLED_FOLDER.glob("*.h5"))


def check(weights: str | Path = "bundled") -> WeightsInfo:
    """Find a weights file and check all that can be checked without TensorFlow.

    Parameters
    ----------
    weights : str or Path
        ``"bundled"``, the name of bundled weights, or the path of a ``.h5`` file with its ``.json`` beside it.

    Returns
    -------
    WeightsInfo

    Raises
    ------
    WeightsError
        If there is no such file, it is no weights file of ours, or its config cannot be read.
    """
    path = _locate(weights)
    record = _read_record(path.with_suffix(".json"))
    try:
        config = NetworkConfig.from_dict(record["network"], source=path.with_suffix(".json"))
    except EvicanError as error:
        raise WeightsError(str(error)) from error
    with _open(path) as file:
        _list_tensors(file, path)
    return WeightsInfo(path, config, sha256_of(path), record.get("training", {}))


def read_tensors(path: str | Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Read the tensors of a weights file, all of them and no other.

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
    with _open(path) as file:
        found = _list_tensors(file, path)
        missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        if missing or unknown:
            raise WeightsError(
                f"{path} does not fit the network of its config: it lacks {_some(missing)} and has {_some(unknown)} "
                "that the network does not."
            )
        for name, dataset in found.items():  # before any is read: a huge declared shape must cost nothing
            if tuple(dataset.shape) != tuple(expected[name]):
                raise WeightsError(
                    f"{path}: {name} has shape {dataset.shape}; expected {tuple(expected[name])}."
                )
        tensors = {}
        for name, dataset in found.items():
            try:
                tensors[name] = dataset[()].astype(np.float32)
            except OSError as error:
                raise WeightsError(
                    f"{path}: {name} cannot be read ({error}); the file is damaged."
                ) from error
            if not np.isfinite(tensors[name]).all():
                raise WeightsError(f"{path}: {name} holds values that are not finite; the file is damaged.")
    return tensors


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
        The training record: images (SHA-256), licences, schedule, commit, command.
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
    record = {"format": _FORMAT, "network": config.to_dict(), "training": dict(training or {})}
    record_partial = path.with_suffix(".json.part")
    record_partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    os.replace(record_partial, path.with_suffix(".json"))


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _locate(weights: str | Path) -> Path:
    name = BUNDLED_NAME if str(weights) == "bundled" else str(weights)
    if name in available_weights():
        return BUNDLED_FOLDER / f"{name}.h5"
    path = Path(weights).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(
            f"Weights {str(weights)!r}: the file {what}. Give the path of a .h5 file, or one of the bundled weights: "
            f"{', '.join(available_weights()) or '(none are installed)'}."
        )
    if not path.with_suffix(".json").is_file():
        raise WeightsError(f"{path} has no config beside it; expected {path.with_suffix('.json')}.")
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


def _open(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise WeightsError(
            f"{path} is not a readable HDF5 file (truncated, or of another kind): {error}."
        ) from error
    if file.attrs.get("format") != _FORMAT:
        file.close()
        raise WeightsError(
            f"{path} is an HDF5 file, but not one of ours; expected the attribute format={_FORMAT!r}."
        )
    return file


def _list_tensors(group: h5py.Group, path: Path, prefix: str = "") -> dict[str, h5py.Dataset]:
    """Every tensor of the file by name; links out of the file and storage outside it are refused."""
    tensors: dict[str, h5py.Dataset] = {}
    for key in group:
        name = f"{prefix}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise WeightsError(f"{path}: {name} is a link; tensors must be stored in the file itself.")
        item = group[key]
        if isinstance(item, h5py.Group):
            if prefix:
                raise WeightsError(f"{path}: {name} is a group; tensors are named layer/tensor.")
            tensors.update(_list_tensors(item, path, f"{name}/"))
        elif item.external or item.is_virtual:
            raise WeightsError(f"{path}: {name} is stored outside the file; tensors must be in it.")
        elif item.dtype not in (np.float16, np.float32):
            raise WeightsError(f"{path}: {name} is of type {item.dtype}; expected float16 or float32.")
        else:
            tensors[name] = item
    return tensors


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return f"{len(names)} tensors ({shown}{', ...' if len(names) > 3 else ''})"
