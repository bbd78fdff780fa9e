"""The images that the pipeline saves (overlays, label images), in folders of their plate."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from evican_plate.plan import Layout

__all__ = ["publish_saved"]


def publish_saved(
    layout: Layout, plan: dict[str, Any], done: dict[str, dict[str, Any]]
) -> dict[int, list[str]]:
    """Link the saved images of all shards into ``images/<plate>/``, named after well, site and time.

    Parameters
    ----------
    layout : Layout
    plan : dict
    done : dict
        Of `plan.done_images`.

    Returns
    -------
    dict of int to list of str
        For each image number the paths of its files, relative to the output folder.
    """
    partial, final = layout.output / ".images.part", layout.output / "images"
    shutil.rmtree(partial, ignore_errors=True)
    times = len({image["time"] for image in plan["images"]}) > 1
    published: dict[int, list[str]] = {}
    for image in plan["images"]:
        entry = done.get(image["key"])
        if entry is None:
            continue
        place = f"{image['well']}_s{image['site']}" + (f"_t{image['time']}" if times else "").replace(":", "")
        for saved in entry["saved"]:
            path = PurePosixPath(saved)
            target = PurePosixPath(_plain(image["plate"])) / path.parent / f"{place}_{path.name}"
            _link(Path(entry["folder"]) / saved, partial / target)
            published.setdefault(image["number"], []).append(f"images/{target}")
    shutil.rmtree(final, ignore_errors=True)
    if partial.exists():
        os.replace(partial, final)
    return published


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _plain(name: str) -> str:
    return name.replace("/", "_").replace("\\", "_").lstrip(".") or "plate"
