"""The command line: ``python -m evican_plate run | status | report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Sequence

from evican_model.errors import EvicanError
from evican_plate.naming import PATTERNS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    try:
        # imported here: --help must not wait for them
        if options.verb == "status":
            from evican_plate.status import status

            return status(options.output, sys.stdout)
        if options.verb == "report":
            from evican_plate.finish import report_again

            return report_again(options.output, sys.stdout)
        return _run(options, arguments)
    except (EvicanError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    from evican_plate.run import Options, command_line, run

    given = {name: value for name, value in vars(options).items() if value is not None and name != "verb"}
    given["channels"] = tuple(given.get("channels", ()))
    return run(Options(**given, command=command_line(arguments)), sys.stdout)


def _parser() -> argparse.ArgumentParser:
    examples = "\n".join(f"  {pattern.name:<24}{pattern.example}" for pattern in PATTERNS)
    parser = argparse.ArgumentParser(
        prog="python -m evican_plate",
        description="CellProfiler with SegmentEVICAN over whole plates.",
        epilog=f"file names that are known:\n{examples}\n\nexit codes: 0 all images done, 3 some failed (failures.csv),"
        " 1 none usable,\n2 wrong usage, or nothing could be run; 'status': 1 also while images are to be run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    _add_run(
        verbs.add_parser("run", help="run a plate, or go on with it", formatter_class=argparse.HelpFormatter)
    )
    status = verbs.add_parser("status", help="say how far a run is")
    report = verbs.add_parser("report", help="write tables and report of what is done so far")
    for verb in (status, report):
        verb.add_argument("output", type=Path, metavar="RESULTS")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "folder",
        type=Path,
        metavar="PLATE_FOLDER",
        help="images of a plate, or a folder for each of several plates",
    )
    add("--output", type=Path, required=True, metavar="RESULTS", help="folder for tables and report")
    add(
        "--pipeline",
        type=Path,
        metavar="FILE",
        help=".cppipe with SegmentEVICAN (default: the morphology pipeline)",
    )
    add("--pattern", metavar="REGEX", help="file names, with the groups well (or row and column), site, time, channel, "
        "z, plate (default: detected)")  # fmt: skip
    add("--channel", action="append", dest="channels", metavar="[NAME=]C", help="channel of the unstained image, and "
        "of other images NAME of the pipeline; needed where there are several")  # fmt: skip
    add("--z", metavar="Z", help="the plane to take; needed where there are several")
    add(
        "--platemap",
        type=Path,
        metavar="CSV",
        help="a column 'well' and what is in the wells; joined to all tables",
    )
    add(
        "--controls",
        metavar="COLUMN=VALUE",
        help="the control wells of the plate map (default: its column 'control')",
    )
    add(
        "--workers",
        type=_positive,
        metavar="N",
        help="CellProfilers at a time (default: by cores and memory)",
    )
    add(
        "--threads",
        type=_positive,
        metavar="N",
        help="cores of each (default: 1); changes the last digits of scores",
    )
    add(
        "--shard-size",
        type=_positive,
        metavar="N",
        help="images for each start of CellProfiler (default: by size)",
    )
    add("--profile", metavar="P", help="run elsewhere: 'slurm', or a folder with a Snakemake profile")
    add(
        "--clean",
        action="store_true",
        help="remove the kept results of images, pipelines and settings that are no more",
    )
    add("--cellprofiler", metavar="PATH", help="the command (default: on PATH, or of this checkout)")
    add(
        "--plugins",
        type=Path,
        metavar="FOLDER",
        help="folder of segmentevican.py (default: of this checkout)",
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
