"""Tensors out of HDF5 files that a stranger may have made: plain float arrays, stored in the file itself.

No link is followed, nothing outside the file is read, and no tensor is read before its shape is known to be the one
that is expected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

import h5py
import numpy as np

from evican_model.errors import WeightsError

__all__ = ["list_tensors", "open_file", "read", "require_shapes"]

_MOST_TENSORS = 10_000  # ResNet-101 has 690


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises
    ------
    WeightsError
        If it is none, or cut short.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise WeightsError(
            f"{path} is not a readable HDF5 file (truncated, or of another kind): {error}."
        ) from error


def list_tensors(
    file: h5py.File, path: Path, depth: int, skip: tuple[str, ...] = ()
) -> dict[str, h5py.Dataset]:
    """List every tensor of a file by name, without reading any.

    Parameters
    ----------
    file : h5py.File
    path : Path
        Its path, for errors.
    depth : int
        Most parts of a name: 2 for ``layer/tensor``.
    skip : tuple of str
        Names of groups to leave out.

    Raises
    ------
    WeightsError
        If there are links, storage outside the file, groups deeper than `depth` or met twice, or other types than
        float16 and float32.
    """
    tensors: dict[str, h5py.Dataset] = {}
    _walk(file, path, "", depth, skip, tensors, set())
    return tensors


def _walk(group, path: Path, prefix: str, depth: int, skip, tensors, seen: set[int]) -> None:
    for key in group:
        name = f"{prefix}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise WeightsError(f"{path}: {name} is a link; tensors must be stored in the file itself.")
        if name in skip:
            continue
        item = group[key]
        if isinstance(item, h5py.Group):
            address = h5py.h5o.get_info(item.id).addr
            if depth == 1:
                raise WeightsError(f"{path}: {name} is a group; tensors are named layer/tensor.")
            if address in seen:
                raise WeightsError(f"{path}: {name} is a group that stands elsewhere as well.")
            seen.add(address)
            _walk(item, path, f"{name}/", depth - 1, skip, tensors, seen)
        elif not isinstance(item, h5py.Dataset):
            raise WeightsError(f"{path}: {name} is neither a group nor a tensor.")
        elif item.external or item.is_virtual:
            raise WeightsError(f"{path}: {name} is stored outside the file; tensors must be in it.")
        elif item.dtype not in (np.float16, np.float32):
            raise WeightsError(f"{path}: {name} is of type {item.dtype}; expected float16 or float32.")
        elif len(tensors) >= _MOST_TENSORS:
            raise WeightsError(f"{path} holds more than {_MOST_TENSORS} tensors.")
        else:
            tensors[name] = item


def require_shapes(
    found: Mapping[str, h5py.Dataset], expected: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """Check that the tensors of a file are those that are expected, before any is read.

    Raises
    ------
    WeightsError
        If one is missing, left over or of another shape.
    """
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        raise WeightsError(
            f"{path} does not fit the network of its config: it lacks {_some(missing)} and has {_some(unknown)} "
            "that the network does not."
        )
    for name, dataset in found.items():
        if tuple(dataset.shape) != tuple(expected[name]):
            raise WeightsError(f"{path}: {name} has shape {dataset.shape}; expected {tuple(expected[name])}.")


def read(dataset: h5py.Dataset, name: str, path: Path) -> np.ndarray:
    """Read one tensor as float32.

    Raises
    ------
    WeightsError
        If it cannot be read or holds values that are not finite.
    """
    try:
        tensor = dataset[()].astype(np.float32)
    except OSError as error:
        raise WeightsError(f"{path}: {name} cannot be read ({error}); the file is damaged.") from error
    if not np.isfinite(tensor).all():
        raise WeightsError(f"{path}: {name} holds values that are not finite; the file is damaged.")
    return tensor


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return f"{len(names)} tensors ({shown}{', ...' if len(names) > 3 else ''})"
