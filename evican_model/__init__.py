"""Cells and nuclei from unstained brightfield and phase-contrast images.

>>> import evican_model
>>> model = evican_model.load_model()                # the bundled weights, or the path of others
>>> result = model.segment(image)                    # doctest: +SKIP
>>> nuclei = result.labels("Nucleus")                # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evican_model.errors import DatasetError, EvicanError, ImageError, WeightsError

if TYPE_CHECKING:
    from evican_model.instances import Instances
    from evican_model.model import Model, load_model
    from evican_model.weights import available_weights

__version__ = "0.1.0"
__all__ = [
    "DatasetError",
    "EvicanError",
    "ImageError",
    "Instances",
    "Model",
    "WeightsError",
    "available_weights",
    "load_model",
]

_HOME = {
    "Instances": "evican_model.instances",
    "Model": "evican_model.model",
    "load_model": "evican_model.model",
    "available_weights": "evican_model.weights",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: CellProfiler reads the plugin, and so this package, at every start.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
