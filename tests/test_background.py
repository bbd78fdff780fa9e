"""The paper's blur: sharp where outlined, gone elsewhere, without a seam, and made only once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from evican_model.background import blur_unannotated, blurred_levels
from evican_model.config import NetworkConfig, TrainConfig
from evican_model.dataset import read_dataset
from evican_model.errors import DatasetError
from evican_model.samples import SampleSource

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def thinned():
    """A real image of which only the first cell is outlined."""
    item = read_dataset(DATA / "evican_sample.json", DATA, NetworkConfig().categories)[1]
    return replace(item, truth=item.truth.of("Cell").select(np.array([0])), dense=False)


def distance_to(item):
    return ndimage.distance_transform_edt(item.truth.labels("Cell") == 0)


def test_what_is_outlined_stays_sharp_and_the_rest_is_gone(thinned):
    levels = thinned.grey_levels()
    blurred = blur_unannotated(levels, thinned.truth, border=10, sigma=30, seam=3)
    distance = distance_to(thinned)
    np.testing.assert_array_equal(blurred[distance <= 10], levels[distance <= 10])
    far = distance > 13
    expected = ndimage.gaussian_filter(levels.astype(np.float32), 30, truncate=3)
    np.testing.assert_allclose(blurred[far], expected[far], atol=0.51)
    assert np.abs(np.diff(blurred.astype(int), axis=0))[far[1:] & far[:-1]].max() <= 3
    assert blurred.dtype == np.uint8 and blurred.shape == levels.shape


def test_the_seam_is_smooth():
    """On an image of two halves the step from sharp to blurred is spread over the seam."""
    from evican_model.instances import Instances

    levels = np.tile(np.where(np.arange(200) % 2, 255, 0).astype(np.uint8), (200, 1)).T
    square = Instances((200, 200), ("Cell",), [1], [1], [[80, 80, 120, 120]], [np.ones((40, 40), bool)])
    hard = blur_unannotated(levels, square, 10, 30, 0)[100].astype(int)
    soft = blur_unannotated(levels, square, 10, 30, 6)[100].astype(int)
    assert np.abs(np.diff(hard)).max() > 100
    assert np.abs(np.diff(soft)).max() < 60


def test_it_is_kept_on_disk_under_all_that_it_depends_on(thinned, tmp_path):
    levels, training = thinned.grey_levels(), TrainConfig(unlabelled="blur")
    first = blurred_levels(thinned, levels, training, tmp_path)
    (file,) = tmp_path.iterdir()
    # The second time it is read: what is given is not looked at.
    np.testing.assert_array_equal(blurred_levels(thinned, np.zeros_like(levels), training, tmp_path), first)
    blurred_levels(thinned, levels, replace(training, blur_sigma=10.0), tmp_path)
    blurred_levels(replace(thinned, truth=thinned.truth.select(np.zeros(0, int))), levels, training, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3 and file.suffix == ".png"


@pytest.mark.parametrize("unlabelled", ["blur", "ignore", "background"])
def test_the_three_ways_with_what_is_not_outlined(thinned, tmp_path, unlabelled):
    training = TrainConfig(unlabelled=unlabelled, crop=320, instances=10, blank_share=0.0, copy_paste=False)
    source = SampleSource([[thinned]], [1.0], NetworkConfig(), training, tmp_path)
    known = [source.sample(i)["known"].mean() for i in range(6)]
    if unlabelled == "ignore":
        assert min(known) < 0.7
    else:
        assert min(known) == 1
    _, levels = source._item(0, 0)
    assert (levels != thinned.grey_levels()).any() == (unlabelled == "blur")


def test_completely_outlined_images_are_not_blurred(tmp_path):
    items = read_dataset(DATA / "evican_sample.json", DATA, NetworkConfig().categories)
    source = SampleSource([items], [1.0], NetworkConfig(), TrainConfig(unlabelled="blur"), tmp_path)
    np.testing.assert_array_equal(source._item(0, 0)[1], items[0].grey_levels())
    assert not list(tmp_path.iterdir())


def test_blurring_needs_a_folder(thinned):
    with pytest.raises(DatasetError, match="folder"):
        SampleSource([[thinned]], [1.0], NetworkConfig(), TrainConfig(unlabelled="blur"))
