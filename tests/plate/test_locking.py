"""Locks that end with their process, and what killed workers leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip(
    "pyarrow", reason="evican_plate is not installed here: EVICAN_CELLPROFILER=plate script/test"
)

from small_plates import environment  # noqa: E402

from evican_plate.errors import OutputInUse  # noqa: E402
from evican_plate.locking import exclusive, is_locked, run_is_alive, run_token  # noqa: E402
from evican_plate.plan import Layout, remove_leftovers  # noqa: E402

HOLD = """
import sys, time
from evican_plate.locking import hold
held = hold(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of a worker's folder."""
    layout = Layout(tmp_path)
    layout.make()
    folder = layout.shards / ".a.host.1.part"
    folder.mkdir()
    command = [sys.executable, "-c", HOLD, str(folder / "lock")]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield layout, folder, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_only_what_nobody_works_on_is_removed(holder):
    layout, folder, process = holder
    (layout.shards / ".b.host.2.part").mkdir()
    (layout.shards / "done").mkdir()
    remove_leftovers(layout)
    assert sorted(path.name for path in layout.shards.iterdir()) == [folder.name, "done"]
    process.kill()
    process.wait()
    remove_leftovers(layout)
    assert [path.name for path in layout.shards.iterdir()] == ["done"]


def test_a_second_run_is_refused_and_told_by_whom(tmp_path):
    path = tmp_path / "evican_plate.lock"
    with exclusive(path):
        assert is_locked(path)
        with pytest.raises(OutputInUse, match=f"process {os.getpid()}"), exclusive(path):
            raise AssertionError("taken twice")
    assert not is_locked(path)


def test_a_run_that_ended_is_not_taken_for_another_process(holder):
    _, _, process = holder
    assert run_is_alive(run_token())
    host, mine, started = json.loads(run_token())
    assert not run_is_alive(
        json.dumps([host, mine, started + "0"])
    )  # its number was given to another process
    process.kill()
    process.wait()
    assert not run_is_alive(json.dumps([host, process.pid, "1"]))
    assert run_is_alive(json.dumps(["another machine", 1, "1"]))  # it cannot be known from here
