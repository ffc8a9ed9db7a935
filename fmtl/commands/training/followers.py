"""Trainings of several processes, as ``torchrun`` starts them: one leads, the others follow."""

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from fmtl.commands.publisher import Keeper, publish
from fmtl.commands.training import beginning, calling, resuming
from fmtl.commands.training.resuming import Earlier
from fmtl.commands.training.work import prepare
from fmtl.dataset.prepared import GROUP
from fmtl.errors import UsageError
from fmtl.hardware import choose_device
from fmtl.settings.train import TrainSettings
from fmtl.storage.records import SEAL, checked, read_json
from fmtl.together import collectives, ranks
from fmtl.together.ranks import Place
from fmtl.tracking import earlier, store
from fmtl.tracking.record import journal
from fmtl.tracking.record.folder import RunFolder

log = logging.getLogger(__name__)

LAUNCH, LAUNCH_TAG = "launch.json", "fmtl.launch"  # in the record of a run that torchrun started, and on its page
OWN = ("data", "device")  # settings that each process may have its own of


@contextlib.contextmanager
def together(variants: Sequence[TrainSettings]) -> Iterator[bool]:
    """Within it this process leads the others, if it yields true; else it has followed, and all is done.

    Raises:
        UsageError: Something is asked for that is for one process alone.
        FmtlError: What this process failed by as it followed.
    """
    place = ranks.here()
    if place.size == 1:
        yield True
        return
    if any(settings.budget is not None for settings in variants):
        raise UsageError("budget: it is for one process; give epochs")
    with collectives.joined(place, choose_device(variants[0].device)):
        if place.is_first:
            log.info("%d processes train together", place.size)
            yield True
        else:
            _follow(variants)
            yield False


def _follow(variants: Sequence[TrainSettings]) -> None:
    """Train what the first process trains, until it has no more."""
    while (call := calling.called()) is not None:
        own = variants[call.number - 1]
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


def tags(number: int) -> dict[str, str]:
    """The same in a store, for a machine that has no folder of the run."""
    place = ranks.here()
    return {LAUNCH_TAG: f"{place.launch} {number}"} if place.launch else {}


def again(settings: TrainSettings, number: int) -> TrainSettings | None:
    """The settings of a variant whose training an earlier attempt of this launch has begun: to go on with it.

    Where this launch has completed it there is nothing to do (None); one that completed it under the same name before
    does not count.
    """
    place = ranks.here()
    found = _begun_before(place, settings, number)
    if found is None:
        return settings
    if found.is_complete:
        begun = journal.begun(found.folder.journal().lines()) or 0
        if not place.since or begun < 1000 * place.since:
            return settings
        log.info("run %s completed before the processes were started again", found.name)
        return None
    why = "the processes were started again" if place.attempt else f"of --rdzv-id {place.launch}, which has not ended"
    log.info("going on with run %s: %s", found.name, why)
    return settings.model_copy(update={"resume": found.name, "fork": False, "extend_to": None})


def _begun_before(place: Place, settings: TrainSettings, number: int) -> Earlier | None:
    """The newest run of this launch; only that of a named launch can be older than the first attempt."""
    if not place.launch or not (place.attempt or place.is_named):
        return None
    begun = []
    there = [RunFolder.at(Path(settings.run_folder))] if settings.run_folder else []
    for folder in [*earlier.folders_here(), *there]:
        kept = folder.record / LAUNCH
        if kept.is_file():
            said = checked(read_json(kept), {"launch": str, "variant": int}, optional={SEAL: str}, where=str(kept))
            if (said["launch"], said["variant"]) == (place.launch, number):
                begun.append((journal.begun(folder.journal().lines()) or 0, str(folder.root)))
    if begun:
        return resuming.find(max(begun)[1])
    if settings.offline or not (quoted := store.quoted(f"{place.launch} {number}")):
        return None
    records = store.search_runs("train", where=f"tags.`{LAUNCH_TAG}` = {quoted}", most=1)
    return resuming.find(records[0].run_id) if records else None
