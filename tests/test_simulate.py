"""Synthetic fields: the same from the same seed, with outlines that are true of them, as a dataset for training."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import evican_model
from evican_model.dataset import AnnotatedImage, read_dataset
from evican_model.errors import EvicanError
from evican_model.evaluate import average_precision
from evican_model.litter import add_litter
from evican_model.optics import Microscope, form_image
from evican_model.simulate import main, simulate_field, write_dataset
from evican_model.specimen import STYLES, grow_specimen

CATEGORIES = ("Cell", "Nucleus")


@pytest.mark.parametrize("modality", ["phase", "brightfield"])
def test_the_same_seed_gives_the_same_field_and_another_seed_another(modality):
    a, b, c = (simulate_field(seed, size=160, modality=modality) for seed in (5, 5, 6))
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.truth.labels("Cell"), b.truth.labels("Cell"))
    np.testing.assert_array_equal(a.truth.labels("Nucleus"), b.truth.labels("Nucleus"))
    assert (a.image != c.image).mean() > 0.5
    assert a.image.dtype == np.uint8 and a.image.shape == (160, 160) and a.image.std() > 5


@pytest.mark.parametrize("style", STYLES)
def test_cells_are_disjoint_and_every_nucleus_lies_in_one(style):
    for seed in range(3):
        truth = simulate_field(seed, size=320, style=style, cell_diameter=(40, 60)).truth
        cells = truth.labels("Cell")
        assert truth.count("Cell") >= 3 and truth.count("Nucleus") >= 2
        assert sum(truth.areas("Cell")) == (cells > 0).sum()
        assert sum(truth.areas("Nucleus")) == (truth.labels("Nucleus") > 0).sum()
        for i, mask in enumerate(truth.masks("Nucleus")):
            assert len(set(cells[mask])) == 1 and cells[mask][0] > 0, f"nucleus {i}"
        whole = truth.select((truth.category_ids == 1) & ~truth.touching_border())
        assert all(ndimage.label(mask)[1] == 1 for mask in whole.crops)


def test_sizes_are_those_asked_for():
    """The area of whole cells, in the middle, is that of discs of the wanted diameter; round cells are smaller."""
    for style, low, high in (("epithelial", 0.8, 1.25), ("spread", 0.6, 1.3)):
        areas = []
        for seed in range(4):
            truth = simulate_field(seed, size=384, style=style, cell_diameter=(50, 50)).truth
            areas += truth.select((truth.category_ids == 1) & ~truth.touching_border()).areas().tolist()
        assert low < np.median(2 * np.sqrt(np.array(areas) / np.pi)) / 50 < high, style


def test_outlines_are_where_the_light_is_delayed():
    """The plane is flat outside the cells and not inside: the masks are the cells that are imaged."""
    specimen = grow_specimen(np.random.default_rng(1), 300, 0.5, 50.0, "mixed", 0.4)
    inside = specimen.cells > 0
    assert (specimen.phase[~inside] == 0).all() and (specimen.phase[inside] != 0).mean() > 0.99
    assert specimen.phase[inside].mean() > 0.2
    assert (inside[specimen.nuclei > 0]).all()


def test_phase_contrast_makes_a_halo_and_shades_off():
    """A thin disc is dark, brighter than nothing around it, and its middle less dark than its rim."""
    y, x = np.mgrid[-160:160, -160:160]
    disc = np.hypot(y, x) < 60
    wave = np.exp(0.3j * disc)
    image = form_image(wave, Microscope(0.4, 0.4, (0.5, 0.56), ring=(0.5, -np.pi / 2), ring_margin=0.03))
    radius = np.hypot(y, x)
    around, rim, middle = (
        image[(radius > a) & (radius < b)].mean() for a, b in ((64, 80), (48, 56), (0, 20))
    )
    far = image[(radius > 140) & (radius < 155)].mean()
    assert around > far + 0.02 and rim < far - 0.1 and middle > rim + 0.05
    negative = form_image(wave, Microscope(0.4, 0.4, (0.5, 0.56), ring=(0.5, np.pi / 2), ring_margin=0.03))
    assert (
        negative[(radius > 48) & (radius < 56)].mean() > negative[(radius > 64) & (radius < 80)].mean() + 0.1
    )


def test_brightfield_shows_a_transparent_disc_only_out_of_focus_and_the_other_way_round_beyond_it():
    y, x = np.mgrid[-100:100, -100:100]
    height = np.clip(1 - (np.hypot(y, x) / 40) ** 2, 0, 1)
    wave = np.exp(0.8j * height)
    focused, near, far = (form_image(wave, Microscope(0.4, 0.4, (0, 0.3), defocus=z)) for z in (0, -4, 4))
    assert focused.std() < 0.3 * min(near.std(), far.std())
    assert np.corrcoef((near - focused).ravel(), (far - focused).ravel())[0, 1] < -0.8
    assert abs(focused.mean() - 1) < 0.02 and abs(near.mean() - 1) < 0.02


def test_oblique_light_makes_a_relief_that_stays_in_place():
    y, x = np.mgrid[-100:100, -100:100]
    wave = np.exp(0.5j * np.exp(-(y**2 + x**2) / 800))
    image = form_image(wave, Microscope(0.4, 0.4, (0, 0.3), offset=(0.0, 0.9), defocus=6.0)) - 1
    left, right = image[80:120, 75:95].mean(), image[80:120, 105:125].mean()
    assert left < -0.005 and right > 0.005
    moved = (image**2 * x).sum() / (image**2).sum()
    assert abs(moved) < 2.5  # pixels; left to itself the light would carry the image 5.4 away


@pytest.mark.parametrize("angle", [0, 60, 200])
def test_dic_shows_the_slope_along_its_shear(angle):
    """A flat-topped mound: bright on the side that rises along the shear, dark on the other, flat ground as it was."""
    y, x = np.mgrid[-100:100, -100:100]
    mound = np.exp(-(((y**2 + x**2) / 900) ** 2))
    direction = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    shear = tuple(0.4 * share for share in direction)
    image = form_image(np.exp(0.8j * mound), Microscope(0.4, 0.5, (0, 0.6), shear=shear, bias=np.pi / 2))
    slope = direction[0] * np.gradient(mound, axis=0) + direction[1] * np.gradient(mound, axis=1)
    assert np.corrcoef((image - 1).ravel(), slope.ravel())[0, 1] > 0.95
    assert abs(image[np.hypot(y, x) > 80] - 1).max() < 0.02
    # Across its shear it sees nothing.
    across = np.abs(y * direction[1] - x * direction[0]) > np.abs(y * direction[0] + x * direction[1]) * 5
    assert np.abs(image - 1)[across].max() < 0.35 * np.abs(image - 1).max()
    with pytest.raises(EvicanError, match="bias is 0; it must be above 0"):
        Microscope(0.4, 0.5, (0, 0.6), shear=shear, bias=0)


def test_simulated_dic_fields_are_lit_from_one_side():
    """The slopes of grey levels differ in sign on opposite rims of cells, along one direction for all cells."""
    sided = 0
    for seed in range(4):
        field = simulate_field(seed, size=320, modality="dic", style="round", cell_diameter=(50, 50))
        assert field.modality == "dic"
        pulls = []
        for mask in field.truth.of("Cell").masks():
            rows, columns = np.nonzero(mask)
            bright = field.image[mask].astype(float)
            bright -= bright.mean()
            pull = np.array([(bright * (rows - rows.mean())).mean(), (bright * (columns - columns.mean())).mean()])
            pulls.append(pull / np.hypot(*pull))
        sided += np.hypot(*np.mean(pulls, 0)) > 0.5  # of unit vectors in any direction it would be near 0
    assert sided >= 3


def test_simulated_phase_images_have_bright_halos_around_cells():
    brighter = 0
    for seed in range(6):
        field = simulate_field(seed, size=320, modality="phase", style="fibroblast", cell_diameter=(50, 50))
        cells = field.truth.labels("Cell") > 0
        outside = ndimage.distance_transform_edt(~cells) * field.pixel
        near, far = (outside > 0.4) & (outside < 2.5), outside > 10
        brighter += field.image[near].mean() > field.image[far].mean() + 3
    assert brighter >= 5  # one of six may be negative phase contrast or badly lit


def test_blank_fields_have_no_object_and_are_no_plain_grey():
    for seed in range(4):
        field = simulate_field(seed, size=128, blank=True)
        assert len(field.truth) == 0 and field.style == "blank" and field.image.std() > 3


def test_litter_lies_on_the_field_and_leaves_the_cells_and_their_outlines_as_they_were():
    clean, littered = (simulate_field(11, size=256, modality="phase", litter=litter) for litter in (0, 400))
    for category in CATEGORIES:
        np.testing.assert_array_equal(clean.truth.labels(category), littered.truth.labels(category))
    assert (clean.image != littered.image).mean() > 0.3
    np.testing.assert_array_equal(littered.image, simulate_field(11, size=256, modality="phase", litter=400).image)


def test_pieces_of_litter_are_as_many_as_asked_for_and_as_large_as_nuclei_and_cells():
    """Of ten pieces a field, most are seen apart; they delay and dim the light, and never brighten it."""
    pixel, side = 0.5, 1024
    counts, areas = [], []
    for seed in range(6):
        flat = np.ones((side, side), np.complex64)
        assert add_litter(np.random.default_rng(seed), flat, pixel, 0) is flat
        wave = add_litter(np.random.default_rng(seed), flat, pixel, 10e6 / side**2)
        assert wave.dtype == np.complex64 and np.abs(wave).max() <= 1 + 1e-5
        labels, count = ndimage.label(ndimage.binary_closing(np.abs(wave - 1) > 0.02, iterations=3))
        counts.append(count)
        areas += (np.bincount(labels.ravel())[1:] * pixel**2).tolist()
    assert 6 < np.mean(counts) < 16
    assert 20 < np.median(areas) < 500  # square micrometres


def test_the_command_writes_a_dataset_that_training_reads(tmp_path):
    command = [sys.executable, "-m", "evican_model.simulate", "--output", str(tmp_path / "a"), "--images", "5",
               "--size", "192", "--seed", "3", "--blank", "0.5", "--cell-diameter", "30", "50"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    items = read_dataset(tmp_path / "a" / "simulated.json", tmp_path / "a" / "images", CATEGORIES)
    assert len(items) == 5 and all(item.annotated == set(CATEGORIES) and item.dense for item in items)
    assert 0 < sum(len(item.truth) == 0 for item in items) < 5
    content = json.loads((tmp_path / "a" / "simulated.json").read_text())
    assert content["licenses"][0]["name"] == "CC0-1.0"
    assert {image["modality"] for image in content["images"]} <= {"PhC", "BF"}
    # Field 2 of a longer run is field 2 of this one, to the pixel and to the outline.
    write_dataset(tmp_path / "b", 2, size=192, seed=3, blank=0.5, cell_diameter=(30, 50))
    again = read_dataset(tmp_path / "b" / "simulated.json", tmp_path / "b" / "images", CATEGORIES)
    for a, b in zip(items, again):
        np.testing.assert_array_equal(np.asarray(Image.open(a.path)), np.asarray(Image.open(b.path)))
        for category in CATEGORIES:
            np.testing.assert_array_equal(a.truth.labels(category), b.truth.labels(category))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--size", "20"], "size is 20; expected 64 to 4096"),
        (["--images", "0"], "0 images.*at least 1 image"),
        (["--seed", "-1"], "seed -1.*0 or more"),
        (["--blank", "1.5"], "blank share 1.5.*0 to 1"),
        (["--cell-diameter", "90", "40"], "cell_diameter is 90 to 40; expected two rising numbers"),
        (["--cell-diameter", "nan", "nan"], "cell_diameter is nan"),
        (["--litter", "-3"], "litter is -3; expected 0 to 1000"),
        (["--litter", "nan"], "litter is nan"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, capsys, arguments, message):
    base = ["--output", str(tmp_path / "x"), "--images", "1"]
    assert main([*base, *arguments]) == 2
    assert re.search(r"^error: .*" + message, capsys.readouterr().err, re.M)
    assert not (tmp_path / "x").exists()


def test_a_dataset_is_not_overwritten(tmp_path):
    write_dataset(tmp_path, 1, size=64)
    with pytest.raises(EvicanError, match="simulated.json exists"):
        write_dataset(tmp_path, 1, size=64)


def test_unknown_modality_and_style_are_named():
    with pytest.raises(EvicanError, match="modality is 'darkfield'; expected one of phase"):
        simulate_field(0, modality="darkfield")
    with pytest.raises(EvicanError, match="style is 'yeast'; expected one of epithelial"):
        simulate_field(0, style="yeast")


def test_light_that_misses_the_objective_is_refused():
    with pytest.raises(EvicanError, match="darkfield"):
        form_image(np.ones((32, 32), complex), Microscope(0.4, 0.4, (0, 0.1), offset=(1.4, 0.0)))
    with pytest.raises(EvicanError, match="no microscope"):
        Microscope(0.0, 0.4, (0, 0.1))


@pytest.mark.long
def test_the_bundled_model_takes_simulated_cells_for_cells():
    """The bundled weights find most cells in simulated fields that they were not trained on."""
    model = evican_model.load_model()
    pairs = []
    for seed in range(6):
        field = simulate_field(seed, size=384, modality="phase", style="spread", cell_diameter=(50, 70))
        item = AnnotatedImage(
            Path("simulated.png"), seed, (384, 384), field.truth, frozenset(CATEGORIES), True, ""
        )
        pairs.append((item, model.detect(field.image)))
    assert average_precision(pairs, "Cell")["AP50"] > 0.6
