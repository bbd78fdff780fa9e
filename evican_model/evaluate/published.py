"""What others have published for the EVICAN evaluation images, to stand beside a report's own figures."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PUBLISHED", "SOURCES", "PublishedFigure"]

SOURCES = {
    "EVICAN": "Schwendy et al. 2020, Bioinformatics 36(12):3863, doi 10.1093/bioinformatics/btaa225",
    "DeepCeNS": "DeepCeNS: an end-to-end pipeline for cell and nucleus segmentation in microscopic images, 2021, "
    "abstract (neither classes nor difficulty stated)",
    "IAUNet": "IAUNet: instance-aware U-Net, 2025, arXiv 2508.01928, the authors' tables",
}


@dataclass(frozen=True)
class PublishedFigure:
    """Mask AP, AP50, AP75 in per cent, None where not published.

    ``difficulty`` and ``classes`` are as the source states them.
    """

    method: str
    classes: str
    difficulty: str
    ap: float | None
    ap50: float | None
    ap75: float | None
    source: str


def _tiers(
    method: str, *tiers: tuple[float | None, float | None, float | None]
) -> tuple[PublishedFigure, ...]:
    """Return cell figures of the IAUNet authors for the three difficulties."""
    return tuple(PublishedFigure(method, "Cell", name, *values, "IAUNet")
                 for name, values in zip(("easy", "medium", "difficult"), tiers))  # fmt: skip


PUBLISHED: tuple[PublishedFigure, ...] = (
    PublishedFigure("Mask R-CNN R101, the EVICAN paper", "all", "easy", None, 61.6, None, "EVICAN"),
    PublishedFigure("DeepCeNS", "not stated", "not stated", 52.6, 83.4, None, "DeepCeNS"),
    *_tiers("Mask R-CNN R50, trained on EVICAN", (48.1, 75.9, 50.9), (20.7, 42.5, 16.7), (19.1, 39.8, 12.6)),
    *_tiers("MaskDINO Swin-B", (57.9, 91.6, 69.3), (39.1, 78.8, 38.6), (34.0, 72.3, 27.0)),
    *_tiers("IAUNet R50", (58.0, 91.8, 65.7), (32.1, 59.0, 35.4), (24.9, 45.4, 25.9)),
    *_tiers("Cellpose generalist", (0.9, 2.8, None), (0.1, 0.3, None), (0.0, 0.0, None)),
    *_tiers(
        "Cellpose generalist, with its size model", (8.7, 16.8, None), (1.6, 4.4, None), (2.3, 6.8, None)
    ),
)
