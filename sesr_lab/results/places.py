"""Where a study's networks are in a store: a study remembers its trials' runs, not the versions made of them."""

from __future__ import annotations

from dataclasses import replace

from sesr_lab.registry.catalog import versions
from sesr_lab.results.report import Study
from sesr_lab.tracking.runs import Tracker


def with_models(study: Study, tracker: Tracker) -> Study:
    """The study, each of its networks with its run and its registered version, as far as the store has them.

    Raises:
        StoreError: the store cannot be read.
    """
    runs = {run.key: run.run_id for run in tracker.runs(tags={"sesr.study": study.name, "sesr.kind": "trial"})}
    uris = {version.run_id: version.uri for version in versions(tracker)}
    placed = []
    for trial in study.trials:
        run_id = runs.get(trial.outcome.key, trial.outcome.run_id)
        outcome = replace(trial.outcome, run_id=run_id, model=uris.get(run_id, trial.outcome.model))
        placed.append(replace(trial, outcome=outcome))
    return replace(study, trials=placed)
