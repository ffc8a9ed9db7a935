"""Weights that a network begins with, and how they get in."""
