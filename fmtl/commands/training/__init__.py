"""The rooms of ``train``."""
