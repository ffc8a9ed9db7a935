"""What fits into a time: epochs, side and network of a training that has a budget of seconds.

A larger side is worth more than more epochs, once there are enough of them, and a larger network more than still more
of either (``docs/recipe.md``). So a ladder is climbed as far as a real trial says that enough epochs fit.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fmtl.commands.training.pace import Pace, measure
from fmtl.commands.training.work import prepare
from fmtl.dataset.prepared import open_dataset
from fmtl.dataset.splits import SPLITS
from fmtl.errors import UsageError
from fmtl.model import backbones
from fmtl.model.pretrained import BUNDLED
from fmtl.settings.train import TrainSettings
from fmtl.training.progress import duration
from fmtl.training.run import EpochRecord

log = logging.getLogger(__name__)

ENOUGH_EPOCHS, MOST_EPOCHS = 10, 60
SIDES = (64, 96, 128, 160, 192, 224, 256)
FIRST_PX = 128  # of the first trial
AIM = 0.95  # of the budget: what is timed in advance varies
FIGURES, FIGURES_OF_TASK = 5, 5  # of the run's page; see run_page
ENDING = 1.0  # times the start: what a run does at its end besides figures and photos


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
        rest: Seconds that it takes after its last epoch.
    """

    budget: float
    end: float
    rest: float

    def ends_after(self, record: EpochRecord) -> bool:
        """Whether there is no time for an epoch like this one; then says so."""
        left = self.end - time.monotonic() - self.rest
        is_short = bool(record.seconds_left) and record.metrics["epoch_seconds"] > left
        if is_short:
            log.warning(
                "budget: epochs take longer than in the trial: to be over in time the training ends after epoch %d, "
                "with rates that have not come down yet", record.epoch,
            )  # fmt: skip
        return is_short


def settled(settings: TrainSettings, *, since: float) -> tuple[TrainSettings, Limit | None]:
    """With epochs, side and network that fit, where there is a budget; says what was chosen, and why.

    Args:
        since: When the run began, by the monotonic clock.

    Raises:
        UsageError: The budget is too small, or a setting does not go with it.
    """
    if settings.budget is None:
        return settings, None
    if "epochs" in settings.model_fields_set:
        raise UsageError("budget, epochs: give one of them; the budget decides how many epochs there are")
    if settings.num_frozen:
        raise UsageError("budget: it is for trainings of the whole network; leave freeze and freeze_epochs out")
    trial = _Trial(settings, since=since)
    rungs = ladder(settings, trial.dataset.px)
    trial.time(min(rungs, key=lambda rung: abs(rung.px - FIRST_PX)))
    while not trial.has_timed((found := climb(rungs, trial.epochs))[0]):
        trial.time(found[0])
    rung, epochs = found
    if not epochs:
        raise UsageError(
            f"budget: {duration(settings.budget)} is too little: an epoch of {rung.backbone} at {rung.px} px takes "
            f"{trial.epoch_seconds(rung):.0f} s here, start and end of the run {trial.around(rung):.0f} s"
        )
    log.info(
        "budget of %s: %d epochs of %s at %d px, about %.1f s each, and %.0f s after them; epochs, px and backbone, "
        "instead of a budget, say it otherwise",
        duration(settings.budget), epochs, rung.backbone, rung.px, trial.epoch_seconds(rung), trial.rest(rung),
    )  # fmt: skip
    return trial.chosen(rung, epochs), Limit(settings.budget, since + settings.budget, trial.rest(rung))


def ladder(settings: TrainSettings, stored_px: int) -> list[Rung]:
    """What may be chosen, from the fastest on: sides where none is given, bundled networks where none is."""
    names = [settings.backbone]
    if not {"backbone", "weights"} & settings.model_fields_set:
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
        assert settings.budget is not None
        self._settings, self._since = settings, since
        self._start, self._end = time.monotonic() - since, since + AIM * settings.budget
        self.dataset = open_dataset(Path(settings.data))
        self._num = {split: len(self.dataset.rows(split)) for split in SPLITS}
        self._paces: dict[Rung, Pace] = {}
        self._found: dict[Rung, TrainSettings] = {}  # with what was found out about the machine

    def has_timed(self, rung: Rung) -> bool:
        return rung in self._paces

    def time(self, rung: Rung) -> None:
        work = prepare(self._settings_of(rung))
        self._found[rung] = work.settings
        self._paces[rung] = measure(work)
        log.debug("%s at %d px: %s", rung.backbone, rung.px, self._paces[rung])

    def epochs(self, rung: Rung) -> int:
        """How many fit into what is left of the budget."""
        left = self._end - time.monotonic() - self.rest(rung)
        return max(int(left / self.epoch_seconds(rung)), 0)

    def epoch_seconds(self, rung: Rung) -> float:
        return self._pace(rung).epoch(self._num["train"], self._num["val"])

    def rest(self, rung: Rung) -> float:
        """Seconds after the last epoch."""
        pace, settings = self._pace(rung), self._settings
        seconds = pace.evaluated * self._num["test"] + ENDING * self._start
        if settings.extra_plots:
            seconds += pace.figure * (FIGURES + FIGURES_OF_TASK * len(self.dataset.tasks))
        if settings.gallery:
            seconds += pace.evaluated * len(self.dataset.targets) + ENDING * self._start
        return seconds

    def around(self, rung: Rung) -> float:
        """Seconds without any epoch."""
        return time.monotonic() - self._since + self.rest(rung)

    def chosen(self, rung: Rung, epochs: int) -> TrainSettings:
        """The settings of a rung that was timed, and that are complete without the budget."""
        found = self._found[rung]
        ways = {name: getattr(found, name) for name in ("precision", "channels_last", "batch_size")}
        return self._settings_of(rung).model_copy(update={**ways, "epochs": epochs, "budget": None})

    def _settings_of(self, rung: Rung) -> TrainSettings:
        update: dict[str, object] = {"px": rung.px, "backbone": rung.backbone}
        if rung.backbone != self._settings.backbone:
            update["weights"] = "bundled"
        return self._settings.model_copy(update=update)

    def _pace(self, rung: Rung) -> Pace:
        if rung in self._paces:
            return self._paces[rung]
        of_network = [timed for timed in self._paces if timed.backbone == rung.backbone]
        nearest = min(of_network or self._paces, key=lambda timed: abs(timed.px - rung.px))
        return self._paces[nearest].at(rung.px, nearest.px)
