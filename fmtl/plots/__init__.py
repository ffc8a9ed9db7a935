"""Pure functions from numbers to figures, and one that saves a figure."""

from fmtl.plots.curves import curves
from fmtl.plots.frames import ConfusionFrames
from fmtl.plots.matrices import confusion
from fmtl.plots.scores import per_class, precision_recall, ranking, reliability, roc
from fmtl.plots.style import save

__all__ = [
    "ConfusionFrames",
    "confusion",
    "curves",
    "per_class",
    "precision_recall",
    "ranking",
    "reliability",
    "roc",
    "save",
]
