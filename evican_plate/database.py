"""The properties file with which CellProfiler Analyst opens plate.sqlite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

__all__ = ["write_properties"]

_TEXT = """\
# CellProfiler Analyst: open this file. It names what is where in plate.sqlite.
db_type = sqlite
db_sqlite_file = {database}

image_table = Per_Image
object_table = Per_{cells}
image_id = ImageNumber
object_id = ObjectNumber
plate_id = Image_Metadata_Plate
well_id = Image_Metadata_Well
well_format = A01
plate_type = {wells}

cell_x_loc = {cells}_Location_Center_X
cell_y_loc = {cells}_Location_Center_Y
cell_z_loc =
object_name = cell, cells
image_path_cols = {paths}
image_file_cols = {files}
image_names = {names}
image_channel_colors = {colors}
channels_per_image = {ones}
image_tile_size = 50
image_size =
classification_type = object
classifier_ignore_columns = ImageNumber, ObjectNumber, .*Metadata.*, .*Location.*, .*Parent.*, .*Number_Object.*
check_tables = no
"""
_SHAPES = {6: (2, 3), 24: (4, 6), 96: (8, 12), 384: (16, 24), 1536: (32, 48)}
_COLORS = ("gray", "blue", "green", "red", "cyan", "magenta", "yellow")


def write_properties(path: Path, plan: dict[str, Any], images: pa.Table, rows: dict[str, int]) -> None:
    """Write the properties of a plate's database, which lies beside them."""
    names = list(plan["images"][0]["files"])
    letters = [text.as_py() for text in images.column("Metadata_Row")]
    columns = [number.as_py() for number in images.column("Metadata_Column")]
    highest = max(ord(text[-1]) - 64 + 26 * (len(text) - 1) for text in letters)
    wells = next(size for size, (high, wide) in _SHAPES.items() if highest <= high and max(columns) <= wide)
    text = _TEXT.format(
        database="plate.sqlite",
        cells=plan["pipeline"]["cells"],
        wells=wells,
        paths=", ".join(f"Image_PathName_{name}" for name in names),
        files=", ".join(f"Image_FileName_{name}" for name in names),
        names=", ".join(names),
        colors=", ".join(_COLORS[i % len(_COLORS)] for i in range(len(names))),
        ones=", ".join("1" for _ in names),
    )
    path.write_text(text, encoding="utf-8")
