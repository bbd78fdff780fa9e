"""What can go wrong with a plate as a whole; an image that fails is a row of failures.csv instead."""

from evican_model.errors import EvicanError


class PlateError(EvicanError):
    """The folder, an option, the pipeline or CellProfiler cannot be used; the run stops before any image."""


class OutputInUse(PlateError):
    """Another run works in the same output folder."""


class DiskFull(PlateError):
    """Nothing more can be written; the same command goes on once there is space."""
