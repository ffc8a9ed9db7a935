"""Twins in a catalogue: images with identical pixels, near duplicates, and rows that belong together."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MARGIN = 2  # grey levels; smaller steps between neighbours are compression noise
MAX_HASH_DISTANCE = 3  # of 64 bits
MAX_DIFFERENCE = 0.05  # mean over the thumbnail, as a share of its contrast
MIN_CONTRAST = 5.0  # grey levels; plain pictures are compared as if they had this much
BANDS = 4  # two hashes at most 3 bits apart agree in at least one of 4 bands
BLOCK = 256
MOST_PAIRS = 20_000  # compared at once: bounds memory


def identical(digests: Sequence[str], thumbnails: np.ndarray, pixels: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Group images whose files or whose stored pixels are the same, byte for byte.

    Equal files are known by their hashes. The same picture may also have been saved twice: reading all pixels again to
    find out would cost as much as decoding did, so thumbnails say where that is worth while.

    Args:
        digests: N hashes of the files.
        thumbnails: ``(N, 8, 9, 3)`` uint8; only images that agree here are compared in full.
        pixels: From rows to stored images, ``(n, px, px, 3)`` uint8.

    Returns:
        ``(N,)`` int64: equal numbers, identical images; numbered by first appearance.
    """
    groups, _ = pd.factorize(np.asarray(digests))
    first = pd.Series(range(len(groups))).groupby(groups).first().to_numpy()
    looks = pd.Series([thumbnails[row].tobytes() for row in first], index=first)
    alike = looks[looks.duplicated(keep=False)]
    exact = {row: hashlib.sha256(pixels(np.array([row])).tobytes()).digest() for row in alike.index}
    edges = []
    for rows in pd.Series(exact, dtype=object).groupby(pd.Series(exact, dtype=object)).groups.values():
        edges += [(rows[0], row) for row in rows[1:]]
    return together(len(groups), [*edges, *zip(first[groups], range(len(groups)), strict=True)])


def near(groups: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Join groups of identical images that look the same: re-encoded, resized, slightly retouched.

    Candidates differ in at most 3 bits of a 64-bit difference hash (dHash: N. Krawetz, "Kind of Like That",
    2013); a pair counts when its thumbnails differ by at most 5 % of their contrast: product photos share a white
    background and an outline, so that less strict a rule joins different products. Images with equal hashes are
    compared with the first of them that is alike; those then stand for their group.

    Args:
        groups: ``(N,)`` from ``identical``.
        thumbnails: ``(N, 8, 9, 3)`` uint8.

    Returns:
        ``(N,)`` int64: equal numbers, near duplicates or identical.
    """
    rows = np.unique(groups, return_index=True)[1]
    hashes, looks = dhash(thumbnails[rows]), thumbnails[rows].reshape(len(rows), -1).astype(np.int16)
    means = looks.mean(axis=1, dtype=np.float32)
    by_channel = looks.reshape(len(rows), -1, 3)
    from_mean = np.abs(by_channel - by_channel.mean(axis=1, keepdims=True, dtype=np.float32).astype(np.int16))
    contrast = np.maximum(from_mean.mean(axis=(1, 2), dtype=np.float32), MIN_CONTRAST)

    def alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.abs(looks[a] - looks[b]).mean(axis=1, dtype=np.float32) <= MAX_DIFFERENCE * np.minimum(
            contrast[a], contrast[b]
        )

    # Comparing every pair is out of reach: 44,000 photos have a billion. Two things thin them out. Catalogues hold
    # floods of one picture (a placeholder, a shirt in ten sizes), all of one hash: of those that are alike one, the
    # leader, stands for the others from then on. And only leaders whose hashes nearly agree are compared across hashes.
    edges: list[tuple[int, int]] = []
    leaders = []
    for bucket in _buckets(hashes):
        bucket = bucket[np.argsort(means[bucket], kind="stable")]
        while len(bucket):
            # Pictures differ on average by at least what their means do: beyond the reach nothing can be alike.
            reach = np.searchsorted(means[bucket], means[bucket[0]] + MAX_DIFFERENCE * contrast[bucket[0]], "right")
            window = bucket[:reach]
            close = alike(window, window[:1])
            leaders.append(window[0])
            edges += [(window[0], member) for member in window[close]]
            bucket = np.concatenate([window[~close], bucket[reach:]])
    # Sorted, so that the result does not depend on the order in which buckets were gone through.
    for a, b in _candidate_pairs(hashes, np.sort(leaders)):
        for start in range(0, len(a), MOST_PAIRS):
            some = slice(start, start + MOST_PAIRS)
            close = alike(a[some], b[some])
            edges += zip(a[some][close], b[some][close], strict=True)
    joined = together(len(rows), edges)
    return pd.factorize(joined[np.searchsorted(groups[rows], groups)])[0]


def dhash(thumbnails: np.ndarray) -> np.ndarray:
    """``(N, 8, 9, 3)`` uint8 to ``(N,)`` uint64: a bit per pair of neighbours, set where brightness falls."""
    red, green, blue = np.moveaxis(thumbnails.astype(np.int32), -1, 0)
    grey = 299 * red + 587 * green + 114 * blue  # thousandths of a grey level, ITU-R BT.601
    bits = grey[:, :, :-1] > grey[:, :, 1:] + 1000 * MARGIN
    return np.packbits(bits.reshape(len(bits), 64), axis=1).view(np.uint64).reshape(-1)


def together(n: int, *edges: Iterable[tuple[int, int]]) -> np.ndarray:
    """Connected components of ``n`` rows, ``(n,)`` int64, numbered by first appearance."""
    pairs = np.array([pair for some in edges for pair in some], dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return pd.factorize(connected_components(graph, directed=False)[1])[0]


def same_value(values: Iterable) -> list[tuple[int, int]]:
    """Edges between rows of equal value; None is equal to nothing."""
    first: dict = {}
    return [(first.setdefault(value, row), row) for row, value in enumerate(values) if value is not None]


def conflicts(groups: np.ndarray, targets: np.ndarray, unknown: int) -> dict[int, list[int]]:
    """Groups whose members carry different targets: group number to the positions of the tasks in question.

    Args:
        groups: ``(N,)``.
        targets: ``(N, T)`` int64.
        unknown: The target that contradicts nothing.
    """
    found: dict[int, list[int]] = {}
    for t, column in enumerate(targets.T):
        known = column != unknown
        spread = pd.Series(column[known]).groupby(groups[known]).nunique()
        for group in spread.index[spread > 1]:
            found.setdefault(int(group), []).append(t)
    return dict(sorted(found.items()))


def _buckets(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Positions of equal keys."""
    order = np.argsort(keys, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)


def _candidate_pairs(hashes: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows whose hashes differ in 1 to 3 bits, some of them more than once.

    Of four bands of bits, three differing bits leave one untouched, so that such a pair meets in the bucket of that
    band: four sorts in place of all pairs.
    """
    band = np.uint64(0x1111111111111111)  # every fourth bit: each band sees the whole picture
    for shift in range(BANDS):
        for bucket in _buckets(hashes[rows] & (band << np.uint64(shift))):
            members = rows[bucket]
            for start in range(0, len(members) - 1, BLOCK):
                block = members[start : start + BLOCK]
                distance = np.bitwise_count(hashes[block][:, None] ^ hashes[members[start:]][None, :])
                a, b = np.nonzero((distance > 0) & (distance <= MAX_HASH_DISTANCE))
                upper = a < b
                if upper.any():
                    yield block[a[upper]], members[start:][b[upper]]
