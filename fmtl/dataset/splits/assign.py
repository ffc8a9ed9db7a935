"""Splits of a draft: drawn, kept from the dataset that was there, or as the table says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from fmtl.catalogue.notes import Note, warning
from fmtl.dataset.draft import SHOWN, Draft, Fractions
from fmtl.dataset.splits import SPLITS, stratified
from fmtl.dataset.splits.stratified import FREE
from fmtl.errors import DataError, first_ten
from fmtl.tasks import IGNORE_INDEX


def draw(draft: Draft, *, fractions: Fractions, seed: int, before: Sequence[str | None]) -> Draft:
    """Splits by stratification; an image that was there before stays where it was, as far as that can be.

    What belongs together goes where most of it was. Classes of few images are in train, wherever they were. Where the
    shares would be far from those wanted, as after another column tells what belongs together, all are drawn anew.

    Args:
        before: Where each row was in the dataset before; None where it is new.
    """
    position = {name: n for n, name in enumerate(SPLITS)}
    known = np.array([FREE if name is None else position[name] for name in before], dtype=np.int64)
    together, pinned = draft.table["together"].tolist(), draft.table["pinned"].to_numpy()

    def drawn(known: np.ndarray) -> np.ndarray:
        fixed = stratified.majority(known, together, fractions=fractions)
        in_train = pd.Series(pinned).groupby(together).transform("any").to_numpy()
        fixed[in_train] = 0
        found = stratified.split_groups(draft.targets, together, fractions=fractions, seed=seed, fixed=fixed)
        return stratified.into_train(found, draft.targets, together)[0]

    assigned, notes = drawn(known), []
    if (known != FREE).any():
        anew = False
        if stratified.far_off(assigned, fractions):
            fresh = drawn(np.full(len(known), FREE))
            anew = len(stratified.far_off(fresh, fractions)) < len(stratified.far_off(assigned, fractions))
            assigned = fresh if anew else assigned
        notes.append(_kept_told(int((known == assigned).sum()), int((known != FREE).sum()), anew=anew))
    notes += _off_told(draft, assigned, fractions)
    return draft.with_columns(*notes, split=_names_of(assigned))


def _kept_told(kept: int, known: int, *, anew: bool) -> Note:
    if anew:
        told = "the splits were drawn anew, since what belongs together has changed and would not divide as wanted"
        return Note(f"{told}; {kept} of {known} images happen to keep theirs")
    moved = (
        f"; {known - kept} moved, so that what belongs together is and train has every class" if kept < known else ""
    )
    return Note(f"{kept} images keep the split of the dataset that was there{moved}; another seed draws all anew")


def _off_told(draft: Draft, assigned: np.ndarray, fractions: Fractions) -> list[Note]:
    """A warning where shares are not as wanted, with the cause."""
    off = stratified.far_off(assigned, fractions)
    if not off:
        return []
    num, counts = len(assigned), np.bincount(assigned, minlength=len(SPLITS))
    shares = ", ".join(f"{SPLITS[s]} has {counts[s] / num:.1%} instead of {fractions[s]:.0%}" for s in off)
    sizes = draft.table["together"].value_counts()
    pinned = int(draft.table["pinned"].sum())
    causes = []
    if sizes.iloc[0] > stratified.TOLERANCE * num:
        causes.append(f"the largest group that stays together has {sizes.iloc[0]} of {num} images")
    if pinned > stratified.TOLERANCE * num:
        causes.append(f"{pinned} images have a rare class and are in train")
    causes = causes or ["classes of few images can't be divided in these shares"]
    return [warning(f"{shares}: {'; '.join(causes)}")]


def as_said(
    draft: Draft, cells: Mapping[int, str | None], column: str, *, fractions: Fractions, seed: int, mask: bool
) -> Draft:
    """The user's own splits, with their faults named.

    Args:
        cells: What the column says, by line of the rows kept.
        mask: Whether a label that train does not have is dropped rather than refused.
    """
    own = stratified.read_column(cells, column)
    together = draft.table["together"].to_numpy()
    assigned = stratified.complete(own, draft.targets, together.tolist(), fractions=fractions, seed=seed)
    notes = []
    drawn = [SPLITS[s] for s in (1, 2) if not (own == s).any()]
    if drawn:
        notes.append(Note(f"column '{column}' has no {' and no '.join(drawn)}: drawn from its train rows"))
    for groups, what in ((draft.table["identical"], "identical images"), (together, "rows that belong together")):
        crossing = pd.Series(assigned).groupby(np.asarray(groups)).nunique().gt(1).sum()
        if crossing:
            notes.append(
                warning(
                    f"{crossing} groups of {what} cross the splits of column '{column}', so that test scores are too "
                    "good"
                )
            )
    targets, dropped = _without_unseen(draft, assigned, mask=mask)
    notes += [Note(f"label dropped, train has none: {label}") for label in dropped]
    return replace(draft.with_columns(*notes, split=_names_of(assigned)), targets=targets)


def _without_unseen(draft: Draft, assigned: np.ndarray, *, mask: bool) -> tuple[np.ndarray, list[str]]:
    """Targets without the classes that train does not have, and which those were; an error unless ``mask``."""
    targets, lines = draft.targets.copy(), np.array(draft.lines)
    dropped, refused = [], []
    for column, k in stratified.only_outside_train(assigned, draft.targets):
        task, hit = draft.tasks.task_of(column), draft.targets[:, column] == k
        shown = ", ".join(map(str, lines[hit][:SHOWN]))
        what = f"'{draft.tasks.columns[column].partition('/')[2]}'" if task.is_set else f"'{task.classes[k]}'"
        if task.is_set and k == 0:
            what = f"without {what}"
        dropped.append(f"{what} of column '{task.name}': lines {shown}")
        if not task.applies_to:  # the table has no such column
            refused.append(dropped[-1])
        targets[hit, column] = IGNORE_INDEX
    if refused and not mask:
        raise DataError(
            f"{len(refused)} classes occur in val or test and never in train; move a row of each to train, or drop "
            "those labels with --rare drop:\n" + first_ten(refused),
            where="split_col",
        )
    return targets, dropped


def _names_of(assigned: np.ndarray) -> np.ndarray:
    return np.array(SPLITS, dtype=object)[assigned]
