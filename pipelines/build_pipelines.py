"""Write the pipelines of this folder, and the LoadData table of the example plate.

    python pipelines/build_pipelines.py [FOLDER]

The committed files were written with CellProfiler 4.2.8.1: it saves the older form of some modules, which
CellProfiler 5 upgrades when it loads them, so one text serves both.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path

import cellprofiler_core.preferences

cellprofiler_core.preferences.set_headless()

from cellprofiler_core.constants.modules import all_modules  # noqa: E402  after set_headless, for it wants wx
from cellprofiler_core.pipeline import Pipeline  # noqa: E402
from cellprofiler_core.utilities.core.modules import fill_modules, instantiate_module  # noqa: E402

HERE = Path(__file__).resolve().parent
PLATE = HERE / "example_plate"
PLUGINS = HERE.parent / "plugins"

# Plate_Well_site_channel_line: EVICAN_B03_s1_w1_C2C12.jpg. CellProfiler 5 keeps the key "Channel" for itself.
FILE_NAME = (
    "^(?P<Plate>[^_]+)_(?P<Well>[A-P][0-9]{2})_s(?P<Site>[0-9]+)"
    "_w(?P<ChannelNumber>[0-9]+)_(?P<CellLine>[^_.]+)"
)
METADATA = ("Plate", "Well", "Site", "ChannelNumber", "CellLine")
IMAGE = "Unstained"
CELL_COLOR, NUCLEUS_COLOR = "#E69F00", "#56B4E9"  # orange and sky blue: colour-blind readers tell them apart
ALL_OBJECTS = "Cells, Nuclei, Cytoplasm"


def load_modules() -> None:
    """Let CellProfiler load its modules and SegmentEVICAN, which version 5 does in two steps."""
    cellprofiler_core.preferences.set_plugin_directory(str(PLUGINS), globally=False)
    try:
        from cellprofiler_core.utilities.core.plugins import load_plugins
    except ImportError:
        fill_modules()
        return
    if not all_modules:
        fill_modules()
    load_plugins()


def build(source: str) -> Pipeline:
    """Build the morphology pipeline.

    Parameters
    ----------
    source : str
        Where images come from: ``"images"`` (modules Images to Groups) or ``"loaddata"`` (a table).
    """
    pipeline = Pipeline()
    if source == "images":
        _add_input_modules(pipeline)
    elif source == "loaddata":
        _add_load_data(pipeline)
    else:
        raise ValueError(f"The source is {source!r}; expected 'images' or 'loaddata'.")
    _add(pipeline, "SegmentEVICAN", x_name=IMAGE, y_name="Cells", nuclei_name="Nuclei").show_window = True
    tertiary = _add(
        pipeline, "IdentifyTertiaryObjects", subregion_objects_name="Cytoplasm", shrink_primary=True
    )
    tertiary.secondary_objects_name.value, tertiary.primary_objects_name.value = "Cells", "Nuclei"
    _add_measurements(pipeline)
    _add_outputs(pipeline)
    return pipeline


def text_of(pipeline: Pipeline) -> str:
    """Return the text of a pipeline's .cppipe file."""
    file = io.StringIO()
    pipeline.dump(file, save_image_plane_details=False)
    # CellProfiler 5 takes 4281 (that is 4.2.8.1) for a later version than 500 (5.0.0) and warns of it.
    return re.sub("(?m)^DateRevision:4281$", "DateRevision:428", file.getvalue())


def load_data_rows() -> list[dict[str, str]]:
    """Return a row for each image of the example plate, its folder relative to the input folder."""
    rows = []
    for path in sorted(PLATE.glob("*.jpg")):
        match = re.match(FILE_NAME, path.name)
        if match is None:
            raise ValueError(f"{path}: expected a name like EVICAN_B03_s1_w1_C2C12.jpg.")
        row = {f"Image_FileName_{IMAGE}": path.name, f"Image_PathName_{IMAGE}": "."}
        row.update({f"Metadata_{key}": match.group(key) for key in METADATA})
        rows.append(row)
    return rows


def _add(pipeline, name, **values):
    module = instantiate_module(name)
    module.set_module_num(len(pipeline.modules()) + 1)
    module.show_window = False
    for setting, value in values.items():
        getattr(module, setting).value = value
    pipeline.add_module(module)
    return module


def _add_input_modules(pipeline):
    _add(pipeline, "Images", filter_choice="Images only")
    metadata = _add(pipeline, "Metadata", wants_metadata=True)
    metadata.extraction_methods[0].extraction_method.value = "Extract from file/folder names"
    metadata.extraction_methods[0].file_regexp.value = FILE_NAME
    names = _add(pipeline, "NamesAndTypes", assignment_method="All images", single_image_provider=IMAGE)
    rescale = "single_rescale_method" if hasattr(names, "single_rescale_method") else "single_rescale"
    getattr(names, rescale).value = "Image bit-depth"  # what LoadData does; the versions' defaults differ
    _add(pipeline, "Groups", wants_groups=False)


def _add_load_data(pipeline):
    module = _add(pipeline, "LoadData", csv_file_name="load_data.csv", wants_images=True, rescale=True)
    module.csv_directory.value = "Default Input Folder|"
    module.image_directory.value = "Default Input Folder|"


def _add_measurements(pipeline):
    _add(pipeline, "MeasureObjectSizeShape", objects_list=ALL_OBJECTS, calculate_zernikes=False)
    _add(pipeline, "MeasureObjectIntensity", images_list=IMAGE, objects_list=ALL_OBJECTS)
    for name in ("Cells", "Nuclei"):
        # "Expand until adjacent" needs no distance in pixels, which would depend on the objective
        _add(pipeline, "MeasureObjectNeighbors", object_name=name, neighbors_name=name,
             distance_method="Expand until adjacent")  # fmt: skip


def _add_outputs(pipeline):
    overlay = _add(pipeline, "OverlayOutlines", image_name=IMAGE, output_image_name="Overlay")
    overlay.add_outline()
    for outline, name, color in zip(overlay.outlines, ("Cells", "Nuclei"), (CELL_COLOR, NUCLEUS_COLOR)):
        outline.objects_name.value = name
        outline.color.value = color
    _add_saved_image(pipeline, "Overlay", "overlays", "_overlay", file_format="png")
    for name in ("Cells", "Nuclei"):
        labels = f"{name}Labels"
        _add(pipeline, "ConvertObjectsToImage", object_name=name, image_name=labels, image_mode="uint16")
        tiff = {"file_format": "tiff", "bit_depth": "16-bit integer"}
        _add_saved_image(pipeline, labels, "labels", f"_{name.lower()}", **tiff)
    _add(pipeline, "ExportToSpreadsheet", wants_everything=True, wants_prefix=False, add_metadata=True,
         wants_overwrite_without_warning=True)  # fmt: skip


def _add_saved_image(pipeline, name, folder, suffix, **values):
    module = _add(pipeline, "SaveImages", save_image_or_figure="Image", image_name=name, overwrite=True,
                  file_name_method="From image filename", file_image_name=IMAGE, wants_file_name_suffix=True,
                  file_name_suffix=suffix, **values)  # fmt: skip
    module.pathname.value = f"Default Output Folder sub-folder|{folder}"


def main(folder: Path = HERE) -> None:
    """Write morphology.cppipe, morphology_loaddata.cppipe and example_plate/load_data.csv below a folder."""
    load_modules()
    for source, name in (("images", "morphology.cppipe"), ("loaddata", "morphology_loaddata.cppipe")):
        (folder / name).write_text(text_of(build(source)), encoding="utf-8")
    rows = load_data_rows()
    (folder / "example_plate").mkdir(exist_ok=True)
    with open(folder / "example_plate" / "load_data.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
