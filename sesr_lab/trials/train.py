"""One tracked run outside a study: `sesr-lab train`."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from sesr_lab.errors import StoreError
from sesr_lab.study.config import TrialConfig
from sesr_lab.tracking.runs import END_PATIENCE_S
from sesr_lab.trials import checkpoint
from sesr_lab.trials.lab import Lab, Task, load_data
from sesr_lab.trials.lifecycle import carry_out, reap, resumable_run, with_places
from sesr_lab.trials.outcome import Outcome
from sesr_lab.trials.parent import Parents

EXPERIMENT = "train"
"""The MLflow experiment of all single runs."""


def train(config: TrialConfig, lab: Lab, *, fresh: bool = False) -> Outcome:
    """Trains one network, its parent first where it needs one and there is none.

    Args:
        fresh: start anew even if the same training was stopped or killed before; otherwise that goes on.

    Raises:
        SesrError: the data, the parent or a store is unfit.
        Interrupted: the user asked to stop; the same command goes on from there.
    """
    lab.tracker.check_experiment(EXPERIMENT)  # a deleted one is said before anything is trained
    reap(lab)
    data = load_data(lab, config)
    task = Task(
        config=config,
        experiment=EXPERIMENT,
        label=f"{config.architecture.short_name}-x{config.scale}",
        tags={"sesr.kind": "train"},
    )
    earlier = None if fresh else resumable_run(lab, task, data)
    parent = Parents(lab).ensure(task, earlier)
    outcome = carry_out(lab, task, parent=parent, key=earlier)
    checkpoint.remove(outcome.key)
    what: Literal["run", "model"] = "model" if outcome.result == "finished" else "run"
    with suppress(StoreError):  # the delivery has said it
        lab.tracker.wait_for(outcome.key, what, stop=lab.stop, patience_s=END_PATIENCE_S)
    return with_places(lab, outcome)
