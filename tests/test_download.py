"""Downloading EVICAN from a server on this machine that answers as Dataverse does, also when it misbehaves."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from evican_model import download as download_module
from evican_model.archive import unpack
from evican_model.dataset import read_dataset
from evican_model.download import main
from evican_model.errors import DatasetError
from evican_model.layout import find_parts

pytest.importorskip("pooch")
CATEGORIES = [{"id": 1, "name": "Cell"}, {"id": 2, "name": "Nucleus"}]


def archive(members):
    """The bytes of a zip of (name, content, link?)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content, *link in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFLNK if link else stat.S_IFREG | 0o644) << 16
            file.writestr(info, content)
    return buffer.getvalue()


def jpeg(seed):
    buffer = io.BytesIO()
    noise = bytes((seed * 31 + i * i * 7) % 251 for i in range(40 * 60))
    Image.frombytes("L", (60, 40), noise).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def record():
    """The files of the record by name: a val part of two images, one of them blank."""
    coco = {
        "images": [{"id": i, "file_name": f"{i}_HeLa.jpg", "height": 40, "width": 60} for i in (1, 2)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
        ],
        "categories": CATEGORIES,
    }
    return {
        "EVICAN_val2019.zip": archive([(f"{i}_HeLa.jpg", jpeg(i)) for i in (1, 2)]),
        "instances_val2019_EVICAN2.json": json.dumps(coco).encode(),
        "EVICAN_val2019_masks.zip": b"not wanted",
    }


@pytest.fixture
def server(record, monkeypatch):
    """A Dataverse server; `served.cuts` bytes are sent before it hangs up, `served.wrong` names a file it damages."""
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(download_module, "_BLOCK", 10)  # what comes before a cut is written block by block

    class Served:
        cuts, wrong, ranges, requests = [], None, True, []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            names = sorted(record)
            if self.path.startswith("/api/datasets/:persistentId/?persistentId=doi:10.17617/3.AJBV1S"):
                files = [
                    {
                        "label": name,
                        "dataFile": {
                            "id": 100 + i,
                            "filesize": len(record[name]),
                            "md5": hashlib.md5(record[name]).hexdigest(),
                        },
                    }
                    for i, name in enumerate(names)
                ]
                body = json.dumps({"status": "OK", "data": {"latestVersion": {"files": files}}}).encode()
                self.send(200, body)
                return
            name = names[int(self.path.rsplit("/", 1)[1]) - 100]
            content = record[name]
            Served.requests.append((name, self.headers.get("Range")))
            if Served.wrong == name:
                content = bytes(len(content))
            first = 0
            if Served.ranges and self.headers.get("Range"):
                first = int(self.headers["Range"][len("bytes=") : -1])
            cut = Served.cuts.pop(0) if Served.cuts and name.endswith(".zip") else None
            self.send(206 if first else 200, content[first:], cut)

        def send(self, status, body, cut=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    Served.address = f"http://127.0.0.1:{http.server_address[1]}"
    yield Served
    http.shutdown()
    http.server_close()


def run(server, output, *arguments):
    return main(["--output", str(output), "--server", server.address, "--part", "val", *arguments])


def test_what_is_downloaded_can_be_read(tmp_path, server, capsys):
    assert run(server, tmp_path / "EVICAN") == 0
    part = find_parts(tmp_path / "EVICAN")["val"]
    items = read_dataset(
        part.annotations, part.images, ("Cell", "Nucleus"), partly_annotated=part.partly_annotated
    )
    assert [len(item.truth) for item in items] == [1, 0]
    assert [item.dense for item in items] == [
        False,
        True,
    ]  # the blank image holds nothing that is not outlined
    assert items[0].grey_levels().shape == (40, 60)
    assert sorted(p.name for p in (tmp_path / "EVICAN").iterdir()) == ["annotations", "val2019"]
    assert "EVICAN_val2019_masks.zip" not in [name for name, _ in server.requests]
    requests = len(server.requests)
    assert run(server, tmp_path / "EVICAN") == 0
    assert len(server.requests) == requests and "all is there" in capsys.readouterr().out


def test_a_connection_that_is_cut_goes_on_where_it_was(tmp_path, server, record):
    server.cuts[:] = [100, 200]
    assert run(server, tmp_path, "--keep-archives") == 0
    asked = [range_ for name, range_ in server.requests if name.endswith(".zip")]
    assert asked == [None, "bytes=100-", "bytes=300-"]
    assert (tmp_path / "EVICAN_val2019.zip").read_bytes() == record["EVICAN_val2019.zip"]


def test_a_later_run_goes_on_with_what_an_earlier_one_left(tmp_path, server, capsys):
    server.cuts[:] = [50] + [0] * 4
    assert run(server, tmp_path) == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert [path.stat().st_size for path in tmp_path.glob("*.part")] == [50]
    server.requests.clear()
    assert run(server, tmp_path) == 0
    assert server.requests[0] == ("EVICAN_val2019.zip", "bytes=50-")


def test_a_server_that_cannot_go_on_sends_all_of_it_again(tmp_path, server):
    server.cuts[:], server.ranges = [100], False
    assert run(server, tmp_path) == 0
    assert (tmp_path / "val2019" / "2_HeLa.jpg").read_bytes() == jpeg(2)


@pytest.mark.parametrize("name", ["EVICAN_val2019.zip", "instances_val2019_EVICAN2.json"])
def test_a_wrong_checksum_is_named_and_nothing_is_kept(tmp_path, server, capsys, name):
    server.wrong = name
    assert run(server, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and name in error and "MD5" in error
    assert not (tmp_path / name).exists() and not list(tmp_path.glob(f"{name}*"))
    server.wrong = None
    assert run(server, tmp_path) == 0


def test_offline_it_says_in_a_sentence_what_to_fetch_by_hand(tmp_path, server, capsys, record):
    server.address = "http://127.0.0.1:9"  # the discard port: nothing listens there
    assert run(server, tmp_path) == 2
    error = capsys.readouterr().err
    for part in ("doi:10.17617/3.AJBV1S", "EVICAN_val2019.zip", "/api/access/datafile/102911",
                 "instances_val2019_EVICAN2.json", str(tmp_path)):  # fmt: skip
        assert part in error
    assert error.count("\n") == 1
    for name, content in record.items():
        (tmp_path / name).write_bytes(content)
    assert run(server, tmp_path) == 0
    assert (tmp_path / "val2019" / "1_HeLa.jpg").exists()
    assert "without a check" in capsys.readouterr().err


def test_too_little_room_is_noticed_before_anything_is_fetched(tmp_path, server, capsys, monkeypatch):
    monkeypatch.setattr(
        download_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})()
    )
    assert run(server, tmp_path) == 2
    assert "GB are needed" in capsys.readouterr().err and not server.requests


def test_a_record_without_a_file_is_named(tmp_path, server, capsys):
    assert run(server, tmp_path, "--classes", "EVICAN60") == 2
    assert "does not hold instances_val2019_EVICAN60.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "members, message",
    [
        ([("../evil.jpg", b"x")], "outside the folder"),
        ([("/tmp/evil.jpg", b"x")], "outside the folder"),
        ([("a\\..\\..\\evil.jpg", b"x")], "outside the folder"),
        ([("link.jpg", b"/etc/passwd", True)], "no plain file"),
        ([("run.sh", b"x")], "expected only"),
        ([("bomb.jpg", bytes(4 << 20))], "as no image does"),
        ([("a.jpg", b"x"), ("A.jpg", b"y")], "twice"),
        ([], "no image"),
    ],
)
def test_an_archive_with_what_it_should_not_hold_is_refused_whole(tmp_path, members, message):
    good = [("good.jpg", jpeg(1))] if members else []
    (tmp_path / "a.zip").write_bytes(archive(good + members))
    with pytest.raises(DatasetError, match=message):
        unpack(tmp_path / "a.zip", tmp_path / "in" / "images", (".jpg",))
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:60] + b"\0\0\0\0\0" + b[65:]])
def test_a_damaged_archive_is_refused_whole(tmp_path, damage):
    (tmp_path / "a.zip").write_bytes(damage(archive([("good.jpg", jpeg(1))])))
    with pytest.raises(DatasetError, match="damaged"):
        unpack(tmp_path / "a.zip", tmp_path / "images", (".jpg",))
    assert not (tmp_path / "images").exists()
