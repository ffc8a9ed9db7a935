"""Pure functions from numbers to figures, and one that saves a figure."""

from fmtl.reports.plots.curves import curves
from fmtl.reports.plots.frames import ConfusionFrames
from fmtl.reports.plots.matrices import confusion, cooccurrence
from fmtl.reports.plots.scores import per_class, precision_recall, ranking, reliability, roc
from fmtl.reports.plots.style import save
from fmtl.reports.plots.sweeps import sweep

__all__ = [
    "ConfusionFrames",
    "confusion",
    "cooccurrence",
    "curves",
    "per_class",
    "precision_recall",
    "ranking",
    "reliability",
    "roc",
    "save",
    "sweep",
]
