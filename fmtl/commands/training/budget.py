"""What fits into a time: epochs, side and network of a training that has a budget of seconds.

A larger side is taken to be worth more than more epochs, once there are enough of them, and a larger network more than
still more of either: a rule of thumb. So a ladder is climbed as far as real trials say that enough epochs fit.
"""

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from fmtl.commands.choosing import inherited
from fmtl.commands.training.pace import Pace, measure
from fmtl.commands.training.work import prepare, side
from fmtl.dataset.prepared import open_dataset
from fmtl.dataset.splits import SPLITS
from fmtl.errors import DataError, EnvironmentFault, UsageError
from fmtl.evaluation import label_issues
from fmtl.model import backbones
from fmtl.model.weights.pretrained import BUNDLED
from fmtl.settings.train import TrainSettings
from fmtl.training.run import EpochRecord

log = logging.getLogger(__name__)

ENOUGH_EPOCHS, MOST_EPOCHS = 8, 60
SIDES = (64, 96, 128, 160, 192, 224, 256)
FIRST_PX = 128  # of the first trial
TRIAL_SHARE = 0.15  # of the budget, after which no further rung is tried
COSTS = dict(zip(BUNDLED, (1.0, 1.5, 2.0), strict=True))  # of a photo, to begin with; a trial tells
AIM = 0.92  # of the budget: what is timed in advance varies
UP, DOWN = 2.0, 1.5  # power of the side that a step's time is guessed by: a small one has much that does not shrink
# Of the end of a run, in figures, whose time is measured: drawn, and what takes as long as so many.
FIGURES, FIGURES_OF_TASK = 5, 3
ENDING, GALLERY, SUSPECT_STEPS = 14, 5, 0.012
WAYS = ("precision", "channels_last", "batch_size")  # what is found by trial
NOT_HERE = (UsageError, DataError, EnvironmentFault, torch.OutOfMemoryError)  # a network that takes no such side, ...


@dataclass(frozen=True)
class Rung:
    """A network and a side of its input."""

    backbone: str
    px: int


@dataclass(frozen=True)
class Limit:
    """When a run is to be over.

    Attributes:
        budget: Seconds that it may take.
        end: By the monotonic clock.
        kept: Seconds that an epoch takes besides training and validation.
        rest: Seconds after the last epoch.
    """

    budget: float
    end: float
    kept: float
    rest: float

    def ends_after(self, record: EpochRecord) -> bool:
        """Whether there is no time for another epoch like this one; then says so."""
        left = self.end - time.monotonic() - self.rest
        is_short = left < record.metrics["epoch_seconds"] + self.kept
        if is_short := is_short and record.seconds_left > 0 and not record.stopped_after:
            log.warning(
                "budget: it took longer than the trial said; to be over in time the training ends after epoch %d, "
                "with rates that have not come down yet", record.epoch,
            )  # fmt: skip
        return is_short


def settled(settings: TrainSettings, *, since: float) -> tuple[TrainSettings, Limit | None]:
    """With epochs, side and network that fit, where there is a budget; says what was chosen, and why.

    Args:
        since: When the run began, by the monotonic clock.

    Raises:
        UsageError: The budget is too small.
        DataError, EnvironmentFault: As ``prepare``.
    """
    if settings.budget is None:
        return settings, None
    trial = _Trial(settings, since=since)
    rung, epochs = trial.settle()
    if not epochs:
        raise UsageError(
            f"budget: {_in_words(settings.budget)} are too little: an epoch of {rung.backbone} at {rung.px} px takes "
            f"{trial.epoch_seconds(rung):.0f} s here, start and end of the run {trial.around(rung):.0f} s"
        )
    log.info(
        "budget of %s: %d epochs%s of %s at %d px, about %.1f s each, and %.0f s after them (what is given is not "
        "chosen: px, or backbone and weights, or epochs instead of a budget)",
        _in_words(settings.budget), epochs, ", the most there are," * (epochs == MOST_EPOCHS), rung.backbone, rung.px,
        trial.epoch_seconds(rung), trial.rest(rung),
    )  # fmt: skip
    return trial.chosen(rung, epochs)


def fastest(settings: TrainSettings) -> TrainSettings:
    """The first that ``settled`` may come to; the settings as they are where there is no budget."""
    if settings.budget is None:
        return settings
    first = ladder(settings, open_dataset(Path(settings.data)).px)[0]
    return _on(first, settings)


def _in_words(seconds: float) -> str:
    return f"{seconds:g} seconds" if seconds < 60 else f"{seconds / 60:g} minutes"


def _on(rung: Rung, settings: TrainSettings) -> TrainSettings:
    update: dict[str, object] = {"px": rung.px, "backbone": rung.backbone}
    if rung.backbone != settings.backbone:
        update["weights"] = "bundled"
    return settings.model_copy(update=update)


def ladder(settings: TrainSettings, stored_px: int) -> list[Rung]:
    """What may be chosen, from the fastest on: sides where none is given, bundled networks where none is."""
    names = [settings.backbone]
    if settings.leaves_network_open:
        names = [name for name, package in BUNDLED.items() if find_spec(package)] or names
    rungs = []
    for name in names:
        most = min(stored_px, backbones.input_spec(name).px)
        sides = [settings.px] if isinstance(settings.px, int) else [*(px for px in SIDES if px < most), most]
        # A larger network is worth its time at full size only.
        rungs += [Rung(name, px) for px in (sides if name == names[0] else sides[-1:])]
    return rungs


def climb(rungs: Sequence[Rung], epochs: Callable[[Rung], int]) -> tuple[Rung, int]:
    """The last rung on which there are enough epochs, or the first; and its epochs, ``MOST_EPOCHS`` at most."""
    chosen, found = rungs[0], epochs(rungs[0])
    for rung in rungs[1:]:
        if (there := epochs(rung)) < ENOUGH_EPOCHS:
            break
        chosen, found = rung, there
    return chosen, min(found, MOST_EPOCHS)


class _Trial:
    """Times rungs of the ladder as they are asked for; what was not timed is guessed from what was."""

    def __init__(self, settings: TrainSettings, *, since: float):
        self._budget = settings.budget or 0.0
        self.dataset = open_dataset(Path(settings.data))
        if settings.px == "auto":
            own = inherited.find(settings)[0]
            own_px = own.input_spec.px if own else backbones.input_spec(settings.backbone).px
            settings = settings.model_copy(update={"px": side(settings, self.dataset, own_px)})
        self._settings, self._since = settings, since
        self._begun, self._end = time.monotonic(), since + AIM * self._budget
        self._num = {split: len(self.dataset.rows(split)) for split in SPLITS}
        self._paces: dict[Rung, Pace] = {}
        self._found: dict[Rung, TrainSettings] = {}  # with what was found out about the machine
        self._start: dict[Rung, float] = {}  # seconds until its network is there
        self._fault: Exception | None = None

    def settle(self) -> tuple[Rung, int]:
        """The rung that there is time for, one that was timed unless the trials themselves took long; and its epochs.

        Raises:
            UsageError, DataError, EnvironmentFault: None of them can be trained here.
        """
        rungs = ladder(self._settings, self.dataset.px)
        while rungs:
            if not self._paces:
                rung = min(rungs, key=lambda rung: abs(rung.px - FIRST_PX))
            else:
                rung, epochs = climb(rungs, self.epochs)
                if rung in self._paces or self._is_long:
                    return rung, epochs
            if not self.time(rung):
                rungs = [other for other in rungs if other != rung]
        assert self._fault
        raise self._fault

    @property
    def _is_long(self) -> bool:
        return time.monotonic() - self._begun > TRIAL_SHARE * self._budget

    def time(self, rung: Rung) -> bool:
        """Returns whether the network takes such images here."""
        log.info("budget: timing %s at %d px", rung.backbone, rung.px)
        try:
            self._time(rung)
        except NOT_HERE as error:
            self._fault = error
            log.info("budget: not at %d px: %s", rung.px, error)
            return False
        finally:
            gc.collect()  # networks are in circles with what trains them, and memory counts
        log.debug("%s at %d px: %s", rung.backbone, rung.px, self._paces[rung])
        return True

    def _time(self, rung: Rung) -> None:
        settings = self.settings_of(rung)
        if rung.backbone not in {timed.backbone for timed in self._paces}:
            settings = prepare(settings, quietly=True).settings  # with the trial of precision, layout and batch
        started = time.monotonic()
        work = prepare(settings, quietly=True)
        self._start[rung], self._found[rung] = time.monotonic() - started, work.settings
        self._paces[rung] = measure(work)

    def settings_of(self, rung: Rung) -> TrainSettings:
        """What is asked for, on this rung, and run as its network was found to be fastest."""
        settings, nearest = _on(rung, self._settings), self._nearest(rung)
        if nearest is None or nearest.backbone != rung.backbone:
            return settings
        found = self._found[nearest]
        return settings.model_copy(update={name: getattr(found, name) for name in WAYS})

    def epochs(self, rung: Rung) -> int:
        """How many fit into what is left of the budget."""
        left = self._end - time.monotonic() - self._start.get(rung, 0) - self.rest(rung)
        return max(int(left / self.epoch_seconds(rung)), 0)

    def epoch_seconds(self, rung: Rung) -> float:
        return self._pace(rung).epoch(self._num["train"], self._num["val"])

    def rest(self, rung: Rung) -> float:
        """Seconds after the last epoch."""
        pace, settings = self._pace(rung), self._settings
        figures, num_evaluated = float(ENDING), self._num["val"] + self._num["test"]
        if settings.extra_plots:
            figures += FIGURES + FIGURES_OF_TASK * len(self.dataset.tasks)
        if settings.gallery:
            num_evaluated += len(self.dataset.targets)
            figures += GALLERY + SUSPECT_STEPS * label_issues.num_steps(len(self.dataset.targets))
        return pace.evaluated * num_evaluated + pace.figure * figures

    def around(self, rung: Rung) -> float:
        """Seconds without any epoch."""
        return time.monotonic() - self._since + self.rest(rung)

    def chosen(self, rung: Rung, epochs: int) -> tuple[TrainSettings, Limit]:
        """Its settings, complete without the budget."""
        settings = self.settings_of(rung).model_copy(update={"epochs": epochs, "budget": None})
        return settings, Limit(self._budget, self._since + self._budget, self._pace(rung).kept, self.rest(rung))

    def _nearest(self, rung: Rung) -> Rung | None:
        """Of those that were timed; of the same network, if there is one."""
        of_network = [timed for timed in self._paces if timed.backbone == rung.backbone]
        return min(of_network or self._paces, key=lambda timed: abs(timed.px - rung.px), default=None)

    def _pace(self, rung: Rung) -> Pace:
        nearest = self._nearest(rung)
        assert nearest is not None
        more = COSTS.get(rung.backbone, 1.0) / COSTS.get(nearest.backbone, 1.0)
        ratio = rung.px / nearest.px
        return self._paces[nearest].times(ratio ** (UP if ratio > 1 else DOWN) * more)
