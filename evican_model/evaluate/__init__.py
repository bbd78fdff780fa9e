"""How good is a model, or any other tool, on annotated images: ``python -m evican_model.evaluate``.

What each figure means is in docs/evaluation.md. The files, from the bottom up: ``matching`` (which found object is
which true one), ``pooling`` (average precision), ``ground_truth``, ``found``, ``results``, ``label_images`` and
``detection`` (reading), ``tally`` (what is counted in one image), ``metrics`` (figures and intervals), ``evaluation``
(tools on sets), ``analysis`` (curves, sizes, lines), ``tables``, ``figures``, ``overlays`` and ``report`` (writing),
``command``.
"""

from __future__ import annotations

from evican_model.evaluate.command import main
from evican_model.evaluate.evaluation import average_precision, evaluate
from evican_model.evaluate.ground_truth import read_scenes, trained_on
from evican_model.evaluate.results import read_results

__all__ = ["average_precision", "evaluate", "main", "read_results", "read_scenes", "trained_on"]
