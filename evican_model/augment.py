"""Training samples: a window of an annotated image at a random scale, turned, and lit as another microscope would.

Every function takes its random generator, so a sample depends on nothing but the seed and its number.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from evican_model.categories import CELL, NUCLEUS, kind_of
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.copy_paste import paste_copies
from evican_model.dataset import AnnotatedImage
from evican_model.nesting import known_by_nesting
from evican_model.scaling import GREY, resize, square_scale

__all__ = ["blank_sample", "make_sample", "natural_scale", "vary_light"]

_KNOWN_STRIDE = 4
# Log of the most that a window is stretched along one axis, and squeezed along the other: of most, and of a third, in
# which plump cells become the spindles that a culture can turn into.
_STRETCH, _SPINDLES = 0.15, 0.4
_TINY = 12  # pixels of a cut or shrunk object below which it can no longer be recognised


def natural_scale(item: AnnotatedImage, network: NetworkConfig) -> float:
    """Factor by which detection scales the image.

    To objects of the network's typical diameter, by the median object (1 if it has none); or, for networks that scale
    whole images (``image_scale`` "square"), to the shortest side they want, within the square.
    """
    if network.image_scale == "square":
        return square_scale(item.shape, network)
    factors = []
    kinds = [kind_of(name) for name in item.truth.categories]
    areas = item.truth.areas()
    for kind, diameter in ((CELL, network.cell_diameter), (NUCLEUS, network.nucleus_diameter)):
        own = np.array([kinds[i - 1] == kind for i in item.truth.category_ids.tolist()], bool)
        if own.any():
            factors.append(diameter / (2 * np.sqrt(float(np.median(areas[own])) / np.pi)))
    return float(np.exp(np.mean(np.log(factors)))) if factors else 1.0


def make_sample(
    item, levels, scale, rng, network: NetworkConfig, training: TrainConfig
) -> dict[str, np.ndarray]:
    """Cut one training sample.

    Parameters
    ----------
    item : AnnotatedImage
    levels : uint8 array [height, width]
        Its grey levels.
    scale : float
        Its `natural_scale`.
    rng : numpy.random.Generator
    network, training : configs

    Returns
    -------
    dict of arrays
        ``image`` float32 [crop, crop, 1], ``boxes`` float32 [instances, 4], ``category_ids`` int32 [instances],
        ``masks`` uint8 [instances, crop, crop], ``known`` float32 [crop / 4, crop / 4, categories].
    """
    crop = training.crop
    scale = scale * float(np.exp(rng.uniform(np.log(training.scale_low), np.log(training.scale_high))))
    origin = _window_origin(item, scale, crop, rng)
    warped = training.warp and rng.random() < 0.5
    most = _SPINDLES if warped and rng.random() < 1 / 3 else _STRETCH
    side = int(np.ceil(crop * np.sqrt(2) * np.exp(most))) if warped else crop  # what the warped window can show
    origin = [start - (side - crop) / (2 * scale) for start in origin]
    image, inside = _cut_image(levels, origin, scale, side)
    masks, category_ids = _cut_masks(item, origin, scale, side, rng)
    nested = _cut_nested(item, origin, scale, side) if training.nesting else []
    if warped:
        image, inside, planes = _warp(image, inside, [*masks, *nested], crop, most, rng)
        masks, nested = planes[: len(masks)], planes[len(masks) :]
    masks, category_ids, lost = _recognisable(masks, category_ids, training.instances)
    copied = training.copy_paste and masks and rng.random() < 0.3
    # What nesting tells of a place does not hold for a copy there, around which may be objects that nobody outlined.
    nested = [] if copied else nested
    known = _known_map(item, masks, category_ids, lost, nested, inside, network, training, scale)
    if copied:
        image, masks, category_ids = paste_copies(image, inside, masks, category_ids, rng, training.instances)
    image = np.where(inside, vary_light(image, rng, training), network.padding)
    image, masks, known = _turn(image, masks, known, rng, training)

    count = len(masks)
    boxes = np.zeros((training.instances, 4), np.float32)
    for i, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[i] = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    padded_masks = np.zeros((training.instances, crop, crop), np.uint8)
    padded_masks[:count] = masks
    padded_ids = np.zeros(training.instances, np.int32)
    padded_ids[:count] = category_ids
    return {"image": image[..., None].astype(np.float32), "boxes": boxes, "category_ids": padded_ids,
            "masks": padded_masks, "known": known.astype(np.float32)}  # fmt: skip


def blank_sample(rng, network: NetworkConfig, training: TrainConfig) -> dict[str, np.ndarray]:
    """Make a sample of a field without cells: sensor noise, medium, dust and uneven light, stretched to full contrast.

    Stretching turns the noise of an empty well into structure; a network that has never seen it finds cells there.

    Parameters
    ----------
    rng : numpy.random.Generator
    network, training : configs

    Returns
    -------
    dict of arrays
        As `make_sample` returns them, with no object, everywhere known.
    """
    side, rows = training.crop, training.crop // _KNOWN_STRIDE
    field = _texture((side, side), rng)
    low, high = np.percentile(field, (0.1, 99.9))
    image = vary_light(np.clip((field - low) / (high - low), 0, 1) * np.float32(255), rng, training)
    return {
        "image": image[..., None].astype(np.float32),
        "boxes": np.zeros((training.instances, 4), np.float32),
        "category_ids": np.zeros(training.instances, np.int32),
        "masks": np.zeros((training.instances, side, side), np.uint8),
        "known": np.ones((rows, rows, len(network.categories)), np.float32),
    }


def vary_light(image: np.ndarray, rng: np.random.Generator, training: TrainConfig) -> np.ndarray:
    """Change how an image was lit and recorded; each step is switched by its field of `TrainConfig`.

    Parameters
    ----------
    image : float32 array [height, width]
        Grey levels 0 to 255.

    Returns
    -------
    float32 array [height, width]
        0 to 255.
    """
    x = image / np.float32(255)
    if (
        training.invert and rng.random() < 0.15
    ):  # brightfield on the other side of focus, negative phase contrast
        x = 1 - x
    if training.relief and rng.random() < 0.15:
        x = _relief(x, rng)
    if training.defocus and rng.random() < 0.3:
        sigma = rng.uniform(0.4, 1.8)
        blurred = ndimage.gaussian_filter(x, sigma)
        # Half of the time the other way: sharper edges with a rim, as a stronger phase halo has.
        x = blurred if rng.random() < 0.5 else x + rng.uniform(0.3, 1.5) * (x - blurred)
    if training.halo and rng.random() < 0.25:
        # A phase halo is what a missing (or doubled) share of the coarse structure looks like.
        x = x + rng.uniform(-0.5, 0.8) * (x - ndimage.gaussian_filter(x, rng.uniform(4.0, 14.0)))
    if training.illumination and rng.random() < 0.4:
        x = x * _uneven_light(x.shape, rng)
    if training.patches and rng.random() < 0.25:
        x = x * _patches(x.shape, rng)
    if training.contrast:
        middle = float(x.mean())
        x = (x - middle) * np.float32(np.exp(rng.uniform(-0.7, 0.5))) + middle + rng.uniform(-0.2, 0.2)
        x = np.clip(x, 0, 1) ** np.float32(np.exp(rng.uniform(-0.4, 0.4)))
    if training.noise and rng.random() < 0.4:
        x = x + rng.standard_normal(x.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.06))
    if training.texture and rng.random() < 0.3:
        x = x + _texture(x.shape, rng) * np.float32(rng.uniform(0.01, 0.08))
    x = np.clip(x, 0, 1) * np.float32(255)
    if training.jpeg and rng.random() < 0.2:
        x = _jpeg(x, int(rng.integers(30, 90)))
    return x


def _relief(image, rng):
    """Return grey levels 0 to 1 as differential interference contrast might show them: lit from one side.

    Where grey levels tell how far light was delayed, as in phase contrast, its two sheared beams differ by their slope.
    Outlines stay where they are.
    """
    angle, rim = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.6)
    down, right = (ndimage.gaussian_filter(image, rim, order=order) for order in ((1, 0), (0, 1)))
    slope = np.float32(np.cos(angle)) * down + np.float32(np.sin(angle)) * right
    # A floor, so that the noise of an empty field is not lifted to the contrast of cells.
    delay = slope * np.float32(rng.uniform(0.1, 0.45) / (slope.std() + 3e-3))
    # Two beams, a quarter of a wave apart where the specimen is flat.
    interference = (1 + np.sin(np.clip(delay, -np.pi / 2, np.pi / 2))) / 2
    return interference + np.float32(rng.uniform(0, 0.3)) * (image - image.mean())


def _window_origin(item, scale, crop, rng):
    """Upper left corner of the window in pixels of the source; usually around an object."""
    side = crop / scale
    origin = []
    aim = None
    if len(item.truth) and rng.random() < 0.8:
        box = item.truth.all_boxes[rng.integers(len(item.truth))]
        aim = [(box[k] + box[k + 2]) / 2 + rng.uniform(-0.3, 0.3) * side for k in (0, 1)]
    for axis, extent in enumerate(item.shape):
        slack = extent - side
        if slack <= 0:  # the image is smaller than the window: it lies anywhere in it
            origin.append(rng.uniform(slack, 0))
        else:
            origin.append(
                rng.uniform(0, slack) if aim is None else float(np.clip(aim[axis] - side / 2, 0, slack))
            )
    return origin


def _cut_image(levels, origin, scale, crop):
    """Return the window at the new scale [crop, crop], and where it shows the image at all."""
    image, inside = np.full((crop, crop), GREY, np.float32), np.zeros((crop, crop), bool)
    spans, box = [], [0.0] * 4
    for axis, extent in enumerate(levels.shape):
        first = max(0, int(np.ceil(-origin[axis] * scale)))
        last = min(crop, int(np.floor((extent - origin[axis]) * scale)))
        spans.append(slice(first, max(last, first + 1)))
        box[axis] = max(0.0, first / scale + origin[axis])
        box[axis + 2] = min(float(extent), max(last, first + 1) / scale + origin[axis])
    rows, columns = spans
    # Only the part that is needed, as floats.
    y1, x1, y2, x2 = int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3]))
    part = levels[y1:y2, x1:x2].astype(np.float32)
    local = (box[0] - y1, box[1] - x1, box[2] - y1, box[3] - x1)
    image[rows, columns] = resize(part, rows.stop - rows.start, columns.stop - columns.start, local)
    inside[rows, columns] = True
    return image, inside


def _cut_masks(item, origin, scale, crop, rng):
    """Cut the masks in the window, in random order; return them and their category ids."""
    masks: list[np.ndarray] = []
    category_ids: list[int] = []
    for i in rng.permutation(len(item.truth)):
        y1, x1, y2, x2 = item.truth.all_boxes[i]
        axes = []
        for low, high, start in ((y1, y2, origin[0]), (x1, x2, origin[1])):
            first, last = max(0, int((low - start) * scale)), min(crop, int((high - start) * scale) + 1)
            places = np.arange(first, last)
            index = np.floor((places + 0.5) / scale + start).astype(int) - low
            good = (index >= 0) & (index < high - low)
            axes.append((places[good], index[good]))
        (rows, row_index), (columns, column_index) = axes
        if not len(rows) or not len(columns):
            continue
        mask = np.zeros((crop, crop), bool)
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = item.truth.crops[i][
            np.ix_(row_index, column_index)
        ]
        masks.append(mask)
        category_ids.append(int(item.truth.category_ids[i]))
    return masks, category_ids


def _recognisable(masks, category_ids, limit):
    """Part the masks: those too small to tell, or past the limit, are 'lost', not background."""
    kept: list[tuple[int, np.ndarray]] = []
    lost: list[tuple[int, np.ndarray]] = []
    for category, mask in zip(category_ids, masks):
        area = int(mask.sum())
        if area:
            (lost if area < _TINY or len(kept) == limit else kept).append((category, mask))
    return [mask for _, mask in kept], [category for category, _ in kept], lost


def _warp(image, inside, masks, crop, most, rng):
    """Turn a window by any angle and stretch it along any axis; return the middle of it, `crop` wide."""
    angle, axis = rng.uniform(0, 2 * np.pi, 2)
    stretch = np.exp(rng.uniform(-most, most))
    back = _rotation(angle) @ _rotation(axis) @ np.diag([stretch, 1 / stretch]) @ _rotation(-axis)
    # Both windows are turned about their middle.
    start = image.shape[0] / 2 - back @ np.full(2, crop / 2)
    affine = (*back[0], start[0], *back[1], start[1])

    def turned(array, resample, fill):
        source = Image.fromarray(array)
        return np.asarray(source.transform((crop, crop), Image.AFFINE, affine, resample, fillcolor=fill))

    image = turned(image, Image.BILINEAR, GREY)
    inside, *masks = (turned(part.view(np.uint8), Image.NEAREST, 0).astype(bool) for part in (inside, *masks))
    return image, inside, masks


def _rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _cut_nested(item, origin, scale, side):
    """Cut what `known_by_nesting` tells of each category in the window; an image that is all outlined needs none."""
    if item.dense and item.annotated >= set(item.truth.categories):
        return []
    step = max(1, round(_KNOWN_STRIDE / scale))
    known = known_by_nesting(item, step)
    index, good = [], []
    for start, extent, steps in zip(origin, item.shape, known.shape):
        pixels = np.floor((np.arange(side) + 0.5) / scale + start).astype(int)
        good.append((pixels >= 0) & (pixels < extent))
        index.append(np.clip(pixels // step, 0, steps - 1))
    shown = np.logical_and.outer(*good)
    return [known[..., category][np.ix_(*index)] & shown for category in range(known.shape[-1])]


def _known_map(item, masks, category_ids, lost, nested, inside, network, training, scale):
    """Where each category is completely outlined, at the stride of P2."""
    stride = _KNOWN_STRIDE
    known = np.ones((*(side // stride for side in inside.shape), len(network.categories)), bool)
    inside = inside[stride // 2 :: stride, stride // 2 :: stride]
    for index, name in enumerate(network.categories):
        if name not in item.annotated:
            known[..., index] = ~inside
        elif not item.dense:
            outlined = np.zeros(inside.shape, bool)
            for mask, category in zip(masks, category_ids):
                if category == index + 1:
                    outlined |= mask[stride // 2 :: stride, stride // 2 :: stride]
            border = max(1, round(training.known_border * scale / stride))
            known[..., index] = ndimage.binary_dilation(outlined, iterations=border) | ~inside
    for index, plane in enumerate(nested):
        known[..., index] |= plane[stride // 2 :: stride, stride // 2 :: stride]
    for category, mask in lost:
        known[..., category - 1] &= ~mask[stride // 2 :: stride, stride // 2 :: stride]
    return known


def _turn(image, masks, known, rng, training):
    masks = np.stack(masks) if masks else np.zeros((0, *image.shape), bool)
    if training.flip and rng.random() < 0.5:
        image, masks, known = image[:, ::-1], masks[:, :, ::-1], known[:, ::-1]
    if training.turn:
        k = int(rng.integers(4))
        image, masks, known = np.rot90(image, k), np.rot90(masks, k, (1, 2)), np.rot90(known, k)
    return image, masks, known


def _uneven_light(shape, rng):
    """Return a smooth gain around 1: a tilted plane and a bowl, as from a misaligned condenser or a meniscus."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij")
    tilt_y, tilt_x, bowl = rng.uniform(-0.3, 0.3, 3).astype(np.float32)
    return 1 + tilt_y * y + tilt_x * x + bowl * (x**2 + y**2 - np.float32(0.66))


def _patches(shape, rng):
    """Return a gain around 1 with faint patches and rings of soft edge: the shadows of dust and drops far out of focus.

    As large as cells, but with neither texture nor outline: no cell looks like them.
    """
    y, x = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in shape), indexing="ij")
    gain = np.ones(shape, np.float32)
    for _ in range(rng.integers(1, 5)):
        angle, wave = rng.uniform(0, 2 * np.pi, 2)
        size, stretch = np.exp(rng.uniform(np.log(10), np.log(90))), np.exp(rng.uniform(-0.5, 0.5))
        dy, dx = (places - rng.uniform(0, side) for places, side in zip((y, x), shape))
        along, across = np.cos(angle) * dy + np.sin(angle) * dx, np.cos(angle) * dx - np.sin(angle) * dy
        radius = np.hypot(along * np.float32(1 / (size * stretch)), across * np.float32(stretch / size))
        radius *= 1 + np.float32(0.15) * np.sin(rng.integers(2, 5) * np.arctan2(across, along) + np.float32(wave))
        softness = rng.uniform(0.1, 0.4)
        patch = _falling(radius - 1, softness)
        if rng.random() < 0.25:
            patch = patch - np.float32(rng.uniform(0.4, 1)) * _falling(radius - np.float32(0.6), softness)
        gain *= 1 + np.float32(rng.uniform(-0.3, 0.3)) * patch
    return gain


def _falling(distance, softness):
    """Fall from 1 to 0 around a distance of 0, over about four times the softness."""
    return 1 / (1 + np.exp(np.clip(distance / np.float32(softness), -30, 30)))


def _texture(shape, rng):
    """Return what lies under and over cells: noise of several grain sizes, streaks, scratches; of standard deviation 1.

    No cell looks like it. Streaks and scratches of one field run in about one direction, as those of a worn dish do.
    """
    field, angle = np.zeros(shape, np.float32), rng.uniform(0, 180)
    for grain in (1, 2, 5, 15, 50, 150):
        strength = rng.uniform(0, 1) ** 2
        stretch = np.exp(rng.uniform(0.3, 1.5)) if rng.random() < 0.3 else 1.0
        grown = _grains(shape, grain, stretch, angle + rng.normal(0, 10), rng)
        field += np.float32(strength / (grown.std() + 1e-6)) * grown
    field /= field.std() + np.float32(1e-6)
    if rng.random() < 0.3:
        field += np.float32(rng.uniform(1, 5)) * _scratches(shape, angle, rng)
    return field / (field.std() + np.float32(1e-6))


def _grains(shape, grain, stretch, angle, rng):
    """Return noise of one grain size in pixels; stretched, its grains are streaks that run at an angle in degrees."""
    # A streaky field is cut from a turned one, whose diagonal is that of the field at least.
    extent = shape if stretch == 1 else [round(float(np.hypot(*shape))) + 4] * 2
    small = [max(2, round(side / max(1.0, grain * s))) for side, s in zip(extent, (1 / stretch, stretch))]
    noise = Image.fromarray(rng.standard_normal(small, dtype=np.float32)).resize(extent[::-1], Image.BICUBIC)
    if stretch == 1:
        return np.asarray(noise)
    turned = np.asarray(noise.rotate(angle, Image.BILINEAR))
    top, left = ((whole - side) // 2 for whole, side in zip(extent, shape))
    return turned[top : top + shape[0], left : left + shape[1]]


def _scratches(shape, angle, rng):
    """Return thin lines at about one angle in degrees, and specks, dark and bright, of amplitude about 1 on 0."""
    drawn = Image.new("F", shape[::-1])
    pen = ImageDraw.Draw(drawn)
    for _ in range(rng.integers(2, 40)):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        turn, reach = np.radians(-angle + rng.normal(0, 8)), 3 + rng.exponential(20)
        dy, dx = reach * np.sin(turn), reach * np.cos(turn)
        pen.line([x - dx, y - dy, x + dx, y + dy], float(rng.normal()), int(rng.integers(1, 3)))
    for _ in range(rng.integers(0, 20)):
        y, x, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0.5, 3)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], float(rng.normal()))
    return ndimage.gaussian_filter(np.asarray(drawn), rng.uniform(0.4, 1.2))


def _jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(np.rint(image).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), np.float32)
