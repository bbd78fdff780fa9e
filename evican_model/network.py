"""Mask R-CNN (He et al. 2017) on one page: backbone, feature pyramid, proposals, box head, mask head.

Boxes are pixels of the network's input. The network knows nothing of files, image sizes beyond its input, or training
data; `model.py` feeds it images, `train.py` feeds it batches.
"""

from __future__ import annotations

import tensorflow as tf

from evican_model import boxes, roi, rpn
from evican_model.backbones import backbone, fold
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.fpn import feature_pyramid

__all__ = ["MaskRCNN"]


class MaskRCNN(tf.Module):
    """The network: five small Keras models and the steps between them.

    Parameters
    ----------
    config : NetworkConfig
    """

    def __init__(self, config: NetworkConfig):
        super().__init__(name="mask_rcnn")
        self.config = config
        self.backbone = backbone(config.backbone)
        self.folded = None
        self.pyramid = feature_pyramid([c.shape[-1] for c in self.backbone.outputs], config.fpn_channels)
        self.rpn = rpn.rpn_head(config)
        self.box_head = roi.box_head(config)
        self.mask_head = roi.mask_head(config)
        self.parts = [self.backbone, self.pyramid, self.rpn, self.box_head, self.mask_head]
        self.detect = tf.function(
            self.forward,
            input_signature=[tf.TensorSpec([1, None, None, 1], tf.float32), tf.TensorSpec([], tf.float32)],
        )  # one trace serves every image size

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

    def forward(self, image, minimum_score):
        """Detect the objects of one image.

        Parameters
        ----------
        image : float32 tensor [1, height, width, 1]
            Grey levels 0 to 255; sides are multiples of 64.
        minimum_score : float32 tensor []
            Weaker detections are dropped before their masks are drawn: half of the work in a dense image.

        Returns
        -------
        dict of tensors
            ``boxes`` [n, 4], ``category_ids`` int32 [n], ``scores`` [n], best first, and ``masks`` [n, side, side],
            the probability of each pixel of the box.
        """
        height, width = tf.shape(image)[1], tf.shape(image)[2]
        pyramid, objectness, offsets, anchors = self.propose(image, self.folded)
        rois = rpn.propose(objectness[0], offsets[0], anchors, height, width, self.config)
        logits, refinements = self.box_head(self.align(pyramid, rois, self.config.box_pool))
        outputs = roi.detections(logits, refinements, rois, height, width, minimum_score, self.config)
        found, category_ids, scores = outputs
        masks = self.mask_head(self.align(pyramid, found, self.config.mask_pool))
        masks = tf.sigmoid(tf.gather(masks, category_ids - 1, axis=3, batch_dims=1))
        return {"boxes": found, "category_ids": category_ids, "scores": scores, "masks": masks}

    def fold(self):
        """Copy the backbone into one for grey images without batch norms, for faster detection.

        Weights that change later change only the original.
        """
        self.folded = fold(self.backbone, self.config.backbone, len(self.config.pixel_mean))

    def propose(self, images, folded=None):
        """Backbone, pyramid and RPN: levels P2 to P6, objectness, offsets [batch, anchors, ...], and the anchors."""
        normalised = (images - self.config.pixel_mean) / self.config.pixel_std  # [batch, height, width, 1]
        features = folded(normalised) if folded else self.backbone(tf.repeat(normalised, 3, -1))
        pyramid = self.pyramid(features)
        outputs = [self.rpn(level) for level in pyramid]
        objectness, offsets = (tf.concat(part, 1) for part in zip(*outputs))
        anchors = boxes.anchors(tf.shape(images)[1], tf.shape(images)[2], self.config)
        return pyramid, objectness, offsets, anchors

    def align(self, pyramid, rois, size, batch_index=None):
        """RoIAlign [n, size, size, channels]; the ROIs are of the first image unless told otherwise."""
        if batch_index is None:
            batch_index = tf.zeros([tf.shape(rois)[0]], tf.int32)
        return roi.roi_align(pyramid, rois, batch_index, size, self.config.strides)

    def losses(self, batch, training: TrainConfig):
        """Return the five losses of a batch (He et al. 2017, section 3) as a dict of scalars.

        Parameters
        ----------
        batch : dict of tensors
            ``image`` [batch, height, width, 1], ``boxes`` [batch, instances, 4], ``category_ids`` [batch, instances]
            (0: padding), ``masks`` uint8 [batch, instances, height, width], ``known`` [batch, rows, columns,
            categories] at the stride of P2.
        training : TrainConfig
        """
        height, width = tf.shape(batch["image"])[1], tf.shape(batch["image"])[2]
        pyramid, objectness, offsets, anchors = self.propose(batch["image"])
        samples, matched, rpn_losses = [], [], []
        for i in range(batch["image"].shape[0]):
            truth = {key: value[i] for key, value in batch.items()}
            rpn_losses.append(rpn.rpn_loss(objectness[i], offsets[i], anchors, truth, self.config, training))
            proposals = rpn.propose(objectness[i], offsets[i], anchors, height, width, self.config)
            sample = roi.sample_rois(proposals, truth, self.config, training)
            sample["batch_index"] = tf.fill([training.rois], i)
            samples.append(sample)
            matched.append({key: tf.gather(truth[key], sample["match"]) for key in ("boxes", "category_ids")})
            matched[-1]["masks"] = tf.gather(truth["masks"], sample["match"][: training.positive_rois])

        sample = {key: tf.concat([s[key] for s in samples], 0) for key in samples[0]}
        truth = {key: tf.concat([m[key] for m in matched], 0) for key in matched[0]}
        pooled = self.align(pyramid, sample["rois"], self.config.box_pool, sample["batch_index"])
        logits, refinements = self.box_head(pooled)
        class_loss, box_loss = roi.roi_loss(logits, refinements, sample, truth, self.config)

        # The positive ROIs stand first in each image's share.
        first = tf.concat(
            [tf.range(training.positive_rois) + i * training.rois for i in range(len(samples))], 0
        )
        rois, index, positive = (tf.gather(sample[key], first) for key in ("rois", "batch_index", "positive"))
        masks = self.mask_head(self.align(pyramid, rois, self.config.mask_pool, index))
        mask_loss = roi.mask_loss(
            masks, rois, truth["masks"], tf.gather(truth["category_ids"], first), positive
        )
        rpn_class, rpn_box = (sum(part) / len(samples) for part in zip(*rpn_losses))
        return {
            "rpn_class": rpn_class,
            "rpn_box": rpn_box,
            "class": class_loss,
            "box": box_loss,
            "mask": mask_loss,
        }
