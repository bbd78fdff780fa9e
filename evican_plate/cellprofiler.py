"""The CellProfiler that runs the shards: a command somewhere on the machine, asked what it is made of."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from evican_plate.errors import PlateError

__all__ = ["CellProfiler", "find_cellprofiler"]

_ROOT = Path(__file__).parent.parent
# Run by CellProfiler's own Python. It starts neither CellProfiler nor TensorFlow, so it takes a second.
_QUESTION = """
import hashlib, importlib.metadata as metadata, json, pathlib, sys

def version(*names):
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return ""

answer = {
    "python": "%d.%d.%d" % sys.version_info[:3],
    "cellprofiler": version("cellprofiler", "cellprofiler-nightly"),
    "tensorflow": version("tensorflow", "tensorflow-cpu"),
    "numpy": version("numpy"),
}
try:
    import evican_model
    from evican_model import weights
    from evican_model.config import NetworkConfig

    folder = pathlib.Path(evican_model.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\\0" + path.read_bytes())
    info = weights.check(sys.argv[1])
    answer.update(
        evican_model=evican_model.__version__,
        code_sha256=digest.hexdigest(),
        weights=str(info.path) + (f", {info.config.views} views of each image" if info.config.views > 1 else ""),
        weights_sha256=info.sha256,
        settings_sha256=hashlib.sha256(info.path.with_suffix(".json").read_bytes()).hexdigest(),
        detections=info.config.detections,
        tile=info.config.tile,
        cell_diameter=info.config.cell_diameter,
    )
except Exception as error:
    answer["error"] = "%s: %s" % (type(error).__name__, error)
print("\\n" + json.dumps(answer))
"""


@dataclass(frozen=True)
class CellProfiler:
    """A CellProfiler with evican_model, and the plug-in and weights that it will use."""

    command: str
    plugins: str
    python: str
    cellprofiler: str
    tensorflow: str
    numpy: str
    evican_model: str
    code_sha256: str
    weights: str
    weights_sha256: str
    settings_sha256: str
    plugin_sha256: str
    detections: int
    tile: int
    cell_diameter: float

    @property
    def identity(self) -> dict[str, str]:
        """What a result depends on, apart from the image and the pipeline."""
        names = ("cellprofiler", "tensorflow", "numpy", "code_sha256", "weights_sha256", "settings_sha256")
        return {name: getattr(self, name) for name in (*names, "plugin_sha256")}

    def arguments(self, pipeline: Path, table: Path, images: Path, output: Path) -> list[str]:
        """Return the command line that runs a pipeline, headless, over a LoadData table."""
        command = [self.command, "-c", "-r"]
        if int(self.cellprofiler.split(".")[0]) >= 5:
            # The default reader of version 5 hands TIFF files to Java.
            command += ["-e", "imageio_reader", "imageio_reader_v3"]
        command += ["-p", str(pipeline), "--data-file", str(table), "-i", str(images), "-o", str(output)]
        return [*command, "--plugins-directory", self.plugins]

    def as_dict(self) -> dict[str, object]:
        """Return all that is known, for JSON."""
        return asdict(self)


def find_cellprofiler(command: str | None, plugins: Path | None, weights: str) -> CellProfiler:
    """Find CellProfiler and ask it what it is made of.

    Parameters
    ----------
    command : str or None
        Path of ``cellprofiler``. None: the one on PATH, or that of this checkout's ``.venv``.
    plugins : Path or None
        Folder of segmentevican.py; None: the one of this checkout.
    weights : str
        The name of bundled weights (``"bundled"``, ``"accurate"``) or a file.

    Raises
    ------
    PlateError
        There is none, it has no evican_model, the weights cannot be used, or the plug-in is not where it should be.
    """
    path = _locate(command)
    folder = plugins or _ROOT / "plugins"
    plugin = folder / "segmentevican.py"
    if not plugin.is_file():
        raise PlateError(f"{plugin}: no such file; name its folder with --plugins")
    answer = _ask(path, weights)
    if "error" in answer:
        raise PlateError(f"the Python of {path} cannot use evican_model or its weights: {answer['error']}")
    if not answer["cellprofiler"]:
        raise PlateError(f"{path}: there is no CellProfiler in the Python beside it")
    plugin_sha256 = hashlib.sha256(plugin.read_bytes()).hexdigest()
    return CellProfiler(
        command=str(path), plugins=str(folder.absolute()), plugin_sha256=plugin_sha256, **answer
    )


def _locate(command: str | None) -> Path:
    if command is not None:
        found = shutil.which(command)
        if found is None:
            raise PlateError(f"--cellprofiler {command}: no such command")
        return Path(found).absolute()
    here = [_ROOT / ".venv" / name / "bin" / "cellprofiler" for name in ("cellprofiler5", "cellprofiler4")]
    for candidate in [shutil.which("cellprofiler"), *here]:
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate).absolute()
    raise PlateError("no cellprofiler on PATH; name it with --cellprofiler, or make one with script/setup")


def _python_of(command: Path) -> str:
    """Return the Python that a command of an environment is run by."""
    for name in ("python", "python3"):
        if (command.parent / name).exists():
            return str(command.parent / name)
    first = command.read_bytes()[:200].split(b"\n")[0]
    if first.startswith(b"#!"):
        return first[2:].strip().decode()
    raise PlateError(f"{command}: there is no Python beside it; name the cellprofiler of an environment")


def _ask(command: Path, weights: str) -> dict:
    try:
        done = subprocess.run(
            [_python_of(command), "-c", _QUESTION, weights],
            capture_output=True,
            text=True,
            timeout=120,
        )
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, IndexError, ValueError, subprocess.TimeoutExpired) as error:
        raise PlateError(f"the Python of {command} does not answer: {error}") from error
