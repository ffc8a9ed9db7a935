"""Fashion Multi-TaskNet: one shared backbone, one head per product attribute, driven and recorded by MLflow."""

from typing import TYPE_CHECKING

from fmtl import machine

if TYPE_CHECKING:
    from fmtl.commands.library import train
    from fmtl.notebook import run_complete_model_analysis, train_and_evaluate_model

machine.share_processors()  # what OpenMP reads when torch is loaded, which nothing of fmtl has done yet

__version__ = "0.1.0"
__all__ = ["run_complete_model_analysis", "train", "train_and_evaluate_model"]

_HOMES = {"train": "commands.library"} | dict.fromkeys(
    ("run_complete_model_analysis", "train_and_evaluate_model"), "notebook"
)


def __getattr__(name: str) -> object:
    """The public functions, imported when they are asked for: torch takes seconds."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"fmtl.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fmtl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
