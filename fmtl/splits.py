"""Train, val and test: duplicate groups kept whole, every class of every task spread by its share."""

from collections.abc import Sequence

import numpy as np

from fmtl.tasks import IGNORE_INDEX

SPLITS = ("train", "val", "test")


def split_groups(
    targets: np.ndarray, groups: Sequence, *, val_fraction: float, test_fraction: float, seed: int
) -> np.ndarray:
    """Assign each row to a split by iterative stratification over whole groups.

    The rarest class that still has unassigned groups goes first; each of its groups goes to the split that
    lacks most of that class. A class with too few groups for all three ends up in train. The algorithm is
    Sechidis, Tsoumakas & Vlahavas (2011), "On the Stratification of Multi-Label Data", with groups in
    place of single examples and one-hot classes of all tasks as the labels.

    Args:
        targets: ``(N, T)`` int64, ``IGNORE_INDEX`` where unknown.
        groups: N hashable keys; rows of one key stay together.
        val_fraction: In (0, 1).
        test_fraction: In (0, 1); with ``val_fraction`` below 1.
        seed: Same seed, same rows: same split.

    Returns:
        ``(N,)`` array of the names in ``SPLITS``.
    """
    counts, group_of_row = _class_counts(targets, groups)
    fractions = np.array([1 - val_fraction - test_fraction, val_fraction, test_fraction])
    sizes = np.bincount(group_of_row, minlength=len(counts)).astype(float)
    lacking = fractions[:, None] * counts.sum(axis=0)  # (3, K): images of each class that a split still lacks
    room = fractions * sizes.sum()  # (3,): images that a split still lacks
    remaining = (counts > 0).sum(axis=0)  # (K,): unassigned groups of each class
    order = np.random.default_rng(seed).permutation(len(counts))
    members = [order[counts[order, k] > 0] for k in range(counts.shape[1])]
    assigned = np.full(len(counts), -1)

    def assign(group: int, split: int) -> None:
        assigned[group] = split
        lacking[split] -= counts[group]
        room[split] -= sizes[group]
        remaining[counts[group] > 0] -= 1

    while (remaining > 0).any():
        k = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        for group in members[k]:
            if assigned[group] < 0:
                assign(group, max(range(3), key=lambda s: (lacking[s, k], room[s])))
    for group in order[assigned[order] < 0]:  # groups without any label
        assign(group, int(room.argmax()))
    return np.array(SPLITS)[assigned[group_of_row]]


def _class_counts(targets: np.ndarray, groups: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Images per group and class, ``(G, K)`` over the classes of all tasks, and the group of each row."""
    number = {key: i for i, key in enumerate(dict.fromkeys(groups))}
    group_of_row = np.array([number[key] for key in groups])
    columns = []
    for task_targets in targets.T:
        known = task_targets != IGNORE_INDEX
        table = np.zeros((len(number), task_targets.max(initial=-1) + 1))
        np.add.at(table, (group_of_row[known], task_targets[known]), 1)
        columns.append(table)
    return np.concatenate(columns, axis=1), group_of_row
