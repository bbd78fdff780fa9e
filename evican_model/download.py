"""Fetch the EVICAN dataset: ``python -m evican_model.download --output EVICAN``.

Images and annotations come from the Dataverse record doi:10.17617/3.AJBV1S (CC BY 4.0), each file checked against the
MD5 of the record. A download that was cut goes on where it stopped; what is complete is not fetched again. Files that
were fetched by hand are unpacked from the output folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from evican_model.archive import unpack
from evican_model.errors import DatasetError, EvicanError

__all__ = ["RecordFile", "download", "main", "read_record", "wanted_names"]

DOI = "doi:10.17617/3.AJBV1S"
SERVER = "https://edmond.mpg.de"
PARTS = ("train", "val", "eval")
CLASSES = ("EVICAN2", "EVICAN60")
_TIERS = {"train": ("train2019",), "val": ("val2019",),
          "eval": ("eval2019_easy", "eval2019_medium", "eval2019_difficult")}  # fmt: skip
# Ids of the files, for those who fetch by hand.
_IDS = {
    "EVICAN_train2019.zip": 102910, "EVICAN_val2019.zip": 102911, "EVICAN_eval2019.zip": 102912,
    "instances_train2019_EVICAN2.json": 102915, "instances_val2019_EVICAN2.json": 102916,
    "instances_eval2019_easy_EVICAN2.json": 102918, "instances_eval2019_medium_EVICAN2.json": 102919,
    "instances_eval2019_difficult_EVICAN2.json": 102917, "instances_train2019_EVICAN60.json": 102921,
    "instances_val2019_EVICAN60.json": 102922, "instances_eval2019_easy_EVICAN60.json": 102924,
    "instances_eval2019_medium_EVICAN60.json": 102920, "instances_eval2019_difficult_EVICAN60.json": 102923,
}  # fmt: skip
_TRIES = 5
_TIMEOUT = 30  # seconds without a byte
_BLOCK = 1 << 16


@dataclass(frozen=True)
class RecordFile:
    """A file of the Dataverse record."""

    name: str
    id: int
    size: int
    md5: str


class _Unreachable(Exception):
    """The server does not answer."""


def wanted_names(parts: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return the names of the files that parts and classes need, archives first.

    >>> wanted_names(["val"], ["EVICAN60"])
    ['EVICAN_val2019.zip', 'instances_val2019_EVICAN60.json']
    """
    archives = [f"EVICAN_{part}2019.zip" for part in parts]
    return archives + [
        f"instances_{tier}_{one}.json" for one in classes for part in parts for tier in _TIERS[part]
    ]


def read_record(server: str = SERVER) -> dict[str, RecordFile]:
    """Ask a Dataverse server for the files of EVICAN's record.

    Parameters
    ----------
    server : str
        Its address, such as ``https://edmond.mpg.de``.

    Returns
    -------
    dict of str to RecordFile
        By file name.

    Raises
    ------
    EvicanError
        If the answer is not that of a Dataverse server.
    """
    import requests

    url = f"{server}/api/datasets/:persistentId/?persistentId={DOI}"
    try:
        answer = requests.get(url, timeout=_TIMEOUT)
    except requests.RequestException as error:
        raise _Unreachable(type(error).__name__) from error
    if answer.status_code >= 500:
        raise _Unreachable(f"{url} answers {answer.status_code}")
    try:
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}")
        entries = answer.json()["data"]["latestVersion"]["files"]
        files = [_record_file(entry) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise EvicanError(f"{url} does not answer as a Dataverse record does: {error!r}.") from error
    return {file.name: file for file in files}


def _record_file(entry: dict[str, Any]) -> RecordFile:
    file = entry["dataFile"]
    md5 = str(file.get("md5") or file["checksum"]["value"]).lower()
    if len(md5) != 32 or set(md5) - set("0123456789abcdef"):
        raise ValueError(f"{entry.get('label')} has the MD5 {md5!r}")
    return RecordFile(
        str(entry.get("label") or file["filename"]), int(file["id"]), int(file["filesize"]), md5
    )


def download(
    output: Path, parts: Sequence[str] = PARTS, classes: Sequence[str] = ("EVICAN2",), server: str = SERVER,
    keep_archives: bool = False,
) -> None:  # fmt: skip
    """Fetch, check and unpack parts of EVICAN, in the layout that training reads.

    Parameters
    ----------
    output : Path
        Gets ``annotations/*.json`` and the folders ``train2019``, ``val2019``, ``eval2019``.
    parts : sequence of str
        Of ``train``, ``val``, ``eval``.
    classes : sequence of str
        Of ``EVICAN2``, ``EVICAN60``.
    server : str
        Address of the Dataverse server.
    keep_archives : bool
        Whether zip files stay after they are unpacked.

    Raises
    ------
    EvicanError
        If the server cannot be reached or sends something else, or the disk is too small.
    DatasetError
        If an archive is damaged or holds what it should not.
    """
    names = [name for name in wanted_names(parts, classes) if not _place(output, name).exists()]
    if not names:
        print(f"all is there already: {output}")
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvicanError(f"{output} cannot be made: {error.strerror}.") from error
    try:
        record = read_record(server)
        missing = [name for name in names if name not in record]
        if missing:
            raise EvicanError(f"The record {DOI} on {server} does not hold {', '.join(missing)}; it holds "
                              f"{', '.join(sorted(record)) or 'nothing'}.")  # fmt: skip
        _check_room(output, [record[name] for name in names])
        for name in names:
            _fetch(record[name], output, server)
    except _Unreachable as error:
        by_hand = [name for name in names if not (output / name).is_file()]
        if by_hand:
            raise EvicanError(_by_hand(server, output, by_hand, error)) from error
        print(f"{server} cannot be reached, so the files in {output} are used without a check of their MD5.",
              file=sys.stderr)  # fmt: skip
    for name in names:
        _put(output, name, keep_archives)
    print(f"EVICAN is in {output} (CC BY 4.0; please cite doi:10.1093/bioinformatics/btaa225)")


def _place(output: Path, name: str) -> Path:
    """Return where a file's content ends up."""
    if name.endswith(".zip"):
        return output / name[len("EVICAN_") : -len(".zip")]
    return output / "annotations" / name


def _check_room(output: Path, files: list[RecordFile]) -> None:
    # An archive and what is unpacked from it are there at the same time; JPEGs do not shrink in an archive.
    needed = 0
    for file in files:
        done = sum(p.stat().st_size for p in (output / file.name, _partial(output, file)) if p.exists())
        needed += max(0, file.size - done) + (round(1.1 * file.size) if file.name.endswith(".zip") else 0)
    free = shutil.disk_usage(output).free
    if free < needed:
        raise EvicanError(
            f"{output} has {free / 1e9:.2f} GB free; {needed / 1e9:.2f} GB are needed. Choose fewer --part, or another "
            "--output."
        )


def _fetch(file: RecordFile, output: Path, server: str) -> None:
    """Fetch a file into the output folder, checked; one that is there and right is kept."""
    import pooch

    url = f"{server}/api/access/datafile/{file.id}"
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(url, f"md5:{file.md5}", file.name, output, downloader=_Resuming(file, output))
    except ValueError as error:  # pooch found another MD5
        _partial(output, file).unlink(missing_ok=True)
        raise EvicanError(f"{file.name} from {url} does not have the MD5 of the record, {file.md5}; it was deleted. "
                          "Run this again to fetch it anew.") from error  # fmt: skip


class _Resuming:
    """A downloader for pooch that goes on with what an earlier try has left.

    Parameters
    ----------
    file : RecordFile
    output : Path
        Folder of the partial file.
    """

    def __init__(self, file: RecordFile, output: Path):
        self.file, self.partial = file, _partial(output, file)

    def __call__(self, url, output_file, pooch) -> None:
        import requests
        from tqdm import tqdm

        wait, size = 1.0, self.file.size
        with tqdm(
            total=size, unit="B", unit_scale=True, desc=self.file.name, file=sys.stderr, disable=None
        ) as bar:
            for attempt in range(_TRIES):
                try:
                    self._continue(url, bar)
                    break
                except (
                    requests.ConnectionError,
                    requests.Timeout,
                    requests.exceptions.ChunkedEncodingError,
                ) as error:
                    if attempt == _TRIES - 1:
                        raise _Unreachable(f"{url} broke off {_TRIES} times") from error
                    time.sleep(wait)
                    wait *= 2
        os.replace(self.partial, output_file)

    def _continue(self, url: str, bar) -> None:
        import requests

        have = self.partial.stat().st_size if self.partial.exists() else 0
        if have > self.file.size:
            have = 0
        bar.update(have - bar.n)
        if have == self.file.size > 0:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code >= 500:
                raise requests.ConnectionError(f"status {answer.status_code}")
            if answer.status_code not in (200, 206):
                raise EvicanError(f"{url} answers {answer.status_code}; expected the file {self.file.name}.")
            if answer.status_code == 200 and have:  # the server cannot go on: all of it again
                have = 0
                bar.update(-bar.n)
            with open(self.partial, "ab" if have else "wb") as target:
                for block in answer.iter_content(_BLOCK):
                    have += len(block)
                    if have > self.file.size:
                        raise EvicanError(f"{url} sends more than the {self.file.size} bytes of the record.")
                    target.write(block)
                    bar.update(len(block))
        if have < self.file.size:
            raise requests.ConnectionError(f"{have} of {self.file.size} bytes came")


def _partial(output: Path, file: RecordFile) -> Path:
    return output / f"{file.name}.{file.md5[:8]}.part"


def _put(output: Path, name: str, keep_archives: bool) -> None:
    """Bring a fetched file to its place."""
    source, place = output / name, _place(output, name)
    if name.endswith(".zip"):
        unpack(source, place, suffixes=(".jpg", ".jpeg", ".png"))
        if not keep_archives:
            source.unlink()
        return
    try:
        json.loads(source.read_text(encoding="utf-8"))["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{source} is not an annotation file: {error!r}; delete it and run this again."
        ) from error
    place.parent.mkdir(exist_ok=True)
    os.replace(source, place)


def _by_hand(server: str, output: Path, names: list[str], error: Exception) -> str:
    files = ", ".join(f"{name} ({server}/api/access/datafile/{_IDS[name]})" for name in names)
    return (f"{server} cannot be reached ({error}); on a computer with a connection fetch from {DOI} the files "
            f"{files}, put them into {output.resolve()}, and run this again to unpack them.")  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m evican_model.download", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the dataset")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=["EVICAN2"], help="EVICAN2: cell and nucleus "
                        "(default); EVICAN60: those of each cell line")  # fmt: skip
    parser.add_argument("--server", default=SERVER, help="Dataverse server (default: %(default)s)")
    parser.add_argument("--keep-archives", action="store_true", help="keep the zip files after unpacking")
    options = parser.parse_args(arguments)
    try:
        import pooch  # noqa: F401
    except ImportError:
        print(
            'error: this needs pooch: pip install "evican-model[train]", or pip install pooch.',
            file=sys.stderr,
        )
        return 2
    try:
        download(
            Path(options.output),
            options.part,
            options.classes,
            options.server.rstrip("/"),
            options.keep_archives,
        )
    except EvicanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
