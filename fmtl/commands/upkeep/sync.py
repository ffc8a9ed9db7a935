"""``sync``: run folders to the store, whatever kept them from it."""

import contextlib

from fmtl.errors import EnvironmentFault
from fmtl.settings.schema import SyncSettings
from fmtl.tracking import as_guest, doctor, earlier, faults, store
from fmtl.tracking.delivery import syncing
from fmtl.tracking.record.folder import RunFolder


def sync(settings: SyncSettings) -> None:
    """Run the whole command; prints a line for each run.

    Raises:
        DataError: There is no such run.
        EnvironmentFault: Something was not delivered.
    """
    failures = []
    with as_guest(soon=False):
        wanted = _all() if settings.run == "all" else [earlier.require_here(settings.run)]
        for folder in wanted:
            try:
                if syncing.is_delivered(folder):
                    told = f"{store.address()} has all of it" if settings.run != "all" else ""
                elif folder.is_held:
                    told = f"it is running ({folder.lease()}), and delivers itself"
                else:
                    told = f"delivered to {store.address()} as {syncing.deliver(folder)}"
            except Exception as error:  # whatever is wrong with one, the others are delivered
                problem = faults.problem_of(error)
                told = f"not delivered: {problem}"
                failures.append(f"{folder.root.name}: {problem}")
            if told:
                print(f"run {folder.root.name}: {told}")
    if failures:
        raise EnvironmentFault(
            f"MLflow store {store.address()}: {len(failures)} of {len(wanted)} runs were not delivered "
            f"({failures[0]}); 'fmtl sync' goes on where it stopped"
        )
    if not wanted:
        print("no run folders here: there is nothing to deliver")


def _all() -> list[RunFolder]:
    """Those below this folder, and those that the store waits for, wherever on this machine their artifacts lie."""
    here = earlier.folders_here()
    known = {folder.record for folder in here}
    with contextlib.suppress(EnvironmentFault):  # each delivery says so, too
        here += [folder for folder in doctor.folders_of_unfinished() if folder.record not in known]
    return here
