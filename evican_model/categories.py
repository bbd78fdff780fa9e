"""What a category's name says: cell or nucleus, and of which cell line.

EVICAN2 has two categories, ``Cell`` and ``Nucleus``. EVICAN60 has two for each of 30 cell lines; whatever separates
the words of their names (``Cell_HeLa``, ``HeLa cell``, ``nucleus-HeLa``), kind and line are read from them.
"""

from __future__ import annotations

import re
from typing import Sequence

__all__ = ["CELL", "NUCLEUS", "are_lines", "kind_of", "line_of"]

CELL, NUCLEUS = "Cell", "Nucleus"
_KINDS = (
    (NUCLEUS, re.compile(r"nucle(?:us|i)", re.IGNORECASE)),
    (CELL, re.compile(r"cells?", re.IGNORECASE)),
)


def kind_of(category: str) -> str | None:
    """Return ``"Cell"`` or ``"Nucleus"``, or None where the name says neither.

    >>> [kind_of(name) for name in ("Cell", "HeLa_nucleus", "Nucleus MCF", "Vacuole")]
    ['Cell', 'Nucleus', 'Nucleus', None]
    """
    words = _words(category)
    return next((kind for kind, pattern in _KINDS if any(pattern.fullmatch(word) for word in words)), None)


def line_of(category: str) -> str:
    """Return the cell line in a category's name, "" where it names none.

    >>> [line_of(name) for name in ("Cell", "Cell_HeLa", "Caco-2 nucleus", "Vacuole")]
    ['', 'HeLa', 'Caco-2', '']
    """
    kind = kind_of(category)
    if kind is None:
        return ""
    pattern = dict(_KINDS)[kind]
    kept = [part for part in re.split(r"([\s_/-]+)", category) if not pattern.fullmatch(part)]
    return "".join(kept).strip(" \t_/-")


def are_lines(categories: Sequence[str]) -> bool:
    """Tell whether categories are the cells and nuclei of several lines, as EVICAN60's are.

    >>> are_lines(["Cell", "Nucleus"]), are_lines(["Cell_HeLa", "Nucleus_HeLa"])
    (False, True)
    """
    return bool(categories) and all(kind_of(name) and line_of(name) for name in categories)


def _words(category: str) -> list[str]:
    return [word for word in re.split(r"[\s_/-]+", category) if word]
