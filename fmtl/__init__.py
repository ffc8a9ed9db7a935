"""Fashion Multi-TaskNet: one shared backbone, one head per product attribute, driven and recorded by MLflow."""

__version__ = "0.1.0"
