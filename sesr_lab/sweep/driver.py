"""A study, driven: networks are chosen, trained and told, until the study's budget or its space is at an end.

Optuna's storage is the truth about the search. Order for each trial: begun, run, training, outcome, told; a kill
between any two of them is made good by the next start, which holds the study's lock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import product

from sesr_lab import faults
from sesr_lab.data.dataset import Data
from sesr_lab.errors import ConfigError, SesrError
from sesr_lab.registry.lookup import Named
from sesr_lab.registry.publish import ClaimLostError
from sesr_lab.study.space import Choice
from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep.agenda import Agenda, Belonging
from sesr_lab.sweep.budget import SPENT, budget_of
from sesr_lab.sweep.chronicle import Chronicle, Sweep
from sesr_lab.sweep.confirmation import confirmation, seeds_of
from sesr_lab.sweep.executor import Broken, Executor, Inline
from sesr_lab.sweep.flight import Flight, Start
from sesr_lab.sweep.ledger import Ledger, stored
from sesr_lab.sweep.lineage import Lineage
from sesr_lab.sweep.records import KEY
from sesr_lab.sweep.repair import NOT_TO_BE, Repair, in_a_line, is_poisoned, let_go
from sesr_lab.sweep.search import Search
from sesr_lab.sweep.sharing import share_of
from sesr_lab.sweep.storage import Patience
from sesr_lab.training.trainer import Checkpoint, Evaluation
from sesr_lab.trials import checkpoint, trial
from sesr_lab.trials.lab import Interrupted, Lab, load_data, untrained
from sesr_lab.trials.lifecycle import reap
from sesr_lab.trials.outcome import Outcome, pareto
from sesr_lab.trials.parent import Missing

__all__ = ["Sweep", "sweep"]

IDLE_S = 0.1
"""Between two looks at what others do, where nothing is in the air."""
_DATA, _LR = "sesr:data_fingerprint", "sesr:lr_fingerprint"
"""Attributes of a stored study."""


def sweep(
    spec: StudySpec,
    lab: Lab,
    storage: str,
    *,
    start: Callable[[Lab], Executor] | None = None,
) -> Sweep:
    """Runs the study, or goes on with it, until its budget is used or its space ends.

    Args:
        start: makes what its trials are trained by; without it, this process trains them, one at a time.

    Raises:
        ConfigError: the stored study is another one than `spec`, none of its networks can be trained, or there is no
            room for its workers.
        StoreError: a store cannot be reached, or another process drives this study.
        Interrupted: the user asked to stop; nothing is lost.
    """
    result, chronicle = _run(spec, lab, storage, start)
    if spec.confirm is None or result.best is None or not chronicle.finished:
        return result
    again = confirmation(spec, spec.confirm, chronicle.ledger.entries)
    lab.view.note(f"study {spec.name}: training its best {len(again.enqueue) // spec.confirm.seeds} networks again")
    looked = _run(again, lab, storage, start)[1]
    if not looked.finished:
        return result
    return replace(result, confirmed=chronicle.confirm(seeds_of(looked.ledger.entries)))


def _run(spec: StudySpec, lab: Lab, storage: str, start: Callable[[Lab], Executor] | None) -> tuple[Sweep, Chronicle]:
    """One study to its end; where it stands then, and what has written it down."""
    # What can be wrong, workers that do not fit too, is looked at before pictures are prepared and the study is stored.
    search = Search(spec, _candidates(spec, storage))
    lab.tracker.check_experiment(spec.name)
    patience = Patience(storage, lab.view.note, partial(_heed_stop, spec, lab))
    with (
        closing(share_of(spec.name, lab.locks, patience)) as share,
        closing(Inline(lab.where) if start is None else start(lab)) as executor,
    ):
        data = _load_pictures(spec, lab)
        with share.asking():
            ledger = Ledger(spec, storage, patience)
            _check_pictures(spec, ledger, data)
        reap(lab)
        with share.asking():
            chronicle = Chronicle(spec, lab, ledger)
            budget = budget_of(spec, ledger.attribute(SPENT), time.monotonic)
        belonging = Belonging(chronicle.tags, chronicle.key)
        agenda = Agenda(spec, lab, search=search, ledger=ledger, budget=budget, share=share, belonging=belonging)
        repair = Repair(lab, ledger, budget, spec.retries)
        try:
            _Driver(lab, agenda, repair, executor).drive()
            while (result := _end(agenda, chronicle)) is None:
                _Driver(lab, agenda, repair, executor).drive()
        except BaseException as error:
            chronicle.broke_off(error)
            raise
        finally:
            if spec.timeout is not None or spec.device_hours is not None:
                ledger.set_attribute(SPENT, budget.kept(ledger.attribute(SPENT)))
        return result, chronicle


def _end(agenda: Agenda, chronicle: Chronicle) -> Sweep | None:
    """Where the study stands at its end, or at this driver's; None if it has to go on: another driver has died."""
    with agenda.share.ending():
        if agenda.is_left():
            return None
        if others := agenda.of_others():
            return chronicle.leave(f"another driver finishes {others} network{'s' if others > 1 else ''}")
        return chronicle.finish(agenda.ended)


class _Driver:
    """Keeps an executor's slots full, and hears what comes of it."""

    def __init__(self, lab: Lab, agenda: Agenda, repair: Repair, executor: Executor) -> None:
        self.lab, self.agenda, self.repair, self.executor = lab, agenda, repair, executor
        self.lineage = Lineage(lab)
        self.queue: deque[Start] = deque()
        self.flights: dict[str, Flight] = {}

    def drive(self) -> None:
        """Goes on until there is nothing more to begin, and nothing in the air."""
        spec = self.agenda.spec
        if done := self.agenda.trained():
            text = f"study {spec.name}: {len(done)} of {spec.trials} networks are trained already"
            self.lab.view.recall(done, text)
        try:
            self.queue.extend(self.agenda.left())
            while self._fill():
                heard = False
                for key, event in self.executor.poll():
                    self._hear(self.flights[key], event)
                    heard = True
                self.agenda.share.keep()
                if not (heard or self.flights):
                    time.sleep(IDLE_S)
            self._heed_stop()
        except BaseException as error:
            self._leave(error)
            raise
        finally:
            self.lineage.close()

    def _heed_stop(self) -> None:
        """Leaves the study unfinished where the user has asked for that before it was."""
        _heed_stop(self.agenda.spec, self.lab)
        is_left = self.queue or self.lineage.is_busy
        if self.lab.begins_nothing() and (is_left or not self.agenda.is_over()):
            raise Interrupted(f"study {self.agenda.spec.name}: stopped after what was running")

    def _fill(self) -> bool:
        """Gives every free slot a training; whether any is in the air, waits, or is still to be chosen."""
        if self.lab.stop():
            for key in self.flights:
                self.executor.stop(key)
        if self.lab.stop() or self.lab.begins_nothing():
            return bool(self.flights)
        self.queue.extendleft(reversed(self.lineage.unblocked()))
        while self.executor.free() > 0 and (start := self._next()) is not None:
            self._launch(start)
        return bool(self.flights or self.queue or self.lineage.is_busy or not self.agenda.ended)

    def _next(self) -> Start | None:
        if self.queue:
            return self.queue.popleft()
        if self.lineage.blocked or self.agenda.ended:  # more of them would only wait for parents too
            return None
        return self.agenda.next()

    def _launch(self, start: Start) -> None:
        """Puts a training into the air, or lets it wait for its parent."""
        try:
            parent = self.lineage.parent_of(start)
            found = parent if isinstance(parent, Missing) else self._flight(start, parent)
        except NOT_TO_BE as error:
            self._give_up(start, error)
            return
        if isinstance(found, Missing):
            made = self.lineage.block(start, found)
            if made is not None:
                self.queue.appendleft(made)
            return
        faults.point("run opened")
        self.flights[found.job.key] = found
        found.worker = self.executor.submit(found.job)
        self.lab.view.begin(start.task.label, found.worker)

    def _flight(self, start: Start, parent: Named | None) -> Flight:
        on_key, may_publish = partial(self._keep_key, start), partial(self._is_ours, start)
        return Flight(self.lab, start, parent, on_key=on_key, may_publish=may_publish)

    def _give_up(self, start: Start, error: SesrError) -> None:
        """Ends a training that cannot be begun, and those that need it."""
        if start.makes is None:
            self.agenda.give_up(start, error)
        else:
            self.lineage.landed(start.makes, untrained(start.task, "failed", str(error), key=start.key))

    def _is_ours(self, start: Start) -> bool:
        """Whether what a training comes to is for this driver to hand over."""
        if start.number is not None:
            return self.agenda.is_mine(start.number)
        return start.makes is not None and self.lineage.holds(start.makes)

    def _hear(self, flight: Flight, event: trial.Event | Broken) -> None:
        if isinstance(event, Broken):
            self._mend(flight, event)
            return
        try:
            outcome = flight.hear(event)
        except ClaimLostError as error:
            flight.recorder.lost()
            if flight.start.makes is None:
                raise
            self.lab.view.note(str(error))  # the database was away, and another process makes the parent now
            self.executor.cancel(flight.job.key)
            self.lineage.given_up(flight.start.makes)
            del self.flights[flight.job.key]
            return
        faults.point("checkpoint kept" if isinstance(event, Checkpoint) else "score heard")
        if isinstance(event, Evaluation) and flight.start.number is not None and (said := flight.progress(event)):
            self.agenda.ledger.show_progress(flight.start.number, said)
        if isinstance(event, Evaluation) and (reason := self.agenda.hopeless(flight.start, event)):
            self.executor.cancel(flight.job.key)
            outcome = flight.recorder.pruned(reason, event)
        if isinstance(event, trial.Finished) or outcome is not None:
            del self.flights[flight.job.key]
            if outcome is not None:
                self._land(flight, outcome)

    def _land(self, flight: Flight, outcome: Outcome) -> None:
        """Tells how a training ended."""
        if flight.start.makes is not None:
            self.repair.budget.lose(outcome.seconds)  # no trial's outcome counts it
            self.lineage.landed(flight.start.makes, outcome)
            checkpoint.remove(outcome.key)
        elif flight.start.number is not None:
            self.agenda.settle(flight.start.number, outcome)
        flight.land(outcome)

    def _mend(self, flight: Flight, broken: Broken) -> None:
        """Begins a broken attempt again, or tells how it ended: one trial's fault does not end its study."""
        del self.flights[flight.job.key]
        found = self.repair.after(flight, broken)
        if isinstance(found, Outcome):
            self._land(flight, found)
        else:
            self._keep_key(flight.start, found.key)
            self.queue.appendleft(found)
        let_go(broken.error)
        if self.executor.is_here and is_poisoned(self.lab.where.device):
            raise SesrError(
                f"study {self.agenda.spec.name}: the GPU cannot be used by this process any more "
                f"({in_a_line(broken.error)}); the same command goes on"
            ) from broken.error

    def _keep_key(self, start: Start, key: str) -> None:
        """Remembers under which key a trial is written down, before anything is."""
        if start.number is not None and key != start.key:
            self.agenda.ledger.note(start.number, KEY, key)

    def _leave(self, error: BaseException) -> None:
        """Leaves every run as one that goes on from its checkpoint."""
        for flight in self.flights.values():
            if isinstance(error, Exception | KeyboardInterrupt):
                flight.recorder.interrupted()
            else:  # the process is being ended
                flight.recorder.log.let_go()


def _heed_stop(spec: StudySpec, lab: Lab) -> None:
    if lab.stop():
        raise Interrupted(f"study {spec.name}: stopped")


def _candidates(spec: StudySpec, storage: str) -> list[dict[str, Choice]]:
    """The networks of the Pareto set that the study takes over, if it takes one over."""
    if spec.candidates is None:
        return []
    return [dict(outcome.settings) for outcome in pareto(stored(spec.candidates, storage))]


def _load_pictures(spec: StudySpec, lab: Lab) -> Data:
    """The study's pictures, every patch that it may use checked against them."""
    axes = {key: axis for key in ("patch", "recipe") if isinstance(axis := spec.space.get(key), tuple)}
    choices = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    choices += [{key: each[key] for key in ("patch", "recipe") if key in each} for each in spec.enqueue]
    loaded = [load_data(lab, spec.trial(choice)) for choice in choices]
    return loaded[0]


def _check_pictures(spec: StudySpec, ledger: Ledger, data: Data) -> None:
    """A study's numbers can be compared only while its pictures stay the same, those that came as LR too."""
    for attribute, now in ((_DATA, data.fingerprint), (_LR, data.lr_fingerprint)):
        known = ledger.attribute(attribute)
        if known is not None and known != now:
            what = "pictures" if attribute == _DATA else "LR pictures"
            raise ConfigError(
                f"study {spec.name}: its {what} ({spec.trial({}).data}) have changed since it began: fingerprint "
                f"{now[:12] or 'of none'}, not {known[:12] or 'of none'}; restore them, or give the study another name"
            )
        ledger.set_attribute(attribute, now)
