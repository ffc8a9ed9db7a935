"""Whatever a table's bytes: it is read, with every row accounted for, or refused with a sentence."""

import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from mutations import KINDS, ROWS, tables
from PIL import Image

from fmtl.catalogue.photos.finding import best_finder
from fmtl.dataset import places, steps
from fmtl.errors import FmtlError
from fmtl.settings.schema import PrepareSettings

NUM = int(os.environ.get("FMTL_MUTATIONS", "60"))  # of each kind
MAX_SECONDS = 20  # for one table of a few kilobytes, on a machine that may be busy


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(1, ROWS + 1):
        Image.fromarray(np.full((9, 9, 3), i, np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_no_bytes_of_a_table_are_a_traceback_and_every_row_is_accounted_for(kind, photos, tmp_path, capsys):
    read = refused = 0
    for n, path in enumerate(tables(tmp_path, kind=kind, num=NUM, seed=7)):
        plan = PrepareSettings(table=str(path), images=str(photos), out=str(tmp_path / "out")).resolve()
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of libraries, on damaged files
                finders = places.finders(plan)
                catalogue, columns = places.read_tables(plan, finders)
                draft = steps.begin(catalogue, columns, plan)
                draft, problems = steps.find_photos(draft, best_finder(finders, draft.table["path"].tolist()))
        except FmtlError as error:
            assert str(path) in str(error), f"{kind} {n}: {error}"
            refused += 1
        else:
            lines = [*draft.lines, *(reject.line for reject in draft.rejects)]
            assert sorted(lines) == sorted(set(lines)) and len(lines) == catalogue.num_rows_read, f"{kind} {n}"
            assert set(problems) <= set(draft.lines)
            read += 1
        assert time.monotonic() - start < MAX_SECONDS, f"{kind} {n}"
    with capsys.disabled():
        print(f"\nmutated {kind}: {read} read, {refused} refused")
    assert read + refused == NUM and read > 0
