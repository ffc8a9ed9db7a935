"""A run that is to go on: where it is, what it has, and what may not change in it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fmtl.commands.choosing import inherited
from fmtl.commands.publisher import CheckpointFiles
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError, UsageError
from fmtl.metric_names import BY_CHOICE, EPOCH, TRAIN_LOSS
from fmtl.model.backbones import InputSpec
from fmtl.settings.reading import build_from_file
from fmtl.settings.train import MODES, OBJECTIVES, TrainSettings
from fmtl.storage.records import SEAL, checked, read_json
from fmtl.tasks import Tasks
from fmtl.tracking import earlier, store
from fmtl.tracking.delivery import state
from fmtl.tracking.earlier import SETTINGS
from fmtl.tracking.record import journal
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.recording import Run
from fmtl.tracking.store import RunRecord
from fmtl.training import checkpoints
from fmtl.training.checkpoints import Checkpoint
from fmtl.training.history import best_by
from fmtl.training.run import Resumed
from fmtl.training.setup import Setup

log = logging.getLogger(__name__)

LAST = "last"  # of the trainings of this folder the one that was begun last; where there is none, of the store
SOURCE = "source.json"  # in the record of a run that goes on from another one
# A run may go on under other values of these, since they do not change what is learnt.
FREE = {
    "data", "allow_stale", "device", "experiment", "run_name", "resume", "extra_plots", "gallery", "offline",
    "run_folder", "checkpoint_minutes",
}  # fmt: skip
BEGINNING = {"resume", "fork", "extend_to"}  # how a run begins: of the command, not of the run


@dataclass(frozen=True)
class Earlier:
    """A run that is to go on.

    Attributes:
        record: What the store says of it; None where its folder says all.
        settings: Of that run.
    """

    folder: RunFolder
    record: RunRecord | None
    tags: dict[str, str]
    settings: TrainSettings

    @property
    def name(self) -> str:
        """How to name it to people."""
        return self.record.run_id if self.record else self.folder.root.name

    @property
    def is_complete(self) -> bool:
        return self.tags.get("fmtl.outcome") == "completed"

    @property
    def files(self) -> CheckpointFiles:
        stem = f"{self.settings.backbone}_{self.settings.mode}"
        return CheckpointFiles(self.folder.files / "checkpoints" / stem, {})

    @property
    def source(self) -> str:
        """The run that this one was to go on from; empty of one that began by itself."""
        kept = self.folder.record / SOURCE
        if not kept.is_file():
            return ""
        return checked(read_json(kept), {"run": str}, optional={SEAL: str}, where=str(kept))["run"]

    def whole(self) -> Checkpoint:
        """Its newest checkpoint at the end of an epoch: what another run can go on from.

        Raises:
            DataError: There is none.
        """
        for _, found in self.files.generations("last"):
            if found.epoch and not found.training.get("position"):
                return found
        raise DataError(
            f"run {self.name}: it has no checkpoint at the end of an epoch to go on from; --resume {self.name} "
            "finishes the epoch that it is in", where="resume",
        )  # fmt: skip

    def last(self) -> Checkpoint | None:
        """Where it stands; None where it had not come to a first checkpoint. Call it with the run held.

        Raises:
            DataError: Its checkpoints are gone, or all of them are damaged.
        """
        file, found = next(self.files.generations("last"), (None, None))
        if file and file != self.files.path("last"):
            checkpoints.take_back(self.files.path("last"))
        done = logged_epochs(self.folder, self.record)
        if found is None and done and self.settings.save_checkpoints:
            raise DataError(
                f"run {self.name}: its checkpoints are gone ({self.files.path('last')}), though {len(done)} of its "
                "epochs are recorded; train it anew, as a run of its own", where="resume",
            )  # fmt: skip
        return found


def find(which: str) -> Earlier:
    """The run that an id, a folder or ``last`` names.

    Raises:
        DataError: There is none, or nothing of it was kept.
    """
    folder = _newest_here() if which == LAST else earlier.find_here(which)
    record = None
    if folder is None or not _says_all(folder):
        record = _newest_of_store() if which == LAST else store.get_run(_known_as(folder) or which)
        folder = folder or earlier.bring(record)
    tags = dict(record.tags) if record else journal.tags_of(folder.journal().lines())
    return Earlier(folder, record, tags, _settings(folder, which))


def _says_all(folder: RunFolder) -> bool:
    """Whether a folder's record is the run's own from its beginning, so that no store need be asked."""
    tags = journal.tags_of(folder.journal().lines())
    return bool(tags.get("fmtl.data")) or (folder.record / SETTINGS).is_file()


def _known_as(folder: RunFolder | None) -> str:
    """Id of a folder's run in the store in use; empty if it has none there."""
    noted = state.all_of(folder.record) if folder else []
    return next((found.run_id for found in reversed(noted) if found.run_id), "")


def _newest_here() -> RunFolder | None:
    """Of the trainings whose folder is below this one."""
    trainings = (folder for folder in earlier.folders_here() if folder.glimpse().get("kind") == "train")
    begun = [(at, folder) for folder in trainings if (at := journal.begun(folder.journal().lines()))]
    return max(begun, key=lambda item: item[0])[1] if begun else None


def _newest_of_store() -> RunRecord:
    found = store.search_runs("train")
    if not found:
        raise DataError(f"there is no training yet below {Path.cwd()} or in {store.address()}", where="resume")
    return found[0]  # MLflow has the newest first


def _settings(folder: RunFolder, which: str) -> TrainSettings:
    places = [place / SETTINGS for place in (folder.files, folder.record) if (place / SETTINGS).is_file()]
    if not places:
        raise DataError(f"run {which}: nothing of it was kept, not even its settings; train it anew", where="resume")
    (settings,) = build_from_file(TrainSettings, {}, places[0])
    # Older versions, which did not write it down, had no other.
    default = settings.defaults["choose_by"] if "choose_by" in settings.model_fields_set else "loss"
    return settings.model_copy(update={"choose_by": settings.choose_by or default})


def logged_epochs(folder: RunFolder, record: RunRecord | None) -> set[int]:
    """Those whose metrics are recorded already."""
    found = store.steps_of(record.run_id, TRAIN_LOSS) if record else set()
    for line, _ in folder.journal().lines():
        if line["op"] == "metrics" and TRAIN_LOSS in line["values"]:
            found.add(line["step"])
        elif line["op"] == "there":
            found |= set(line["steps"])
    return found


def unchanged(asked: TrainSettings, original: TrainSettings) -> TrainSettings:
    """The settings of a run that goes on: its own, and what is asked for and free.

    Raises:
        UsageError: Something else is asked for.
    """
    changed = [
        f"{name}: the run has {getattr(original, name)!r}, got {getattr(asked, name)!r}"
        for name in sorted(asked.model_fields_set - FREE)
        if getattr(asked, name) not in ("auto", getattr(original, name))
        and not (name == "weights" and inherited.is_meant(asked.weights) and inherited.is_meant(original.weights))
    ]
    if changed:
        raise UsageError(
            "resume: these settings can't change within a run; --fork trains on under them in a run of its own, and "
            "--extend-to N for more epochs:\n  - " + "\n  - ".join(changed)
        )
    return original.model_copy(update={name: getattr(asked, name) for name in FREE & asked.model_fields_set})


def of_fork(asked: TrainSettings, original: TrainSettings, *, done: int) -> TrainSettings:
    """The settings of a run that goes on from another one.

    Args:
        done: Epochs of that one.

    Raises:
        UsageError: No epoch is left to train, or the network is another one.
    """
    given = {name: getattr(asked, name) for name in asked.model_fields_set - BEGINNING}
    if asked.extend_to is not None:
        given["epochs"] = asked.extend_to
    if given.get("backbone", original.backbone) != original.backbone:
        raise UsageError(f"fork: backbone: the run's weights are of {original.backbone}, not of {given['backbone']}")
    if given.setdefault("choose_by", original.choose_by) != original.choose_by:
        raise UsageError(f"fork: choose_by: of its epochs the run kept the best by {original.choose_by} alone")
    kept = original.model_dump()
    if given.get("mode", original.mode) != original.mode:  # what depends on the mode comes from the new one
        kept = {name: value for name, value in kept.items() if name not in MODES[original.mode]}
    if given.get("objective", original.objective) != original.objective:
        kept = {name: value for name, value in kept.items() if name not in OBJECTIVES["f1"]}
    name = original.run_name or f"{original.backbone}-{original.mode}"
    kept |= {"run_name": f"{name}-{'extended' if not asked.fork else 'fork'}", "run_folder": None, "offline": False}
    settings = TrainSettings.model_validate(kept | given)
    if settings.epochs <= done:
        raise UsageError(
            f"epochs: the run has done {done} already, and {settings.epochs} are asked for; --extend-to {done + 5}, say"
        )
    return settings


def best_of(found: Earlier, last: Checkpoint, *, is_held: bool) -> Checkpoint | None:
    """The weights of the best epoch that a run's last checkpoint knows of; None before the first.

    Args:
        is_held: The run is this process's to go on with.

    Raises:
        DataError: They are gone.
    """
    history = last.training["history"]
    if not history:
        return None
    chosen_by, files = BY_CHOICE[str(found.settings.choose_by)], found.files
    epoch = best_by(history, chosen_by)[EPOCH]
    for file, kept in files.generations("best"):
        if kept.epoch == epoch:
            if file != files.path("best") and is_held:
                checkpoints.take_back(files.path("best"))  # or the next best one would take its place
            return kept
    raise DataError(f"{files.path('best')}: expected the weights of epoch {epoch}, the best so far; they are gone")


def before(last: Checkpoint | None) -> int:
    """Epochs that another run did, where this one goes on from it."""
    return last.training.get("before", 0) if last else 0


def first_of_fork(source: Checkpoint) -> Checkpoint:
    """What a run of its own begins with: weights and history, neither optimizer nor position."""
    training = {"updater": {}, "history": source.training["history"], "position": None, "before": source.epoch}
    return replace(source, training=training)


def seen_by(checkpoint: Checkpoint | None) -> InputSpec | None:
    """How photos become input of a checkpoint's network; None where it does not say."""
    if checkpoint is None or "preprocess" not in checkpoint.settings:
        return None
    return InputSpec.of(Preprocess.from_json(checkpoint.settings["preprocess"]))


def take_over(setup: Setup, last: Checkpoint, best: Checkpoint | None) -> Resumed:
    """Put the weights into the network. Returns what else a training goes on with.

    Raises:
        DataError: They are of another network, or of other classes.
    """
    _same_tasks(last.tasks, setup.tasks)
    try:
        setup.net.load_state_dict(last.model)
    except RuntimeError as error:
        raise DataError(f"the checkpoint's weights do not fit the network: {error}", where="resume") from error
    kept = last.training
    return Resumed(
        history=kept["history"],
        updater=kept["updater"] or None,
        best_weights=best.model if best else {},
        position=kept.get("position"),
    )


def _same_tasks(was: Tasks, now: Tasks) -> None:
    if was.names != now.names:
        raise DataError(
            f"the run learnt {', '.join(was.names)}; the dataset has {', '.join(now.names)}", where="resume"
        )
    for old, new in zip(was, now, strict=True):
        if old.kind != new.kind:
            raise DataError(f"attribute '{old.name}': {old.kind} in the run, {new.kind} in the dataset", where="resume")
        if old.classes != new.classes:
            what = "the same classes in another order" if set(old.classes) == set(new.classes) else "other classes"
            raise DataError(f"attribute '{old.name}': the dataset has {what} than the run", where="resume")


def tell(run: Run, last: Checkpoint, machine: Mapping[str, str], tags: Mapping[str, str]) -> None:
    """Say and record where the run goes on, and whether it will end as if it had never been interrupted."""
    was = last.training.get("machine", {})
    differs = [] if was else ["the checkpoint does not say on which machine it was made"]
    differs += [f"{name} {was[name]}, now {now}" for name, now in machine.items() if was.get(name, now) != now]
    if "threads" not in machine:
        differs.append("a GPU adds up in no fixed order")
    is_exact = not differs and tags.get("fmtl.resume") != "approximate"
    position = last.training.get("position")
    where = f"epoch {last.epoch}" + (f", {position['num_batches']} batches" if position else "")
    log.info("it goes on after %s%s", where, f"; approximately: {'; '.join(differs)}" if differs else "")
    run.set_tags({"fmtl.resumed_from": where, "fmtl.resume": "exact" if is_exact else "approximate"})
