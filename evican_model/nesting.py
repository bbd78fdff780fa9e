"""What the outlines of one category tell of the other, since each nucleus lies in a cell.

Where only cells are outlined, a nucleus may be in any of them, but none is outside of all. Where only nuclei are, a
cell may reach some way beyond them, but none is far from all. And a cell whose nucleus is outlined has no other.
Without this, a training on images with one category outlined learns what the other looks like elsewhere, but never what
does not look like it here.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from evican_model.categories import CELL, NUCLEUS, kind_of
from evican_model.dataset import AnnotatedImage
from evican_model.instances import Instances

__all__ = ["known_by_nesting"]

# Diameters of a nucleus that a cell may reach beyond it.
_REACH = 1.5
# Diameters of a cell around its outline in which a nucleus may still begin: outlines leave ends of cells out.
_RIM = 0.1


def known_by_nesting(item: AnnotatedImage, stride: int) -> np.ndarray:
    """Tell where an image holds no cell, or no nucleus, but those outlined, though not all need be.

    Parameters
    ----------
    item : AnnotatedImage
    stride : int
        Image pixels for one step of the result.

    Returns
    -------
    bool array [rows, columns, categories]
        Of the pixels ``stride // 2 + stride * index``: True where another object of the category would contradict the
        outlines. False says nothing.
    """
    kinds = [kind_of(name) for name in item.truth.categories]
    of_kind = np.array([kinds[i - 1] or "" for i in item.truth.category_ids.tolist()], dtype=object)
    cells, nuclei = (item.truth.select(of_kind == kind) for kind in (CELL, NUCLEUS))
    names = {kind: {n for n, k in zip(item.truth.categories, kinds) if k == kind} for kind in (CELL, NUCLEUS)}
    all_cells, all_nuclei = (item.dense and of and item.annotated >= of for of in names.values())
    cell_at, nucleus_at = (_numbered(objects, stride) for objects in (cells, nuclei))

    no_other_cell = cell_at > 0
    if all_nuclei and len(nuclei):
        # A nucleus beyond the edge of the image may have its cell in it.
        near = np.pad(nucleus_at > 0, 1, constant_values=True)
        no_other_cell |= ndimage.distance_transform_edt(~near)[1:-1, 1:-1] > _REACH * _diameter(nuclei) / stride
    holding = np.zeros(len(cells) + 1, bool)
    holding[_containers(cell_at, nucleus_at)] = True
    no_other_nucleus = holding[cell_at]
    if all_cells:
        away = ndimage.distance_transform_edt(cell_at == 0) if len(cells) else np.full(cell_at.shape, np.inf)
        no_other_nucleus |= away > _RIM * _diameter(cells) / stride
    known = {CELL: no_other_cell, NUCLEUS: no_other_nucleus}
    return np.stack([known.get(kind or "", np.zeros(cell_at.shape, bool)) for kind in kinds], -1)


def _numbered(objects: Instances, stride: int) -> np.ndarray:
    """Return which object, counted from 1, lies at each step, int [rows, columns]."""
    first = stride // 2
    shape = [max(1, len(range(first, extent, stride))) for extent in objects.shape]
    numbered = np.zeros(shape, int)
    for number, (box, crop) in enumerate(zip(objects.all_boxes.tolist(), objects.crops), start=1):
        y, x = (-(-(start - first) // stride) for start in box[:2])  # the first steps in the box
        steps = crop[y * stride + first - box[0] :: stride, x * stride + first - box[1] :: stride]
        numbered[y : y + steps.shape[0], x : x + steps.shape[1]][steps] = number
    return numbered


def _containers(cell_at: np.ndarray, nucleus_at: np.ndarray) -> np.ndarray:
    """Return the numbers of the cells that hold more than half of a nucleus."""
    inside = nucleus_at > 0
    pairs, shared = np.unique(np.stack([nucleus_at[inside], cell_at[inside]]), axis=1, return_counts=True)
    sizes = np.bincount(nucleus_at[inside]) if inside.any() else np.zeros(1, int)
    return pairs[1][(pairs[1] > 0) & (2 * shared > sizes[pairs[0]])]


def _diameter(objects: Instances) -> float:
    """Return the diameter of a disc as large as the median object, in pixels; 0 of none."""
    areas = objects.areas()
    return float(2 * np.sqrt(np.median(areas) / np.pi)) if len(areas) else 0.0
