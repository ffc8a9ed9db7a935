"""``fetch``: the photos that a table names by their addresses, to a folder that ``prepare`` reads."""

import shlex
from collections import Counter
from pathlib import Path

from tqdm.auto import tqdm

from fmtl.catalogue.photos import fetching
from fmtl.catalogue.photos.finding import FETCHED
from fmtl.catalogue.reading import read_catalogue
from fmtl.catalogue.table import require
from fmtl.errors import DataError, located
from fmtl.settings.schema import FetchSettings

NUM_SHOWN = 5  # reasons


def fetch(settings: FetchSettings) -> list[fetching.Fetched]:
    """Run the whole command; prints a summary.

    Raises:
        DataError: The column is missing or blank, or no photo came.
    """
    table = read_catalogue(Path(settings.table), encoding=settings.encoding, sheet=settings.sheet)
    with located(settings.table):
        require(table.frame, [settings.column])
    urls = list(dict.fromkeys(table.frame[settings.column].dropna()))
    if not urls:
        raise DataError(f"column '{settings.column}' is blank in every row", where=settings.table)
    folder = Path(settings.out)
    found = []
    with tqdm(total=len(urls), desc="fetch", unit=" photos", disable=None) as bar:
        for row in fetching.fetch(urls, folder, allow_private=settings.allow_private):
            found.append(row)
            bar.update()
    failed = Counter(row.status for row in found if row.status != fetching.OK)
    num_failed = failed.total()
    reasons = "; ".join(f"{n} {reason}" for reason, n in failed.most_common(NUM_SHOWN))
    told = f"{len(found)} addresses = {len(found) - num_failed} photos + {num_failed} not fetched"
    print(told + (f" ({reasons})" if failed else ""))
    print(f"photos: {folder}, listed in {folder / FETCHED}")
    options = ["--table", str(settings.table), "--images", str(folder), "--image-col", str(settings.column)]
    print(f"next: fmtl prepare {shlex.join(options)}")
    if num_failed == len(found):
        raise DataError(f"no photo could be fetched: {reasons}", where=settings.table)
    return found
