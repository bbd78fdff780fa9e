"""Training samples by number: which image, which window of it, and how partly annotated images are taken.

Sample ``i`` depends on the seed and on ``i`` only, so a resumed run goes on with exactly what would have come next.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from evican_model.augment import blank_sample, make_sample, natural_scale
from evican_model.background import blurred_levels
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.dataset import AnnotatedImage
from evican_model.errors import DatasetError

__all__ = ["SampleSource"]

_IN_MEMORY = 2 << 30  # bytes of grey levels that are kept; EVICAN's training images are about 7 GB
_KEYS = ("image", "boxes", "category_ids", "masks", "known", "seed")


class SampleSource:
    """Samples by number: sample ``i`` is the same whenever it is asked for.

    Parameters
    ----------
    datasets : list of list of AnnotatedImage
    shares : list of float
        How often a sample comes from each dataset, relative to the others.
    network, training : configs
        ``training.unlabelled`` says how partly annotated images are taken. ``"ignore"``: what may be an unlabelled
        object is neither object nor background; ``"blur"``: it is blurred away (`background`), and all that is left
        is known; ``"background"``: it is taken for background, which is wrong, to compare with.
    cache : Path
        Folder for blurred images, needed for ``"blur"`` only.
    in_memory : int
        Bytes of grey levels that are kept; the images used longest ago are read again when needed.
    """

    def __init__(
        self,
        datasets: list[list[AnnotatedImage]],
        shares: Sequence[float],
        network: NetworkConfig,
        training: TrainConfig,
        cache: Path | None = None,
        in_memory: int = _IN_MEMORY,
    ):
        if training.unlabelled == "blur" and cache is None:
            raise DatasetError("Blurring what is not outlined needs a folder for the blurred images.")
        self.network, self.training, self.cache = network, training, cache
        self.datasets = datasets
        self.shares = np.asarray(shares, float) / np.sum(shares)
        self.scales = [[natural_scale(item, network) for item in items] for items in datasets]
        self._levels: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._bytes, self._limit, self._lock = 0, in_memory, threading.Lock()

    def sample(self, number: int) -> dict[str, np.ndarray]:
        """Return sample `number`: the arrays of `augment.make_sample`, and the ``seed`` of its draws in the network."""
        rng = np.random.default_rng([self.training.seed, int(number)])
        seed = rng.integers(0, 2**31 - 8, 2).astype(np.int32)
        if rng.random() < self.training.blank_share:
            return {**blank_sample(rng, self.network, self.training), "seed": seed}
        source = int(rng.choice(len(self.datasets), p=self.shares))
        i = int(rng.integers(len(self.datasets[source])))
        item, levels = self._item(source, i)
        sample = make_sample(item, levels, self.scales[source][i], rng, self.network, self.training)
        if self.training.unlabelled != "ignore":
            sample["known"][:] = 1
        return {**sample, "seed": seed}

    def check_images(self) -> None:
        """Read every image's header once, so that a wrong one is named before the first step.

        Raises
        ------
        DatasetError, ImageError
        """
        from evican_model.images import check_complete

        for items in self.datasets:
            for item in items:
                check_complete(item.path)
        self._item(0, 0)

    def batches(self, first_step: int, last_step: int, batch: int | None = None):
        """Return a `tf.data.Dataset` of the batches of steps ``first_step`` up to but not including ``last_step``.

        Parameters
        ----------
        first_step, last_step : int
        batch : int, optional
            Samples a batch; ``training.batch`` by default.
        """
        import tensorflow as tf

        network, training, batch = self.network, self.training, batch or self.training.batch
        types = (tf.float32, tf.float32, tf.int32, tf.uint8, tf.float32, tf.int32)
        side, count = training.crop, training.instances
        shapes = ((side, side, 1), (count, 4), (count,), (count, side, side),
                  (side // network.strides[0], side // network.strides[0], len(network.categories)), (2,))  # fmt: skip

        def load(number):
            arrays = tf.numpy_function(lambda n: tuple(self.sample(n)[key] for key in _KEYS), [number], types)
            return {k: tf.ensure_shape(array, shape) for k, array, shape in zip(_KEYS, arrays, shapes)}

        numbers = tf.data.Dataset.range(first_step * batch, last_step * batch)
        samples = numbers.map(load, num_parallel_calls=2, deterministic=True)
        return samples.batch(batch, drop_remainder=True).prefetch(2)

    def _item(self, source: int, i: int) -> tuple[AnnotatedImage, Any]:
        item, key = self.datasets[source][i], (source, i)
        with self._lock:
            if key in self._levels:
                self._levels.move_to_end(key)
                return item, self._levels[key]
        levels = item.grey_levels(self.network)
        # An image whose every category is completely outlined has nothing to blur, nor has a blank one.
        complete = item.dense and item.annotated >= set(self.network.categories)
        if self.training.unlabelled == "blur" and not complete and self.cache is not None:
            levels = blurred_levels(item, levels, self.training, self.cache)
        with self._lock:
            if key not in self._levels:
                self._levels[key] = levels
                self._bytes += levels.nbytes
            while self._bytes > self._limit and len(self._levels) > 1:
                self._bytes -= self._levels.popitem(last=False)[1].nbytes
        return item, levels
