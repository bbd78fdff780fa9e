"""Kill plate runs at random moments and compare the tables: ``python benchmarks/plate_faults.py``.

Each round starts or resumes a run, waits a random time, and ends one of its processes with SIGKILL: the run itself,
Snakemake, a worker or CellProfiler. When a run gets to its end, its tables are compared byte by byte with those of
an undisturbed run, and the next round begins a new one.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import _where
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "plate")]
VICTIMS = {
    "the run": "",
    "Snakemake": "snakemake",
    "a worker": "evican_plate.worker",
    "CellProfiler": "--plugins-directory",
}


def start(
    plate: Path, output: Path, cellprofiler: str, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start or resume a run."""
    command = [sys.executable, "-m", "evican_plate", "run", str(plate), "--output", str(output), "--cellprofiler",
               cellprofiler, "--workers", "2", "--shard-size", "2"]  # fmt: skip
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes], word: str) -> bool:
    """Kill a process of a run; False where there is none of the kind at this moment."""
    if not word:
        process.kill()
        return True
    killed = False
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if not killed and any(word in part for part in child.cmdline()):
                child.send_signal(signal.SIGKILL)
                killed = True
        except psutil.Error:
            continue
    return killed


def main() -> int:
    """Print the table; 1 if any table differed."""
    from small_plates import environment, make_plate, tables

    from evican_plate.cellprofiler import find_cellprofiler

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cellprofiler")
    options = parser.parse_args()
    program = find_cellprofiler(options.cellprofiler, None, "bundled")
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="faults"))
    kills: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    try:
        plate = make_plate(folder / "plate", ["A01", "A02", "A03", "B01", "B02", "B03"])
        begin = time.monotonic()
        code = start(plate, folder / "reference", program.command, environment()).wait()
        whole = time.monotonic() - begin
        if code:
            raise SystemExit(f"error: the undisturbed run ended with {code}")
        reference = tables(folder / "reference")
        number = 0
        while sum(kills.values()) < options.kills or (folder / f"out{number}").exists():
            output = folder / f"out{number}"
            process = start(plate, output, program.command, environment())
            if sum(kills.values()) < options.kills:
                name = chance.choice(list(VICTIMS))
                end = time.monotonic() + chance.uniform(0.5, whole)
                while time.monotonic() < end and process.poll() is None:
                    time.sleep(0.05)
                if process.poll() is None and kill(process, VICTIMS[name]):
                    kills[name] += 1
                    if VICTIMS[name] in ("", "snakemake"):
                        process.wait()
                        continue
            code = process.wait()
            if code:
                raise SystemExit(f"error: run {number} ended with {code} after {dict(kills)}")
            same = tables(output) == reference
            ends["tables identical" if same else "tables differ"] += 1
            shutil.rmtree(output)
            number += 1
    finally:
        shutil.rmtree(folder)
    print(
        f"# Killed plate runs\n\n`python benchmarks/plate_faults.py --kills {options.kills} --seed {options.seed}`; "
        f"{_where.machine()}, CellProfiler "
        f"{program.cellprofiler}, commit {_where.commit()}.\n\nSix small images in shards of two, two workers; an "
        f"undisturbed run took {whole:.0f} s. SIGKILL at a random moment of that time, then the same command again.\n\n"
        "| killed | times |\n| --- | --- |"
    )
    for name in VICTIMS:
        print(f"| {name} | {kills[name]} |")
    print(f"| all | {sum(kills.values())} |\n\n| runs that came to their end | times |\n| --- | --- |")
    for name, count in sorted(ends.items()):
        print(f"| {name} | {count} |")
    return 1 if ends["tables differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
