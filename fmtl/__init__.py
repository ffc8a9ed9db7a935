"""Fashion Multi-TaskNet: one shared backbone, one head per product attribute, driven and recorded by MLflow."""

__version__ = "0.1.0"

_OF_NOTEBOOKS = ("run_complete_model_analysis", "train_and_evaluate_model")


def __getattr__(name: str) -> object:
    """The functions for notebooks, imported when they are asked for: torch takes seconds."""
    if name in _OF_NOTEBOOKS:
        from fmtl import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'fmtl' has no attribute '{name}'")
