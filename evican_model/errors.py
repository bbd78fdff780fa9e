"""The errors a user can cause; each message names the file or value and what would have been right."""


class EvicanError(ValueError):
    """Base of all errors that bad input causes. Command lines print its message and exit with code 2."""


class WeightsError(EvicanError):
    """A weights file or its config is missing, damaged or does not fit the network."""


class ImageError(EvicanError):
    """An image cannot be read, or is not a single two-dimensional grey image."""


class DatasetError(EvicanError):
    """An annotation file is damaged, or does not fit its images or the network's categories."""
