"""TensorFlow as a guest in somebody's program: it shares the GPU and keeps its chatter to itself."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Iterator

from evican_model.errors import EvicanError

__all__ = ["computing_in", "start_tensorflow", "without_chatter"]

# What TensorFlow prints at start and at the first trace, whatever log level it is told, and that nobody can act on.
_CHATTER = (
    "op_level_cost_estimator.cc",
    "absl::InitializeLog",
    "computation_placer.cc",
    "cpu_feature_guard.cc",
    "cuda_",
    "oneDNN custom operations are on",
    "port.cc",
    "rebuild TensorFlow with the appropriate compiler flags",
    "Could not find cuda drivers",
)


def start_tensorflow(threads: int | None = None):
    """Import TensorFlow, quietly, and let it share a GPU (by default it takes all the memory of each).

    Parameters
    ----------
    threads : int, optional
        CPU threads that one operation may use; by default TensorFlow's own choice, all cores.

    Returns
    -------
    module
        ``tensorflow``.

    Raises
    ------
    EvicanError
        If `threads` is below 1, or TensorFlow already works with another number.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Keep the memory of large feature maps for the next layer: asking the system for fresh pages each time costs a
    # fifth of the CPU time of an image (benchmarks/inference_speed.md).
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    with without_chatter(), _beside_another_llvm():
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        for gpu in tf.config.list_physical_devices("GPU"):
            # Refused once the GPU is in use: the calling program has then decided this itself.
            with contextlib.suppress(RuntimeError):
                tf.config.experimental.set_memory_growth(gpu, True)
        if threads is not None:
            _use_threads(tf, threads)
    return tf


@contextlib.contextmanager
def _beside_another_llvm() -> Iterator[None]:
    """Let TensorFlow find its own LLVM before one that the process has loaded already.

    The window of CellProfiler on Linux draws with Mesa, whose LLVM is then visible to all libraries. TensorFlow brings
    an LLVM of its own with the same symbols; mixed, the two crash (TensorFlow 2.15) or never come back (2.19, 2.20).
    """
    deep_binding = getattr(os, "RTLD_DEEPBIND", 0)  # Linux only
    maps = Path("/proc/self/maps")
    if not deep_binding or not maps.is_file() or "libLLVM" not in maps.read_text(errors="replace"):
        yield
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | deep_binding)
    try:
        yield
    finally:
        sys.setdlopenflags(flags)


def _use_threads(tf, threads: int) -> None:
    if threads < 1:
        raise EvicanError(f"threads is {threads}; expected 1 or more.")
    chosen = tf.config.threading.get_intra_op_parallelism_threads()
    if chosen == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError as error:  # "cannot be modified after initialization"
        has = chosen or "all"
        raise EvicanError(
            f"threads is {threads}, but TensorFlow already works in this program, with {has} threads; ask for them "
            "before anything else uses it."
        ) from error


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Hold back what is written to the process's standard error, and pass it on without TensorFlow's chatter.

    The messages come from C++, so the file descriptor itself is caught. Where there is none (a program with windows
    only), nothing is done.
    """
    try:
        original = os.dup(2)
    except OSError:
        yield
        return
    with tempfile.TemporaryFile() as caught:
        sys.stderr.flush() if sys.stderr else None
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush() if sys.stderr else None
            os.dup2(original, 2)
            os.close(original)
            caught.seek(0)
            kept = [line for line in caught.read().splitlines(keepends=True) if not _is_chatter(line)]
            os.write(2, b"".join(kept))


def _is_chatter(line: bytes) -> bool:
    text = line.decode("utf-8", "replace")
    return any(mark in text for mark in _CHATTER)


@contextlib.contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Build Keras layers that compute in another precision, and leave the program's own setting as it was.

    Parameters
    ----------
    precision : str
        ``float32``, ``float16`` or ``bfloat16``.

    Raises
    ------
    EvicanError
        If it is none of these.
    """
    import tensorflow as tf

    policies = {"float32": "float32", "float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}
    if precision not in policies:
        raise EvicanError(f"precision is {precision!r}; known are {list(policies)}.")
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policies[precision])
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
