"""Every default of the network and of its training, as frozen dataclasses that are saved as JSON beside the weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from evican_model.errors import EvicanError

__all__ = ["PAPER_TRAINING", "PRESETS", "TRAINING_BEFORE", "NetworkConfig", "TrainConfig"]


@dataclass(frozen=True)
class _JsonConfig:
    """Reading and writing shared by the configs: an unknown or missing key is an error, never a default."""

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict that `from_dict` turns back into an equal config."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str | Path = "config"):
        """Build a config from a dict, refusing unknown and missing keys.

        Parameters
        ----------
        values : dict
            One value a field; lists stand for tuples.
        source : str or Path
            Where the values come from; named in errors.

        Raises
        ------
        EvicanError
            If a key is unknown, missing, or its value is of another type than the field's default.
        """
        if not isinstance(values, dict):
            raise EvicanError(f"{source}: expected a JSON object of settings, got {type(values).__name__}.")
        defaults = {field.name: field.default for field in fields(cls)}
        unknown, missing = set(values) - set(defaults), set(defaults) - set(values)
        if unknown or missing:
            what = [f"unknown {sorted(unknown)}"] * bool(unknown) + [f"missing {sorted(missing)}"] * bool(
                missing
            )
            raise EvicanError(f"{source}: settings {' and '.join(what)}; known are {sorted(defaults)}.")
        typed = {key: _as_type_of(defaults[key], value, f"{source}: {key}") for key, value in values.items()}
        try:
            return cls(**typed)
        except EvicanError as error:
            raise EvicanError(f"{source}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the config as indented JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class NetworkConfig(_JsonConfig):
    """The Mask R-CNN: what is built, and how its raw outputs become detections.

    The defaults are the preset ``fast``; `for_preset` gives the others. Lengths are pixels of the network's input,
    boxes ``[y1, x1, y2, x2]``. Matterport's names of the settings stand in capitals where they differ.

    Which layers Matterport's training stages ``heads``, ``3+``, ``4+``, ``5+`` and ``all`` hold in each backbone,
    `backbones.stages` and `backbones.frozen_layers` tell: what the latter returns fits `TrainConfig.frozen`.
    Training must scale images as detection does: see ``image_scale``, ``shortest_side``, ``padding`` and ``stretch``.
    """

    preset: str = "fast"
    categories: tuple[str, ...] = ("Cell", "Nucleus")  # category_id is the position + 1; 0 is background
    backbone: str = "efficientnet_lite0"
    # What the network sees.
    stretch: bool = True  # grey levels to the image's own range; false: 8-bit levels as they are stored
    image_scale: str = "cells"  # what is scaled: its "cells" to their size, or the image into a "square"
    shortest_side: int = 800  # of the image in the square, if its longest stays within `tile` (IMAGE_MIN_DIM)
    padding: float = 127.0  # grey level of what lies outside the image
    pixel_mean: tuple[float, ...] = (127.0,)  # EfficientNet-Lite's convention; one value, or one a colour
    pixel_std: float = 128.0
    # How boxes lie on pixels: "centres", RoIAlign exact to the pixel, or "corners", Matterport's (see geometry.py).
    geometry: str = "centres"
    # Layers.
    separable: bool = True  # depthwise-separable convolutions in pyramid, RPN and mask head
    head_norms: bool = False  # batch norms in the box and mask heads
    fpn_channels: int = 96  # TOP_DOWN_PYRAMID_SIZE
    rpn_channels: int = 96
    box_pool: int = 7  # POOL_SIZE
    box_channels: int = 256  # FPN_CLASSIF_FC_LAYERS_SIZE
    mask_pool: int = 14
    mask_channels: int = 96
    mask_convolutions: int = 3
    # Sides of the frame in which a mask is drawn, in sides of its box: what the box cuts off, the mask still draws.
    mask_context: float = 1.33
    # A score is the category's probability times the mask's certainty (`roi.mask_certainty`): it tells sharp outlines
    # from vague ones, and so ranks by how well an object fits.
    mask_certainty: bool = True
    # Ways in which an image is looked at, mirrored and turned, and whose answers are averaged: 1, 2, 4 or 8 (views.py).
    # Each costs the time of a whole look; boxes and masks are the tighter for it (benchmarks/ablation.md).
    views: int = 1
    # Further views of the image enlarged by a factor, which count for nuclei only: 0, 1, 2, 4 or 8.
    close_views: int = 0
    close_scale: float = 1.25
    # Proposals.
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)  # of the pyramid's levels P2 to P6 (BACKBONE_STRIDES)
    # One a level, of the coarsest levels. With a fifth, of 16 pixels on P2, three quarters of all anchors would be for
    # objects that the scaling to typical sizes leaves few of (benchmarks/ablation.md, scale_range.md).
    anchor_scales: tuple[int, ...] = (32, 64, 128, 256)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    objectness_by_category: bool = True  # an image with one category outlined teaches nothing of the others
    rpn_box_std: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    pre_nms_limit: int = 2000
    proposal_iou: float = 0.7  # non-maximum suppression among proposals (RPN_NMS_THRESHOLD)
    proposals: int = 400  # POST_NMS_ROIS_INFERENCE
    training_proposals: int = 400  # POST_NMS_ROIS_TRAINING
    minimum_objectness: float = 0.02  # below it a proposal costs head time and never becomes a detection
    # Detections.
    box_std: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    one_category: bool = False  # true: an ROI is only of its likeliest category; a nucleus can fill its cell
    detection_iou: float = 0.5  # 0.3 (Matterport) drops touching elongated cells
    detections: int = 400  # a tile; Matterport's 100 silently cuts dense fields (the first 100 are the same)
    smallest_box: float = 1.0  # square pixels
    minimum_score: float = 0.02  # floor of `Model.detect`, as low as average precision needs
    # What a cell's score makes of the network's own, of the nucleus in the cell, of a better cell in its place, and of
    # neither (rescoring.py, which fits these weights); as they stand here, it is the network's own.
    rescoring: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    # DETECTION_MIN_CONFIDENCE, of `Model.segment`: F1 is near its best on every set we have (benchmarks/confidence.md)
    confidence: float = 0.6
    # Tiles and scale.
    tile: int = 1024  # longest side that the network sees at once (IMAGE_MAX_DIM)
    tile_overlap: int = 192  # about three typical cells: an object up to this long is whole in some tile
    cell_diameter: float = 64.0  # the size that typical cells are scaled to; training is centred on it
    # Nuclei want more pixels than their share of a cell: their outlines are tighter so (benchmarks/ablation.md).
    nucleus_diameter: float = 48.0
    first_look: int = 512  # longest side of the copy on which the size of the objects is measured
    smallest_look: float = 0.25  # scale of the first look at a huge image: smaller, cells would be dots
    further_looks: int = 2
    scale_tolerance: float = 1.35  # objects this near their typical size need no further look
    largest_scale: float = 4.0

    def __post_init__(self):
        for name, known in (("image_scale", ("cells", "square")), ("geometry", ("centres", "corners"))):
            if getattr(self, name) not in known:
                raise EvicanError(f"{name} is {getattr(self, name)!r}; known are {list(known)}.")
        if self.strides != (4, 8, 16, 32, 64) or len(self.anchor_scales) not in (4, 5):
            raise EvicanError(
                f"strides are {list(self.strides)} and anchor_scales {list(self.anchor_scales)}; the backbones give "
                "the strides 4, 8, 16, 32 and 64, and each level needs one anchor scale (the first may have none)."
            )
        if self.views not in (1, 2, 4, 8):
            raise EvicanError(f"views is {self.views}; expected 1, 2, 4 or 8 ways to look at an image.")
        if self.close_views not in (0, 1, 2, 4, 8) or self.close_scale <= 1:
            raise EvicanError(
                f"close_views is {self.close_views} and close_scale {self.close_scale}; expected 0, 1, 2, 4 or 8 "
                "ways to look at an image enlarged by more than 1."
            )
        if self.close_views and self.image_scale != "cells":
            raise EvicanError(
                f"close_views is {self.close_views}; an image that is scaled into a square has no closer views."
            )
        if len(self.rescoring) != 4 or self.rescoring[0] <= 0:
            raise EvicanError(
                f"rescoring is {list(self.rescoring)}; expected four weights, the first of them above 0."
            )
        if len(self.pixel_mean) not in (1, 3) or not self.categories:
            raise EvicanError(
                f"pixel_mean is {list(self.pixel_mean)}, categories {list(self.categories)}; expected one or three "
                "grey levels, and at least one category."
            )

    @property
    def anchor_strides(self) -> tuple[int, ...]:
        """Strides of the levels that have anchors, finest first."""
        return self.strides[-len(self.anchor_scales) :]

    @classmethod
    def for_preset(cls, name: str, **changes: Any) -> NetworkConfig:
        """Return the config of a preset.

        Parameters
        ----------
        name : str
            ``fast``: what ships with weights. ``paper``: the paper's system, Matterport's Mask R-CNN on ResNet-101.
            ``resnet50``: the same on ResNet-50.
        **changes
            Fields that are to be otherwise.

        Raises
        ------
        EvicanError
            If there is no such preset.

        Examples
        --------
        >>> NetworkConfig.for_preset("paper").backbone
        'resnet101'
        """
        if name not in PRESETS:
            raise EvicanError(f"There is no preset {name!r}; known are {list(PRESETS)}.")
        return cls(**{"preset": name, **PRESETS[name], **changes})


# Matterport's constants, where they are not those above. What is ours, though Matterport has another value: the cap
# on detections (100 there), and objects a training image: all of them, each with its mask at full size
# (MAX_GT_INSTANCES = 100, or 1 in the paper's code, and mini-masks of 56 x 56, lose dense fields and fine outlines).
_MATTERPORT: dict[str, Any] = {
    "image_scale": "square", "padding": 0.0, "pixel_mean": (123.7, 116.8, 103.9), "pixel_std": 1.0,
    "geometry": "corners", "separable": False, "head_norms": True, "fpn_channels": 256, "rpn_channels": 512,
    "box_channels": 1024, "mask_channels": 256, "mask_convolutions": 4, "mask_context": 1.0,
    "mask_certainty": False, "confidence": 0.7,
    "anchor_scales": (32, 64, 128, 256, 512), "objectness_by_category": False, "pre_nms_limit": 6000,
    "proposals": 1000, "training_proposals": 2000, "minimum_objectness": 0.0,
    "one_category": True, "detection_iou": 0.3, "smallest_box": 0.0,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {},
    "paper": {**_MATTERPORT, "backbone": "resnet101"},
    "resnet50": {**_MATTERPORT, "backbone": "resnet50"},
}


@dataclass(frozen=True)
class TrainConfig(_JsonConfig):
    """One training run: its schedule, its losses and its augmentation."""

    schedule: str = "quick"  # or "paper", its three stages (schedule.py)
    steps: int = 2000  # of the schedule "quick"; "paper" has 52 epochs
    epoch: int = 1000  # steps in an epoch of the schedule "paper" (Matterport's default)
    batch: int = 2
    crop: int = 320  # pixels, a multiple of the coarsest stride (64)
    frozen: tuple[str, ...] = (
        "stem",
        "b0",
        "b1",
        "b2",
    )  # layer-name beginnings; their gradients cost a third of a step
    optimizer: str = "adamw"  # or "sgd"
    momentum: float = 0.9  # of sgd
    learning_rate: float = 6e-4
    # Share of the rate for the backbone: with all of it, pre-trained kernels under norms whose statistics stand still
    # drive their activations into saturation, from where there is no way back.
    backbone_rate: float = 0.1
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    clip_each: bool = False  # clip the gradient of each tensor, as the paper's code does, not of all together
    average_decay: float = 0.998  # exponential moving average of the weights, which is what is saved; 0: none
    precision: str = "float32"  # or "bfloat16": mixed precision, for GPUs that are fast at it
    seed: int = 0
    save_every: int = 250
    validate_every: int = 250
    validation_limit: int = 16  # spread evenly over the validation set; all would take longer than training
    patience: int = 10  # validations without a better AP after which training stops; 0: never
    unlabelled: str = "ignore"  # or "blur" or "background": what is not outlined in a partly annotated image
    box_weight: float = 2.0  # of the box head's loss; boxes limit how tight nuclei are (benchmarks/localisation.md)
    # Of the smooth L1 losses of boxes: errors below it count by their square. 1 hardly pulls at boxes that nearly fit.
    box_beta: float = 0.111
    mask_dice: float = 1.0  # weight of a soft Dice loss beside the cross entropy of masks
    blur_sigma: float = 30.0  # pixels (paper, section 2.2)
    blur_seam: float = 3.0  # pixels over which sharp goes over into blurred
    instances: int = 80  # objects a crop; the crop's surplus is marked unknown, not background
    anchors_sampled: int = 256
    anchor_positive_iou: float = 0.6
    anchor_negative_iou: float = 0.3
    # Each object is learnt by four anchors at least, judged by their part in the image: without, what is much smaller
    # than an anchor, such as a sliver at the edge, is learnt by none.
    match_slivers: bool = True
    rois: int = 96
    positive_rois: int = 32
    positive_roi_iou: float = 0.5
    known_share: float = 0.7  # of a box's area that must be annotated before it can serve as background
    known_border: int = 10  # pixels around annotated objects of a partly annotated image (paper, section 2.2)
    # Where one category is outlined and not the other, each nucleus still lies in a cell: what contradicts the outlines
    # is background (nesting.py).
    nesting: bool = True
    scale_low: float = 0.5
    scale_high: float = 2.0
    blank_share: float = 0.08  # of samples that are empty fields: noise, medium and dust, no cell
    flip: bool = True
    turn: bool = True
    warp: bool = True  # half of the windows by any angle, and stretched
    contrast: bool = True
    invert: bool = True
    relief: bool = True  # of some windows, lit from one side as in differential interference contrast
    halo: bool = True
    illumination: bool = True
    patches: bool = True  # faint, of soft edge, as dust and drops out of focus cast them
    defocus: bool = True
    noise: bool = True
    texture: bool = True
    jpeg: bool = True
    copy_paste: bool = True

    def __post_init__(self) -> None:
        """Refuse values that no training can run with, and choices that there are not."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise EvicanError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}.")
        if self.crop % 64 or self.crop <= 0:
            raise EvicanError(f"crop is {self.crop}; it must be a multiple of 64 pixels to fit the network.")
        for name in ("steps", "epoch", "batch", "instances", "rois", "save_every", "validate_every", "learning_rate",
                     "backbone_rate", "box_weight", "box_beta", "blur_sigma", "scale_low"):  # fmt: skip
            if getattr(self, name) <= 0:
                raise EvicanError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.mask_dice < 0:
            raise EvicanError(f"mask_dice is {self.mask_dice}; it must be 0, for no Dice loss, or above.")
        if not 0 < self.positive_rois <= self.rois:
            raise EvicanError(f"positive_rois is {self.positive_rois}; it must be 1 to rois, {self.rois}.")
        if self.scale_high < self.scale_low:
            raise EvicanError(f"scale_high is {self.scale_high}, below scale_low, {self.scale_low}.")


_CHOICES = {
    "schedule": ("quick", "paper"),
    "optimizer": ("adamw", "sgd"),
    "precision": ("float32", "bfloat16"),
    "unlabelled": ("ignore", "blur", "background"),
}

# What runs did that began before a setting existed, and that their record therefore leaves out.
TRAINING_BEFORE: dict[str, Any] = {"relief": False, "match_slivers": False, "nesting": False, "patches": False}

# What the paper's training fixes (section 2.3, and the released code where the text is silent).
PAPER_TRAINING: dict[str, Any] = {
    "schedule": "paper",
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "backbone_rate": 1.0,
    "box_weight": 1.0,
    "box_beta": 1.0,
    "mask_dice": 0.0,
    "warmup_steps": 0,
    "clip_each": True,
    "average_decay": 0.0,
    "batch": 1,
    "crop": 1024,
    "unlabelled": "blur",
    "patience": 0,
    "save_every": 1000,
    "validate_every": 1000,
    "instances": 100,
    "rois": 200,
    "positive_rois": 66,
    "anchor_positive_iou": 0.7,
    "match_slivers": False,
    "nesting": False,
    "frozen": (),
    # Blank images are in the data; of augmentation only mirroring.
    "blank_share": 0.0,
    "scale_low": 1.0,
    "scale_high": 1.0,
    **{name: False for name in ("turn", "warp", "contrast", "invert", "relief", "halo", "illumination", "patches",
                                "defocus", "noise", "texture", "jpeg", "copy_paste")},
}  # fmt: skip


def _as_type_of(default: Any, value: Any, where: str) -> Any:
    if isinstance(default, tuple):
        if isinstance(value, (list, tuple)) and all(_fits(default[0], item) for item in value):
            return tuple(type(default[0])(item) for item in value)
    elif _fits(default, value):
        return type(default)(value)
    raise EvicanError(f"{where} is {value!r}; expected {type(default).__name__} like {default!r}.")


def _fits(default: Any, value: Any) -> bool:
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)
