"""Print what .ci/run ran: the failures with their reasons, a line a CellProfiler, and one with the totals.

Fails where no test ran.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

NAMES = {"5": "CellProfiler 5", "4": "CellProfiler 4.2.8.1", "plate": "evican_plate"}
REASON_LINES = 40


def counts_of(report: Path) -> tuple[int, int, int]:
    """Return the passed, failed (or broken) and skipped tests of a JUnit report."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    return tests - failures - errors - skipped, failures + errors, skipped


def failures_of(report: Path) -> list[str]:
    """Return the name and the last lines of the reason of each failed or broken test of a JUnit report."""
    found = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for reason in [*case.iter("failure"), *case.iter("error")]:
            text = (reason.text or reason.get("message") or "").strip().splitlines()[-REASON_LINES:]
            found.append("\n".join([f"{case.get('classname')}.{case.get('name')}", *(f"    {line}" for line in text)]))
    return found


def main() -> int:
    """Print the summary of the folder named on the command line: 0 when all passed, 1 otherwise."""
    results = Path(sys.argv[1])
    print("\n== what ran ==")
    for edition, name in NAMES.items():
        report = results / f"cellprofiler{edition}.xml"
        for failure in failures_of(report) if report.exists() else []:
            print(f"{name}: {failure}")
    total = [0, 0, 0]
    sound = True
    for edition, name in NAMES.items():
        report, not_run = results / f"cellprofiler{edition}.xml", results / f"skipped{edition}"
        if not_run.exists():
            print(f"{name}: not run, {not_run.read_text().strip()}")
            continue
        broken = (results / f"failed{edition}").exists()
        passed, failed, skipped = counts_of(report) if report.exists() else (0, 0, 0)
        if not report.exists() or (broken and not failed):
            # set-up, ruff, mypy or pytest itself: a failure too, so that the totals cannot look clean
            failed += 1
        sound = sound and not broken and not failed and passed > 0
        verdict = "failed" if broken or failed or not passed else "passed"
        print(f"{name}: {verdict} ({passed} passed, {failed} failed, {skipped} skipped)")
        if broken:
            print(f"    {(results / f'failed{edition}').read_text().strip()}")
        total = [sum(pair) for pair in zip(total, (passed, failed, skipped))]
    print("{} passed, {} failed, {} skipped".format(*total))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
