"""The ledger of a study: everything that is asked of Optuna's storage or told to it, every retry inside.

The order of what is written for a trial makes a kill between any two of them harmless: begun with its settings and
its network's fingerprint, then its outcome, then Optuna's verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

import optuna
from optuna.trial import FrozenTrial, TrialState

from sesr_lab import faults
from sesr_lab.errors import ConfigError, StoreAwayError
from sesr_lab.study.space import Choice
from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep import sampling
from sesr_lab.sweep.records import (
    ENDLESS,
    EXTRAS,
    FINGERPRINT,
    FINISHED,
    IDENTITY,
    KEY,
    NAMED,
    OUTCOME,
    PROGRESS,
    REASON,
    SAMPLER,
    TWIN,
    WANTED,
    Entry,
    Standing,
    check_identity,
    counts_of,
    entry_of,
    is_current,
    outcomes_of,
    running_of,
    time_left,
    trained_of,
    values_of,
)
from sesr_lab.sweep.search import History, Point
from sesr_lab.sweep.storage import Patience, exists, open_storage, storage_errors, studies_in
from sesr_lab.trials.database import shown
from sesr_lab.trials.outcome import Outcome, best_of, pareto, record_of


class Ledger:
    """One stored study, opened to be driven. Its methods wait for a database that is away."""

    def __init__(self, spec: StudySpec, url: str, patience: Patience) -> None:
        """The stored study, or a new one.

        Raises:
            ConfigError: a study of that name is stored whose space, settings or objective are others.
            StoreError: the database cannot be used.
        """
        self.spec, self.url, self._surely = spec, url, patience
        self._storage = patience(lambda: open_storage(url))
        self._study = patience(self._open)
        self._ids: dict[int, int] = {}
        self._ended: dict[int, Entry] = {}
        self._draws = sampling.Draws(spec, sampling.pinned(spec, self.attribute(SAMPLER)))
        self.entries: tuple[Entry, ...] = ()
        """Every trial, in order, as of the last `refresh`."""
        self.refresh()

    def refresh(self) -> None:
        """Reads what has changed, by whomever."""
        trials = self._surely(lambda: self._study.get_trials(deepcopy=False))
        self.entries = tuple(self._ended.get(trial.number) or self._read(trial) for trial in trials)

    def history(self) -> History:
        """What the study has tried."""
        begun = [entry for entry in self.entries if entry.state != "waiting" and entry.twin is None]
        return History(
            fingerprints={entry.fingerprint for entry in begun if entry.fingerprint and entry.state != "fail"},
            named=[entry.attributes[NAMED] for entry in self.entries if NAMED in entry.attributes],
            trials=len(begun),
        )

    def draw(self, attempt: int, given: Mapping[str, Choice]) -> dict[str, Choice]:
        """What the sampler would try next."""
        return self._draws.draw(self.history().trials, attempt, given)

    def begin(self, point: Point) -> Entry:
        """A new running trial of that network; exactly one, though the database went away while it was made."""
        key = uuid4().hex
        attributes = self._attributes(point) | {KEY: key}
        if point.named is not None:
            attributes[NAMED] = dict(point.named)
        searched = {name: value for name, value in point.settings.items() if name in self._draws.distributions}
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=searched,
            distributions={name: self._draws.distributions[name] for name in searched},
            user_attrs=attributes,
        )

        tried = False

        def create() -> int:
            nonlocal tried
            if tried:  # the database may have made it before it went away
                self.refresh()
            for entry in self.entries:
                if entry.key == key:
                    return self._ids[entry.number]
            tried = True
            return self._storage.create_new_trial(self._study._study_id, template_trial=template)

        trial_id = self._surely(create)
        faults.point("trial begun")
        return self._reread(trial_id)

    def claim(self, waiting: Entry, point: Point) -> Entry | None:
        """The trial that somebody enqueued, running now; None if it is another's meanwhile."""
        trial_id = self._ids[waiting.number]
        if self.entry(waiting.number).state != "waiting":
            return None
        # All that it takes to go on with it is there before it runs: a kill may come after any line.
        for name, attribute in {KEY: uuid4().hex, FINGERPRINT: point.fingerprint, EXTRAS: dict(point.settings)}.items():
            self.note(waiting.number, name, attribute)
        taken = self._surely(partial(self._storage.set_trial_state_values, trial_id, TrialState.RUNNING))
        if not taken:
            return None
        for name, value in point.settings.items():
            if (distribution := self._draws.distributions.get(name)) is not None:
                internal = distribution.to_internal_repr(value)
                self._write(partial(self._storage.set_trial_param, trial_id, name, internal, distribution))
        return self.entry(waiting.number)

    def note(self, number: int, name: str, value: object) -> None:
        """Keeps an attribute of a trial."""
        self._write(lambda: self._storage.set_trial_user_attr(self._ids[number], name, value))

    def show_progress(self, number: int, progress: Mapping[str, object]) -> None:
        """Keeps how far a trial is, for whoever looks; not worth waiting for a database that is away."""
        with suppress(StoreAwayError), storage_errors(self.url):
            self._storage.set_trial_user_attr(self._ids[number], PROGRESS, progress)

    def report(self, number: int, step: int, psnr: float) -> None:
        """Keeps a score on the way, which Optuna's pruners look at."""
        self._write(partial(self._storage.set_trial_intermediate_value, self._ids[number], step, psnr))

    def is_hopeless(self, number: int, pruner: optuna.pruners.BasePruner) -> bool:
        """Whether the pruner would give the running trial up."""
        asked = self._surely(lambda: self._storage.get_trial(self._ids[number]))
        return self._surely(lambda: pruner.prune(self._study, asked))

    def settle(self, number: int, outcome: Outcome) -> None:
        """Stores how a trial ended and tells Optuna; what was stored or told before stays."""
        if self.entries[number].outcome is None:
            self.note(number, OUTCOME, record_of(outcome))
        faults.point("outcome stored")
        values = values_of(self.spec, outcome)
        self._tell(number, TrialState.PRUNED if values is None else TrialState.COMPLETE, values)
        faults.point("trial told")

    def repeat(self, number: int, twin: Entry) -> None:
        """Ends a trial of a network that is known already: it is told the same."""
        self.note(number, TWIN, twin.number)
        values = None if twin.outcome is None else values_of(self.spec, twin.outcome)
        self._tell(number, TrialState.PRUNED if values is None else TrialState.COMPLETE, values)

    def refuse(self, number: int, reason: str) -> None:
        """Ends a trial that this study cannot train; told PRUNED, so that no sampler asks for it again."""
        self.note(number, REASON, reason)
        self._tell(number, TrialState.PRUNED, None)

    def exclude(self, number: int, excess: float, limit: str = "macs") -> None:
        """Marks a trial as breaking a limit, by so much."""
        self._write(lambda: optuna.trial.Trial(self._study, self._ids[number]).set_constraint(limit, excess))

    def twin(self, number: int, fingerprint: str) -> Entry | None:
        """Another trial that has trained the same network, if one has."""
        ended = (entry for entry in self.entries if entry.state in ("complete", "pruned") and entry.twin is None)
        return next((entry for entry in ended if entry.fingerprint == fingerprint and entry.number != number), None)

    def in_flight(self, fingerprint: str, before: int | None = None) -> Entry | None:
        """The trial that trains the network now, whoever's it is, of those before another."""
        running = (entry for entry in self.entries if entry.state == "running" and entry.fingerprint == fingerprint)
        return next((entry for entry in running if before is None or entry.number < before), None)

    def entry(self, number: int) -> Entry:
        """The trial as it is stored now."""
        return self._reread(self._ids[number])

    def attribute(self, name: str) -> Any:
        """An attribute of the study, or None."""
        return self._surely(lambda: self._study.user_attrs).get(name)

    def set_attribute(self, name: str, value: object) -> None:
        """Keeps an attribute of the study; one that it has is not written again."""
        if self.attribute(name) != value:
            self._surely(partial(self._study.set_user_attr, name, value))

    def _open(self) -> optuna.Study:
        names = optuna.get_all_study_names(self._storage)
        if self.spec.name in names:
            study = optuna.load_study(study_name=self.spec.name, storage=self._storage)
            check_identity(self.spec, study.user_attrs.get(IDENTITY))
        else:
            study = optuna.create_study(
                storage=self._storage, study_name=self.spec.name, directions=sampling.directions(self.spec)
            )
        if not is_current(study.user_attrs.get(IDENTITY)):
            study.set_user_attr(IDENTITY, self.spec.identity)
        if not isinstance(study.user_attrs.get(SAMPLER), Mapping):
            study.set_user_attr(SAMPLER, sampling.sampler_of(self.spec))
        return study

    def _attributes(self, point: Point) -> dict[str, Any]:
        extras = {name: value for name, value in point.settings.items() if name not in self.spec.space}
        return {FINGERPRINT: point.fingerprint, EXTRAS: extras}

    def _read(self, trial: FrozenTrial) -> Entry:
        self._ids[trial.number] = trial._trial_id
        entry = entry_of(trial)
        if entry.ours or trial.state.is_finished():
            self._show(trial)
        if trial.state.is_finished():
            self._ended[trial.number] = entry
        return entry

    def _show(self, trial: FrozenTrial) -> None:
        """Shows a trial to the sampler, where it has all that the sampler looks at."""
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
            known = {name: value for name, value in trial.distributions.items() if name in self._draws.distributions}
            if known == self._draws.distributions:
                self._draws.show(trial.number, trial)

    def _write(self, write: Callable[[], object]) -> None:
        """Writes to a trial; one that has ended already keeps what it has."""

        def attempt() -> None:
            try:
                write()
            except optuna.exceptions.UpdateFinishedTrialError:
                return

        self._surely(attempt)

    def _tell(self, number: int, state: TrialState, values: list[float] | None) -> None:
        self._write(partial(self._storage.set_trial_state_values, self._ids[number], state, values))
        self._reread(self._ids[number])

    def _reread(self, trial_id: int) -> Entry:
        """Reads one trial again, which takes less than to look at all."""
        trial = self._surely(partial(self._storage.get_trial, trial_id))
        if trial.number > len(self.entries):  # others were made before it
            self.refresh()
        else:
            entry = self._ended.get(trial.number) or self._read(trial)
            self.entries = (*self.entries[: trial.number], entry, *self.entries[trial.number + 1 :])
        return self.entries[trial.number]


def standing(url: str, name: str | None = None) -> list[Standing]:
    """Where the stored studies stand, or the one called `name`.

    Raises:
        ConfigError: there is no study of that name.
        StoreError: the database cannot be read.
    """
    with storage_errors(url):
        return [_standing(study) for study in studies_in(url, name)]


def standing_of(url: str, name: str) -> Standing | None:
    """Where the study of that name stands; None where there is none.

    Raises:
        StoreError: the database cannot be read.
    """
    return standing(url, name)[0] if exists(url) and name in _names(url) else None


def stored(name: str, url: str) -> list[Outcome]:
    """The trained x2 networks of a stored study.

    Raises:
        ConfigError: there is no such study, it has not finished, or it is not one of x2 networks.
    """
    found = standing_of(url, name)
    if found is None:
        raise ConfigError(f"study {name!r} is not in {shown(url)}; run it first: sesr-lab sweep {name}")
    if not found.finished:
        raise ConfigError(f"study {name!r} has not finished; go on with it: sesr-lab sweep {name}")
    trained = [outcome for outcome in found.outcomes if outcome.result == "finished"]
    if any(outcome.scale != 2 for outcome in trained):
        raise ConfigError(f"study {name!r} is one of x4 networks; candidates come from a x2 study")
    return trained


def _standing(study: optuna.Study) -> Standing:
    entries = tuple(entry_of(trial) for trial in study.get_trials(deepcopy=False))
    outcomes = tuple(outcomes_of(entries))
    attributes = study.user_attrs
    wanted = attributes.get(WANTED)
    wanted = wanted if isinstance(wanted, int) and wanted < ENDLESS else None
    running = running_of(entries)
    return Standing(
        study=study.study_name,
        finished=bool(attributes.get(FINISHED)),
        wanted=wanted,
        done=len(trained_of(outcomes)),
        counts=counts_of(entries),
        best=best_of(outcomes),
        pareto=tuple(outcome.label for outcome in pareto(outcomes)),
        outcomes=outcomes,
        running=running,
        left=None if attributes.get(FINISHED) else time_left(outcomes, running, wanted),
    )


def _names(url: str) -> list[str]:
    with storage_errors(url):
        return optuna.get_all_study_names(open_storage(url))
