"""Unpacking a zip of images that came from elsewhere: nothing leaves the folder, and no bomb goes off."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from evican_model.errors import DatasetError

__all__ = ["unpack"]

_RATIO = 50  # unpacked to packed: images hardly shrink, a zip bomb unpacks a thousandfold
_SMALL = 1 << 20  # bytes up to which the ratio does not matter
_LARGEST = 100 << 30
_BLOCK = 1 << 20


def unpack(archive: Path, target: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Unpack a zip archive of images into a new folder: whole or not at all.

    Parameters
    ----------
    archive : Path
    target : Path
        Folder to make; it must not exist yet.
    suffixes : tuple of str
        Endings that its files may have, in small letters.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    DatasetError
        If the archive is damaged, or has a member that is a link, lies outside the folder, is of another kind, stands
        in it twice, or unpacks to far more than it takes up.
    """
    partial = target.with_name(f"{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as file:
            members = _checked(archive, file, suffixes)
            for member, name in members:
                _write(archive, file, member, partial / name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        shutil.rmtree(partial)
        raise DatasetError(
            f"{archive} is damaged, or no plain zip archive: {error}; delete it and fetch it again."
        ) from error
    except BaseException:
        shutil.rmtree(partial)
        raise
    partial.rename(target)
    return [target / name for _, name in members]


def _checked(archive: Path, file: zipfile.ZipFile, suffixes) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Look at all members before any is written."""
    found: dict[str, tuple[zipfile.ZipInfo, PurePosixPath]] = {}
    for member in file.infolist():
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in member.filename or "\0" in member.filename:
            raise DatasetError(
                f"{archive} holds {member.filename!r}, which lies outside the folder; it was not unpacked."
            )
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DatasetError(
                f"{archive} holds {member.filename!r}, which is no plain file; it was not unpacked."
            )
        if member.is_dir() or name.name.startswith(".") or "__MACOSX" in name.parts:
            continue
        if name.suffix.lower() not in suffixes:
            raise DatasetError(f"{archive} holds {member.filename!r}; expected only {', '.join(suffixes)}.")
        if member.file_size > max(_SMALL, _RATIO * member.compress_size):
            raise DatasetError(
                f"{archive}: {member.filename!r} unpacks from {member.compress_size} to {member.file_size} bytes, as "
                "no image does; it was not unpacked."
            )
        if str(name).lower() in found:
            raise DatasetError(f"{archive} holds {member.filename!r} twice; it was not unpacked.")
        found[str(name).lower()] = (member, name)
    if sum(member.file_size for member, _ in found.values()) > _LARGEST:
        raise DatasetError(f"{archive} unpacks to more than {_LARGEST >> 30} GB; it was not unpacked.")
    if not found:
        raise DatasetError(f"{archive} holds no image.")
    return list(found.values())


def _write(archive: Path, file: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with file.open(member) as source, open(path, "xb") as target:
        for block in iter(lambda: source.read(_BLOCK), b""):
            written += len(block)
            if written > member.file_size:  # its header lied
                raise DatasetError(
                    f"{archive}: {member.filename!r} is larger than it says; it was not unpacked."
                )
            target.write(block)
