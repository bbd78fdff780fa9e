"""Copy-paste of instances within a training window (Ghiasi et al. 2021): more objects, and in new neighbourhoods.

A cell is copied with the nuclei in it, turned, and put where no outlined object is. Its surroundings fade into the
new place over a few pixels, and its grey level follows that of the new place, so no seam gives it away.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["paste_copies"]

_MARGIN = 6  # pixels around the object that come along; the phase halo is part of how a cell looks
_SMALLEST = 64  # pixels: what is smaller is hard to tell from the texture it is put on
_TRIES = 8


def paste_copies(
    image: np.ndarray,
    inside: np.ndarray,
    masks: list[np.ndarray],
    category_ids: list[int],
    rng: np.random.Generator,
    limit: int,
    copies: int = 3,
) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """Paste copies of some of a window's objects into it.

    Parameters
    ----------
    image : float32 array [side, side]
    inside : bool array [side, side]
        Where the window shows the image.
    masks : list of bool arrays [side, side]
    category_ids : list of int
    rng : numpy.random.Generator
    limit : int
        The most objects there may be in the end.
    copies : int
        The most copies; each may be an object with others in it.

    Returns
    -------
    image, masks, category_ids
        New ones; the old ones are left as they are.
    """
    image, masks, category_ids = image.copy(), list(masks), list(category_ids)
    groups = _groups(masks, inside) if masks else []
    if not groups:
        return image, masks, category_ids
    taken = np.any(masks, 0)
    for _ in range(int(rng.integers(1, copies + 1))):
        group = groups[int(rng.integers(len(groups)))]
        if len(masks) + len(group) > limit:
            break
        window = _grown_box(masks[group[0]])
        turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
        patch, *moved = (_turned(array[window], turns, flip) for array in (image, *(masks[i] for i in group)))
        place = _free_place(ndimage.binary_dilation(moved[0], iterations=2), taken, inside, rng)
        if place is None:
            continue
        image[place] = _blend(image[place], patch, moved[0], taken[place])
        for i, mask in zip(group, moved):
            whole = np.zeros_like(taken)
            whole[place] = mask
            masks.append(whole)
            category_ids.append(category_ids[i])
        taken[place] |= moved[0]
    return image, masks, category_ids


def _groups(masks, inside):
    """Return the indices of each object that lies whole in the window and in no other, and of those that lie in it."""
    flat = np.reshape(masks, (len(masks), -1)).astype(np.float32)  # one product counts all shared pixels, exactly
    shared = flat @ flat.T
    areas = shared.diagonal().astype(int)
    within = shared > 0.8 * np.maximum(areas, 1)[:, None]  # [i, j]: i lies in j
    groups = []
    for i, mask in enumerate(masks):
        larger = [j for j in np.flatnonzero(within[i]) if j != i and areas[j] > areas[i]]
        if larger or areas[i] < _SMALLEST:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        edges = rows[0], columns[0], mask.shape[0] - 1 - rows[-1], mask.shape[1] - 1 - columns[-1]
        if min(edges) >= _MARGIN and inside[_grown_box(mask)].all():
            groups.append(
                [i, *(int(k) for k in np.flatnonzero(within[:, i]) if k != i and areas[k] < areas[i])]
            )
    return groups


def _grown_box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (slice(max(0, rows[0] - _MARGIN), rows[-1] + 1 + _MARGIN),
            slice(max(0, columns[0] - _MARGIN), columns[-1] + 1 + _MARGIN))  # fmt: skip


def _turned(array, turns, flip):
    return np.rot90(array[:, ::-1] if flip else array, turns)


def _free_place(mask, taken, inside, rng):
    height, width = mask.shape
    for _ in range(_TRIES):
        y = int(rng.integers(0, taken.shape[0] - height + 1))
        x = int(rng.integers(0, taken.shape[1] - width + 1))
        place = (slice(y, y + height), slice(x, x + width))
        if inside[place].all() and not (taken[place] & mask).any():
            return place
    return None


def _blend(there, patch, mask, taken):
    """Put the object over what is there, at the grey level of its new surroundings; other objects stay as they are."""
    ring = ~ndimage.binary_dilation(mask, iterations=2)
    shift = np.median(there[ring]) - np.median(patch[ring]) if ring.any() else 0.0
    weight = ndimage.gaussian_filter(ndimage.binary_dilation(mask, iterations=2).astype(np.float32), 1.2)
    weight = np.where(taken, np.float32(0), np.maximum(weight, mask))
    return np.clip(there + weight * (patch + np.float32(shift) - there), 0, 255)
