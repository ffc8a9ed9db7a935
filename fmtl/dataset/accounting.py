"""What the manifest says of a dataset in numbers and sentences."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.reasons import Reason
from fmtl.catalogue.table import Reject
from fmtl.dataset.decode import Decoded
from fmtl.dataset.splits import SPLITS
from fmtl.errors import DataError
from fmtl.tasks import IGNORE_INDEX

IMAGE_NOTES = {
    "rotated": "images were turned upright as their EXIF orientation says",
    "transparent": "transparent images were laid on {background}",
    "profile": "images had colours of another profile than sRGB and were converted",
    "first_frame": "images have several frames; the first was taken",
    "wrong_suffix": "images have another format than their name says; the content decided",
}


def check_rejects(
    num_read: int,
    rejects: Sequence[Reject],
    *,
    max_fraction: float,
    table: str,
    look_around: Callable[[str], str],
) -> None:
    """Raise DataError where so many rows were left out that the image folder is probably wrong.

    Args:
        look_around: Given the path of a photo that is missing, says where it was looked for and what is there.
    """
    taken = [reject for reject in rejects if reject.reason != Reason.NOT_TAKEN]
    num_read, rejects = num_read - (len(rejects) - len(taken)), taken
    reasons = Counter(str(reject.reason) for reject in rejects)
    told = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
    if len(rejects) < num_read and len(rejects) <= max_fraction * num_read:
        return
    most = reasons.most_common(1)[0][0]
    first = next(reject for reject in rejects if reject.reason == most)
    if len(rejects) == num_read:
        message = f"all {num_read} rows were rejected ({told}); line {first.line}: {first.detail}"
    else:
        message = (
            f"{len(rejects)} of {num_read} rows were rejected ({told}), more than max_reject_fraction={max_fraction}; "
            f"first: line {first.line}, {first.detail}"
        )
    if most in (Reason.MISSING, Reason.OUTSIDE_ROOT) and (path := first.detail.partition("'")[2].partition("'")[0]):
        message += f". {look_around(path)}"
    raise DataError(message, where=table)


def count(
    num_read: int, frame: pd.DataFrame, rejects: Sequence[Reject], twins: pd.DataFrame, decoded: Decoded
) -> dict[str, Any]:
    """What the manifest says in numbers.

    Args:
        frame: Content of ``table.parquet``.
        twins: Content of ``duplicates.csv``.
    """
    if num_read != len(frame) + len(rejects):
        raise AssertionError(f"{num_read} rows read, {len(frame)} kept, {len(rejects)} rejected")
    good = [result for result in decoded.results if not result.reason]
    identical, near = twins[twins["kind"] == "identical"], twins[twins["kind"] == "near"]
    return {
        "read": num_read,
        "kept": len(frame),
        "rejected": len(rejects),
        "reasons": dict(Counter(str(reject.reason) for reject in rejects).most_common()),
        "splits": {split: int((frame["split"] == split).sum()) for split in SPLITS},
        "duplicate_groups": int(identical["group"].nunique()),
        "duplicate_images": len(identical),
        "conflicting_groups": int(identical[identical["conflict"] != ""]["group"].nunique()),
        "near_groups": int(near["group"].nunique()),
        "near_images": len(near),
        "formats": dict(Counter(result.format for result in good).most_common()),
        "modes": dict(Counter(result.mode for result in good).most_common()),
        "image_notes": dict(Counter(note for result in good for note in result.notes.split()).most_common()),
        "largest_side": {"median": int(np.median([r.side for r in good])), "most": max(r.side for r in good)},
    }


def dataset_notes(frame: pd.DataFrame, targets: np.ndarray, *, damaged_before: bool) -> list[Note]:
    """What is odd about the dataset as a whole.

    Args:
        damaged_before: Whether a dataset was there that could not be read.
    """
    notes = [
        warning(f"no image is in {split}: too few distinct images, or groups that are too large")
        for split in SPLITS
        if not (frame["split"] == split).any()
    ]
    bare = int((targets == IGNORE_INDEX).all(axis=1).sum())
    if bare:
        notes.append(Note(f"{bare} images have no label left; they are kept and teach nothing"))
    if damaged_before:
        notes.append(warning("the dataset that was there could not be read; its splits were not kept"))
    return notes


def image_notes(counts: dict[str, Any], *, px: int, background: str) -> list[Note]:
    """What was done to the photos."""
    notes = [
        Note(f"{n} {IMAGE_NOTES[name].format(background=background)}") for name, n in counts["image_notes"].items()
    ]
    odd = {mode: n for mode, n in counts["modes"].items() if mode != "RGB"}
    if odd:
        layouts = ", ".join(f"{mode} {n}" for mode, n in odd.items())
        notes.append(Note(f"pixel layouts turned into RGB: {layouts}"))
    most = counts["largest_side"]["most"]
    if most < px:
        share = (most / px) ** 2
        notes.append(
            Note(f"the largest photo has {most} pixels: --px {most} stores all of it in {share:.0%} of the space")
        )
    return notes
