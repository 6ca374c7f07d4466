"""What a study has to do: the trials that an earlier driver left, those that others enqueued, and what is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from sesr_lab import faults
from sesr_lab.errors import ConfigError, SesrError
from sesr_lab.study.spec import Pruning, StudySpec
from sesr_lab.sweep.budget import Budget
from sesr_lab.sweep.flight import Start
from sesr_lab.sweep.ledger import Ledger
from sesr_lab.sweep.pruning import Rung, beaten_by, pruner_of
from sesr_lab.sweep.records import ATTEMPTS, DRIVER, RUNG, Entry, outcomes_of, trained_of
from sesr_lab.sweep.search import Point, Search
from sesr_lab.sweep.sharing import Share, lost
from sesr_lab.tracking.journal import ATTEMPT
from sesr_lab.training.trainer import Evaluation
from sesr_lab.trials import checkpoint
from sesr_lab.trials.lab import Lab, Task, untrained
from sesr_lab.trials.lifecycle import record_untrained
from sesr_lab.trials.outcome import Outcome


@dataclass(frozen=True)
class Belonging:
    """Where the runs of a study's trials belong."""

    tags: dict[str, str]
    study_key: str


class Agenda:
    """Begins trials, and ends those that need no training; every trial that ends is ended here."""

    def __init__(
        self,
        spec: StudySpec,
        lab: Lab,
        *,
        search: Search,
        ledger: Ledger,
        budget: Budget,
        share: Share,
        belonging: Belonging,
    ) -> None:
        self.spec, self.lab, self.search, self.ledger = spec, lab, search, ledger
        self.budget, self.share, self.belonging = budget, share, belonging
        self.ended = ""
        """Why nothing more is begun, once that is so."""
        self._rungs: dict[int, Rung] = {}
        """Of the networks that have been compared with others."""
        self._attempts: dict[int, int] = {}
        """Of the trials that this driver has taken, which attempt it is, where several drivers make some."""

    def left(self) -> list[Start]:
        """The trials that a killed or stopped driver left, to be gone on with."""
        with self.share.asking():
            self.ledger.refresh()
            self._sweep_up()
            return [start for entry in self._abandoned() if (start := self._taken_up(entry)) is not None]

    def next(self) -> Start | None:
        """The next trial, begun; None when the study's budget is used, or no network is left that was not tried."""
        with self.share.asking():
            while True:
                self.ledger.refresh()
                for entry in self._abandoned():  # another driver has died since this one began
                    if (start := self._taken_up(entry)) is not None:
                        return start
                if self.is_over():
                    return None
                waiting = next((entry for entry in self.ledger.entries if self._may_claim(entry)), None)
                if waiting is not None:
                    if (start := self._enqueued(waiting)) is not None:
                        return start
                    continue
                remaining = self.spec.trials - len(self.trained()) - self._in_the_air()
                point = self.search.next(self.ledger.history(), remaining, self.ledger.draw)
                if point is None:
                    self.ended = "no network is left that was not tried"
                    return None
                entry = self.ledger.begin(point)
                if not self._needs_no_training(entry, point):
                    return self._start(entry, point)

    def is_over(self) -> bool:
        """Whether the study's budget is used, those counted that are being trained, by whichever driver."""
        self.ended = self.budget.over(self.trained(), self._in_the_air()) or ""
        return bool(self.ended)

    def of_others(self) -> int:
        """How many trials other drivers are training."""
        self.ledger.refresh()
        return len(self._of_others(surely=True))

    def is_left(self) -> bool:
        """Whether there are trials that run and are nobody's: their driver has died."""
        return self.of_others() < len([number for number in self._running() if number not in self.share.mine])

    def trained(self) -> list[Outcome]:
        """How the trials ended that count against the study's number: those that were trained or tried to."""
        return trained_of(tuple(outcomes_of(self.ledger.entries)))

    def settle(self, number: int, outcome: Outcome) -> None:
        """Tells how a trial ended; what it could have gone on from goes."""
        if not self.is_mine(number):
            raise lost(self.spec.name, number)
        self.ledger.settle(number, outcome)
        self.share.release(number)
        self.ended = ""
        checkpoint.remove(outcome.key or outcome.run_id)
        faults.point("checkpoint removed")

    def hopeless(self, start: Start, at: Evaluation) -> str:
        """Why a network is not worth the rest of its training; empty while it is."""
        pruning, number = self.spec.pruning, start.number
        if pruning is None or number is None:
            return ""
        if self.spec.objective == "psnr":
            return self._pruned_by_optuna(pruning, start, number, at)
        return "" if at.fraction < pruning.rung else self._compared(pruning, start, number, at)

    def _compared(self, pruning: Pruning, start: Start, number: int, at: Evaluation) -> str:
        """Why a network is given up at its rung, by what stands in the ledger or is found now."""
        if number in self._rungs:
            return self._rungs[number].given_up
        self.ledger.refresh()
        rungs = {each.number: Rung(**each.attributes[RUNG]) for each in self.ledger.entries if RUNG in each.attributes}
        if number not in rungs:
            own = Rung(start.task.label, at.step, at.score.psnr, untrained(start.task, "pruned", "").cost)
            better = beaten_by(own, rungs.values(), pruning.margin)
            if better is not None and not _is_spared(start, pruning):
                reason = f"{own.psnr:.2f} dB at step {own.step}; {better.label}, no dearer, had {better.psnr:.2f}"
                own = replace(own, given_up=reason)
            rungs[number] = own
            self.ledger.note(number, RUNG, asdict(own))
        self._rungs[number] = rungs[number]
        return rungs[number].given_up

    def _pruned_by_optuna(self, pruning: Pruning, start: Start, number: int, at: Evaluation) -> str:
        steps = max(at.step, round(at.step / max(at.fraction, 1e-9)))
        self.ledger.report(number, at.step, at.score.psnr)
        if (
            at.fraction >= 1
            or _is_spared(start, pruning)
            or not self.ledger.is_hopeless(number, pruner_of(pruning, steps))
        ):
            return ""
        return f"{at.score.psnr:.2f} dB at step {at.step}: given up by Optuna's pruner {pruning.pruner}"

    def give_up(self, start: Start, error: SesrError) -> None:
        """Ends a trial that cannot be trained, unless the user can make what it lacks."""
        if start.number is None or start.task.config.parent == "require":
            raise error
        outcome = untrained(start.task, "failed", str(error), key=start.key)
        self.settle(start.number, record_untrained(self.lab, start.task, outcome))

    def is_mine(self, number: int) -> bool:
        """Whether this driver still has the trial: what must be true right before anything of it is handed over."""
        if not self.share.holds(number):
            return False
        return not self.share.token or self.ledger.entry(number).attributes.get(DRIVER) == self.share.token

    def _running(self) -> list[int]:
        return [entry.number for entry in self.ledger.entries if entry.state == "running" and entry.ours]

    def _in_the_air(self) -> int:
        return len(self._running())

    def _abandoned(self) -> Iterator[Entry]:
        """Trials that run and that no living driver has, one after the other taken for this one."""
        free = [number for number in self._running() if number not in self.share.mine]
        others = self._of_others()
        for number in free:
            if number in others or not self._take(number):
                continue
            entry = self.ledger.entry(number)
            if entry.state == "running":
                yield entry
            else:  # it ended after it was looked at, which is why its lock was free
                self.share.release(number)

    def _of_others(self, *, surely: bool = False) -> set[int]:
        """The trials of other drivers that live; one that has lost its connection still writes to its trials' runs."""
        strange = [number for number in self._running() if number not in self.share.mine]
        if not strange or not self.share.token:
            return set()
        is_free = self.lab.tracker.journals.is_free
        written = {number for number in strange if not is_free(self.ledger.entries[number].key)}
        return written | self.share.of_others(strange, surely=surely)

    def _take(self, number: int) -> bool:
        """Whether the trial is this driver's now."""
        taken = self.share.take(number)
        if taken and self.share.token:
            self._attempts[number] = int(self.ledger.entry(number).attributes.get(ATTEMPTS, 0)) + 1
            self.ledger.note(number, ATTEMPTS, self._attempts[number])
            self.ledger.note(number, DRIVER, self.share.token)
        return taken

    def _sweep_up(self) -> None:
        """Removes the checkpoints of trials that are over: a driver may have died before it did."""
        over = {entry.key for entry in self.ledger.entries if entry.state not in ("running", "waiting")}
        for key in over.intersection(checkpoint.kept()):
            checkpoint.remove(key)

    def _taken_up(self, entry: Entry) -> Start | None:
        """The training with which a trial goes on; None where it needs none."""
        if entry.outcome is not None:
            self.settle(entry.number, entry.outcome)
            return None
        try:
            point = self.search.point(entry.settings)
        except ConfigError as error:
            self.ledger.refuse(entry.number, str(error))
            self.share.release(entry.number)
            return None
        if self._needs_no_training(entry, point):
            self.share.release(entry.number)
            return None
        return self._start(entry, point, goes_on=True)

    def _may_claim(self, entry: Entry) -> bool:
        """Whether a trial waits that can be told or trained now: not while its network is being trained."""
        if entry.state != "waiting":
            return False
        try:
            return self.ledger.in_flight(self._asked_for(entry).fingerprint) is None
        except (ConfigError, ValueError):
            return True  # to be refused

    def _enqueued(self, waiting: Entry) -> Start | None:
        """What a trial asks for that somebody has enqueued, begun; None where it needs no training."""
        try:
            point = self._asked_for(waiting)
        except (ConfigError, ValueError) as error:
            self.lab.view.note(f"warning: enqueued trial {waiting.number} is passed over: {error}")
            self.ledger.refuse(waiting.number, str(error))
            return None
        entry = self.ledger.claim(waiting, point)
        return None if entry is None or self._needs_no_training(entry, point) else self._start(entry, point)

    def _asked_for(self, waiting: Entry) -> Point:
        if not waiting.ours and (strange := self.search.outside(waiting.settings)):
            raise ConfigError(strange)
        searched = {key: value for key, value in waiting.settings.items() if key in self.spec.space}
        drawn = self.ledger.draw(0, searched) if self.spec.space else {}
        return self.search.point({**drawn, **waiting.settings})

    def _needs_no_training(self, entry: Entry, point: Point) -> bool:
        """Whether the trial is told at once: its network is known already, or costs too much."""
        twin = self.ledger.twin(entry.number, point.fingerprint)
        if twin is not None:
            self.ledger.repeat(entry.number, twin)
            return True
        if (first := self.ledger.in_flight(point.fingerprint, before=entry.number)) is not None:
            self.ledger.refuse(entry.number, f"trial {first.number} trains the same network")
            return True  # the database was away while it was begun, and others could begin too
        excess = self.search.over(point)
        if excess is None:
            return False
        outcome = untrained(self._task(entry, point), "over budget", excess.reason)
        self.ledger.exclude(entry.number, excess.amount, excess.limit)
        self.ledger.settle(entry.number, outcome)
        self.lab.view.note(f"{outcome.label}: over budget: {excess.reason}")
        return True

    def _start(self, entry: Entry, point: Point, *, goes_on: bool = False) -> Start | None:
        if not goes_on and not self._take(entry.number):
            return None
        return Start(self._task(entry, point), entry.key, entry.number, goes_on=goes_on)

    def _task(self, entry: Entry, point: Point) -> Task:
        attempt = self._attempts.get(entry.number)
        counted = {} if attempt is None else {ATTEMPT: str(attempt)}
        return Task(
            config=point.config,
            experiment=self.spec.name,
            label=f"t{entry.number:04d}-{point.config.architecture.short_name}",
            tags={"sesr.kind": "trial", **self.belonging.tags, "sesr.trial": str(entry.number), **counted},
            study_key=self.belonging.study_key,
            estimate=point.price.estimate,
        )


def _is_spared(start: Start, pruning: Pruning) -> bool:
    """Whether a network is trained to its end, however it stands: others are compared with it all the same."""
    return bool(start.task.config.preset) and not pruning.presets
