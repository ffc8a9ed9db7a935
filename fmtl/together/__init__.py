"""Processes that train together, on one machine or many, as ``torchrun`` starts them."""
