"""A study, driven: Optuna is asked, trials run, Optuna is told.

Optuna's storage is the truth about the search. Order for each trial: ask, fingerprint, run, run's id, training,
outcome, tell; a kill between any two of them is made good by the next start, which holds the study's claim.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from sesr_lab.errors import ConfigError, DataError, ModelError, ParentError, StoreError
from sesr_lab.registry.publish import ClaimLostError
from sesr_lab.study.config import TrialConfig
from sesr_lab.study.spec import Choice, Range, StudySpec
from sesr_lab.sweep.ledger import (
    DUPLICATE,
    FINISHED,
    OUTCOME,
    counts_of,
    open_study,
    outcomes_of,
    storage_errors,
    stored,
)
from sesr_lab.tracking.runlog import RunLog
from sesr_lab.trials import checkpoint
from sesr_lab.trials import trial as trials
from sesr_lab.trials.claims import Claim
from sesr_lab.trials.lab import Lab, Task, load_data, patiently, untrained
from sesr_lab.trials.lifecycle import DATABASE, carry_out, reap, record_untrained
from sesr_lab.trials.outcome import Outcome, best_of, pareto
from sesr_lab.trials.parent import Parents

DUPLICATES_IN_A_ROW = 3
"""So many known networks in a row, and one that nobody has tried is put in front of the sampler."""
GIVE_UP_ASKING = 100
"""So many known networks in a row from a space that cannot be listed, and it counts as exhausted."""

_DATA, _RUN = "sesr:data_fingerprint", "sesr:run_id"
_FINGERPRINT, _EXTRAS = "fingerprint", "settings"


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
    """Labels of the trials that no other beats in both PSNR and MACs."""

    @property
    def best(self) -> Outcome | None:
        """The trained network with the highest PSNR."""
        return best_of(self.outcomes)


def sweep(spec: StudySpec, lab: Lab, storage: str) -> Sweep:
    """Runs the study, or goes on with it, until it has trained as many networks as it names or its space ends.

    Raises:
        ConfigError: the stored study is another one than `spec`.
        StoreError: a store cannot be reached, or another process drives this study.
        Interrupted: the user asked to stop; nothing is lost.
    """
    claim = lab.claims.take(f"study:{spec.name}")
    if claim is None:
        holder = lab.claims.look(f"study:{spec.name}")
        owner = holder.owner if holder else "another process"
        raise StoreError(f"study {spec.name}: {owner} is driving it now; wait for it, or stop it first")
    with claim, storage_errors(storage):
        return _Driver(spec, lab, storage, claim).drive()


class _Driver:
    """One driver of one study; holds what its steps share."""

    def __init__(self, spec: StudySpec, lab: Lab, storage: str, claim: Claim) -> None:
        self.spec, self.lab, self.storage, self.claim = spec, lab, storage, claim
        self.parents = Parents(lab)
        fingerprint = self._load_data()  # before anything is stored: a wrong path leaves nothing behind
        candidates = _candidates(spec, storage)
        self.study = open_study(spec, storage)
        self._check_data(fingerprint)
        for settings in [*candidates, *spec.enqueue]:
            self._enqueue(settings)
        self.experiment_id = patiently(lab, partial(lab.tracker.experiment, spec.name))
        self.run_id = ""

    def drive(self) -> Sweep:
        reap(self.lab)
        run = self._study_run()
        self.run_id = run.run_id
        self.study.set_user_attr(FINISHED, False)
        if done := self._counted():
            text = f"study {self.spec.name}: {len(done)} of {self.spec.trials} networks are trained already"
            self.lab.view.recall(done, text)
        try:
            self._resume()
            while len(self._counted()) < self.spec.trials and (asked := self._next()) is not None:
                self._run(asked)
        except BaseException as error:
            run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", type(error).__name__.lower())
            raise
        self.study.set_user_attr(FINISHED, True)
        result = self.result()
        if result.best is not None and result.best.psnr is not None:
            trained = len(
                result.outcomes
            )  # as the step: a study that was extended adds a point, it does not repeat one
            run.log_metrics({"best_psnr": result.best.psnr, "trials": trained}, step=trained)
            run.set_tags({"sesr.best": result.best.model or "", "sesr.pareto": ", ".join(result.pareto)[:4000]})
        run.end("FINISHED", "finished")
        return result

    def result(self) -> Sweep:
        outcomes = tuple(outcomes_of(self.study))
        return Sweep(
            study=self.spec.name,
            experiment_id=self.experiment_id,
            run_id=self.run_id,
            objective=self.spec.objective,
            outcomes=outcomes,
            counts=counts_of(self.study),
            pareto=tuple(outcome.label for outcome in pareto(outcomes)),
        )

    def _load_data(self) -> str:
        """The fingerprint of the study's pictures, every patch that it may use checked against them."""
        axis = self.spec.space.get("patch")
        choices: list[dict[str, Choice]] = [{"patch": patch} for patch in axis] if isinstance(axis, tuple) else [{}]
        loaded = [load_data(self.lab, self.spec.trial(choice)) for choice in choices]
        return loaded[0].fingerprint

    def _check_data(self, fingerprint: str) -> None:
        """A study's numbers can be compared only while its pictures stay the same."""
        known = self.study.user_attrs.get(_DATA)
        if known is not None and known != fingerprint:
            raise ConfigError(
                f"study {self.spec.name}: its pictures ({self.spec.trial({}).data}) have changed since it began: "
                f"fingerprint {fingerprint[:12]}, not {known[:12]}; restore them, or give the study another name"
            )
        self.study.set_user_attr(_DATA, fingerprint)

    def _study_run(self) -> RunLog:
        """The study's own MLflow run: the earlier one, if this store holds it."""
        known = self.study.user_attrs.get(_RUN)
        if known is not None and patiently(self.lab, partial(self.lab.tracker.holds, known)):
            return patiently(self.lab, partial(self.lab.tracker.reopen_run, known))
        start = partial(
            self.lab.tracker.start_run,
            self.experiment_id,
            self.spec.name,
            params={"objective": self.spec.objective, "trials": self.spec.trials, "sampler": self.spec.sampler},
            tags={"sesr.kind": "study", **self._tags(), "mlflow.note.content": self.spec.description},
        )
        run = patiently(self.lab, start)
        self.study.set_user_attr(_RUN, run.run_id)
        return run

    def _tags(self) -> dict[str, str]:
        """What tells this study's runs from those of another of the same name on the same server."""
        return {"sesr.study": self.spec.name, DATABASE: self.lab.claims.identity}

    def _resume(self) -> None:
        """Goes on with the trials that a killed or stopped driver left, before anything new is asked."""
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            asked = optuna.trial.Trial(self.study, frozen._trial_id)
            begun = {"run_id", OUTCOME} & frozen.user_attrs.keys()
            if begun or not self._settled(asked):
                self._run(asked, self._run_of(frozen))

    def _run_of(self, frozen: FrozenTrial) -> str | None:
        """The MLflow run of a trial, by its stored id or by its tags (a kill can fall between the two)."""
        if "run_id" in frozen.user_attrs:
            return cast(str, frozen.user_attrs["run_id"])
        tags = {**self._tags(), "sesr.kind": "trial", "sesr.trial": str(frozen.number)}
        found = patiently(self.lab, partial(self.lab.tracker.runs, self.experiment_id, tags=tags))
        return next((run.run_id for run in found), None)

    def _next(self) -> optuna.Trial | None:
        """The next trial to train; None when no network is left that was not tried."""
        in_a_row = 0
        while in_a_row < GIVE_UP_ASKING:
            waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting and self.spec.points is not None and not self._enqueue_unseen(in_a_row):
                return None
            self._check_claim()
            asked = self.study.ask()
            if not self._settled(asked):
                return asked
            in_a_row += 1
        return None

    def _enqueue_unseen(self, in_a_row: int) -> bool:
        """Puts an untried network first where the sampler repeats itself or the rest fits; False if none is left."""
        unseen = self._unseen()
        remaining = self.spec.trials - len(self._counted())
        if unseen and (len(unseen) <= remaining or in_a_row >= DUPLICATES_IN_A_ROW):
            drawn = random.Random(self.spec.seed + len(self.study.get_trials(deepcopy=False)))
            self._enqueue(drawn.choice(unseen))
        return bool(unseen)

    def _unseen(self) -> list[dict[str, Choice]]:
        seen = {trial.user_attrs.get(_FINGERPRINT) for trial in self.study.get_trials(deepcopy=False)}
        return [
            point
            for point in self.spec.points or []
            if (config := self.spec.trial(point)).fingerprint not in seen and self._excess(config) <= 0
        ]

    def _settled(self, asked: optuna.Trial) -> bool:
        """Whether the trial needs no training: its network is known already, or costs too much."""
        config = self._config(asked)
        twin = self._twin(config.fingerprint, asked.number)
        asked.set_user_attr(_FINGERPRINT, config.fingerprint)
        if self.spec.max_macs is not None:
            asked.set_constraint("macs", self._excess(config))
        if twin is not None:
            asked.set_user_attr(DUPLICATE, twin.number)
            self.study.tell(asked, twin.values, state=twin.state)
            return True
        if self._excess(config) > 0:
            outcome = self._too_costly(asked, config)
            asked.set_user_attr(OUTCOME, asdict(outcome))
            self.study.tell(asked, state=TrialState.PRUNED)
            return True
        return False

    def _too_costly(self, asked: optuna.Trial, config: TrialConfig) -> Outcome:
        macs = trials.trial_costs(config).macs_720p
        reason = f"{macs / 1e9:.2f} GMAC to 720p, over the study's {(self.spec.max_macs or 0) / 1e9:.2f}"
        task = self._task(asked, config)
        return record_untrained(self.lab, task, untrained(task, "over budget", reason))

    def _excess(self, config: TrialConfig) -> float:
        """MACs over the study's limit; at most zero where there is room."""
        return trials.trial_costs(config).macs_720p - (self.spec.max_macs or float("inf"))

    def _twin(self, fingerprint: str, number: int) -> FrozenTrial | None:
        """The trial that has trained the same network, if one has."""
        ended = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        same = (t for t in ended if t.user_attrs.get(_FINGERPRINT) == fingerprint and t.number != number)
        return next(same, None)

    def _run(self, asked: optuna.Trial, run_id: str | None = None) -> None:
        """Trains a trial, or goes on with it in run `run_id`, and tells Optuna."""
        if OUTCOME in asked.user_attrs:
            outcome = Outcome(**asked.user_attrs[OUTCOME])
        else:
            outcome = self._train(asked, run_id)
            self._surely(lambda: asked.set_user_attr(OUTCOME, asdict(outcome)))
        self._check_claim()
        self._surely(lambda: self._tell(asked, outcome))
        checkpoint.remove(outcome.run_id)

    def _train(self, asked: optuna.Trial, run_id: str | None) -> Outcome:
        """How the trial ended; what will fail again if it is tried again is an outcome, and the study goes on."""
        config = self._config(asked)
        task = self._task(asked, config)
        try:
            return carry_out(
                self.lab,
                task,
                parent=self.parents.ensure(task, run_id),
                run_id=run_id,
                on_run=lambda known: self._surely(lambda: asked.set_user_attr("run_id", known)),
                may_publish=self.claim.current,
            )
        except ClaimLostError:
            raise
        except (ParentError, ModelError, DataError) as error:
            if config.parent == "require":  # the user can make the parent, and this trial can then be trained
                raise
            return record_untrained(self.lab, task, untrained(task, "failed", str(error)))

    def _tell(self, asked: optuna.Trial, outcome: Outcome) -> None:
        if outcome.result != "finished" or outcome.psnr is None:
            # Not FAIL: the sampler would ask for the same network again and again.
            self.study.tell(asked, state=TrialState.PRUNED, skip_if_finished=True)
            return
        values = [outcome.psnr, float(outcome.macs_720p)] if self.spec.objective == "pareto" else [outcome.psnr]
        self.study.tell(asked, values, skip_if_finished=True)

    def _surely(self, write: Callable[[], None]) -> None:
        """Writes to the study's database, waiting for it if it is away."""

        def attempt() -> None:
            with storage_errors(self.storage):
                write()

        patiently(self.lab, attempt)

    def _check_claim(self) -> None:
        """Stops this driver if it slept past its lease and another has the study now."""
        if not self.claim.current():
            raise StoreError(f"study {self.spec.name}: another process has taken it over; this one stops")

    def _task(self, asked: optuna.Trial, config: TrialConfig) -> Task:
        return Task(
            config=config,
            experiment_id=self.experiment_id,
            label=f"t{asked.number:04d}-{config.architecture.short_name}",
            tags={"sesr.kind": "trial", **self._tags(), "sesr.trial": str(asked.number)},
            study_run_id=self.run_id,
        )

    def _config(self, asked: optuna.Trial) -> TrialConfig:
        params = {key: _suggest(asked, key, axis) for key, axis in self.spec.space.items()}
        return self.spec.trial(params | asked.user_attrs.get(_EXTRAS, {}))

    def _counted(self) -> list[Outcome]:
        """The trials that count against the study's number: those that were trained or tried to."""
        return [outcome for outcome in outcomes_of(self.study) if outcome.result != "over budget"]

    def _enqueue(self, settings: Mapping[str, Choice]) -> None:
        inside = {key: value for key, value in settings.items() if key in self.spec.space}
        extras = {key: value for key, value in settings.items() if key not in self.spec.space}
        known = [t.user_attrs.get("enqueued") for t in self.study.get_trials(deepcopy=False)]
        if dict(settings) not in known:
            self.study.enqueue_trial(inside, user_attrs={_EXTRAS: extras, "enqueued": dict(settings)})


def _candidates(spec: StudySpec, storage: str) -> list[dict[str, Choice]]:
    """The networks of the Pareto set that the study takes over, if it takes one over."""
    if spec.candidates is None:
        return []
    front = pareto(tuple(stored(spec.candidates, storage)))
    return [dict(outcome.settings) for outcome in front]


def _suggest(asked: optuna.Trial, key: str, axis: tuple[Choice, ...] | Range) -> Choice:
    if isinstance(axis, Range):
        return asked.suggest_float(key, axis.low, axis.high, log=axis.log)
    return cast(Choice, asked.suggest_categorical(key, axis))
