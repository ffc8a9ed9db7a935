"""``sweep``: many trainings from one file, by any number of workers; each command is one."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fmtl import metric_names
from fmtl.commands.compare import compare
from fmtl.commands.sweeping import outcome
from fmtl.commands.sweeping.outcome import Trained
from fmtl.commands.sweeping.study import RUN, SAME, SEED, WHY, Slot, Study, TakenOver, shown
from fmtl.commands.train import Occasion, train_whole
from fmtl.commands.training.work import check
from fmtl.dataset.prepared import open_dataset
from fmtl.errors import DataError, EndedEarly, FmtlError, UsageError
from fmtl.metric_names import BY_CHOICE
from fmtl.reports import plots
from fmtl.settings.reading import to_yaml
from fmtl.settings.schema import CompareSettings, SweepSettings
from fmtl.settings.space import Space
from fmtl.settings.train import TrainSettings
from fmtl.settings.wording import command_line
from fmtl.storage import durable, tables
from fmtl.tracking import earlier, store
from fmtl.tracking.record import journal
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.recording import Run
from fmtl.tracking.run import child_of, open_run
from fmtl.training.run import EpochRecord

log = logging.getLogger(__name__)

WAIT_SECONDS, AGAIN_SECONDS, PARENT_SECONDS = 1.0, 3.0, 60.0
SETTLED = "fmtl.settled"  # slots, when the sweep's run was last concluded
BUILT = ("backbone", "weights", "px")  # what another value of may not be there, or not fit
DEFAULTS = {name: field.default for name, field in SweepSettings.model_fields.items()}
STATES = {"COMPLETE": "completed", "PRUNED": "ended early", "FAIL": "failed"}
Planned = tuple[str, dict, int]  # a slot: its name, what is fixed in it, its seed


def sweep(settings: SweepSettings, space: Space, config: Path) -> None:
    """Train what is to be trained until nothing is left, and say what came of it.

    Raises:
        UsageError: The file asks for what there is not.
        DataError: No trial could be trained.
        EnvironmentFault: The storage or the store can't be used.
    """
    Sweep(settings, space, config).run()


class Sweep:
    """A worker at a sweep."""

    def __init__(self, settings: SweepSettings, space: Space, config: Path):
        self.settings, self.space, self.config = settings, space, config
        self.metric = metric_names.best(BY_CHOICE[settings.metric])
        self.search = bool(space.ranges) or settings.trials is not None
        slots = self._slots()
        first = self._check()
        name = self._name(open_dataset(Path(first.data), verify=False).digest)
        storage = settings.storage or str(Path("sweeps") / f"{name}.journal")
        log.info("sweep %s: %d trials, shared in %s", name, len(slots), shown(storage))
        self.slots = slots
        self.study = Study(
            storage, name, space, direction="minimize" if metric_names.is_loss(self.metric) else "maximize",
            prune=settings.prune and self.search, epochs=first.epochs,
        )  # fmt: skip
        self._until = time.monotonic() + settings.time_limit if settings.time_limit else float("inf")
        self._experiment = first.experiment

    def _slots(self) -> list[Planned]:
        """All trainings; of a search those of its first seed."""
        if self.search:
            if self.settings.trials is None:
                self.space.grid()  # raises: a range has no end of values
            fixed = self.space.defaults()
            return [(str(n), fixed if n == 0 else {}, self.space.seeds[0]) for n in range(self.settings.trials or 0)]
        combinations = self.space.grid()
        return [(f"{n} seed {seed}", row, seed) for n, row in enumerate(combinations) for seed in self.space.seeds]

    def _check(self) -> TrainSettings:
        """Build every network that the space has, and let it go. Returns the first settings."""
        first = self._first()
        for choice in self.space.choices:
            for value in choice.values[1:] if choice.name in BUILT else ():
                check(self._first(**{choice.name: value}))
        check(first)
        return first

    def _first(self, **chosen: str) -> TrainSettings:
        values = {c.name: c.values[0] for c in self.space.choices}
        values |= {r.name: str(int(r.low) if r.is_int else r.low) for r in self.space.ranges}
        return self.space.settings(values | chosen, seed=self.space.seeds[0])

    def _name(self, digest: str) -> str:
        """Equal for all workers at equal files and data, wherever those lie."""
        base = {name: item.value for name, item in self.space.base.items() if name not in ("data", "device")}
        told = [base, [vars(c) for c in self.space.choices], [vars(r) for r in self.space.ranges], self.space.seeds,
                self.settings.metric, self.search, digest]  # fmt: skip
        return f"{self.config.stem}-{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]}"

    # -- work ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            with self._parent() as parent:
                self._work(self.slots)
                finals = self._finals()
                self._work(finals)
                everything = [*self.slots, *finals]
                if parent:
                    self._conclude(parent, everything)
            if not parent and self._is_abandoned(everything):
                with self._parent() as parent:
                    if parent:
                        self._conclude(parent, everything)
        except BaseException:
            given = self.settings.model_dump() | {"storage": self.settings.storage and shown(self.settings.storage)}
            print(f"to go on: {command_line('sweep', {'config': str(self.config)} | given, DEFAULTS)}", flush=True)
            raise

    @contextlib.contextmanager
    def _parent(self) -> Iterator[Run | None]:
        """The sweep's run, if this worker holds it; trainings within are its children either way."""
        until = time.monotonic() + PARENT_SECONDS
        while self.study.parent is None and not self.study.is_creator and time.monotonic() < until:
            time.sleep(0.2)
        with contextlib.ExitStack() as stack:
            if self.study.parent is None:
                opened = open_run("sweep", name=self.study.name, experiment=self._experiment)
                run: Run | None = stack.enter_context(opened)
                assert run and run.run_id
                self.study.parent = run.run_id
                self._describe(run)
            else:
                run = self._held(stack, self.study.parent)
                if run is None:
                    stack.enter_context(child_of(self.study.parent))
            yield run

    def _held(self, stack: contextlib.ExitStack, run_id: str) -> Run | None:
        """None where another worker, or another machine, has it."""
        try:
            folder = earlier.find_here(run_id) or earlier.bring(store.get_run(run_id))
            return stack.enter_context(open_run("sweep", resume=folder, run_id=run_id))
        except DataError as error:
            log.debug("the sweep's run: %s", error)
            return None

    def _is_abandoned(self, planned: Sequence[Planned]) -> bool:
        """Whether all is done, and whoever had the sweep's run was gone before that."""
        names = [name for name, _, _ in planned]
        if not self.study.is_over(names) or not self.study.parent:
            return False
        tags = store.get_run(self.study.parent).tags
        return (tags.get("fmtl.outcome"), tags.get(SETTLED)) != ("completed", str(len(names)))

    def _describe(self, run: Run) -> None:
        told = {name: item.value for name, item in self.space.base.items()} | self.settings.model_dump(mode="json")
        told |= {c.name: list(c.values) for c in self.space.choices}
        told |= {r.name: {"low": r.low, "high": r.high, "log": r.log, "step": r.step} for r in self.space.ranges}
        told |= {"seed": list(self.space.seeds), "storage": None}  # which may have a password
        durable.write_text(run.folder / earlier.SETTINGS, to_yaml(told))
        varied = {c.name: ", ".join(c.values) for c in self.space.choices}
        varied |= {r.name: f"{r.low:g} to {r.high:g}{', log' if r.log else ''}" for r in self.space.ranges}
        chosen = self.settings.model_dump(mode="json", exclude={"storage"})
        run.log_params({f"vary/{name}": told for name, told in varied.items()} | chosen | {"seeds": self.space.seeds})

    def _work(self, planned: Sequence[Planned]) -> None:
        """Fill slots until all are filled, or time is up."""
        self.study.plan(planned)
        names = [name for name, _, _ in planned]
        while time.monotonic() < self._until:
            slot = self.study.next()
            if slot is not None:
                self._train(slot)
            elif self.study.is_over(names):
                return
            else:
                time.sleep(WAIT_SECONDS)
        if not self.study.is_over(names):
            log.info("time_limit: no trial begins any more; the same command goes on")

    def _finals(self) -> list[Planned]:
        """The best settings of a search, and those that training has by itself, with the other seeds."""
        searched = [name for name, _, _ in self.slots]
        if not self.search or not self.study.is_over(searched):
            return []
        best = self.study.best(searched)[: self.settings.finalists]
        best += [trial for trial in self.study.best(["0"]) if trial not in best]
        return [
            (f"{trial.user_attrs['slot']} seed {seed}", trial.params, seed)
            for trial in best
            for seed in self.space.seeds[1:]
        ]

    def _train(self, slot: Slot) -> None:
        told = ", ".join(f"{name}={value}" for name, value in slot.values.items())
        log.info("\ntrial %s: %s", slot.name, told)
        if slot.run is None and slot.attempts:
            slot = replace(slot, run=self._unnoted(slot))
        began = []  # what is wrong before is wrong with going on, not with the settings

        def begun(run_id: str) -> None:
            began.append(run_id)
            self.study.note_run(slot, run_id)

        occasion = Occasion(is_abandoned=slot.run is not None, begun=begun, at_epoch=self._reported(slot))
        try:
            with self.study.alive(slot):
                run_id, folder = train_whole(self._settings(slot), occasion=occasion)
            value = self._value(run_id, folder)
            self._say(slot, value, counts=self.study.filled(slot, value))
        except TakenOver as error:
            log.warning("%s", error)
        except EndedEarly as error:
            self._say(slot, None, counts=self.study.filled(slot, None))
            log.info("%s", error)
        except Exception as error:
            if slot.run and not began and isinstance(error, FmtlError):
                time.sleep(AGAIN_SECONDS)
                what = "can't go on now" if self.study.try_again(slot) else "can't go on; a new one begins"
                log.warning("trial %s: run %s %s: %s", slot.name, slot.run, what, error)
            elif isinstance(error, UsageError | DataError) or _is_of_memory(error):
                log.warning("trial %s: %s", slot.name, error)
                self.study.failed(slot, str(error))
            else:
                with contextlib.suppress(Exception):  # the first error is the one to report
                    self.study.given_up(slot, counts=True)
                raise
        except BaseException:  # asked to end
            with contextlib.suppress(Exception):
                self.study.given_up(slot, counts=False)
            raise

    def _value(self, run_id: str, folder: RunFolder) -> float:
        """What is best of a training that is over; of one that another machine has finished the store knows it."""
        found = journal.last_metrics(folder.journal().lines()).get(self.metric)
        if found is None:
            found = store.get_run(run_id).metrics.get(self.metric)
        if found is None:
            raise DataError(f"run {run_id} has no {self.metric}")
        return found

    def _settings(self, slot: Slot) -> TrainSettings:
        """Of a training that begins, or of one that another worker has begun."""
        settings = self.space.settings(slot.values, seed=slot.seed, name=self._run_name(slot))
        return settings if slot.run is None else settings.model_copy(update={"resume": slot.run})

    def _run_name(self, slot: Slot) -> str:
        return f"{self.config.stem}-{slot.name}"

    def _unnoted(self, slot: Slot) -> str | None:
        """The run of a worker that was killed as it began, before it had said which."""
        name = store.quoted(self._run_name(slot))
        if name is None:
            return None
        where = f"tags.`mlflow.parentRunId` = '{self.study.parent}' AND tags.`mlflow.runName` = {name}"
        return next((record.run_id for record in store.search_runs("train", where=where, most=1)), None)

    def _reported(self, slot: Slot):  # type: ignore[no-untyped-def]
        name = BY_CHOICE[self.settings.metric]

        def tell(record: EpochRecord) -> None:
            if self.study.report(slot, record.metrics[name], record.epoch):
                raise EndedEarly(f"trial {slot.name} ends after epoch {record.epoch}: it is behind the median")

        return tell

    def _say(self, slot: Slot, value: float | None, *, counts: bool) -> None:
        searched = [name for name, _, _ in self.slots]
        best = next(iter(self.study.best(searched)), None)
        left = len(searched) - self.study.num_settled(searched)
        told = "ended early" if value is None else f"{self.settings.metric} {value:.4f}"
        told += "" if counts else " (not counted: another worker has taken it over)"
        lead = f"; best so far: trial {best.user_attrs['slot']}, {best.value:.4f}" if best else ""
        log.info("trial %s: %s%s; %d of %d left", slot.name, told, lead, left, len(searched))

    # -- what came of it -----------------------------------------------------------------------------------------------

    def _conclude(self, run: Run, planned: Sequence[Planned]) -> None:
        names = [name for name, _, _ in planned]
        trained, searched = self._trained(names), {name for name, _, _ in self.slots}
        first = self.study.best(name for name in names if name in searched)
        by_slot = {one.slot: one for one in trained}
        ranked = [by_slot[trial.user_attrs["slot"]] for trial in first]
        importances = self.study.importances()
        durable.write_text(run.folder / "trials.csv", tables.to_csv(outcome.table(trained)))
        values = [one.value for one in trained if one.slot in searched]
        figure = plots.sweep(
            values, importances, metric=f"validation {self.settings.metric}", more=self.study.maximises,
            title=f"{self.study.name}: {len(values)} trials",
        )  # fmt: skip
        plots.save(run.folder / "sweep.png", figure)
        again = self._again(ranked[0]) if ranked else ""
        note = outcome.note(ranked, trained, importances, metric=f"validation {self.settings.metric}", again=again)
        settled = str(self.study.num_settled(names))
        run.set_tags(
            {"mlflow.note.content": note, "fmtl.best_run": ranked[0].run if ranked else None, SETTLED: settled}
        )
        run.log_metrics({f"trials/{state.replace(' ', '_')}": sum(t.state == state for t in trained)
                         for state in {t.state for t in trained}})  # fmt: skip
        if not ranked:
            why = next((one.why for one in trained if one.why), "none has begun")
            raise DataError(f"no trial of {len(planned)} was trained to its end: {why}", where="sweep")
        run.log_metrics({"best": ranked[0].value})
        compare(CompareSettings(sweep=run.run_id, data="all", metric=self.metric, experiment=self._experiment))
        print(f"best: trial {ranked[0].slot}, {self.settings.metric} {ranked[0].value:.4f} on validation\n{again}")

    def _trained(self, names: Sequence[str]) -> list[Trained]:
        slots, found = self.study.slots(), []
        for name in names:
            trial = slots.get(name)
            if trial is None:
                continue
            known = trial.user_attrs
            state = "not trained" if SAME in known else STATES.get(trial.state.name, "waiting")
            why = known.get(WHY, f"trial {known[SAME]} has its settings" if SAME in known else "")
            value = trial.value if state == "completed" else None
            found.append(Trained(name, state, value, trial.params, known[SEED], known.get(RUN, ""), why))
        return found

    def _again(self, best: Trained) -> str:
        settings = self.space.settings(best.values, seed=best.seed)
        asked = TrainSettings(mode=settings.mode, objective=settings.objective)
        return command_line("train", settings.model_dump(), asked.model_dump() | {"mode": "tuned"})


def _is_of_memory(error: Exception) -> bool:
    """Whether these settings take more than there is, so that another worker would fail as this one did."""
    return isinstance(error, MemoryError) or "memory" in str(error).casefold()
