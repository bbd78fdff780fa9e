"""The line that moves while a plate is run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO

__all__ = ["Progress", "duration"]

_LINE_SECONDS = 30.0  # between lines where the output is no terminal


class Progress:
    """Images done of all, images a second, time left and failures so far.

    Parameters
    ----------
    folder : Path
        Where each shard at work keeps its counts.
    total, done, failed : int
        All images of the plate, and how many of them were done, or had failed, before this run.
    output : file
        Where the line goes; a terminal has it rewritten in place, a file gets a line every half minute.
    """

    def __init__(self, folder: Path, total: int, done: int, failed: int, output: IO[str]) -> None:
        self._folder, self._total, self._done, self._failed, self._output = (
            folder,
            total,
            done,
            failed,
            output,
        )
        self._start = self._shown = time.monotonic()
        self._moving = output.isatty()
        self._last = ""

    def counts(self) -> tuple[int, int]:
        """Return the images done and failed so far."""
        done, failed = self._done, self._failed
        for path in self._folder.iterdir():
            try:
                mine = path.read_text(encoding="ascii").split()
            except OSError:
                continue
            if len(mine) == 2:  # else it is being written
                done, failed = done + int(mine[0]), failed + int(mine[1])
        return done, failed

    def line(self) -> str:
        """Return the line as it is now."""
        done, failed = self.counts()
        seconds = time.monotonic() - self._start
        text = f"{done}/{self._total} images"
        fresh = done + failed - self._done - self._failed
        if fresh > 0 and seconds > 0:
            rate = fresh / seconds
            left = max(0, self._total - done - failed) / rate
            text += f", {rate:.2f} images/s, {duration(left)} left"
        return f"{text}, {failed} failed"

    def show(self, last: bool = False) -> None:
        """Show the line, if it is time to."""
        line = self.line()
        if self._moving:
            padded = line.ljust(len(self._last))
            self._output.write(f"\r{padded}" + ("\n" if last else ""))
            self._last = line
        elif last or time.monotonic() - self._shown >= _LINE_SECONDS:
            self._shown = time.monotonic()
            self._output.write(f"{line}\n")
        self._output.flush()


def duration(seconds: float) -> str:
    """Return a length of time in words.

    >>> duration(59.6), duration(754), duration(9000)
    ('60 s', '13 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
