"""``sync``: run folders to the store, whatever kept them from it."""

from fmtl.errors import EnvironmentFault
from fmtl.settings.schema import SyncSettings
from fmtl.tracking import as_guest, earlier, faults, store
from fmtl.tracking.delivery import syncing


def sync(settings: SyncSettings) -> None:
    """Run the whole command; prints a line for each run.

    Raises:
        DataError: There is no such run.
        EnvironmentFault: Something was not delivered.
    """
    wanted = earlier.folders_here() if settings.run == "all" else [earlier.require_here(settings.run)]
    failures = []
    with as_guest(soon=False):
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
