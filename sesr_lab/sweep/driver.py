"""A study, driven: a network is chosen, trained and told, until the study's budget or its space is at an end.

Optuna's storage is the truth about the search. Order for each trial: begun, run, training, outcome, told; a kill
between any two of them is made good by the next start, which holds the study's lock.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

import torch

from sesr_lab.errors import ConfigError, DataError, ModelError, ParentError, SesrError, StoreError
from sesr_lab.registry.publish import ClaimLostError
from sesr_lab.study.space import Choice
from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep.budget import Budget, Limits, Spent
from sesr_lab.sweep.ledger import Ledger, stored
from sesr_lab.sweep.records import ERRORS, FINISHED, WANTED, Entry, counts_of, outcomes_of, trained_of
from sesr_lab.sweep.search import Point, Search
from sesr_lab.sweep.storage import Patience
from sesr_lab.tracking.runlog import RunLog
from sesr_lab.trials import checkpoint
from sesr_lab.trials.lab import Interrupted, Lab, Task, load_data, patiently, untrained
from sesr_lab.trials.lifecycle import DATABASE, carry_out, reap, record_untrained
from sesr_lab.trials.locks import Lock
from sesr_lab.trials.outcome import Outcome, best_of, pareto
from sesr_lab.trials.parent import Parents

TRIES = 3
"""How often a trial is tried, over all the lives of its study, that ends in an error which nobody expected."""
OWNER_DIES_S = 2.0
"""So long the study's lock is waited for: the driver before this one may be dying just now."""

_DATA, _RUN, _SPENT = "sesr:data_fingerprint", "sesr:run_id", "sesr:spent"


@dataclass(frozen=True)
class Sweep:
    """Where a study stands."""

    study: str
    experiment_id: str
    run_id: str
    objective: str
    outcomes: tuple[Outcome, ...]
    """The trials that ended, in order, those of known networks left out."""
    counts: Mapping[str, int]
    """Trials by Optuna's state, and how many were known before."""
    pareto: tuple[str, ...]
    """Labels of the trials that no other beats in both PSNR and cost: time on the study's target, or else MACs."""
    pareto_by_macs: tuple[str, ...]
    """The same with MACs as the cost."""
    ended: str
    """Why nothing more was begun."""

    @property
    def best(self) -> Outcome | None:
        """The trained network with the highest PSNR."""
        return best_of(self.outcomes)


def sweep(spec: StudySpec, lab: Lab, storage: str) -> Sweep:
    """Runs the study, or goes on with it, until its budget is used or its space ends.

    Raises:
        ConfigError: the stored study is another one than `spec`, or none of its networks can be trained.
        StoreError: a store cannot be reached, or another process drives this study.
        Interrupted: the user asked to stop; nothing is lost.
    """
    # What can be wrong is looked at before pictures are prepared, and before anything is stored.
    search = Search(spec, _candidates(spec, storage))
    with _locked(spec, lab) as lock:
        return _Driver(spec, lab, storage, lock, search).drive()


class _Driver:
    """One driver of one study; holds what its steps share."""

    def __init__(self, spec: StudySpec, lab: Lab, storage: str, lock: Lock, search: Search) -> None:
        self.spec, self.lab, self.lock, self.search = spec, lab, lock, search
        self.parents = Parents(lab)
        fingerprint = self._load_data()  # before anything is stored: a wrong path leaves nothing behind
        self.ledger = Ledger(spec, storage, Patience(storage, lab.view.note, self._heed_stop))
        self._check_data(fingerprint)
        self.budget = self._budget()
        self.experiment_id = patiently(lab, partial(lab.tracker.experiment, spec.name))
        self.run_id = ""

    def drive(self) -> Sweep:
        reap(self.lab)
        run = self._study_run()
        self.run_id = run.run_id
        self.ledger.set_attribute(FINISHED, False)
        self.ledger.set_attribute(WANTED, self.spec.trials)
        if done := self._counted():
            text = f"study {self.spec.name}: {len(done)} of {self.spec.trials} networks are trained already"
            self.lab.view.recall(done, text)
        try:
            for left in [entry for entry in self.ledger.entries if entry.state == "running" and entry.ours]:
                self._go_on(left)
            while (ended := self.budget.over(self._counted())) is None:
                begun = self._next()
                if begun is None:
                    ended = "no network is left that was not tried"
                    break
                self._carry_out(*begun)
        except BaseException as error:
            run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", type(error).__name__.lower())
            raise
        finally:
            self._keep_spent()
        return self._finish(run, ended)

    def _next(self) -> tuple[Entry, Point] | None:
        """The next trial to train, begun; None when no network is left that was not tried."""
        while True:
            self._heed_stop()
            self._check_lock()
            self.ledger.refresh()
            waiting = next((entry for entry in self.ledger.entries if entry.state == "waiting"), None)
            if waiting is not None:
                if (point := self._taken(waiting)) is not None:
                    return self.ledger.entry(waiting.number), point
                continue
            remaining = self.spec.trials - len(self._counted())
            chosen = self.search.next(self.ledger.history(), remaining, self.ledger.draw)
            if chosen is None:
                return None
            entry = self.ledger.begin(chosen)
            if not self._settled(entry, chosen):
                return entry, chosen

    def _taken(self, waiting: Entry) -> Point | None:
        """What a trial asks for that somebody has enqueued, running now; None where it needs no training."""
        searched = {key: value for key, value in waiting.settings.items() if key in self.spec.space}
        strange = "" if waiting.ours else self.search.outside(waiting.settings)
        try:
            drawn = {**self.ledger.draw(0, searched), **waiting.settings} if self.spec.space else waiting.settings
            point = None if strange else self.search.point(drawn)
        except (ConfigError, ValueError) as error:
            point, strange = None, str(error)
        if point is None:
            self.lab.view.note(f"warning: enqueued trial {waiting.number} is passed over: {strange}")
            self.ledger.refuse(waiting.number, strange)
            return None
        entry = self.ledger.claim(waiting, point)
        return None if entry is None or self._settled(entry, point) else point

    def _go_on(self, left: Entry) -> None:
        """Goes on with a trial that a killed or stopped driver left."""
        self._heed_stop()
        if left.outcome is not None:
            self._settle(left, left.outcome)
            return
        try:
            point = self.search.point(left.settings)
        except ConfigError as error:
            self.ledger.refuse(left.number, str(error))
            return
        if not self._settled(left, point):
            self._carry_out(left, point)

    def _settled(self, entry: Entry, point: Point) -> bool:
        """Whether the trial needs no training: its network is known already, or costs too much."""
        twin = self.ledger.twin(entry.number, point.fingerprint)
        if twin is not None:
            self.ledger.repeat(entry.number, twin)
            return True
        excess = self.search.over(point)
        if excess is None:
            return False
        outcome = untrained(self._task(entry, point), "over budget", excess.reason)
        self.ledger.exclude(entry.number, excess.amount, excess.limit)
        self.ledger.settle(entry.number, outcome)
        self.lab.view.note(f"{outcome.label}: over budget: {excess.reason}")
        return True

    def _carry_out(self, entry: Entry, point: Point) -> None:
        """Trains a trial, or goes on with it, and tells Optuna; what fails again if it is tried again is told too."""
        errors = list(entry.attributes.get(ERRORS, ()))
        while True:
            try:
                self._settle(entry, self._train(entry, point))
                return
            except SesrError:
                raise
            except Exception as error:  # whatever it is: one trial's fault does not end its study
                errors.append("".join(traceback.format_exception(error))[-4000:])
                run_id = str(self.ledger.entry(entry.number).attributes.get("run_id", ""))
                self.ledger.note(entry.number, ERRORS, errors)
                self.ledger.note(entry.number, "run_id", "")  # it has ended as failed: the next try has its own
                text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no text'}"
                task = self._task(entry, point)
                if len(errors) >= TRIES:
                    reason = f"the same happened {TRIES} times: {text}"
                    self._settle(entry, untrained(task, "failed", reason, run_id=run_id))
                self.lab.view.note(f"warning: {task.label}: {text} (try {len(errors)} of {TRIES})")
                if _is_poisoned():
                    raise SesrError(
                        f"study {self.spec.name}: the GPU cannot be used by this process any more ({text}); the same "
                        f"command goes on"
                    ) from error
                if len(errors) >= TRIES:
                    return
                entry = self.ledger.entry(entry.number)

    def _train(self, entry: Entry, point: Point) -> Outcome:
        """How the trial ended."""
        task = self._task(entry, point)
        run_id = self._run_of(entry)
        try:
            return carry_out(
                self.lab,
                task,
                parent=self.parents.ensure(task, run_id),
                run_id=run_id,
                on_run=partial(self.ledger.note, entry.number, "run_id"),
                may_publish=self.lock.current,
            )
        except ClaimLostError:
            raise
        except (ParentError, ModelError, DataError) as error:
            if point.config.parent == "require":  # the user can make the parent, and this trial can then be trained
                raise
            return record_untrained(self.lab, task, untrained(task, "failed", str(error)))

    def _settle(self, entry: Entry, outcome: Outcome) -> None:
        self._check_lock()
        self.ledger.settle(entry.number, outcome)
        checkpoint.remove(outcome.run_id)

    def _finish(self, run: RunLog, ended: str) -> Sweep:
        """The study's end, in its run and in its database."""
        self.ledger.set_attribute(FINISHED, True)
        outcomes = tuple(outcomes_of(self.ledger.entries))
        result = Sweep(
            study=self.spec.name,
            experiment_id=self.experiment_id,
            run_id=self.run_id,
            objective=self.spec.objective,
            outcomes=outcomes,
            counts=counts_of(self.ledger.entries),
            pareto=tuple(outcome.label for outcome in pareto(outcomes)),
            pareto_by_macs=tuple(outcome.label for outcome in pareto(outcomes, by_macs=True)),
            ended=ended,
        )
        if result.best is not None and result.best.psnr is not None:
            trained = len(outcomes)  # as the step: a study that was extended adds a point, it does not repeat one
            run.log_metrics({"best_psnr": result.best.psnr, "trials": trained}, step=trained)
            run.set_tags({"sesr.best": result.best.model or "", "sesr.pareto": ", ".join(result.pareto)[:4000]})
        run.end("FINISHED", "finished")
        return result

    def _load_data(self) -> str:
        """The fingerprint of the study's pictures, every patch that it may use checked against them."""
        axis = self.spec.space.get("patch")
        choices: list[dict[str, Choice]] = [{"patch": patch} for patch in axis] if isinstance(axis, tuple) else [{}]
        loaded = [load_data(self.lab, self.spec.trial(choice)) for choice in choices]
        return loaded[0].fingerprint

    def _check_data(self, fingerprint: str) -> None:
        """A study's numbers can be compared only while its pictures stay the same."""
        known = self.ledger.attribute(_DATA)
        if known is not None and known != fingerprint:
            raise ConfigError(
                f"study {self.spec.name}: its pictures ({self.spec.trial({}).data}) have changed since it began: "
                f"fingerprint {fingerprint[:12]}, not {known[:12]}; restore them, or give the study another name"
            )
        self.ledger.set_attribute(_DATA, fingerprint)

    def _study_run(self) -> RunLog:
        """The study's own MLflow run: the earlier one, if this store holds it."""
        known = self.ledger.attribute(_RUN)
        if known is not None:
            if patiently(self.lab, partial(self.lab.tracker.holds, known)):
                return patiently(self.lab, partial(self.lab.tracker.reopen_run, known))
            self.lab.view.note(
                f"warning: study {self.spec.name} was begun with another store, which holds its runs and networks; "
                f"{self.lab.tracker.uri} does not hold them"
            )
        start = partial(
            self.lab.tracker.start_run,
            self.experiment_id,
            self.spec.name,
            params={"objective": self.spec.objective, "trials": self.spec.trials, "sampler": self.spec.sampler},
            tags={"sesr.kind": "study", **self._tags(), "mlflow.note.content": self.spec.description},
        )
        run = patiently(self.lab, start)
        self.ledger.set_attribute(_RUN, run.run_id)
        return run

    def _run_of(self, entry: Entry) -> str | None:
        """The MLflow run of a trial, by its stored id or by its tags (a kill can fall between the two)."""
        if "run_id" in entry.attributes:
            return str(entry.attributes["run_id"]) or None
        tags = {**self._tags(), "sesr.kind": "trial", "sesr.trial": str(entry.number)}
        found = patiently(self.lab, partial(self.lab.tracker.runs, self.experiment_id, tags=tags))
        return next((run.run_id for run in found), None)

    def _tags(self) -> dict[str, str]:
        """What tells this study's runs from those of another of the same name on the same server."""
        return {"sesr.study": self.spec.name, DATABASE: self.lab.claims.identity}

    def _task(self, entry: Entry, point: Point) -> Task:
        return Task(
            config=point.config,
            experiment_id=self.experiment_id,
            label=f"t{entry.number:04d}-{point.config.architecture.short_name}",
            tags={"sesr.kind": "trial", **self._tags(), "sesr.trial": str(entry.number)},
            study_run_id=self.run_id,
            estimate=point.price.estimate,
        )

    def _counted(self) -> list[Outcome]:
        """The trials that count against the study's number: those that were trained or tried to."""
        return trained_of(tuple(outcomes_of(self.ledger.entries)))

    def _budget(self) -> Budget:
        spec, before = self.spec, self.ledger.attribute(_SPENT)
        hours = spec.device_hours
        limits = Limits(
            trials=spec.trials,
            timeout_s=spec.timeout,
            device_s=None if hours is None else 3600 * hours,
            patience=spec.patience,
            max_failure_rate=spec.max_failure_rate,
        )
        known = Spent(**before) if isinstance(before, Mapping) else Spent()
        return Budget(limits, spec.objective, time.monotonic, known)

    def _keep_spent(self) -> None:
        if self.spec.timeout is not None or self.spec.device_hours is not None:
            self.ledger.set_attribute(_SPENT, asdict(self.budget.spent()))

    def _heed_stop(self) -> None:
        """Stops between two trials too, where the user has asked for it."""
        if self.lab.stop():
            raise Interrupted(f"study {self.spec.name}: stopped between two trials")

    def _check_lock(self) -> None:
        """Stops this driver if the database was away and another has the study now."""
        if not self.lock.current():
            raise StoreError(f"study {self.spec.name}: another process has taken it over; this one stops")


def _locked(spec: StudySpec, lab: Lab) -> Lock:
    """The study's lock: one process drives a study."""
    key, end = f"study:{spec.name}", time.monotonic() + OWNER_DIES_S
    while (lock := lab.locks.take(key)) is None:
        if time.monotonic() > end:
            owner = lab.locks.holder(key)
            raise StoreError(f"study {spec.name}: {owner} is driving it now; wait for it, or stop it first")
        time.sleep(0.1)
    return lock


def _candidates(spec: StudySpec, storage: str) -> list[dict[str, Choice]]:
    """The networks of the Pareto set that the study takes over, if it takes one over."""
    if spec.candidates is None:
        return []
    return [dict(outcome.settings) for outcome in pareto(stored(spec.candidates, storage))]


def _is_poisoned() -> bool:
    """Whether an error has left this process's GPU unusable, as a failed assertion in a kernel does."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
