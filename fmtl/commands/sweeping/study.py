"""What the workers of a sweep share: Optuna's storage, in which every trial is a slot's and each slot is filled once.

A slot is a training that the sweep is to have: ``3`` of a search, ``7 seed 1`` of a grid's seventh combination,
``12 seed 2`` of the best settings with another seed. Slots are trials that wait; a worker takes one, says every few
seconds that it lives, and where it stops doing so another worker takes its slot, and goes on with its run.

A slot may have several trials one after the other. One that is given up has in ``NEXT`` what the following one begins
with, and whoever comes by sees to it that it is there: at no point can a kill lose a slot. Two that are there by
chance are told apart by their numbers.
"""

import contextlib
import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from fmtl.errors import EndedEarly, EnvironmentFault, UsageError, redacted
from fmtl.settings.space import Choice, Range, Space
from fmtl.tracking.record.lease import Lease

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.exceptions import StorageInternalError
    from optuna.storages import BaseStorage, JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, Trial, TrialState
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import DatabaseError, SQLAlchemyError
except ImportError as error:
    raise EnvironmentFault("sweep needs Optuna: pip install 'fmtl[sweep]'") from error

log = logging.getLogger(__name__)

R = TypeVar("R")

BEAT_SECONDS, SILENT_SECONDS = 10.0, 90.0
REST_SECONDS = 15.0
TRIES = 5  # of a database that does not answer
MOST_ATTEMPTS = 5  # at a slot whose workers die
MOST_DRAWS = 6  # of settings that were tried before
STARTUP = 10  # trials drawn at random before TPE learns from them
# What is known of a trial besides its values.
SLOT, SEED, LEASE, BEAT, RUN, ATTEMPTS, DRAWS = "slot", "seed", "lease", "beat", "run", "attempts", "draws"
NEXT, TWICE, WHY, SAME, STAYS = "next", "twice", "why", "same as slot", "stays"
PARENT = "parent"  # of the study
Direction = Literal["minimize", "maximize"]
OVER = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Slot:
    """A training that a worker has taken.

    Attributes:
        values: By setting, of those that differ.
        run: Of a worker that is gone: its run, which may go on; None where it had not come to say which.
        attempts: Of workers that are gone.
        can_end_early: Where it falls behind.
    """

    trial: Trial
    name: str
    values: Mapping[str, Any]
    seed: int
    run: str | None
    attempts: int
    can_end_early: bool


class TakenOver(EndedEarly):
    """Another worker has a trial that this one was at."""


def _patiently(method: Callable[..., R]) -> Callable[..., R]:
    """A method that waits for a database which does not answer; the storage's own error, if it goes on so, is named."""

    @functools.wraps(method)
    def asked(self: "Study", *args: Any, **kwargs: Any) -> R:
        for left in reversed(range(TRIES)):
            try:
                return method(self, *args, **kwargs)
            except (StorageInternalError, SQLAlchemyError) as error:
                if not left:
                    told = redacted(str(error)).splitlines()[0]
                    raise EnvironmentFault(f"storage: {shown(self.storage)}: {told}") from error
                log.warning("the sweep's storage does not answer; trying again")
                time.sleep(2 ** (TRIES - left))
        raise AssertionError

    return asked


class Study:
    """A sweep as its workers share it.

    Args:
        storage: A file or a database.
        name: Of the study: of equal files and data, equal.
        prune: See ``SweepSettings``.
        epochs: Of a trial.

    Attributes:
        is_creator: Whether this worker is the first one.

    Raises:
        EnvironmentFault: The storage can't be used.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        space: Space,
        *,
        direction: Literal["minimize", "maximize"],
        prune: bool,
        epochs: int,
    ):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.name, self._prune, self.storage = space, name, prune, storage
        parts: list[Choice | Range] = [*space.choices, *space.ranges]
        self._distributions = {part.name: _distribution(part) for part in parts}
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(epochs // 3, 1))
        with _reachable(storage):
            self._storage = _opened(storage)
            try:
                optuna.create_study(storage=self._storage, study_name=name, direction=direction)
                self.is_creator = True
            except optuna.exceptions.DuplicatedStudyError:
                self.is_creator = False
            self.study = optuna.load_study(storage=self._storage, study_name=name, pruner=pruner)
        self._heard: dict[int, tuple[Any, float]] = {}  # a trial's last sign of life, and when it came
        self._rests_until = 0.0  # where all that is left to draw is being trained

    @_patiently
    def plan(self, slots: Iterable[tuple[str, Mapping[str, Any], int]]) -> None:
        """See to it that these slots are there; every worker may.

        Args:
            slots: Name, fixed values, seed.
        """
        there = self.slots()
        for name, values, seed in slots:
            if name not in there:
                self.study.enqueue_trial(dict(values), user_attrs={SLOT: name, SEED: seed})

    @_patiently
    def next(self) -> Slot | None:
        """Take a slot that waits; None where none does."""
        self._free_the_dead()
        self._mend()
        if time.monotonic() < self._rests_until:
            return None
        while any(trial.state == TrialState.WAITING for trial in self.trials()):
            trial = self.study.ask()
            if SLOT not in trial.user_attrs:  # another worker has taken the last one that waited
                self._end(trial.number, {TWICE: True})
                return None
            self._note(trial, LEASE, Lease.mine().json())
            if self._is_taken(trial):
                self._end(trial.number, {TWICE: True})
                continue
            slot = self._drawn(trial)
            same = self._tried_before(slot)
            if same is None:
                return slot
            if not self._not_again(slot, same):
                return None
        return None

    def _drawn(self, trial: Trial) -> Slot:
        """With values for all settings that differ: those that are fixed, else what the sampler says."""
        known = trial.user_attrs
        name, draws = known[SLOT], int(known.get(DRAWS, 0))
        seed = [self.space.seeds[0], *name.encode(), draws]
        self.study.sampler = optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence(seed).generate_state(1)[0]), n_startup_trials=STARTUP, constant_liar=True,
            multivariate=True,
        )  # fmt: skip
        values = {part: _suggested(trial, part, kind) for part, kind in self._distributions.items()}
        return Slot(trial, name, values, known[SEED], known.get(RUN), int(known.get(ATTEMPTS, 0)),
                    self._prune and name.isdecimal())  # fmt: skip

    def _is_taken(self, trial: Trial) -> bool:
        """Whether another trial has filled this one's slot, or is older and at it."""
        for other in self._of_slot(trial.user_attrs[SLOT]):
            is_older = other.number < trial.number and other.state == TrialState.RUNNING
            if other.number != trial.number and (is_older or _is_settled(other)):
                return True
        return False

    def _tried_before(self, slot: Slot) -> FrozenTrial | None:
        """Another trial of the same settings and seed. Of two that are drawn at once the one with the lower number
        stays: what is drawn is written before anybody looks, and each looks again when it has said that it stays."""
        for said in (False, True):
            for trial in self.trials():
                same = trial.params == dict(slot.values) and trial.user_attrs.get(SEED) == slot.seed
                is_other = trial.number != slot.trial.number and trial.user_attrs.get(SLOT) != slot.name
                stays = trial.number < slot.trial.number or (not said and STAYS in trial.user_attrs)
                if same and is_other and stays and trial.state in (*OVER, TrialState.RUNNING):
                    return trial
            if not said:
                self._note(slot.trial, STAYS, True)
        return None

    def _not_again(self, slot: Slot, same: FrozenTrial) -> bool:
        """Draw anew; where nothing new is left, the slot has what the other one has, when it has that. Returns whether
        there is something to do now."""
        draws = int(slot.trial.user_attrs.get(DRAWS, 0)) + 1
        is_drawn = slot.name.isdecimal()
        if is_drawn and draws < MOST_DRAWS:
            self._pass_on(slot.trial.number, {}, {SLOT: slot.name, SEED: slot.seed, DRAWS: draws})
            return True
        if same.state == TrialState.RUNNING:
            known = {SLOT: slot.name, SEED: slot.seed, DRAWS: draws - 1}
            self._pass_on(slot.trial.number, {} if is_drawn else dict(slot.values), known)
            self._rests_until = time.monotonic() + REST_SECONDS
            return False
        log.info("trial %s: the settings of trial %s again, not trained", slot.name, same.user_attrs[SLOT])
        self._note(slot.trial, SAME, same.user_attrs[SLOT])
        state, value = (None, same.value) if same.state == TrialState.COMPLETE else (TrialState.PRUNED, None)
        self.study.tell(slot.trial, value, state)
        return True

    # -- what becomes of a slot --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alive(self, slot: Slot) -> Iterator[None]:
        """Within it other workers hear that this one is at it."""
        over = threading.Event()

        def beat() -> None:
            number = 0
            while not over.wait(BEAT_SECONDS):
                number += 1
                with contextlib.suppress(Exception):  # the next one may come through
                    self._note(slot.trial, BEAT, number)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @_patiently
    def note_run(self, slot: Slot, run_id: str) -> None:
        """Say which run it is, so that another worker can go on with it."""
        self._note(slot.trial, RUN, run_id)

    @_patiently
    def report(self, slot: Slot, value: float, epoch: int) -> bool:
        """Say how an epoch went. Returns whether the trial is to end.

        Raises:
            TakenOver: By another worker, which took this one for dead.
        """
        try:
            slot.trial.report(value, epoch)
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise TakenOver(f"trial {slot.name} is another worker's now") from error
        return slot.can_end_early and slot.trial.should_prune()

    @_patiently
    def filled(self, slot: Slot, value: float | None) -> bool:
        """A training is over, with a value, or early without one. Returns whether it counts: not where another worker
        took this one for dead."""
        try:
            self.study.tell(slot.trial, value, TrialState.PRUNED if value is None else None)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return False
        return True

    @_patiently
    def failed(self, slot: Slot, why: str) -> None:
        """It can't be trained; it is not tried again."""
        self._end(slot.trial.number, {WHY: redacted(why)[:1000]})

    @_patiently
    def given_up(self, slot: Slot, *, counts: bool) -> None:
        """This worker ends: whoever goes on has the slot.

        Args:
            counts: As an attempt: it was not asked to end.
        """
        trial = self._frozen(slot.trial.number)
        if not trial.state.is_finished():
            self._free(trial, int(trial.user_attrs.get(ATTEMPTS, 0)) + counts)

    @_patiently
    def try_again(self, slot: Slot) -> bool:
        """The run that it had can't go on now: somebody may be recording its end. Returns whether it is tried again,
        or a new one begins."""
        attempts = int(slot.trial.user_attrs.get(ATTEMPTS, 0)) + 1
        known, goes_on = {SLOT: slot.name, SEED: slot.seed}, attempts < MOST_ATTEMPTS
        if goes_on:
            known |= {RUN: slot.run, ATTEMPTS: attempts}
        self._pass_on(slot.trial.number, dict(slot.values), known)
        return goes_on

    def _free_the_dead(self) -> None:
        now = time.monotonic()
        for trial in self.trials():
            known = trial.user_attrs
            if trial.state != TrialState.RUNNING or SLOT not in known:
                continue
            lease, sign = Lease.read(known.get(LEASE)), (known.get(LEASE), known.get(BEAT))
            if trial.number not in self._heard or self._heard[trial.number][0] != sign:
                self._heard[trial.number] = sign, now
            is_silent = now - self._heard[trial.number][1] > SILENT_SECONDS
            if (lease and lease.died) or (is_silent and not (lease and lease.is_mine)):
                log.warning("trial %s: %s is gone; its slot is free again", known[SLOT], lease or "a worker")
                self._free(trial, int(known.get(ATTEMPTS, 0)) + 1)

    def _free(self, trial: FrozenTrial, attempts: int) -> None:
        known = trial.user_attrs
        if attempts >= MOST_ATTEMPTS:
            self._end(trial.number, {WHY: f"{attempts} workers died at it"})
            return
        kept = {name: known[name] for name in (SLOT, SEED, RUN) if name in known}
        self._pass_on(trial.number, dict(trial.params), kept | {ATTEMPTS: attempts})

    def _pass_on(self, number: int, values: dict[str, Any], known: dict[str, Any]) -> None:
        if self._end(number, {NEXT: [values, known]}):
            self.study.enqueue_trial(values, user_attrs=known)

    def _mend(self) -> None:
        """Slots whose next trial was not there yet when the worker that gave them up was gone."""
        for trial in self.slots().values():
            if NEXT in trial.user_attrs and trial.state == TrialState.FAIL:
                values, known = trial.user_attrs[NEXT]
                self.study.enqueue_trial(values, user_attrs=known)

    def _end(self, number: int, known: Mapping[str, Any]) -> bool:
        """End a trial without a value. Returns false where another worker has ended it."""
        try:
            trial_id = self._frozen(number)._trial_id
            for name, value in known.items():
                self._storage.set_trial_user_attr(trial_id, name, value)
            self.study.tell(number, state=TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return False
        return True

    def _note(self, trial: Trial, name: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial._trial_id, name, value)

    # -- what there is -----------------------------------------------------------------------------------------------

    @_patiently
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _frozen(self, number: int) -> FrozenTrial:
        return next(trial for trial in self.trials() if trial.number == number)

    def _of_slot(self, name: str) -> list[FrozenTrial]:
        return [t for t in self.trials() if t.user_attrs.get(SLOT) == name and TWICE not in t.user_attrs]

    @_patiently
    def slots(self) -> dict[str, FrozenTrial]:
        """Of each slot the trial that counts: the one that settled it, else the last one."""
        found: dict[str, FrozenTrial] = {}
        for trial in self.trials():
            name = trial.user_attrs.get(SLOT)
            if name is None or TWICE in trial.user_attrs or (name in found and _is_settled(found[name])):
                continue
            found[name] = trial
        return found

    @_patiently
    def num_settled(self, names: Iterable[str]) -> int:
        """In how many of these slots nothing is to be done any more."""
        slots = self.slots()
        return sum(name in slots and _is_settled(slots[name]) for name in names)

    def is_over(self, names: Sequence[str]) -> bool:
        """Whether nothing is to be done in any of these slots any more."""
        return self.num_settled(names) == len(names)

    @_patiently
    def best(self, names: Iterable[str]) -> list[FrozenTrial]:
        """Trials of some slots that were trained to the end, the best first."""
        slots, sign = self.slots(), -1 if self.maximises else 1
        done = [slots[name] for name in names if name in slots and slots[name].state == TrialState.COMPLETE]
        return sorted((t for t in done if SAME not in t.user_attrs), key=lambda t: (sign * (t.value or 0.0), t.number))

    @property
    def maximises(self) -> bool:
        return self.study.direction == optuna.study.StudyDirection.MAXIMIZE

    def importances(self) -> dict[str, float]:
        """Share of each setting in what the values differ by (fANOVA); empty where too few trials tell."""
        if len(self._distributions) < 2:
            return {}
        try:
            return dict(optuna.importance.get_param_importances(self.study))
        except (ValueError, RuntimeError):
            return {}

    @property
    def parent(self) -> str | None:
        """Id of the sweep's run."""
        return self.study.user_attrs.get(PARENT)

    @parent.setter
    def parent(self, run_id: str) -> None:
        self.study.set_user_attr(PARENT, run_id)


def _is_settled(trial: FrozenTrial) -> bool:
    """Whether it is the last of its slot."""
    return trial.state in OVER or (trial.state == TrialState.FAIL and not {NEXT, TWICE} & trial.user_attrs.keys())


def shown(storage: str) -> str:
    """An address without what is secret in it."""
    if "://" not in storage:
        return storage
    try:
        return make_url(storage).set(query={}).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return storage.partition("://")[0]


def _distribution(part: Choice | Range) -> BaseDistribution:
    if isinstance(part, Choice):
        return CategoricalDistribution(part.values)
    if part.is_int:
        return IntDistribution(int(part.low), int(part.high), log=part.log, step=int(part.step or 1))
    return FloatDistribution(part.low, part.high, log=part.log, step=part.step)


def _suggested(trial: Trial, name: str, kind: BaseDistribution) -> Any:
    if isinstance(kind, CategoricalDistribution):
        return trial.suggest_categorical(name, kind.choices)
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(name, kind.low, kind.high, step=kind.step, log=kind.log)
    assert isinstance(kind, FloatDistribution)
    return trial.suggest_float(name, kind.low, kind.high, step=kind.step, log=kind.log)


def _opened(storage: str) -> BaseStorage:
    if "://" in storage:
        return _database(storage)
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def _database(address: str) -> BaseStorage:
    """Of workers that begin at once, one makes the tables, and the others run into them."""
    for left in reversed(range(TRIES)):
        try:
            return RDBStorage(address, engine_kwargs={"pool_pre_ping": True})
        except DatabaseError:
            if not left:
                raise
            time.sleep(1 + random.random())
    raise AssertionError


@contextlib.contextmanager
def _reachable(storage: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UsageError(f"storage: {shown(storage)}: {error}; install the database's driver") from error
    except Exception as error:  # of Optuna, of SQLAlchemy, of a driver, of the disk
        told = redacted(str(error)).replace(storage, shown(storage))
        raise EnvironmentFault(f"storage: {shown(storage)}: {told}") from error
