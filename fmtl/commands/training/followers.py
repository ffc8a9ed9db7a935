"""Trainings of several processes, as ``torchrun`` starts them: one leads, the others follow."""

import contextlib
import json
import logging
from collections.abc import Iterator

from fmtl.commands.publisher import Keeper, publish
from fmtl.commands.training import beginning, calling, resuming
from fmtl.commands.training.work import prepare
from fmtl.dataset.prepared import GROUP
from fmtl.errors import UsageError
from fmtl.hardware import choose_device
from fmtl.settings.train import TrainSettings
from fmtl.storage.records import SEAL, checked, read_json
from fmtl.together import collectives, ranks
from fmtl.together.ranks import Place
from fmtl.tracking import earlier
from fmtl.tracking.record import journal

log = logging.getLogger(__name__)

LAUNCH = "launch.json"  # in the record of a run that torchrun started
OWN = ("data", "device")  # settings that each process may have its own of


@contextlib.contextmanager
def together(settings: TrainSettings) -> Iterator[bool]:
    """Within it this process leads the others, if it yields true; else it has followed, and all is done.

    Raises:
        UsageError: Something is asked for that is for one process alone.
        FmtlError: What this process failed by as it followed.
    """
    place = ranks.here()
    if place.size == 1:
        yield True
        return
    if settings.budget is not None:
        raise UsageError("budget: it is for one process; give epochs")
    with collectives.joined(place, choose_device(settings.device)):
        if place.is_first:
            log.info("%d processes train together", place.size)
            yield True
        else:
            _follow(settings)
            yield False


def _follow(own: TrainSettings) -> None:
    """Train what the first process trains, until it has no more."""
    while (call := calling.called()) is not None:
        given = call.settings | {name: getattr(own, name) for name in OWN if name in own.model_fields_set}
        work = prepare(TrainSettings.model_validate(given), spec=call.spec)
        training = beginning.begun(work, call.last, None)
        keeper = Keeper(None, training, more={}) if work.settings.save_checkpoints else None
        publish(training, [], keeper=keeper)
        groups = work.dataset.table[GROUP].to_numpy()[work.dataset.rows("val")]
        training.finish(work.data.test(), val=work.data.val(), groups=groups)
        collectives.dismiss()


def launch(number: int) -> dict[str, str]:
    """What the record of a run keeps of the launch that it belongs to: file names and texts.

    Args:
        number: Of the variant.
    """
    place = ranks.here()
    return {LAUNCH: json.dumps({"launch": place.launch, "variant": number})} if place.launch else {}


def again(settings: TrainSettings, number: int) -> TrainSettings | None:
    """The settings of a variant whose training an earlier attempt of this launch has begun: to go on with it.

    Where it is complete there is nothing to do (None), unless the launch itself is a new one under an old name.
    """
    place = ranks.here()
    folder = _begun_before(place, number)
    if folder is None:
        return settings
    found = resuming.find(str(folder))
    if found.is_complete:
        if not place.attempt:
            return settings
        log.info("run %s completed before the processes were started again", found.name)
        return None
    why = "the processes were started again" if place.attempt else f"of --rdzv-id {place.launch}, which has not ended"
    log.info("going on with run %s: %s", found.name, why)
    return settings.model_copy(update={"resume": str(folder), "fork": False, "extend_to": None})


def _begun_before(place: Place, number: int) -> object:
    """Folder of the newest run of this launch; only that of a named launch can be older than the first attempt."""
    if not place.launch or not (place.attempt or place.is_named):
        return None
    wanted, begun = {"launch": place.launch, "variant": number}, []
    for folder in earlier.folders_here():
        kept = folder.record / LAUNCH
        if kept.is_file():
            said = checked(read_json(kept), {"launch": str, "variant": int}, optional={SEAL: str}, where=str(kept))
            if {name: said[name] for name in wanted} == wanted:
                begun.append((journal.begun(folder.journal().lines()) or "", str(folder.root), folder))
    return max(begun, key=lambda item: item[:2])[2].root if begun else None
