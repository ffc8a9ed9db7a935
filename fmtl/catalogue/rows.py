"""Rows of a table that are worth decoding, and the others with a reason."""

import pandas as pd

from fmtl.catalogue.columns import Columns
from fmtl.catalogue.reasons import Reason
from fmtl.catalogue.table import Reject
from fmtl.catalogue.values.applicability import Applicability


def candidates(
    frame: pd.DataFrame, columns: Columns, labels: pd.DataFrame, applicability: Applicability
) -> tuple[pd.DataFrame, list[Reject]]:
    """The rows worth decoding, and the others with a reason.

    Of rows with the same id and image the first stands for all, its blank labels filled from the others in place;
    unless their labels contradict each other: then none does. Where only whether an attribute applies is disputed, it
    counts for neither.

    Returns:
        Columns ``id`` and ``path``, by line; and the rejects.
    """
    paths = columns.image_paths(frame)
    ids = frame[columns.id].tolist() if columns.id else paths
    labelled = labels.notna().any(axis=1).tolist()
    rejects: dict[int, Reject] = {}
    for line, row_id, path, has_label in zip(frame.index.tolist(), ids, paths, labelled, strict=True):
        if row_id is None or path is None:
            reason = Reason.BLANK_ID if path else Reason.BLANK_IMAGE
            rejects[line] = Reject(line, row_id or "", reason, "the cell is blank")
        elif not has_label:
            rejects[line] = Reject(line, row_id, Reason.NO_LABEL, "every label is blank")
    rows = pd.DataFrame({"id": ids, "path": paths}, index=frame.index, dtype=object).drop(index=list(rejects))
    repeated = _repeated(rows, labels, applicability)  # fills blanks of ``labels``
    return rows.drop(index=list(repeated)), [*rejects.values(), *repeated.values()]


def _repeated(rows: pd.DataFrame, labels: pd.DataFrame, applicability: Applicability) -> dict[int, Reject]:
    """Rejects by line, of rows that name the same id and image as another."""
    by_key: dict[tuple[str, str], list[int]] = {}
    again = rows[rows.duplicated(keep=False)]
    for line, *key in again.itertuples():
        by_key.setdefault(tuple(key), []).append(line)
    cells = {column: labels[column].to_dict() for column in labels} if by_key else {}
    rejects: dict[int, Reject] = {}
    for (row_id, _), lines in by_key.items():
        values = {c: list(dict.fromkeys(cells[c][n] for n in lines if cells[c][n] is not None)) for c in cells}
        disputed = [column for column in cells if len(values[column]) > 1 and column not in applicability.of]
        if disputed:
            all_lines = ", ".join(map(str, lines))
            detail = f"lines {all_lines} are one product with different labels in {', '.join(disputed)}"
            rejects |= {line: Reject(line, row_id, Reason.CONFLICTING_ROWS, detail) for line in lines}
            continue
        first, *others = lines
        for column, found in values.items():
            if found and cells[column][first] is None:
                labels.at[first, column] = found[0]
        for column in applicability.of:
            if len(values[column]) > 1:
                applicability.dispute(
                    labels, first, column, because=f"lines {', '.join(map(str, lines))} are one product"
                )
        detail = f"the same product and image as line {first}"
        rejects |= {line: Reject(line, row_id, Reason.DUPLICATE_ROW, detail) for line in others}
    return rejects
