"""Kinds of files that hold a product table; each is read to a ``Catalogue``."""
