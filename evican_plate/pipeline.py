"""A .cppipe file as a plate run needs it: its images from our LoadData table, its tables where we look for them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from evican_plate.errors import PlateError

__all__ = ["DEFAULT_PIPELINE", "Pipeline", "read_pipeline"]

DEFAULT_PIPELINE = Path(__file__).parent.parent / "pipelines" / "morphology_loaddata.cppipe"

# Modules whose work the plate run does: where images come from, and where tables go.
_INPUT = ("Images", "Metadata", "NamesAndTypes", "Groups", "LoadData")
_OUTPUT = ("ExportToSpreadsheet", "ExportToDatabase", "CreateBatchFiles")
_HEADER = "svn_version:'Unknown'|variable_revision_number:{}|show_window:False|notes:[]|" + (
    "batch_state:array([], dtype=uint8)|enabled:True|wants_pause:False]"
)
_LOAD_DATA = {
    "Input data file location": "Default Input Folder|",
    "Name of the file": "load_data.csv",
    "Load images based on this data?": "Yes",
    "Base image location": "Default Input Folder|",
    "Process just a range of rows?": "No",
    "Rows to process": "1,100000",
    "Group images by metadata?": "No",
    "Select metadata tags for grouping": "",
    "Rescale intensities?": "Yes",
}
_EXPORT = {
    "Select the column delimiter": 'Comma (",")',
    "Add image metadata columns to your object data file?": "No",
    "Add image file and folder names to your object data file?": "No",
    "Select the measurements to export": "No",
    "Calculate the per-image mean values for object measurements?": "No",
    "Calculate the per-image median values for object measurements?": "No",
    "Calculate the per-image standard deviation values for object measurements?": "No",
    "Output file location": "Default Output Folder|",
    "Create a GenePattern GCT file?": "No",
    "Select source of sample row name": "Metadata",
    "Select the image to use as the identifier": "None",
    "Select the metadata to use as the identifier": "None",
    "Export all measurement types?": "Yes",
    "Press button to select measurements": "",
    "Representation of Nan/Inf": "NaN",
    "Add a prefix to file names?": "No",
    "Filename prefix": "MyExpt_",
    "Overwrite existing files without warning?": "Yes",
    "Data to export": "Do not use",
    "Combine these object measurements with those of the previous object?": "No",
    "File name": "DATA.csv",
    "Use the object name for the file name?": "Yes",
}
_ABSOLUTE = "Elsewhere..."
_INPUT_FOLDERS = ("Default Input Folder", "Default Input Folder sub-folder")


@dataclass
class _Module:
    name: str
    header: str  # what follows module_num
    lines: list[str]

    def settings(self, text: str) -> list[str]:
        """Return the values of all settings with this text."""
        start = f"    {text}:"
        return [line[len(start) :] for line in self.lines if line.startswith(start)]

    def setting(self, text: str) -> str:
        values = self.settings(text)
        if not values:
            raise PlateError(f"the pipeline's {self.name} has no setting {text!r}; it is of another version")
        return values[0]


@dataclass(frozen=True)
class Pipeline:
    """A pipeline, rewritten for plate runs.

    ``image`` is the name of the image that is segmented, as it is loaded; ``cells`` and ``nuclei`` the names of the
    objects. ``modules`` counts the modules of ``text``, ``segment_module`` is the number of SegmentEVICAN.
    """

    path: Path
    text: str
    image: str
    cells: str
    nuclei: str
    modules: int
    segment_module: int
    weights: str

    @property
    def sha256(self) -> str:
        """Of the rewritten text."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


def read_pipeline(path: Path, input_folder: Path) -> Pipeline:
    """Read a .cppipe file and give it our first module (LoadData) and our last (ExportToSpreadsheet).

    Its own input and export modules are left out; all others stay as they are.

    Parameters
    ----------
    path : Path
    input_folder : Path
        CellProfiler's default input folder, in which the pipeline may look for a weights file.

    Raises
    ------
    PlateError
        No such file, no pipeline, no SegmentEVICAN or more than one, or a weights file in a place that a plate run
        cannot know.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlateError(f"{path}: cannot be read: {error}") from error
    head, modules = _parse(path, text)
    segmenting = [module for module in modules if module.name == "SegmentEVICAN"]
    if len(segmenting) != 1:
        raise PlateError(
            f"{path}: has {len(segmenting)} SegmentEVICAN modules that are switched on; expected one"
        )
    segment = segmenting[0]
    image = _loaded_image(modules, segment.setting("Select the input image"))
    weights = _weights(path, segment, input_folder)
    rescale = [value for module in modules for value in module.settings("Rescale intensities?")]
    load = _Module(
        "LoadData", _HEADER.format(6), _lines({**_LOAD_DATA, "Rescale intensities?": (rescale or ["Yes"])[0]})
    )
    export = _Module("ExportToSpreadsheet", _HEADER.format(13), _lines(_EXPORT))
    kept = [load, *(module for module in modules if module.name not in _INPUT + _OUTPUT), export]
    return Pipeline(
        path=path,
        text=_text(head, kept),
        image=image,
        cells=segment.setting("Name the cell objects"),
        nuclei=segment.setting("Name the nucleus objects"),
        modules=len(kept),
        segment_module=kept.index(segment) + 1,
        weights=weights,
    )


def _parse(path: Path, text: str) -> tuple[list[str], list[_Module]]:
    """Return the lines before the first module, and the modules that are switched on."""
    head: list[str] = []
    modules: list[_Module] = []
    for line in text.splitlines():
        start = re.match(r"^(\w+):\[module_num:\d+\|(.*)$", line)
        if start:
            modules.append(_Module(start[1], start[2], []))
        elif modules:
            if line.strip():
                modules[-1].lines.append(line)
        else:
            head.append(line)
    if not modules or not head or not head[0].startswith("CellProfiler Pipeline"):
        raise PlateError(f"{path}: is no CellProfiler pipeline (a .cppipe file of CellProfiler 3 or later)")
    return head, [module for module in modules if "|enabled:False|" not in module.header]


def _text(head: list[str], modules: list[_Module]) -> str:
    head = [
        f"ModuleCount:{len(modules)}" if line.startswith("ModuleCount:") else line
        for line in head
        if line.strip()
    ]
    blocks = ["\n".join(head)]
    for number, module in enumerate(modules, 1):
        blocks.append("\n".join([f"{module.name}:[module_num:{number}|{module.header}", *module.lines]))
    return "\n\n".join(blocks) + "\n"


def _lines(settings: dict[str, str]) -> list[str]:
    return [f"    {text}:{value}" for text, value in settings.items()]


def _loaded_image(modules: list[_Module], name: str) -> str:
    """Follow an image back through the modules that made it, to the one that is loaded."""
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        for module in modules:
            outputs = module.settings("Name the output image")
            inputs = module.settings("Select the input image")
            if name in outputs and inputs and module.name not in _INPUT:
                name = inputs[0]
    return name


def _weights(path: Path, segment: _Module, input_folder: Path) -> str:
    """Return the name of bundled weights or the path of the weights file."""
    bundled = {"Bundled model": "bundled", "Bundled model, accurate but slow": "accurate"}
    chosen = segment.setting("Select the model")
    if chosen in bundled:
        return bundled[chosen]
    place, _, folder = segment.setting("Select the folder of the weights file").partition("|")
    name = segment.setting("Name of the weights file")
    if place == _ABSOLUTE:
        file = Path(folder) / name
    elif place in _INPUT_FOLDERS:
        file = input_folder / folder / name
    else:
        raise PlateError(
            f"{path}: the weights file {name} is looked for in CellProfiler's {place}, which a plate run chooses "
            "itself; name its folder (Elsewhere...)"
        )
    if not file.is_file() or not file.with_suffix(".json").is_file():
        raise PlateError(f"{path}: the weights file {file}, or the .json file beside it, is not there")
    return str(file)
