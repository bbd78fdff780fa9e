"""A plate through a real Slurm: one node, with its own munged, slurmctld and slurmd, started here."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip(
    "pyarrow", reason="evican_plate is not installed here: EVICAN_CELLPROFILER=plate script/test"
)

from small_plates import run, tables  # noqa: E402

pytestmark = pytest.mark.long
SETTINGS = Path("/etc/slurm/slurm.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo")
# What a one-node cluster needs; all its files are in {folder}.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
SlurmdPort={other_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
PlugStackConfig=/dev/null
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=6000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def install():
    """Install Slurm and munge with apt where they are missing; skip where that cannot be done."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    if all(shutil.which(program, path=path) for program in PROGRAMS):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("Slurm is not installed, and only root on Debian can install it (slurm-wlm, munge)")
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "slurm-wlm", "munge"]
    variables = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode or not all(shutil.which(program, path=path) for program in PROGRAMS):
        pytest.skip(f"apt-get could not install slurm-wlm and munge: {done.stderr.strip()[-200:]}")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def says(command, text, seconds=60):
    """Wait until a command prints a text; skip when it never does."""
    end, shown = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        shown = subprocess.run(command, capture_output=True, text=True).stdout
        if text in shown:
            return
        time.sleep(1)
    pytest.skip(f"the one-node Slurm does not come up: {' '.join(command)} prints {shown!r}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Start the cluster. Its configuration must be in the usual place: jobs lose the variable that names another."""
    install()
    if os.geteuid() != 0:
        pytest.skip("the daemons of Slurm are started by root here")
    if SETTINGS.exists() or SETTINGS.is_symlink():
        pytest.skip(f"{SETTINGS} is there: this machine has a Slurm of its own")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    port, other_port = free_ports(2)
    text = CONFIGURATION.format(
        host=host, folder=folder, port=port, other_port=other_port, cores=min(2, os.cpu_count() or 1)
    )
    (folder / "slurm.conf").write_text(text, encoding="ascii")
    munge = [
        f"--{what}={folder}/munge.{what.split('-')[0]}"
        for what in ("socket", "key-file", "pid-file", "seed-file")
    ]
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    patch.delenv("SLURM_CONF", raising=False)
    SETTINGS.parent.mkdir(exist_ok=True)
    SETTINGS.symlink_to(folder / "slurm.conf")
    # in the foreground, so that these very processes can be ended again; munged looks at the modes of parents: --force
    commands = [
        ["munged", "--foreground", "--force", f"--log-file={folder}/munge.log", *munge],
        ["slurmctld", "-D", "-f", f"{folder}/slurm.conf"],
        ["slurmd", "-D", "-f", f"{folder}/slurm.conf", "-N", host],
    ]
    daemons = []
    try:
        for command in commands:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            daemons.append(subprocess.Popen(command, **quiet))
            time.sleep(2)
        says(["sinfo", "--noheader", "--format=%T"], "idle")
        yield folder
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        SETTINGS.unlink()
        patch.undo()


def test_a_plate_through_slurm(slurm, plate, finished, cellprofiler, tmp_path):
    code, printed = run(plate, tmp_path, cellprofiler, "--profile", "slurm", "--shard-size", 2)
    assert code == 0, printed + (tmp_path / "work/snakemake.log").read_text()[-3000:]
    assert "2 shards, slurm" in printed and "4/4 images" in printed
    log = (slurm / "slurmctld.log").read_text()
    assert log.count("_slurm_rpc_submit_batch_job") == 2
    mine, theirs = tables(tmp_path), tables(finished[0])
    for name in theirs:
        assert mine[name] == theirs[name], name
