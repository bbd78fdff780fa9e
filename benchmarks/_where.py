"""What every table says of where its figures come from: the commit, and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


_HEAD = ["git", "rev-parse", "--short", "HEAD"]
# Asked at the start: a run takes an hour, and what is committed meanwhile is not what it ran.
_COMMIT = subprocess.run(_HEAD, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def commit() -> str:
    """Return the short name of the commit that the checkout was at when the benchmark began."""
    return _COMMIT


def machine() -> str:
    """Return cores, processor, system and Python, as one phrase."""
    processor = platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return f"{os.cpu_count()} cores {processor}, {platform.system()}, Python {platform.python_version()}"
