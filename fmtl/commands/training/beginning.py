"""A training, from the beginning or from where a checkpoint left it."""

from dataclasses import replace

from fmtl.commands.training import resuming
from fmtl.commands.training.work import Work
from fmtl.together import collectives
from fmtl.training.checkpoints import Checkpoint
from fmtl.training.run import Training


def begun(work: Work, last: Checkpoint | None, best: Checkpoint | None) -> Training:
    """The training, whose network holds what it begins with.

    Args:
        last, best: Where it goes on from, if it does.
    """
    setup, done, before = work.setup, last.epoch if last else 0, resuming.before(last)
    resumed = resuming.take_over(setup, last, best) if last else None
    collectives.spread(setup.net)
    stages = replace(work.data, setup=setup.without(before)).stages(done=done - before)
    return Training(
        setup.net, setup.tasks, stages, loss=setup.loss, device=setup.device, choose_by=setup.plan.choose_by,
        resumed=resumed, before=before,
    )  # fmt: skip
