"""SegmentEVICAN in a CellProfiler workspace: its settings, objects, measurements, checks and window."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "Unstained"
SHAPE = (100, 120)

# category, score, y1, x1, y2, x2: every case that a filter knows, and nothing else
SCENE = [
    ("Cell", 0.95, 10, 10, 50, 50),
    ("Cell", 0.85, 60, 70, 100, 110),  # touches the lower border
    ("Cell", 0.75, 10, 60, 40, 90),  # has no nucleus
    ("Cell", 0.55, 2, 100, 7, 105),  # small
    ("Nucleus", 0.90, 20, 20, 35, 35),  # in the first cell
    ("Nucleus", 0.80, 70, 80, 85, 95),  # in the cell at the border
    ("Nucleus", 0.70, 38, 38, 46, 46),  # the first cell's second
    ("Nucleus", 0.60, 60, 20, 70, 30),  # in no cell
    ("Nucleus", 0.52, 3, 101, 6, 104),  # in the small cell
]
KEEP_ALL = {"smallest_cell": 0, "smallest_nucleus": 0, "discard_border": False}


class FixedModel:
    """Stands for the network: finds the objects of SCENE in every image, and remembers how it was asked."""

    def segment(self, image, **options):
        from evican_model.instances import Instances

        self.options = options
        names = ("Cell", "Nucleus")
        objects = [found for found in SCENE if found[1] >= options["confidence"][found[0]]]
        crops = [np.ones((y2 - y1, x2 - x1), bool) for _, _, y1, x1, y2, x2 in objects]
        ids = [names.index(found[0]) + 1 for found in objects]
        scores, boxes = [found[1] for found in objects], [found[2:] for found in objects]
        found = Instances(image.shape, names, ids, scores, boxes, crops)
        return found if options["mask"] is None else found.clip(options["mask"])


@pytest.fixture
def fixed(plugin, monkeypatch):
    """Let the module use a FixedModel."""
    model = FixedModel()
    monkeypatch.setattr(plugin.SegmentEVICAN, "_load_model", lambda self: model)
    return model


def make(plugin, pixels, settings, **image):
    """Return a module with these settings and a workspace that holds one image."""
    from cellprofiler_core.image import Image, ImageSetList
    from cellprofiler_core.measurement import Measurements
    from cellprofiler_core.object import ObjectSet
    from cellprofiler_core.pipeline import Pipeline
    from cellprofiler_core.workspace import Workspace

    module = plugin.SegmentEVICAN()
    module.x_name.value = IMAGE
    module.show_window = False
    module.set_module_num(1)
    for name, value in {"cell_confidence": 0.5, "nucleus_confidence": 0.5, **settings}.items():
        getattr(module, name).value = value
    pipeline = Pipeline()
    pipeline.add_module(module)
    images = ImageSetList()
    images.get_image_set(0).add(IMAGE, Image(pixels, **image))
    return module, Workspace(pipeline, module, images.get_image_set(0), ObjectSet(), Measurements(), images)


def run(plugin, pixels=None, settings=None, **image):
    """Run the module on one image; return its workspace."""
    pixels = np.zeros(SHAPE, np.float32) if pixels is None else pixels
    module, workspace = make(plugin, pixels, settings or {}, **image)
    module.run(workspace)
    return workspace


def labels(workspace, name):
    return workspace.object_set.get_objects(name).segmented


def scores(workspace, name):
    return [round(float(score), 2) for score in workspace.measurements[name, "EVICAN_Score"]]


def values(workspace, name, feature):
    return list(workspace.measurements[name, feature])


class TestObjects:
    def test_objects_measurements_and_parents_agree(self, plugin, fixed):
        workspace = run(plugin, settings=KEEP_ALL)
        assert scores(workspace, "Cells") == [0.95, 0.85, 0.75, 0.55]
        assert scores(workspace, "Nuclei") == [0.90, 0.80, 0.70, 0.60, 0.52]
        for name, count in (("Cells", 4), ("Nuclei", 5)):
            assert set(np.unique(labels(workspace, name))) == set(range(count + 1))
            assert workspace.measurements["Image", f"Count_{name}"] == count
            assert values(workspace, name, "Number_Object_Number") == list(range(1, count + 1))
        assert values(workspace, "Nuclei", "Location_Center_X")[0] == 27
        assert values(workspace, "Nuclei", "Parent_Cells") == [1, 2, 1, 0, 4]
        assert values(workspace, "Cells", "Children_Nuclei_Count") == [2, 1, 0, 1]

    def test_settings_reach_the_network(self, plugin, fixed):
        workspace = run(plugin, settings={**KEEP_ALL, "cell_confidence": 0.8, "nucleus_confidence": 0.65})
        assert fixed.options["confidence"] == {"Cell": 0.8, "Nucleus": 0.65}
        assert fixed.options["cell_diameter"] is None
        assert scores(workspace, "Cells") == [0.95, 0.85]
        assert scores(workspace, "Nuclei") == [0.90, 0.80, 0.70]
        run(plugin, settings={"scale": plugin.SCALE_DIAMETER, "cell_diameter": 33.5})
        assert fixed.options["cell_diameter"] == 33.5

    @pytest.mark.parametrize(
        "settings, cells, nuclei",
        [
            (
                {"smallest_cell": 50},
                [0.95, 0.85, 0.75],
                [0.9, 0.8, 0.7, 0.6],
            ),  # the nucleus goes with its cell
            ({"smallest_nucleus": 20}, [0.95, 0.85, 0.75, 0.55], [0.9, 0.8, 0.7, 0.6]),  # the cell stays
            ({"discard_border": True}, [0.95, 0.75, 0.55], [0.9, 0.7, 0.6, 0.52]),
            ({"nuclei_outside": "Discard"}, [0.95, 0.85, 0.75, 0.55], [0.9, 0.8, 0.7, 0.52]),
            ({"cells_without": "Discard"}, [0.95, 0.85, 0.55], [0.9, 0.8, 0.7, 0.6, 0.52]),
            ({"smallest_nucleus": 20, "cells_without": "Discard"}, [0.95, 0.85], [0.9, 0.8, 0.7, 0.6]),
            (
                {"discard_border": True, "nuclei_outside": "Discard", "cells_without": "Discard"},
                [0.95, 0.55],
                [0.9, 0.7, 0.52],
            ),
            ({"smallest_cell": 10**6, "nuclei_outside": "Discard"}, [], []),
        ],
    )
    def test_filters(self, plugin, fixed, settings, cells, nuclei):
        workspace = run(plugin, settings={**KEEP_ALL, **settings})
        assert scores(workspace, "Cells") == cells
        assert scores(workspace, "Nuclei") == nuclei

    def test_parents_are_renumbered_with_the_objects_that_stay(self, plugin, fixed):
        workspace = run(plugin, settings={**KEEP_ALL, "discard_border": True})
        assert values(workspace, "Nuclei", "Parent_Cells") == [1, 1, 0, 3]
        assert values(workspace, "Cells", "Children_Nuclei_Count") == [2, 0, 1]

    def test_mask_cuts_objects_and_its_edge_is_a_border(self, plugin, fixed):
        mask = np.zeros(SHAPE, bool)
        mask[:, :80] = True  # cuts the third cell, and all of the small one
        workspace = run(plugin, settings=KEEP_ALL, mask=mask)
        assert scores(workspace, "Cells") == [0.95, 0.85, 0.75]
        assert not labels(workspace, "Cells")[~mask].any()
        assert scores(run(plugin, mask=mask), "Cells") == [0.95]
        assert run(plugin, mask=np.zeros(SHAPE, bool)).measurements["Image", "Count_Cells"] == 0

    def test_crop_is_honoured(self, plugin, fixed):
        from cellprofiler_core.image import Image

        whole = Image(np.zeros((200, 200), np.float32))
        crop_mask = np.zeros((200, 200), bool)
        crop_mask[20:120, 30:150] = True
        workspace = run(plugin, settings=KEEP_ALL, parent_image=whole, crop_mask=crop_mask)
        assert labels(workspace, "Cells").shape == SHAPE
        assert scores(workspace, "Cells") == [0.95, 0.85, 0.75, 0.55]
        assert workspace.object_set.get_objects("Cells").crop_image_similarly(crop_mask).shape == SHAPE

    def test_discarded_objects_still_count_as_neighbors(self, plugin, fixed):
        objects = run(plugin).object_set.get_objects("Cells")
        assert len(np.unique(objects.segmented)) < len(np.unique(objects.small_removed_segmented)) == 5


class TestMeasurements:
    @pytest.mark.parametrize("record", [True, False])
    @pytest.mark.parametrize("minimum", [0.05, 0.99])  # 0.99: no objects at all
    def test_what_is_declared_is_what_is_written(self, plugin, fixed, record, minimum):
        settings = {"record_parents": record, "cell_confidence": minimum, "nucleus_confidence": minimum}
        workspace = run(plugin, settings=settings)
        module, measurements = workspace.module, workspace.measurements
        declared = {column[:2] for column in module.get_measurement_columns(workspace.pipeline)}
        written = {
            (name, feature)
            for name in ("Cells", "Nuclei", "Image")
            for feature in measurements.get_feature_names(name)
            if name != "Image" or feature.startswith("Count_")
        }
        assert written == declared
        listed = {
            (name, f"{category}_{feature}")
            for name in ("Cells", "Nuclei", "Image")
            for category in module.get_categories(workspace.pipeline, name)
            for feature in module.get_measurements(workspace.pipeline, name, category)
        }
        assert listed == declared
        assert module.get_categories(workspace.pipeline, "Other") == []
        assert module.get_measurements(workspace.pipeline, "Other", "Location") == []
        assert ("Nuclei", "Parent_Cells") in declared or not record
        for name, feature in written - {("Image", "Count_Cells"), ("Image", "Count_Nuclei")}:
            assert len(values(workspace, name, feature)) == measurements["Image", f"Count_{name}"]

    @pytest.mark.parametrize("record", [True, False])
    def test_relationships(self, plugin, fixed, record):
        workspace = run(plugin, settings={**KEEP_ALL, "record_parents": record})
        groups = workspace.measurements.get_relationship_groups()
        declared = workspace.module.get_object_relationships(workspace.pipeline)
        if not record:
            assert groups == [] and declared == []
            return
        (group,) = groups
        assert (group.relationship, group.object_name1, group.object_name2) == declared[0][:3]
        pairs = workspace.measurements.get_relationships(1, "Parent", "Cells", "Nuclei")
        assert sorted(zip(pairs["ObjectNumber_First"], pairs["ObjectNumber_Second"])) == [
            (1, 1), (1, 3), (2, 2), (4, 5),
        ]  # fmt: skip


class TestNetwork:
    """With the bundled weights. Expectations leave room for retraining."""

    def test_one_cell(self, plugin, plate_image):
        pixels = plate_image("C05")[75:190, 235:360]  # one whole cell of about 60 x 60 pixels
        settings = {"scale": plugin.SCALE_DIAMETER, "cell_diameter": 60}
        workspace = run(plugin, pixels / np.float32(255), settings)
        cells, nuclei = labels(workspace, "Cells"), labels(workspace, "Nuclei")
        assert 1 <= cells.max() <= 2 and 1 <= nuclei.max() <= 3
        cell = cells == cells[70, 58]
        assert cells[70, 58] > 0 and 2000 < cell.sum() < 4000
        assert nuclei[70, 58] > 0 and values(workspace, "Nuclei", "Parent_Cells")[nuclei[70, 58] - 1] > 0

    def test_image_without_contrast_has_no_objects(self, plugin):
        workspace = run(plugin, np.full((200, 300), 0.5, np.float32))
        for name in ("Cells", "Nuclei"):
            assert not labels(workspace, name).any()
            assert workspace.measurements["Image", f"Count_{name}"] == 0
            assert values(workspace, name, "EVICAN_Score") == []

    def test_tiny_image(self, plugin, plate_image):
        workspace = run(plugin, plate_image("C05")[100:130, 100:140] / np.float32(255))
        assert labels(workspace, "Cells").shape == (30, 40)

    def test_bit_depth_does_not_matter(self, plugin, plate_image):
        pixels = plate_image("D05")
        eight = run(plugin, pixels, KEEP_ALL)
        sixteen = run(plugin, pixels.astype(np.uint16) * 257, KEEP_ALL)
        assert labels(eight, "Cells").max() > 0
        for name in ("Cells", "Nuclei"):
            assert (labels(eight, name) == labels(sixteen, name)).all()

    def test_grey_image_in_three_channels(self, plugin, plate_image):
        pixels = plate_image("D05") / np.float32(255)
        grey, rgb = run(plugin, pixels), run(plugin, np.dstack([pixels] * 3))
        assert (labels(grey, "Cells") == labels(rgb, "Cells")).all()

    def test_mask(self, plugin, plate_image):
        pixels = plate_image("D05") / np.float32(255)
        mask = np.zeros(pixels.shape, bool)
        mask[:, : pixels.shape[1] // 2] = True
        workspace = run(plugin, pixels, KEEP_ALL, mask=mask)
        for name in ("Cells", "Nuclei"):
            assert not labels(workspace, name)[~mask].any()
            count = workspace.measurements["Image", f"Count_{name}"]
            assert count == labels(workspace, name).max() == len(np.unique(labels(workspace, name))) - 1

    def test_filters_and_parents_on_a_real_image(self, plugin, plate_image):
        pixels = plate_image("B02") / np.float32(255)  # cells at the border, cells without a nucleus
        everything = run(plugin, pixels, KEEP_ALL)
        strict = {"discard_border": True, "nuclei_outside": "Discard", "cells_without": "Discard"}
        some = run(plugin, pixels, {**KEEP_ALL, **strict})
        assert 0 < labels(some, "Cells").max() < labels(everything, "Cells").max()
        for workspace in (everything, some):
            cells, nuclei = labels(workspace, "Cells"), labels(workspace, "Nuclei")
            for number, parent in enumerate(values(workspace, "Nuclei", "Parent_Cells"), 1):
                below = np.bincount(cells[nuclei == number], minlength=cells.max() + 1)
                if parent > 0:
                    assert below[1:].argmax() + 1 == parent and below[parent] * 2 >= below.sum()
                else:
                    assert (below[1:] * 2 < below.sum()).all()
        edges = [labels(some, "Cells")[i] for i in ((0,), (-1,), (slice(None), 0), (slice(None), -1))]
        assert not any(edge.any() for edge in edges)
        assert min(values(some, "Nuclei", "Parent_Cells")) > 0
        assert min(values(some, "Cells", "Children_Nuclei_Count")) > 0
        assert min(values(everything, "Cells", "EVICAN_Score")) >= 0.5
        sure = run(plugin, pixels, {**KEEP_ALL, "cell_confidence": 0.9})
        assert labels(sure, "Cells").max() < labels(everything, "Cells").max()

    def test_the_accurate_model_looks_in_eight_views(self, plugin, plate_image):
        import evican_model

        pixels = plate_image("C05")[60:250, 220:420] / np.float32(255)
        expected = evican_model.load_model("accurate").segment(pixels, confidence=0.5)
        assert expected.count("Cell") > 0
        settings = {**KEEP_ALL, "model": plugin.MODEL_ACCURATE}
        found = labels(run(plugin, pixels, settings), "Cells")
        np.testing.assert_array_equal(found, expected.labels("Cell"))
        assert (labels(run(plugin, pixels, KEEP_ALL), "Cells") != found).any()

    def test_model_is_loaded_once_and_a_replaced_file_again(self, plugin, tmp_path, monkeypatch):
        import evican_model
        from evican_model.weights import check

        path = check("bundled").path
        for suffix in (".h5", ".json"):
            (tmp_path / f"mine{suffix}").write_bytes(path.with_suffix(suffix).read_bytes())
        loaded = []
        load = evican_model.load_model
        monkeypatch.setattr(
            evican_model, "load_model", lambda weights: loaded.append(weights) or load(weights)
        )
        monkeypatch.setattr(plugin, "_MODELS", {})
        settings = weights_file(plugin, tmp_path, "mine.h5")
        for _ in range(2):
            run(plugin, np.zeros((64, 64), np.float32), settings)
        assert loaded == [str(tmp_path / "mine.h5")]
        os.utime(tmp_path / "mine.h5", (1, 1))
        run(plugin, np.zeros((64, 64), np.float32), settings)
        assert len(loaded) == 2


def weights_file(plugin, folder, name):
    return {"model": plugin.MODEL_FILE, "weights_directory": f"Elsewhere...|{folder}", "weights_file": name}


class TestBadInput:
    def test_color_image(self, plugin, fixed):
        color = np.random.default_rng(0).random((*SHAPE, 3)).astype(np.float32)
        with pytest.raises(ValueError, match="Unstained.*field.png.*color.*ColorToGray"):
            run(plugin, color, path_name="folder", file_name="field.png")

    def test_3d_image(self, plugin, fixed):
        with pytest.raises(ValueError, match="2D images only.*Unstained.*3D"):
            run(plugin, np.zeros((5, *SHAPE), np.float32), dimensions=3)

    def test_nan_names_the_image(self, plugin):
        pixels = np.zeros(SHAPE, np.float32)
        pixels[3, 4] = np.nan
        with pytest.raises(ValueError, match="Unstained.*field.tif.*NaN"):
            run(plugin, pixels, path_name="folder", file_name="field.tif")

    @pytest.mark.parametrize(
        "make_settings, message",
        [
            (lambda plugin, folder: weights_file(plugin, folder, "absent.h5"), "absent.h5"),
            (lambda plugin, folder: weights_file(plugin, folder, "text.h5"), r"text\.(h5|json)"),
            (lambda plugin, folder: weights_file(plugin, folder, "None"), "Choose a weights file"),
            (lambda plugin, folder: {"cell_confidence": "2.5"}, "Minimum confidence for cells.*2.5"),
            (lambda plugin, folder: {"smallest_cell": "many"}, "Smallest cell area"),
            (lambda plugin, folder: {"nuclei_outside": "Perhaps"}, "Nuclei outside cells.*Perhaps"),
            (lambda plugin, folder: {"nuclei_name": "Cells"}, "Cells"),
        ],
    )
    def test_settings_are_checked_before_a_run(self, plugin, tmp_path, make_settings, message):
        (tmp_path / "text.h5").write_text("not HDF5")
        (tmp_path / "text.json").write_text("{}")
        module, workspace = make(plugin, np.zeros(SHAPE), make_settings(plugin, tmp_path))
        with pytest.raises(ValueError, match=message):
            module.prepare_run(workspace)

    def test_weights_of_other_categories_are_refused_before_a_run(self, plugin, tmp_path):
        import evican_model.weights

        bundled = Path(evican_model.weights.check("bundled").path)
        (tmp_path / "other.h5").write_bytes(bundled.read_bytes())
        record = json.loads(bundled.with_suffix(".json").read_text())
        record["network"]["categories"] = ["Cell", "Vesicle"]
        (tmp_path / "other.json").write_text(json.dumps(record))
        module, workspace = make(plugin, np.zeros(SHAPE), weights_file(plugin, tmp_path, "other.h5"))
        with pytest.raises(ValueError, match=r"other\.h5.*Cell, Vesicle.*Nucleus"):
            module.prepare_run(workspace)

    def test_wrong_weights_are_marked_in_the_window(self, plugin, tmp_path):
        from cellprofiler_core.setting import ValidationError

        module, workspace = make(plugin, np.zeros(SHAPE), weights_file(plugin, tmp_path, "absent.h5"))
        with pytest.raises(ValidationError, match="absent.h5"):
            module.validate_module(workspace.pipeline)

    def test_3d_pipeline_is_stopped_before_the_run(self, plugin):
        module, workspace = make(plugin, np.zeros(SHAPE), {})
        workspace.pipeline.volumetric = lambda: True
        with pytest.raises(ValueError, match="2D images only.*Process as 3D"):
            module.prepare_run(workspace)

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
    @pytest.mark.parametrize("kept, message", [(None, "cannot be opened"), (0, "empty"), (0.6, "truncated")])
    def test_files_are_checked_before_the_first_image(
        self, plugin, plate_image, tmp_path, suffix, kept, message
    ):
        module, workspace = make(plugin, np.zeros(SHAPE), {})
        for number in (1, 2, 3, 4):
            path = tmp_path / f"{number}{suffix}"
            PIL.Image.fromarray(plate_image("D05")).save(path)
            workspace.measurements.add_measurement(
                "Image", "URL_Unstained", path.as_uri(), image_set_number=number
            )
        module.prepare_group(workspace, {}, [1, 2, 3, 4])
        third = tmp_path / f"3{suffix}"
        whole = third.read_bytes()
        third.unlink()
        if kept is not None:
            third.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(ValueError, match=f"image set 3: image file .*3{suffix}: .*{message}"):
            module.prepare_group(workspace, {}, [1, 2, 3, 4])
        module.prepare_group(workspace, {}, [1, 2, 4])

    def test_missing_package_is_explained(self, plugin, monkeypatch):
        monkeypatch.setitem(sys.modules, "evican_model", None)
        module, workspace = make(plugin, np.zeros(SHAPE), {})
        with pytest.raises(ImportError, match="evican_model.*pip install"):
            module.prepare_run(workspace)

    def test_listing_and_checking_the_module_does_not_load_tensorflow(self):
        program = (
            "import sys\n"
            "import cellprofiler_core.preferences as p; p.set_headless()\n"
            "import segmentevican\n"
            "module = segmentevican.SegmentEVICAN()\n"
            "module._check_model()\n"
            "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
        )
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
        environment = {**os.environ, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-c", program], cwd=ROOT / "plugins", env=environment, check=True)


class TestSettings:
    def test_order_is_the_one_saved_in_pipelines(self, plugin):
        # Pipelines hold values by position: append, and raise variable_revision_number, or old ones break.
        assert [setting.text for setting in plugin.SegmentEVICAN().settings()] == [
            "Select the input image",
            "Name the cell objects",
            "Name the nucleus objects",
            "Select the model",
            "Select the folder of the weights file",
            "Name of the weights file",
            "Minimum confidence for cells",
            "Minimum confidence for nuclei",
            "How to set the object scale",
            "Typical cell diameter (pixels)",
            "Smallest cell area (pixels)",
            "Smallest nucleus area (pixels)",
            "Discard objects touching the border of the image?",
            "Nuclei outside cells",
            "Cells without a nucleus",
            "Record the parent cell of each nucleus?",
        ]
        assert plugin.SegmentEVICAN.variable_revision_number == 1

    def test_only_settings_that_matter_are_visible(self, plugin):
        module = plugin.SegmentEVICAN()
        hidden = [module.weights_directory, module.weights_file, module.cell_diameter]
        assert [s for s in module.settings() if s not in module.visible_settings()] == hidden
        module.model.value = plugin.MODEL_ACCURATE
        assert [s for s in module.settings() if s not in module.visible_settings()] == hidden
        module.model.value, module.scale.value = plugin.MODEL_FILE, plugin.SCALE_DIAMETER
        assert module.visible_settings() == module.settings() == module.help_settings()

    def test_help(self, plugin):
        module = plugin.SegmentEVICAN()
        page = module.get_help()
        for text in ("Supports 2D?", "EVICAN_Score", "Schwendy", *(s.text for s in module.settings())):
            assert text in page
        assert "System Message" not in page  # how docutils marks an error in the page
        assert all(len(setting.doc) > 40 for setting in module.settings())
        assert not module.volumetric() and module.is_object_identification_module()

    def test_round_trip(self, plugin):
        from cellprofiler_core.pipeline import Pipeline

        module, workspace = make(
            plugin, np.zeros(SHAPE), {"cell_confidence": 0.25, "nuclei_outside": "Discard"}
        )
        module.weights_directory.value = "Default Input Folder sub-folder|models"
        text = io.StringIO()
        workspace.pipeline.dump(text, save_image_plane_details=False)
        copy = Pipeline()
        copy.load(io.StringIO(text.getvalue()))
        (read,) = copy.modules()
        assert [s.value for s in read.settings()] == [s.value for s in module.settings()]

    def test_pipeline_of_a_newer_module_is_refused(self, plugin):
        module = plugin.SegmentEVICAN()
        old = [setting.value_text for setting in module.settings()]
        assert module.upgrade_settings(old, 1, "SegmentEVICAN") == (old, 1)
        with pytest.raises(ValueError, match="newer SegmentEVICAN.*revision 2"):
            module.upgrade_settings(old, 2, "SegmentEVICAN")

    def test_weights_folder_is_renamed_for_a_cluster(self, plugin, tmp_path):
        module, workspace = make(plugin, np.zeros(SHAPE), weights_file(plugin, "/here/models", "mine.h5"))
        assert module.prepare_to_create_batch(workspace, lambda path, **_: path.replace("/here", "/there"))
        assert module.weights_directory.custom_path == "/there/models"


class AggFigure:
    """Draws what CellProfiler's window draws, without a screen."""

    def set_subplots(self, shape):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure()
        self.canvas = FigureCanvasAgg(self.figure)
        self.axes = self.figure.subplots(shape[1], shape[0])
        self.titles, self.table = [], None

    def subplot_imshow_grayscale(self, x, y, image, title=None, cplabels=(), sharexy=None):
        axes = self.axes[y, x]
        axes.imshow(image, cmap="gray")
        for entry in cplabels:
            for plane in entry["labels"]:
                axes.contour(plane > 0, levels=[0.5])
        self.titles.append(title)
        return axes

    def subplot_table(self, x, y, statistics, col_labels=None, row_labels=None):
        cells = [[str(value) for value in row] for row in statistics]
        self.axes[y, x].table(cells, rowLabels=row_labels, colLabels=col_labels)
        self.table = {label: list(row) for label, row in zip(["", *row_labels], [col_labels, *statistics])}


def test_display(plugin, fixed, tmp_path):
    module, workspace = make(plugin, np.random.default_rng(0).random(SHAPE).astype(np.float32), {})
    module.show_window = True
    module.run(workspace)
    figure = AggFigure()
    module.display(workspace, figure)
    figure.canvas.print_png(tmp_path / "window.png")
    assert figure.titles == [IMAGE, "Cells outlines", "Nuclei outlines"]
    assert figure.table == {
        "": ["Cells", "Nuclei"],
        "Count": [2, 3],
        "Discarded": [2, 2],
        "Median area": ["1250", "100"],
        "Median score": ["0.85", "0.70"],
    }
