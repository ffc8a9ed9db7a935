"""``register``: a train run's model to a registered version and its alias."""

from fmtl.commands.choosing.gate import Rules
from fmtl.commands.choosing.runs import best_run, find, other_groups, rank_runs
from fmtl.commands.choosing.runs import register as register_run
from fmtl.settings.fields import by_name
from fmtl.settings.schema import RegisterSettings
from fmtl.tracking import doctor, store
from fmtl.tracking.run import adopted_run


def register(settings: RegisterSettings) -> None:
    """Run the whole command; prints what was registered."""
    doctor.mend_dead()
    with adopted_run("register"):
        if settings.run == "best":
            found = find(experiment=settings.experiment)
            board = rank_runs(found.records, metric=settings.metric)
            record = best_run(found.records, board)
            if others := other_groups(board, found.others):
                print(others)
        else:
            record = store.get_run(settings.run)
        said = register_run(record, name=settings.name, alias=settings.alias, rules=by_name(Rules, settings))
        print(said[0])
        print(f"use it: fmtl predict --model models:/{settings.name}@{settings.alias} --images FOLDER")
        for line in said[1:]:
            print(line)
