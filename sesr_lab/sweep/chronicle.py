"""The study's own MLflow run, and what the study came to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from sesr_lab import faults
from sesr_lab.errors import RunHeldError
from sesr_lab.results.report import attach_report
from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep.confirmation import Confirmed, confirmed, middle
from sesr_lab.sweep.importance import study_of
from sesr_lab.sweep.ledger import Ledger
from sesr_lab.sweep.notes import colours, study_note
from sesr_lab.sweep.records import FINISHED, WANTED, counts_of, outcomes_of
from sesr_lab.targets.estimate import MACS
from sesr_lab.tracking import measures
from sesr_lab.tracking.runlog import RunLog
from sesr_lab.tracking.secrets import shown
from sesr_lab.tracking.views import views
from sesr_lab.trials.lab import Lab, load_data
from sesr_lab.trials.lifecycle import DATABASE, new_key, with_places
from sesr_lab.trials.notes import COLOUR, DARK, GREY, NOTE
from sesr_lab.trials.outcome import Outcome, best_of, pareto
from sesr_lab.trials.recorder import publish_outcome

COLOURED = "sesr:coloured"
"""Attribute of a stored study: the colours of its Pareto set's runs, by their keys."""
RUN, RUN_0_1, STORE, LOGGED = "sesr:key", "sesr:run_id", "sesr:tracking", "sesr:logged"
"""Attributes of a stored study: its run's key, or its id as version 0.1.0 kept it, the store that holds it, and of how
many trials that run shows the best."""


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
    confirmed: tuple[Confirmed, ...] = ()
    """What was trained again with several seeds, the best mean first; where the study asks for that."""

    @property
    def best(self) -> Outcome | None:
        """The trained network with the highest PSNR."""
        return best_of(self.outcomes)


class Chronicle:
    """Writes down what a study does as a whole."""

    def __init__(self, spec: StudySpec, lab: Lab, ledger: Ledger) -> None:
        """Begins the study's run, or goes on with it."""
        self.spec, self.lab, self.ledger = spec, lab, ledger
        self.tags = {"sesr.study": spec.name, DATABASE: lab.locks.identity}
        """What tells this study's runs from those of another of the same name on the same server."""
        self.store = shown(lab.tracker.uri)
        self._say_if_moved()
        self.key = str(ledger.attribute(RUN) or ledger.attribute(RUN_0_1) or new_key())
        for name, value in {RUN: self.key, STORE: self.store, FINISHED: False, WANTED: spec.trials}.items():
            ledger.set_attribute(name, value)
        self.finished = False
        """Whether this driver has brought the study to its end."""
        self._log = self._begin()

    def broke_off(self, error: BaseException) -> None:
        """Ends the run where the study did not come to its end."""
        stopped = isinstance(error, KeyboardInterrupt)
        if stopped:
            self._publish_best()
        if self._log is None:
            return
        reason = "interrupted" if stopped else type(error).__name__.lower()
        self._log.break_off("KILLED" if stopped else "FAILED", reason)
        if stopped:
            self._report(finished=False)

    def leave(self, ended: str) -> Sweep:
        """The end of this driver, while another one goes on with the study."""
        if self._log is not None:
            self._log.let_go()
        self.lab.tracker.flush()
        self.lab.view.note(f"study {self.spec.name}: {ended}")
        return self.result(ended)

    def finish(self, ended: str) -> Sweep:
        """The study's end, in its database, in the registry and in its run; a second driver's changes nothing."""
        self._log = self._log or self._begin()
        if self._log is None:
            return self.leave("another driver ends the study")
        self.finished = True
        self._publish_best()
        faults.point("best handed over")
        self.ledger.set_attribute(FINISHED, True)
        faults.point("study finished")
        result = self.result(ended)
        trained = len(result.outcomes)  # as the step: an extended study adds a point, it does not repeat one
        if result.best is not None and result.best.psnr is not None and self.ledger.attribute(LOGGED) != trained:
            best = {measures.BEST_PSNR: result.best.psnr, measures.TRIALS: trained}
            self._log.log_metrics(measures.rounded(best), step=trained)
            self.ledger.set_attribute(LOGGED, trained)
        if result.best is not None:
            self._log.set_tags({"sesr.best": result.best.label, "sesr.pareto": ", ".join(result.pareto)[:4000]})
        self._log.end("FINISHED", "finished")
        self.lab.tracker.flush()
        self._report(finished=True)
        return self.result(ended)  # by now its best have names in the registry

    def result(self, ended: str) -> Sweep:
        """Where the study stands, with what the store calls its runs and networks, as far as that is known."""
        outcomes = tuple(with_places(self.lab, outcome) for outcome in outcomes_of(self.ledger.entries))
        place = self.lab.tracker.delivered(self.key)
        return Sweep(
            study=self.spec.name,
            experiment_id="" if place is None else place.experiment_id,
            run_id="" if place is None else place.run_id,
            objective=self.spec.objective,
            outcomes=outcomes,
            counts=counts_of(self.ledger.entries),
            pareto=tuple(outcome.label for outcome in pareto(outcomes)),
            pareto_by_macs=tuple(outcome.label for outcome in pareto(outcomes, by_macs=True)),
            ended=ended,
        )

    def confirm(self, networks: Sequence[Sequence[Outcome]]) -> tuple[Confirmed, ...]:
        """What a second look has found, given all seeds of each network, written into the study's run.

        The champion is the network of the best mean; the seed nearest to a network's mean is registered.
        """
        stands = [middle(seeds) for seeds in networks]
        for outcome in stands:
            publish_outcome(self.lab, outcome)
        self.lab.tracker.flush()
        seeds = self.spec.confirm.seeds if self.spec.confirm is not None else 0
        found = confirmed(networks, {outcome.label: with_places(self.lab, outcome).model for outcome in stands}, seeds)
        with self.lab.tracker.adding_to(self.key) as log:
            if found and len(found[0].psnrs) >= seeds:
                log.set_tags({"sesr.champion": found[0].model or found[0].network})
            rows = [asdict(each) | {"mean": each.mean, "spread": each.spread} for each in found]
            log.log_file(json.dumps(rows, indent=2).encode(), "confirmed.json")
        return found

    def _begin(self) -> RunLog | None:
        """The study's run, begun or gone on with; None while another driver on this machine writes to it."""
        try:
            log = self.lab.tracker.begin(
                self.key,
                experiment=self.spec.name,
                name=self.spec.name,
                params={"objective": self.spec.objective, "sampler": self.spec.sampler},
                tags={"sesr.kind": "study", **self.tags, NOTE: self.spec.description, COLOUR: DARK},
            )
        except RunHeldError:
            return None
        log.set_tags({"sesr.trials": str(self.spec.trials)})  # a parameter could not grow with the study
        if self.spec.target != MACS:
            log.describe_experiment(views(timed=True))
        return log

    def _report(self, *, finished: bool) -> None:
        """Keeps note, colours and report with the study's runs; a study is worth more, so nothing of it may raise."""
        entries = [
            entry if entry.outcome is None else replace(entry, outcome=with_places(self.lab, entry.outcome))
            for entry in self.ledger.entries
        ]
        try:
            self._describe(finished=finished)
            study = study_of(self.spec.name, entries, finished=finished, description=self.spec.description)
            samples = load_data(self.lab, self.spec.trial({})).valid
            with self.lab.tracker.adding_to(self.key) as log:
                attach_report(study, log, self.lab.view.note, tracker=self.lab.tracker, samples=samples)
        except Exception as error:  # of a plotting library, a store, or a disk
            self.lab.view.note(f"warning: there is no report: {error}")

    def _describe(self, *, finished: bool) -> None:
        """What the UI shows of the study: a note on it and on its experiment, and its Pareto set in colours."""
        stands = self.result("")
        note = study_note(self.spec.description, stands.outcomes, experiment_id=stands.experiment_id, finished=finished)
        with self.lab.tracker.adding_to(self.key) as log:
            log.set_tags({NOTE: note})
            log.describe_experiment({NOTE: note})
        front = pareto(stands.outcomes)
        wanted = dict(zip([outcome.key for outcome in front], colours(len(front)), strict=True))
        known = self.ledger.attribute(COLOURED) or {}
        assert isinstance(known, dict)
        for key, colour in {**dict.fromkeys(known, GREY), **wanted}.items():
            if key and known.get(key) != colour:
                with suppress(RunHeldError), self.lab.tracker.adding_to(key) as log:  # it is being trained again
                    log.set_tags({COLOUR: colour})
        self.ledger.set_attribute(COLOURED, wanted)

    def _publish_best(self) -> None:
        for outcome in pareto(outcomes_of(self.ledger.entries)):  # the best is one of them
            publish_outcome(self.lab, outcome)

    def _say_if_moved(self) -> None:
        known = self.ledger.attribute(STORE)
        if known is not None and known != self.store:
            self.lab.view.note(
                f"warning: study {self.spec.name} was run with another store before, {known}: what it has trained is "
                f"there, not in {self.store}"
            )
