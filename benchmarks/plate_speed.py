"""Speed and memory of plate runs: ``python benchmarks/plate_speed.py``, in the environment of evican_plate.

A plate of 96 images (the example images, eight wells each) is run by plain `cellprofiler` in one process, then by
evican_plate with one and with two workers. CPU seconds are those of all processes, so that they compare also where
other programs run; memory is the largest of any worker.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import _where
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
EXAMPLES = sorted((ROOT / "pipelines" / "example_plate").glob("*.jpg"))


def make_plate(folder: Path, images: int, scale: float) -> Path:
    """Copy the example images, at a scale, to wells of a 96-well plate."""
    folder.mkdir()
    for i in range(images):
        well = f"{'ABCDEFGH'[i // 12]}{i % 12 + 1:02d}"
        with Image.open(EXAMPLES[i % len(EXAMPLES)]) as image:
            gray = image.convert("L")
        gray.resize((round(gray.width * scale), round(gray.height * scale))).save(
            folder / f"Bench_{well}_s1_w1.png"
        )
    return folder


def megapixels(path: Path) -> float:
    """Return the size of an image."""
    with Image.open(path) as image:
        return image.width * image.height / 1e6


def measured(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command; return wall and CPU seconds of it and all below it, and the largest memory of a CellProfiler."""
    peaks: dict[int, float] = {}
    before = os.times()
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def watch() -> None:
        me = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                for one in [me, *me.children(recursive=True)]:
                    if "--plugins-directory" in one.cmdline():
                        peaks[one.pid] = max(peaks.get(one.pid, 0.0), one.memory_info().rss / 1e9)
            except psutil.Error:
                pass
            time.sleep(0.2)

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    thread.join()
    if code:
        raise SystemExit(f"error: {' '.join(command)} ended with {code}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "wall": time.perf_counter() - start,
        "cpu": cpu,
        "peak": max(peaks.values()),
        "starts": len(peaks),
    }


def main() -> int:
    """Print the table."""
    from evican_plate.attempt import write_load_data
    from evican_plate.cellprofiler import find_cellprofiler
    from evican_plate.pipeline import DEFAULT_PIPELINE, read_pipeline
    from evican_plate.plates import scan

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--scale", type=float, default=1.0, help="of the example images (default: 1)")
    parser.add_argument("--cellprofiler")
    parser.add_argument("--load", default="unknown", help="what else the machine did, for the first line")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="speed"))
    try:
        plate = make_plate(folder / "plate", options.images, options.scale)
        pipeline = read_pipeline(DEFAULT_PIPELINE, plate)
        program = find_cellprofiler(options.cellprofiler, None, "bundled")
        one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                                             "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")}  # fmt: skip
        environment = {**os.environ, **one_thread}
        (folder / "x.cppipe").write_text(pipeline.text, encoding="utf-8")
        images = [
            {**vars(image), "files": image.files} for image in scan(plate, {pipeline.image: None}).images
        ]
        write_load_data(folder / "load_data.csv", images, {})
        (folder / "plain").mkdir()
        plain = program.arguments(folder / "x.cppipe", folder / "load_data.csv", plate, folder / "plain")
        rows = [("plain cellprofiler, 1 process", measured(plain, environment))]
        for workers in (1, 2):
            output = str(folder / f"out{workers}")
            command = [sys.executable, "-m", "evican_plate", "run", str(plate), "--output", output]
            command += ["--workers", str(workers), "--cellprofiler", program.command]
            name = f"evican_plate, {workers} worker{'s' * (workers > 1)}"
            rows.append((name, measured(command, {**os.environ, "PYTHONPATH": str(ROOT)})))
        kept = [path for path in (folder / "out2" / "work" / "shards").rglob("*") if path.is_file()]
        megabytes = sum(path.stat().st_size for path in kept) / 1e6
        pixels = sum(megapixels(path) for path in sorted(plate.iterdir())) / options.images
    finally:
        shutil.rmtree(folder)
    print(
        f"# Speed of plate runs\n\n`python benchmarks/plate_speed.py --images {options.images} --scale "
        f"{options.scale:g}`; {_where.machine()}, "
        f"CellProfiler {program.cellprofiler}, commit {_where.commit()}. Other "
        f"load: {options.load}.\n\n{options.images} images (the example images at scale {options.scale:g}), one "
        "thread for each CellProfiler.\n\n"
        "| run | starts of CellProfiler | wall s | images/s | CPU s | CPU s over plain | peak GB of a CellProfiler |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    base = rows[0][1]["cpu"]
    for name, found in rows:
        print(
            f"| {name} | {found['starts']:.0f} | {found['wall']:.0f} | {options.images / found['wall']:.2f} | "
            f"{found['cpu']:.0f} | {100 * (found['cpu'] / base - 1):+.0f} % | {found['peak']:.2f} |"
        )
    print(
        f"\nMean size of an image: {pixels:.3f} megapixels. Kept of an image: {megabytes / options.images:.2f} MB in "
        f"{len(kept) / options.images:.1f} files (tables, overlay, two label images)."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
