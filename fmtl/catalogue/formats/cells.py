"""Typed values of a table to text."""

import json

import pandas as pd


def cell_text(cell: object) -> str | None:
    """A value as text: whole numbers without a point, lists as JSON; None where nothing is there."""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, list | tuple | dict):
        return json.dumps(cell, ensure_ascii=False, default=str)
    if cell is None or (pd.api.types.is_scalar(cell) and pd.isna(cell)):
        return None
    if isinstance(cell, float) and cell.is_integer():  # whole numbers become floats beside a blank
        return str(int(cell))
    return str(cell).strip()
