"""What is odd about an outline, whatever it is of."""

from __future__ import annotations

import numpy as np

__all__ = ["crosses_itself", "is_rectangle"]

_STRIP = 256  # sides that are compared with all others at once


def crosses_itself(points: np.ndarray) -> bool:
    """Tell whether two sides of a closed polygon cross; that they touch is allowed.

    Parameters
    ----------
    points : float array [n, 2]

    Examples
    --------
    >>> square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]])
    >>> crosses_itself(square), crosses_itself(square[[0, 2, 1, 3]])
    (False, True)
    """
    points = points[(points != np.roll(points, 1, 0)).any(1)]
    if len(points) < 4:
        return False
    start, end = points, np.roll(points, -1, 0)
    for first in range(0, len(points), _STRIP):
        a, b = start[first : first + _STRIP, None], end[first : first + _STRIP, None]  # [strip, 1, 2]
        # Each side's ends lie on different sides of the other's line.
        one = _turn(a, b, start) * _turn(a, b, end) < 0
        other = _turn(start, end, a) * _turn(start, end, b) < 0
        if (one & other).any():
            return True
    return False


def _turn(a, b, c):
    return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (
        c[..., 0] - a[..., 0]
    )


def is_rectangle(crop: np.ndarray, smallest: int = 400) -> bool:
    """Tell whether a mask, cut to its box, fills it: a box that was drawn instead of an outline.

    >>> is_rectangle(np.ones((30, 30), bool)), is_rectangle(np.ones((3, 3), bool))
    (True, False)
    """
    return crop.size >= smallest and bool(crop.all())
