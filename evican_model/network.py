"""Mask R-CNN (He et al. 2017) on one page: backbone, feature pyramid, proposals, box head, mask head.

Boxes are pixels of the network's input. The network knows nothing of files, image sizes beyond its input, or training
data; `model.py` feeds it images, `train.py` feeds it batches.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, NamedTuple

import tensorflow as tf

from evican_model import boxes, roi, rpn
from evican_model.backbones import backbone, fold
from evican_model.categories import NUCLEUS, kind_of
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.fpn import feature_pyramid
from evican_model.geometry import geometry
from evican_model.runtime import computing_in
from evican_model.views import Close, Look, views

__all__ = ["MaskRCNN"]

_PLAIN = views(1)
_DRAWN_AT_ONCE = 64  # masks


class _Parts(NamedTuple):
    """The steps of `MaskRCNN.forward` that all views share, compiled."""

    see: Callable
    judge: Callable
    draw: Callable


class MaskRCNN(tf.Module):
    """The network: five small Keras models and the steps between them.

    Parameters
    ----------
    config : NetworkConfig
    precision : str
        In which the layers compute: ``float32``, ``float16`` or ``bfloat16``. Weights and boxes are always float32.
    """

    def __init__(self, config: NetworkConfig, precision: str = "float32"):
        super().__init__(name="mask_rcnn")
        self.config, self.precision = config, precision
        self.geometry = geometry(config)
        with computing_in(precision):
            self.backbone = backbone(config.backbone)
            self.pyramid = feature_pyramid([c.shape[-1] for c in self.backbone.outputs], config)
            self.rpn = rpn.rpn_head(config)
            self.box_head = roi.box_head(config)
            self.mask_head = roi.mask_head(config)
        self.parts = [self.backbone, self.pyramid, self.rpn, self.box_head, self.mask_head]
        self.folded = None
        self.traces: dict = {}

    def named_variables(self) -> dict[str, tf.Variable]:
        """Every weight by ``layer/tensor``, the same names on Keras 2 and Keras 3."""
        named = {}
        for part in self.parts:
            for layer in part.layers:
                for variable in layer.weights:
                    tensor = variable.name.split("/")[-1].split(":")[0]
                    if isinstance(layer, tf.keras.layers.DepthwiseConv2D):
                        tensor = "depthwise_kernel"  # Keras 3 calls it kernel
                    named[f"{layer.name}/{tensor}"] = variable
        return named

    def detect(self, images, minimum_score, windows=None, view_count=1, close=None):
        """Call `forward`, compiled. What is traced once serves images of every size.

        Parameters
        ----------
        images, minimum_score, windows, close
            Those of `forward`; `windows` are the whole images by default.
        view_count : int
            In how many views. One is traced as a whole; of several, the parts are, which all views share.
        """
        batch, height, width, _ = images.shape
        if windows is None:
            windows = tf.constant([[0, 0, height, width]] * batch, tf.float32)
        minimum_score = tf.broadcast_to(tf.cast(minimum_score, tf.float32), [len(self.config.categories)])
        several = view_count > 1 or close is not None
        if (batch, several) not in self.traces:
            self.traces[batch, several] = self._compiled(batch) if several else self._traced(batch)
        traced = self.traces[batch, several]
        if several:
            return self.forward(images, minimum_score, windows, views(view_count), traced, close)
        return traced(images, minimum_score, windows)

    def _traced(self, batch: int):
        least = tf.TensorSpec([len(self.config.categories)])
        signature = [tf.TensorSpec([batch, None, None, 1]), least, tf.TensorSpec([batch, 4])]
        return tf.function(self.forward, input_signature=signature)

    def _compiled(self, batch: int) -> _Parts:
        channels = self.config.fpn_channels
        images, regions = tf.TensorSpec([batch, None, None, 1]), tf.TensorSpec([None, 4])
        size, index = tf.TensorSpec([2], tf.int32), tf.TensorSpec([None], tf.int32)
        pyramid = [tf.TensorSpec([batch, None, None, channels])] * len(self.config.strides)
        return _Parts(
            tf.function(self.see, [images]),
            tf.function(self.judge, [pyramid, size, regions, index]),
            tf.function(self.draw, [pyramid, size, regions, index, index]),
        )

    def forward(self, images, minimum_score, windows, ways=_PLAIN, parts=None, close: Close | None = None):
        """Detect the objects of some images.

        Parameters
        ----------
        images : float32 tensor [batch, height, width, 1]
            Grey levels 0 to 255; sides are multiples of 64.
        minimum_score : float32 tensor [] or [categories]
            Weaker detections are dropped before their masks are drawn: half of the work in a dense image.
        windows : float32 tensor [batch, 4]
            Detections are clipped to this part of each image.
        ways : tuple of View
            How to look at the images: boxes, probabilities and masks are the mean of what each view gives.
        parts : optional
            What has the methods `see`, `judge` and `draw`, compiled; this network by default.
        close : Close, optional
            The same images from nearer: what these views say counts for nuclei only. Outlines of nuclei are the tighter
            for it, cells fall apart.

        Returns
        -------
        dict of tensors
            ``boxes`` [n, 4], ``category_ids`` int32 [n], ``scores`` [n], the likeliest of their category first in each
            image, ``frames`` [n, 4], the boxes with the context in which their masks are drawn, ``masks`` [n, side,
            side], the probability of each pixel of the frame, and ``image_index`` int32 [n], ascending.
        """
        config, parts = self.config, parts or self
        looks = [Look(view, images, self._extent(images), parts) for view in ways]
        near = []
        if close:
            extent = self._extent(close.images)
            near = [Look(view, close.images, extent, parts, close.zoom) for view in close.ways]
        # Each view judges the proposals of all: more of them, and not only the mean of the answers, tightens the boxes.
        rois = [tf.concat(of_image, 0) for of_image in zip(*(look.rois for look in looks + near))]
        index, regions = _image_index(rois), tf.concat(rois, 0)
        judged = [_mean(part) for part in zip(*(look.judge(regions, index) for look in looks))]
        nuclear = tf.constant([kind_of(name) == NUCLEUS for name in config.categories])
        if near:
            closer = zip(*(look.judge(regions, index) for look in near))
            scores, refined = (_joined(part, len(looks), answers) for part, answers in zip(judged, closer))
            judged = [tf.where(tf.concat([[False], nuclear], 0), scores, judged[0]),
                      tf.where(nuclear[:, None], refined, judged[1])]  # fmt: skip
        heads = [tf.split(part, [tf.shape(of_image)[0] for of_image in rois]) for part in judged]
        windows = tf.unstack(self.geometry.inner(windows))
        found = [
            roi.detections(scores, refined, window, minimum_score, config)
            for scores, refined, window in zip(*heads, windows)
        ]
        regions, category_ids, scores = (tf.concat(part, 0) for part in zip(*found))
        index = _image_index(scores for _, _, scores in found)
        frames = boxes.grow(regions, config.mask_context)
        masks = _mean([look.draw(frames, index, category_ids) for look in looks])
        if near:
            mine = tf.where(tf.gather(nuclear, category_ids - 1))
            own = [tf.gather_nd(part, mine) for part in (frames, index, category_ids)]
            drawn = _joined(tf.gather_nd(masks, mine), len(looks), [look.draw(*own) for look in near])
            masks = tf.tensor_scatter_nd_update(masks, mine, drawn)
        if config.mask_certainty:
            scores *= roi.mask_certainty(masks)
        return {"boxes": self.geometry.outer(regions), "category_ids": category_ids, "scores": scores,
                "frames": self.geometry.outer(frames), "masks": masks, "image_index": index}  # fmt: skip

    def _extent(self, images):
        """Where the far edge of images lies in the geometry of the boxes, [2]."""
        return self.geometry.inner(tf.cast(tf.concat([[0, 0], tf.shape(images)[1:3]], 0), tf.float32))[2:]

    def see(self, images):
        """Backbone, pyramid and RPN: return the levels, the images' size, and the proposals [n, 4] of each image."""
        config, size = self.config, tf.shape(images)[1:3]
        pyramid, objectness, offsets = self.propose(images, self.folded)
        whole = self.geometry.inner(tf.cast(tf.concat([[0, 0], size], 0), tf.float32))
        anchors_at = partial(boxes.anchors_at, height=size[0], width=size[1], config=config)
        rois = [
            rpn.propose(objectness[i], offsets[i], anchors_at, whole, config.proposals, config)
            for i in range(images.shape[0])
        ]
        return [tf.cast(level, tf.float32) for level in pyramid], size, rois

    def judge(self, pyramid, size, rois, index):
        """Box head: return how likely each ROI [n, 4] is of each category, and the boxes it refines the ROI to."""
        logits, offsets = self.box_head(self.align(pyramid, rois, index, self.config.box_pool, size))
        return roi.read_box_head(logits, offsets, rois, self.config)

    def draw(self, pyramid, size, frames, index, category_ids):
        """Mask head: return the probability of each pixel of frames [n, 4], of their own category.

        Some at a time: the head needs a hundred times the memory of the mask that comes out.
        """
        side, count = 2 * self.config.mask_pool, tf.shape(frames)[0]
        steps = tf.maximum(1, -(-count // _DRAWN_AT_ONCE))

        def some(step, drawn):
            part = slice(step * _DRAWN_AT_ONCE, (step + 1) * _DRAWN_AT_ONCE)
            masks = self.mask_head(self.align(pyramid, frames[part], index[part], self.config.mask_pool, size))
            masks = tf.sigmoid(tf.gather(masks, category_ids[part] - 1, axis=3, batch_dims=1))
            return step + 1, drawn.write(step, masks)

        drawn = tf.TensorArray(tf.float32, steps, infer_shape=False, element_shape=[None, side, side])
        _, drawn = tf.while_loop(lambda step, _: step < steps, some, (0, drawn), parallel_iterations=1)
        return tf.ensure_shape(drawn.concat(), [None, side, side])

    def fold(self):
        """Copy the backbone into one without batch norms, and for grey images where it can be, for faster detection.

        Weights that change later change only the original.
        """
        with computing_in(self.precision):
            self.folded = fold(self.backbone, self.config.backbone, len(self.config.pixel_mean))
        self.traces.clear()  # they hold the copy before

    def propose(self, images, folded=None):
        """Backbone, pyramid and RPN: levels P2 to P6, and objectness and offsets [batch, anchors, ...]."""
        # One channel, or three when each colour has a mean of its own: [batch, height, width, 1 or 3].
        normalised = (images - tf.constant(self.config.pixel_mean)) / self.config.pixel_std
        colour = tf.repeat(normalised, 3 // len(self.config.pixel_mean), -1)
        pyramid = self.pyramid(folded(normalised) if folded else self.backbone(colour))
        outputs = [self.rpn(level) for level in pyramid[-len(self.config.anchor_scales) :]]
        objectness, offsets = (tf.concat(part, 1) for part in zip(*outputs))
        return pyramid, objectness, offsets

    def align(self, pyramid, rois, image_index, bins, size):
        """RoIAlign [n, bins, bins, channels] of images of the given size."""
        pyramid = [tf.cast(level, tf.float32) for level in pyramid]  # of a network in half precision
        return roi.roi_align(pyramid, rois, image_index, bins, size, self.geometry)

    def losses(self, batch, training: TrainConfig):
        """Return the five losses of a batch (He et al. 2017, section 3) as a dict of scalars.

        Parameters
        ----------
        batch : dict of tensors
            ``image`` [batch, height, width, 1], ``boxes`` [batch, instances, 4], ``category_ids`` [batch, instances]
            (0: padding), ``masks`` uint8 [batch, instances, height, width], ``known`` [batch, rows, columns,
            categories] at the stride of P2, ``seed`` int32 [batch, 2].
        training : TrainConfig
        """
        config, size = self.config, tf.shape(batch["image"])[1:3]
        batch = {**batch, "boxes": self.geometry.inner(batch["boxes"])}
        whole = self.geometry.inner(tf.cast(tf.concat([[0, 0], size], 0), tf.float32))
        pyramid, objectness, offsets = self.propose(batch["image"])
        anchors = boxes.anchors(size[0], size[1], config)
        images = [{key: value[i] for key, value in batch.items()} for i in range(batch["image"].shape[0])]
        samples = []
        for i, truth in enumerate(images):
            count = config.training_proposals
            proposals = rpn.propose(objectness[i], offsets[i], partial(tf.gather, anchors), whole, count, config)
            samples.append(roi.sample_rois(proposals, truth, config, training))
        regions = [sample["rois"] for sample in samples]
        pooled = self.align(pyramid, tf.concat(regions, 0), _image_index(regions), config.box_pool, size)
        logits, refinements = (tf.split(x, len(images)) for x in self.box_head(pooled))
        # The positive ROIs stand first in each image's share.
        first = training.positive_rois
        regions = [boxes.grow(sample["rois"][:first], config.mask_context) for sample in samples]
        pooled = self.align(pyramid, tf.concat(regions, 0), _image_index(regions), config.mask_pool, size)
        masks = tf.split(self.mask_head(pooled), len(images))

        # The mean over images, not over all ROIs of the batch: however the images are spread over devices,
        # the loss is the same.
        parts = []
        for i, (truth, sample) in enumerate(zip(images, samples)):
            rpn_class, rpn_box = rpn.rpn_loss(objectness[i], offsets[i], anchors, truth, whole, config, training)
            matched = {key: tf.gather(truth[key], sample["match"]) for key in ("boxes", "category_ids")}
            class_loss, box_loss = roi.roi_loss(logits[i], refinements[i], sample, matched, config, training)
            drawn = tf.gather(truth["masks"], sample["match"][:first])
            ids, positive = matched["category_ids"][:first], sample["positive"][:first]
            mask_loss = roi.mask_loss(masks[i], regions[i], drawn, ids, positive, config, training)
            parts.append((rpn_class, rpn_box, class_loss, box_loss, mask_loss))
        names = ("rpn_class", "rpn_box", "class", "box", "mask")
        return {name: tf.add_n(list(values)) / len(images) for name, values in zip(names, zip(*parts))}


def _image_index(parts):
    """Which image each row is of, int32 [n], when the rows of the images stand one after another."""
    return tf.concat([tf.fill([tf.shape(part)[0]], i) for i, part in enumerate(parts)], 0)


def _joined(mean, count, answers):
    """Mean of what several views say and of the mean of `count` others."""
    return (mean * count + tf.add_n(list(answers))) / (count + len(answers))


def _mean(answers):
    """Mean of what several views say."""
    return answers[0] if len(answers) == 1 else tf.add_n(list(answers)) / len(answers)
