"""\
SegmentEVICAN
=============

**SegmentEVICAN** finds *cells* and their *nuclei* in unstained brightfield or
phase-contrast images, in one pass.

It gives two object sets, cells and nuclei. Each nucleus is linked to the cell
that holds it, and each object has a score, so both sets are ready for every
measurement module. The module uses a Mask R-CNN, trained on images of many cell
lines and microscopes; the network runs on your computer and no image leaves it.

|

============ ============ ===============
Supports 2D? Supports 3D? Respects masks?
============ ============ ===============
YES          NO           YES
============ ============ ===============

See also
^^^^^^^^

**IdentifyTertiaryObjects** to make the cytoplasm from the cells and nuclei,
**MeasureObjectSizeShape**, **MeasureObjectIntensity**, **MeasureObjectNeighbors**,
**FilterObjects** to choose objects by *EVICAN_Score* or any other measurement, and
**RelateObjects**.

What do I need as input?
^^^^^^^^^^^^^^^^^^^^^^^^

One 2D grayscale image, brightfield or phase contrast. Differential interference
contrast (DIC) is taken as well, but the bundled model has seen it in simulated images
only: look at the outlines before you trust them. The contrast is normalised inside
the module, so **RescaleIntensity** is not needed, and 8-bit and 16-bit images give
the same result. Run **ColorToGray** first on a color image.

What do I get as output?
^^^^^^^^^^^^^^^^^^^^^^^^

Two object sets. Objects of one set never overlap. A nucleus lies in its cell for
at least half of its area; it may reach over the cell's edge where the two outlines
disagree. A cell can have no nucleus, or several.

Objects outside the mask of the image (after **Crop** or **MaskImage**) are left out,
and objects that cross its edge are cut there.

Measurements made by this module
^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

**Image measurements:**

-  *Count*: The number of cells, and the number of nuclei.

**Object measurements** (cells and nuclei):

-  *EVICAN_Score*: How sure the network is of the object and of its outline, from 0 to 1. In
   that of a cell, the nucleus in it and a better cell in its place count as well.
-  *Location_Center_X, Location_Center_Y*: The pixel (X,Y) coordinates of the center
   of mass of the object.
-  *Number_Object_Number*: The number of the object in its image.

**When the weights file tells cell lines apart** (one trained on EVICAN60 does, for
co-cultures; the bundled model does not):

-  *EVICAN_CellLine*: The cell line of the object.
-  *EVICAN_CellLineScore*: How sure the network is of the line, from 0 to 1.

**When parent and child are recorded:**

-  *Parent* (nuclei): The number of the cell that holds the nucleus; 0 for none.
-  *Children count* (cells): The number of nuclei in the cell.

How objects are discarded
^^^^^^^^^^^^^^^^^^^^^^^^^

The filters always run in this order, and a nucleus always shares the fate of its
cell: when a cell is discarded, so are the nuclei in it.

#. Objects with a score below the minimum confidence.
#. Cells and nuclei below the smallest area.
#. Cells and nuclei that touch the border (if you ask for it).
#. Nuclei that lie in no cell (if you ask for it).
#. Cells that have no nucleus left (if you ask for it).

References
^^^^^^^^^^

-  Schwendy M, Unger RE, Parekh SH (2020) "EVICAN: a balanced dataset for algorithm
   development in cell and nucleus segmentation." *Bioinformatics* 36(12), 3863-3870.
   (`link <https://doi.org/10.1093/bioinformatics/btaa225>`__)
-  He K, Gkioxari G, Dollár P, Girshick R (2017) "Mask R-CNN." *ICCV 2017*, 2980-2988.
   (`link <https://doi.org/10.1109/ICCV.2017.322>`__)
"""  # noqa: D205, D400, D405, D407  the form of CellProfiler's help

from __future__ import annotations

import logging
import os
import sys

import numpy
from cellprofiler_core.constants.measurement import (
    C_CHILDREN,
    C_PARENT,
    C_URL,
    COLTYPE_FLOAT,
    COLTYPE_INTEGER,
    COLTYPE_VARCHAR,
    FF_CHILDREN_COUNT,
    FF_PARENT,
    IMAGE,
    MCA_AVAILABLE_EACH_CYCLE,
    R_PARENT,
)
from cellprofiler_core.module.image_segmentation import ImageSegmentation
from cellprofiler_core.object import Objects
from cellprofiler_core.preferences import (
    ABSOLUTE_FOLDER_NAME,
    DEFAULT_INPUT_FOLDER_NAME,
    DEFAULT_INPUT_SUBFOLDER_NAME,
    DEFAULT_OUTPUT_FOLDER_NAME,
    DEFAULT_OUTPUT_SUBFOLDER_NAME,
)
from cellprofiler_core.setting import Binary, ValidationError
from cellprofiler_core.setting.choice import Choice
from cellprofiler_core.setting.subscriber import ImageSubscriber
from cellprofiler_core.setting.text import Directory, Filename, Float, Integer, LabelName
from cellprofiler_core.utilities.pathname import is_file_url, url2pathname

LOGGER = logging.getLogger(__name__)

CELL, NUCLEUS = "Cell", "Nucleus"  # the network's names of its two classes

MODEL_BUNDLED = "Bundled model"
MODEL_ACCURATE = "Bundled model, accurate but slow"
MODEL_FILE = "Weights file"
_BUNDLED = {MODEL_BUNDLED: "bundled", MODEL_ACCURATE: "accurate"}  # evican_model's names of them

SCALE_AUTOMATIC = "Automatic"
SCALE_DIAMETER = "Typical cell diameter"

KEEP = "Keep"
DISCARD = "Discard"

NOT_AS_3D = "Set 'Process as 3D?' to No in NamesAndTypes."

C_EVICAN = "EVICAN"
FTR_SCORE = "Score"
M_SCORE = f"{C_EVICAN}_{FTR_SCORE}"
FTR_LINE = "CellLine"
M_LINE = f"{C_EVICAN}_{FTR_LINE}"
FTR_LINE_SCORE = "CellLineScore"
M_LINE_SCORE = f"{C_EVICAN}_{FTR_LINE_SCORE}"

# One model a process and weights file, however many images; its size and time tell a replaced file.
_MODELS: dict = {}


class SegmentEVICAN(ImageSegmentation):  # noqa: D101  with a docstring here the help above would not be shown
    category = "Object Processing"
    module_name = "SegmentEVICAN"
    variable_revision_number = 1
    doi = {
        "Please cite the following when using SegmentEVICAN:": "https://doi.org/10.1093/bioinformatics/btaa225"
    }

    def create_settings(self):
        """Make the settings, with the help that CellProfiler shows beside them."""
        self.x_name = ImageSubscriber(
            "Select the input image",
            doc="""\
Select the unstained image to segment: 2D and grayscale, brightfield, phase contrast
or DIC. For a color image, use the output of **ColorToGray**.
""",
        )
        self.y_name = LabelName(
            "Name the cell objects",
            "Cells",
            doc="Enter the name by which later modules know the cells.",
        )
        self.nuclei_name = LabelName(
            "Name the nucleus objects",
            "Nuclei",
            doc="Enter the name by which later modules know the nuclei.",
        )
        self.model = Choice(
            "Select the model",
            [MODEL_BUNDLED, MODEL_ACCURATE, MODEL_FILE],
            doc=f"""\
-  *{MODEL_BUNDLED}:* The model that was installed with this module. Start with it.
-  *{MODEL_ACCURATE}:* The same model looks at each image in eight ways, mirrored and
   turned, and takes the mean of what it sees; at nuclei, twice more from nearer.
   Objects are told from background more surely, and outlines fit more tightly. The network
   takes about thirteen times as long: choose it when the outlines matter more than the time.
-  *{MODEL_FILE}:* A model that you or a colleague trained, for instance on your own cell
   line with ``python -m evican_model.train``. It is a file *name.h5* with a file
   *name.json* beside it.

A file that is missing, damaged or of another kind stops the run before the first image.
No model is ever downloaded or replaced by another one.
""",
        )
        self.weights_directory = Directory(
            "Select the folder of the weights file",
            dir_choices=[
                ABSOLUTE_FOLDER_NAME,
                DEFAULT_INPUT_FOLDER_NAME,
                DEFAULT_INPUT_SUBFOLDER_NAME,
                DEFAULT_OUTPUT_FOLDER_NAME,
                DEFAULT_OUTPUT_SUBFOLDER_NAME,
            ],
            allow_metadata=False,
            doc=f"""\
*(Used only for the model '{MODEL_FILE}')*

Select the folder that holds the weights file.
""",
        )
        self.weights_file = Filename(
            "Name of the weights file",
            "None",
            get_directory_fn=self.weights_directory.get_absolute_path,
            set_directory_fn=lambda path: self.weights_directory.join_parts(
                *self.weights_directory.get_parts_from_path(path)
            ),
            browse_msg="Choose a weights file",
            exts=[("Weights (*.h5)", "*.h5"), ("All files (*.*)", "*.*")],
            doc=f"""\
*(Used only for the model '{MODEL_FILE}')*

Enter the name of the weights file, which ends in *.h5*. The file of the same name that
ends in *.json* must be in the same folder.
""",
        )
        self.cell_confidence = self._confidence("cells", "cell")
        self.nucleus_confidence = self._confidence("nuclei", "nucleus")
        self.scale = Choice(
            "How to set the object scale",
            [SCALE_AUTOMATIC, SCALE_DIAMETER],
            doc=f"""\
The network sees cells best at the size at which it learned them.

-  *{SCALE_AUTOMATIC}:* The module chooses the size itself, for each image. Start with it.
-  *{SCALE_DIAMETER}:* You say how large your cells are, and all images are treated alike.
   Use this when cells are missed because they are very large or very small in the
   image, and on whole plates taken with one objective.
""",
        )
        self.cell_diameter = Float(
            "Typical cell diameter (pixels)",
            60.0,
            minval=4.0,
            maxval=5000.0,
            doc=f"""\
*(Used only if the object scale is set to '{SCALE_DIAMETER}')*

Enter the diameter of a typical cell in pixels; for long cells, of a disk of about the
same area; it need not be exact. Measure one with *Tools > Measure length* in any image window.
If objects are cut into pieces, enter a larger number; if neighbors are joined or small
cells are missed, a smaller one.
""",
        )
        self.smallest_cell = Integer(
            "Smallest cell area (pixels)",
            50,
            minval=0,
            doc="""\
Cells of fewer pixels are discarded, and so are the nuclei in them. Raise it to be rid of
debris: a tenth of the area of a typical cell is safe. Enter 0 to keep all.
""",
        )
        self.smallest_nucleus = Integer(
            "Smallest nucleus area (pixels)",
            20,
            minval=0,
            doc="""\
Nuclei of fewer pixels are discarded; their cells stay. Enter 0 to keep all.
""",
        )
        self.discard_border = Binary(
            "Discard objects touching the border of the image?",
            True,
            doc="""\
Select *Yes* to discard cells and nuclei that touch the edge of the image, or the edge of
its mask after **Crop** or **MaskImage**. Their area and shape cannot be measured, as a
part of them is not seen. The nuclei of a discarded cell are discarded too.

Select *No* to keep them, for instance to count objects or to save label images.
""",
        )
        self.nuclei_outside = Choice(
            "Nuclei outside cells",
            [KEEP, DISCARD],
            doc=f"""\
A nucleus is outside when no cell holds at least half of it: mostly because the outline of
its cell was too faint to be found.

-  *{KEEP}:* They stay, with 0 as their parent cell. Best for counting.
-  *{DISCARD}:* Only nuclei with a cell stay. Best when you compare nuclei to their cells.
""",
        )
        self.cells_without = Choice(
            "Cells without a nucleus",
            [KEEP, DISCARD],
            doc=f"""\
-  *{KEEP}:* All cells stay. In many unstained images a nucleus cannot be seen in each cell.
-  *{DISCARD}:* Only cells with a nucleus stay. This gives cleaner but fewer cells.
""",
        )
        self.record_parents = Binary(
            "Record the parent cell of each nucleus?",
            True,
            doc="""\
Select *Yes* to write, for each nucleus, the number of its cell, and for each cell the
number of its nuclei. You do not need **RelateObjects** then.

Select *No* if you want to use **RelateObjects** yourself, for instance for distances
from parent to child or means for each parent. Only one module can relate the two sets:
**RelateObjects** refuses them when this is *Yes*.
""",
        )

    @staticmethod
    def _confidence(plural, singular):
        return Float(
            f"Minimum confidence for {plural}",
            0.6,
            minval=0.05,
            maxval=1.0,
            doc=f"""\
The network gives each {singular} a score from 0 to 1; {plural} with a lower score than this are
discarded. If real {plural} are missed, lower it (0.5 is a good second try). If debris or
background is outlined, raise it (0.7; few nuclei score above 0.8). The score of each object is measured as
*{M_SCORE}*, so you may also keep this low and choose with **FilterObjects** later.
""",
        )

    def settings(self):
        """Return the settings in the order in which pipelines keep them: only ever append."""
        return [
            self.x_name,
            self.y_name,
            self.nuclei_name,
            self.model,
            self.weights_directory,
            self.weights_file,
            self.cell_confidence,
            self.nucleus_confidence,
            self.scale,
            self.cell_diameter,
            self.smallest_cell,
            self.smallest_nucleus,
            self.discard_border,
            self.nuclei_outside,
            self.cells_without,
            self.record_parents,
        ]

    def visible_settings(self):
        """Return the settings that matter with the choices made."""
        hidden = []
        if self.model.value in _BUNDLED:
            hidden += [self.weights_directory, self.weights_file]
        if self.scale.value == SCALE_AUTOMATIC:
            hidden += [self.cell_diameter]
        return [setting for setting in self.settings() if not any(setting is other for other in hidden)]

    def help_settings(self):
        """Return all settings: the help names the hidden ones too."""
        return self.settings()

    def upgrade_settings(self, setting_values, variable_revision_number, module_name):
        """Refuse a pipeline from a newer module: its settings would be read in the wrong places."""
        if variable_revision_number > self.variable_revision_number:
            raise ValueError(
                f"A newer SegmentEVICAN saved this pipeline (revision {variable_revision_number}; this one "
                f"is {self.variable_revision_number}). Update evican_model and segmentevican.py."
            )
        return setting_values, variable_revision_number

    def volumetric(self):
        """Say that 3D pipelines cannot use the module."""
        return False

    def is_object_identification_module(self):
        """Say that the module makes objects, so that export modules find them."""
        return True

    # Checks before a run

    def validate_module(self, pipeline):
        """Mark a wrong setting in the window of CellProfiler."""
        if self.y_name.value == self.nuclei_name.value:
            raise ValidationError("Cells and nuclei need two different names", self.nuclei_name)
        try:
            self._check_model()
        except (ImportError, ValueError, OSError) as error:
            raise ValidationError(
                str(error), self.weights_file if self.model.value == MODEL_FILE else self.model
            ) from error

    def prepare_run(self, workspace):
        """Stop the run before its first image if it cannot work.

        CellProfiler runs `validate_module` only with its window open. Headless, it replaces a number out of
        range by the default without a word, so everything is checked here again.
        """
        pipeline = workspace.pipeline
        if pipeline.volumetric():
            raise ValueError(f"{self.module_name} works on 2D images only. {NOT_AS_3D}")
        for setting in self.visible_settings():
            if isinstance(setting, (Integer, Float, Choice)):
                try:
                    setting.test_valid(pipeline)
                except ValidationError as error:
                    raise ValueError(f"{self.module_name}, '{setting.text}': {error}") from error
        if self.y_name.value == self.nuclei_name.value:
            raise ValueError(f"{self.module_name}: cells and nuclei are both named '{self.y_name.value}'.")
        self._check_model()
        return True

    def prepare_group(self, workspace, grouping, image_numbers):
        """Stop the run before its first image if an image file is missing or cut short.

        CellProfiler 4.2.8 reads a truncated TIFF or JPEG as if it were whole. Version 5 stops at it, does not
        name it, and headless writes no table of the images before it.
        """
        package = _package()
        measurements = workspace.measurements
        features = [name for name in measurements.get_feature_names(IMAGE) if name.startswith(f"{C_URL}_")]
        checked = set()  # a stack is the file of many image sets
        for image_number in sorted(set(image_numbers) & set(measurements.get_image_numbers())):
            for feature in features:
                url = measurements.get_measurement(IMAGE, feature, image_number)
                if not url or url in checked or not is_file_url(url):
                    continue
                checked.add(url)
                try:
                    package.images.check_complete(os.path.abspath(url2pathname(url)))
                except package.ImageError as error:
                    raise ValueError(
                        f"{self.module_name}, image set {image_number}: image file {error}."
                    ) from error

    def prepare_to_create_batch(self, workspace, fn_alter_path):
        """Let the folder of the weights be renamed for the machines of a cluster."""
        self.weights_directory.alter_for_create_batch_files(fn_alter_path)
        return True

    def _weights(self):
        """Return what `evican_model.load_model` takes: the path of a file, or the name of bundled weights."""
        if self.model.value in _BUNDLED:
            return _BUNDLED[self.model.value]
        name = self.weights_file.value.strip()
        if name in ("", "None"):
            raise ValueError(f"Choose a weights file (*.h5), or '{MODEL_BUNDLED}'.")
        return os.path.join(self.weights_directory.get_absolute_path(), name)

    def _check_model(self):
        """Raise an error that names the file when the weights cannot be used. Does not load TensorFlow."""
        weights = self._weights()
        info = _package().weights.check(weights)
        info.require_trained()
        known = info.config.categories
        if not {CELL, NUCLEUS} <= set(known) and not _package().weights.tells_lines(weights):
            raise ValueError(
                f"{info.path} finds the categories {', '.join(known)}; {self.module_name} needs {CELL} and {NUCLEUS}."
            )

    def _tells_lines(self):
        """Tell, without TensorFlow, whether the weights know cell lines apart; False for weights that cannot be read.

        CellProfiler asks for the measurements at any time, also while a weights file is still to be chosen.
        """
        if self.model.value in _BUNDLED:
            return False
        try:
            return _package().weights.tells_lines(self._weights())
        except (ImportError, ValueError, OSError):
            return False

    # The run

    def run(self, workspace):
        """Segment one image: add the objects, their measurements and what the window shows."""
        image = self._grayscale_image(workspace)
        mask = image.mask if image.has_mask else None
        try:
            found = self._load_model().segment(
                image.pixel_data,
                confidence={CELL: self.cell_confidence.value, NUCLEUS: self.nucleus_confidence.value},
                cell_diameter=self.cell_diameter.value if self.scale.value == SCALE_DIAMETER else None,
                mask=mask,
            )
        except _package().ImageError as error:
            raise ValueError(f"{self.module_name} cannot use {self._describe(workspace)}: {error}") from error
        kept = found.select(self._objects_to_keep(found, mask))

        objects = {}
        for category, name in self._names():
            objects[category] = Objects()
            objects[category].segmented = kept.labels(category)
            # Discarded objects too: only with them are neighbor counts right beside the border.
            objects[category].unedited_segmented = found.labels(category)
            objects[category].small_removed_segmented = objects[category].unedited_segmented
            objects[category].parent_image = image
            workspace.object_set.add_objects(objects[category], name)
            self.add_measurements(workspace, name)
            workspace.measurements.add_measurement(name, M_SCORE, kept.scores(category).astype(float))
            if self._tells_lines():
                lines, sure = numpy.array(kept.lines(category), object), kept.line_scores(category)
                workspace.measurements.add_measurement(name, M_LINE, lines)
                workspace.measurements.add_measurement(name, M_LINE_SCORE, sure.astype(float))
        if self.record_parents.value:
            self._record_parents(workspace.measurements, kept)
        if self.show_window:
            workspace.display_data.pixels = image.pixel_data
            workspace.display_data.labels = {c: objects[c].segmented for c in objects}
            workspace.display_data.statistics = [
                _summary(kept.areas(category), kept.scores(category), found.count(category))
                for category, _ in self._names()
            ]

    def _names(self):
        return [(CELL, self.y_name.value), (NUCLEUS, self.nuclei_name.value)]

    def _describe(self, workspace):
        """Name the image for an error message: its name, its file, and the number of its image set."""
        name = self.x_name.value
        image = workspace.image_set.get_image(name)
        file = os.path.join(image.path_name or "", image.file_name) if image.file_name else "no file"
        return f"image '{name}' ({file}, image set {workspace.measurements.image_set_number})"

    def _grayscale_image(self, workspace):
        """Return the input image; raise an error that names it when it is 3D or a color image."""
        image = workspace.image_set.get_image(self.x_name.value)
        if image.volumetric:
            raise ValueError(
                f"{self.module_name} works on 2D images only, but {self._describe(workspace)} is 3D with "
                f"shape {image.pixel_data.shape}. {NOT_AS_3D}"
            )
        try:
            return workspace.image_set.get_image(self.x_name.value, must_be_grayscale=True)
        except ValueError as error:
            raise ValueError(
                f"{self.module_name} needs a grayscale image, but {self._describe(workspace)} is a color "
                "image. Put a ColorToGray module before it."
            ) from error

    def _load_model(self):
        weights = self._weights()
        stamp = None
        if os.path.isfile(weights):
            stat = os.stat(weights)
            stamp = (stat.st_size, stat.st_mtime_ns)
        if weights not in _MODELS or _MODELS[weights][0] != stamp:
            _MODELS[weights] = (stamp, _package().load_model(weights))
            LOGGER.info("%s: model loaded (%s)", self.module_name, weights)
        return _MODELS[weights][1]

    def _objects_to_keep(self, found, mask):
        """Apply the filters, in the order the help gives, to instances.

        Parameters
        ----------
        found : evican_model.Instances
            All N cells and nuclei.
        mask : ndarray of bool or None
            [H, W], the mask of the image.

        Returns
        -------
        ndarray of bool
            [N], True for the objects that stay.
        """
        cells = numpy.flatnonzero(found.category_ids == found.categories.index(CELL) + 1)
        nuclei = numpy.flatnonzero(found.category_ids == found.categories.index(NUCLEUS) + 1)
        parents = found.parents(NUCLEUS, CELL)
        inside = parents > 0

        keep = numpy.ones(len(found), bool)
        keep[cells] = found.areas(CELL) >= self.smallest_cell.value
        keep[nuclei] = found.areas(NUCLEUS) >= self.smallest_nucleus.value
        if self.discard_border.value:
            keep &= ~found.touching_border(mask)
        keep[nuclei[inside]] &= keep[cells[parents[inside] - 1]]
        if self.nuclei_outside.value == DISCARD:
            keep[nuclei[~inside]] = False
        if self.cells_without.value == DISCARD:
            with_nucleus = numpy.zeros(len(cells), bool)
            with_nucleus[parents[inside & keep[nuclei]] - 1] = True
            keep[cells] &= with_nucleus
        return keep

    def _record_parents(self, measurements, kept):
        cells, nuclei = self.y_name.value, self.nuclei_name.value
        parents = kept.parents(NUCLEUS, CELL)
        children = numpy.bincount(parents, minlength=kept.count(CELL) + 1)[1:]
        measurements.add_measurement(nuclei, FF_PARENT % cells, parents)
        measurements.add_measurement(cells, FF_CHILDREN_COUNT % nuclei, children)
        inside = numpy.flatnonzero(parents)
        if len(inside) > 0:
            image_numbers = numpy.full(len(inside), measurements.image_set_number, int)
            measurements.add_relate_measurement(
                self.module_num,
                R_PARENT,
                cells,
                nuclei,
                image_numbers,
                parents[inside],
                image_numbers,
                inside + 1,
            )

    def display(self, workspace, figure):
        """Show the input, the outlines of cells and of nuclei on it, and a table."""
        data = workspace.display_data
        figure.set_subplots((2, 2))
        axes = figure.subplot_imshow_grayscale(0, 0, data.pixels, self.x_name.value)
        for (x, y), (category, name) in zip([(1, 0), (0, 1)], self._names()):
            figure.subplot_imshow_grayscale(
                x,
                y,
                data.pixels,
                f"{name} outlines",
                cplabels=[{"name": name, "labels": [data.labels[category]]}],
                sharexy=axes,
            )
        figure.subplot_table(
            1,
            1,
            list(zip(*data.statistics)),
            col_labels=[name for _, name in self._names()],
            row_labels=["Count", "Discarded", "Median area", "Median score"],
        )

    # What CellProfiler asks about the measurements

    def get_measurement_columns(self, pipeline):
        """Return the name and type of every measurement that `run` writes."""
        columns = []
        for _, name in self._names():
            columns += super().get_measurement_columns(pipeline, name)
            columns.append((name, M_SCORE, COLTYPE_FLOAT))
            if self._tells_lines():
                columns += [(name, M_LINE, COLTYPE_VARCHAR), (name, M_LINE_SCORE, COLTYPE_FLOAT)]
        if self.record_parents.value:
            cells, nuclei = self.y_name.value, self.nuclei_name.value
            columns.append((nuclei, FF_PARENT % cells, COLTYPE_INTEGER))
            columns.append((cells, FF_CHILDREN_COUNT % nuclei, COLTYPE_INTEGER))
        return columns

    def get_categories(self, pipeline, object_name):
        """Return the categories of measurements of the images, the cells or the nuclei."""
        if object_name == self.nuclei_name.value:
            related = C_PARENT
            categories = super().get_categories(pipeline, self.y_name.value)
        else:
            related = C_CHILDREN
            categories = super().get_categories(pipeline, object_name)
        if object_name == IMAGE or not categories:
            return categories
        return [*categories, C_EVICAN] + ([related] if self.record_parents.value else [])

    def get_measurements(self, pipeline, object_name, category):
        """Return the measurements of one category."""
        cells, nuclei = self.y_name.value, self.nuclei_name.value
        if object_name not in (IMAGE, cells, nuclei):
            return []
        measurements = super().get_measurements(pipeline, IMAGE if object_name == IMAGE else cells, category)
        if object_name == IMAGE:
            return [*measurements, nuclei] if measurements else []
        if category == C_EVICAN:
            return [FTR_SCORE, *([FTR_LINE, FTR_LINE_SCORE] if self._tells_lines() else [])]
        if self.record_parents.value and (object_name, category) == (nuclei, C_PARENT):
            return [cells]
        if self.record_parents.value and (object_name, category) == (cells, C_CHILDREN):
            return [f"{nuclei}_Count"]
        return measurements

    def get_object_relationships(self, pipeline):
        """Return the relation of cells to nuclei, when it is recorded."""
        if not self.record_parents.value:
            return []
        return [(R_PARENT, self.y_name.value, self.nuclei_name.value, MCA_AVAILABLE_EACH_CYCLE)]


def _package():
    """Return evican_model. Imported late: a plugin that fails to import vanishes from CellProfiler's list."""
    try:
        import evican_model
        import evican_model.images
        import evican_model.weights
    except ImportError as error:
        checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        if not os.path.isdir(os.path.join(checkout, "evican_model")):
            checkout = "FOLDER-OF-THE-DOWNLOAD"
        raise ImportError(
            f"SegmentEVICAN needs the Python package evican_model ({error}). Install it into the Python that "
            f'runs CellProfiler: "{sys.executable}" -m pip install "{checkout}"'
        ) from error
    return evican_model


def _summary(areas, scores, detected):
    """Return count, number discarded, median area and median score, as the table shows them."""
    if len(areas) == 0:
        return [0, detected, "-", "-"]
    return [len(areas), detected - len(areas), f"{numpy.median(areas):.0f}", f"{numpy.median(scores):.2f}"]
