"""Train, val and test: duplicate groups kept whole, every class of every task spread by its share."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array

from fmtl.catalogue.roles import SPLIT_SPELLINGS
from fmtl.dataset.draft import Fractions
from fmtl.dataset.splits import SPLITS
from fmtl.errors import DataError, first_ten
from fmtl.tasks import IGNORE_INDEX

FREE = -1
TOLERANCE = 0.02  # of a split's share
_POSITIONS = {spelling: SPLITS.index(split) for spelling, split in SPLIT_SPELLINGS.items()}


def split_groups(
    targets: np.ndarray,
    groups: Sequence,
    *,
    fractions: Fractions,
    seed: int,
    fixed: np.ndarray | None = None,
) -> np.ndarray:
    """Assign each row to a split by iterative stratification over whole groups.

    The rarest class that still has unassigned groups goes first; each of its groups goes to the split that
    lacks most of that class. A class with too few groups for all three ends up in train. The algorithm is
    Sechidis, Tsoumakas & Vlahavas (2011), "On the Stratification of Multi-Label Data", with groups in
    place of single examples and one-hot classes of all tasks as the labels; of the values of sets, having them and not.

    Args:
        targets: ``(N, columns)`` int64, ``IGNORE_INDEX`` where unknown.
        groups: N hashable keys; rows of one key stay together.
        fractions: Shares of train, val and test; their sum is 1.
        seed: Same seed, same rows: same split.
        fixed: ``(N,)`` positions in ``SPLITS`` that are decided already, ``FREE`` elsewhere. Where rows of a
            group disagree, test goes before val and val before train.

    Returns:
        ``(N,)`` int64, positions in ``SPLITS``.
    """
    counts, group_of_row = _class_counts(targets, groups)
    num_groups, num_classes = counts.shape
    shares = np.array(fractions)
    sizes = np.bincount(group_of_row, minlength=num_groups).astype(float)
    totals = np.bincount(counts.indices, counts.data, minlength=num_classes)
    lacking = shares[:, None] * totals  # (3, K): images of each class that a split still lacks
    room = shares * sizes.sum()  # (3,): images that a split still lacks
    remaining = np.bincount(counts.indices, minlength=num_classes)  # (K,): unassigned groups of each class
    order = np.random.default_rng(seed).permutation(num_groups)
    by_class = counts[order].tocsc()
    assigned = np.full(num_groups, FREE)
    open_splits = np.flatnonzero(shares > 0)

    def assign(group: int, split: int) -> None:
        of_group = slice(counts.indptr[group], counts.indptr[group + 1])
        classes = counts.indices[of_group]
        assigned[group] = split
        lacking[split, classes] -= counts.data[of_group]
        room[split] -= sizes[group]
        remaining[classes] -= 1

    if fixed is not None:
        decided = np.full(num_groups, FREE)
        np.maximum.at(decided, group_of_row, fixed)
        for group in np.flatnonzero(decided != FREE).tolist():
            assign(group, int(decided[group]))
    while (remaining > 0).any():
        k = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        for group in order[by_class.indices[by_class.indptr[k] : by_class.indptr[k + 1]]].tolist():
            if assigned[group] == FREE:
                assign(group, max(open_splits.tolist(), key=lambda s: (lacking[s, k], room[s])))
    for group in order[assigned[order] == FREE].tolist():  # groups without any label
        assign(group, int(open_splits[room[open_splits].argmax()]))
    return assigned[group_of_row]


def read_column(values: Mapping[int, str | None], column: str) -> np.ndarray:
    """A user's own split column as positions in ``SPLITS``.

    Args:
        values: Cell by line.

    Raises:
        DataError: A cell is blank or no known split, with its line.
    """
    positions = [_POSITIONS.get((value or "").casefold(), FREE) for value in values.values()]
    problems = [
        f"line {line}, column '{column}': '{value or ''}'; expected train, val or test"
        for (line, value), position in zip(values.items(), positions, strict=True)
        if position == FREE
    ]
    if problems:
        raise DataError(f"{len(problems)} rows name no split:\n" + first_ten(problems), where="split_col")
    return np.array(positions, dtype=np.int64)


def complete(own: np.ndarray, targets: np.ndarray, groups: Sequence, *, fractions: Fractions, seed: int) -> np.ndarray:
    """A user's split with val or test, where it has none, drawn from its train rows."""
    absent = [s for s in (1, 2) if not (own == s).any()]
    if not (own == 0).any():
        raise DataError("no row is in train; nothing is left for training", where="split_col")
    if not absent:
        return own
    val, test = (fraction if s in absent else 0.0 for s, fraction in enumerate(fractions) if s)
    rows = np.flatnonzero(own == 0)
    drawn = own.copy()
    drawn[rows] = split_groups(
        targets[rows], np.asarray(groups)[rows].tolist(), fractions=(1 - (val + test), val, test), seed=seed
    )
    return drawn


def majority(known: np.ndarray, groups: Sequence, *, fractions: Fractions) -> np.ndarray:
    """Where groups of rows go whose rows were in different splits before: where most of them were.

    Args:
        known: ``(N,)`` positions in ``SPLITS``, ``FREE`` where a row is new.
        fractions: Of as many, the split of the largest share wins.

    Returns:
        ``(N,)``, one position for all rows of a group, ``FREE`` where all of them are new.
    """
    number = {key: i for i, key in enumerate(dict.fromkeys(groups))}
    of_row = np.array([number[key] for key in groups])
    votes = np.zeros((len(number), len(SPLITS)))
    np.add.at(votes, (of_row[known != FREE], known[known != FREE]), 1)
    chosen = (votes + np.array(fractions) / 2).argmax(1)  # less than a vote, more than nothing
    return np.where(votes.sum(1) > 0, chosen, FREE)[of_row]


def into_train(assigned: np.ndarray, targets: np.ndarray, groups: Sequence) -> tuple[np.ndarray, int]:
    """Groups moved to train until it has every class: of each class that it lacks the smallest group.

    Returns:
        The new positions, and how many rows were moved.
    """
    moved, keys = assigned.copy(), pd.Series(list(groups))
    sizes = keys.groupby(keys).transform("size").to_numpy()
    for t, k in only_outside_train(assigned, targets):
        rows = np.flatnonzero(targets[:, t] == k)
        if not (moved[rows] == 0).any():
            moved[(keys == keys[rows[sizes[rows].argmin()]]).to_numpy()] = 0
    return moved, int((moved != assigned).sum())


def far_off(assigned: np.ndarray, fractions: Fractions) -> list[int]:
    """Splits whose share is more than ``TOLERANCE`` from the one wanted, and by more than one row."""
    wanted = np.array(fractions) * len(assigned)
    off = np.abs(np.bincount(assigned, minlength=len(SPLITS)) - wanted)
    return np.flatnonzero(off > max(TOLERANCE * len(assigned), 1)).tolist()


def only_outside_train(splits: np.ndarray, targets: np.ndarray) -> list[tuple[int, int]]:
    """(column, class) of classes that val or test have and train has not."""
    found = []
    for t, column in enumerate(targets.T):
        known = column != IGNORE_INDEX
        missing = np.setdiff1d(column[known], column[known & (splits == 0)])
        found += [(t, int(k)) for k in missing]
    return found


def _class_counts(targets: np.ndarray, groups: Sequence) -> tuple[csr_array, np.ndarray]:
    """Images per group and class, ``(G, K)`` over the classes of all tasks, and the group of each row."""
    number = {key: i for i, key in enumerate(dict.fromkeys(groups))}
    group_of_row = np.array([number[key] for key in groups])
    offsets = np.cumsum([0, *[column.max(initial=-1) + 1 for column in targets.T]])
    known = targets != IGNORE_INDEX
    rows, tasks = np.nonzero(known)
    classes = targets[known] + offsets[tasks]
    table = coo_array((np.ones(len(rows)), (group_of_row[rows], classes)), shape=(len(number), offsets[-1]))
    return table.tocsr(), group_of_row
