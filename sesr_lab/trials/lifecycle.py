"""One tracked trial from its MLflow run to its outcome, through kills and resumes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from uuid import uuid4

from torch import Tensor

from sesr_lab.data.dataset import Data
from sesr_lab.errors import StoreError
from sesr_lab.registry.lookup import Named
from sesr_lab.registry.publish import ClaimLostError
from sesr_lab.study.config import TrialConfig
from sesr_lab.tracking import measures
from sesr_lab.tracking.runlog import RunLog
from sesr_lab.trials import checkpoint, notes, trial
from sesr_lab.trials.lab import Interrupted, Lab, Task, load_data, patiently
from sesr_lab.trials.outcome import Outcome
from sesr_lab.trials.recorder import Recorder, is_out_of_memory

DATABASE = "sesr.database"
"""The tag that says which study database a run goes with."""


def new_key() -> str:
    """The key of a run that is to be begun."""
    return uuid4().hex


def carry_out(
    lab: Lab,
    task: Task,
    *,
    parent: Named | None = None,
    key: str | None = None,
    on_key: Callable[[str], None] = lambda key: None,
    may_publish: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Trains and records one network; one that cannot be trained is an outcome, not an exception.

    Whoever asked calls `checkpoint.remove` once the outcome is safe: until then a kill loses nothing.

    Args:
        parent: the x2 network that a x4 one starts from.
        key: the run's; that of an earlier attempt goes on with it.
        on_key: told the run's key before anything is written.
        may_publish: asked right before the network is handed over to be registered.

    Raises:
        Interrupted: the user asked to stop; a checkpoint is on disk.
        SesrError: the data or a store is unfit.
    """
    lab.view.begin(task.label)
    data = load_data(lab, task.config)
    log, state = open_run(lab, task, data, parent, key or new_key(), on_key)
    recorder = Recorder(lab, task, data, parent, log, may_publish)
    try:
        outcome = _train(lab, task, parent, recorder, state)
    except (KeyboardInterrupt, StoreError):
        recorder.interrupted()
        raise
    except ClaimLostError:
        recorder.lost()
        raise
    except Exception as error:  # whatever it is, it belongs into the run
        outcome = recorder.failed(error)
        if not is_out_of_memory(error):
            raise
    except BaseException:  # not even a failure: the process is being ended
        log.let_go()
        raise
    say(lab, task, outcome)
    lab.view.end(outcome)
    return outcome


def resumable_run(lab: Lab, task: Task, data: Data) -> str | None:
    """The key of the newest run of the same trial on the same pictures that was stopped or killed, and is free."""
    tags = _identity(task, data)
    for trace in lab.tracker.trace(**tags):
        ended = trace.end in ("interrupted", "lost") or (trace.end == "failed" and checkpoint.exists(trace.key))
        if ended and lab.tracker.journals.is_free(trace.key):
            return trace.key
    return _resumable_of_0_1(lab, tags)


def reap(lab: Lab) -> None:
    """Ends the runs whose process was killed: those begun on this machine, and those of version 0.1."""
    lab.tracker.reap()
    tags = {DATABASE: lab.locks.identity}
    for run in patiently(lab, partial(lab.tracker.runs, None, tags=tags, status="RUNNING")):
        if "sesr.key" not in run.tags and run.tags.get("sesr.kind") != "study":
            log = lab.tracker.begin(run.run_id, experiment=lab.tracker.name_of(run.experiment_id), name=run.name)
            log.end("KILLED", "lost")


def record_untrained(lab: Lab, task: Task, outcome: Outcome) -> Outcome:
    """A run for a trial that was not trained, so that MLflow has every trial with its reason; the outcome names it."""
    log = lab.tracker.begin(
        outcome.key or new_key(),
        experiment=task.experiment,
        name=task.label,
        tags={**task.tags, **task.target_tags, DATABASE: lab.locks.identity, "sesr.reason": outcome.reason[:500]},
        params=_params(task.config),
        parent_key=task.study_key,
    )
    log.log_constants(measures.costs(outcome.params, outcome.macs_720p, outcome.latency_ms))
    log.set_tags(notes.closing(task, outcome))
    log.end("KILLED" if outcome.result == "over budget" else "FAILED", outcome.result)
    lab.view.note(f"{task.label}: {outcome.result}: {outcome.reason}")
    return replace(outcome, key=log.key)


def with_places(lab: Lab, outcome: Outcome) -> Outcome:
    """The outcome with what the store has called its run and its registered version, as far as that is known."""
    found = lab.tracker.delivered(outcome.key) if outcome.key else None
    if found is None:
        return outcome
    return replace(outcome, run_id=found.run_id, model=found.model or outcome.model)


def _train(lab: Lab, task: Task, parent: Named | None, recorder: Recorder, state: dict[str, Tensor] | None) -> Outcome:
    weights = None if parent is None else parent.weights
    for event in trial.run(task.config, lab.where, parent=weights, resume=state, stop=lab.stop):
        with suppress(OSError, ValueError):  # a terminal that is gone: what is shown may fail, training does not
            lab.view.event(event, task.label)
        outcome = recorder.feed(event)
        if outcome is not None:
            return outcome
        if isinstance(event, trial.Finished):
            raise Interrupted(f"{task.label}: stopped at step {event.step}")
    raise AssertionError("a trial ended without saying how")


def open_run(
    lab: Lab, task: Task, data: Data, parent: Named | None, key: str, on_key: Callable[[str], None]
) -> tuple[RunLog, dict[str, Tensor] | None]:
    """The run to write to, and the state to go on from: a new run where the earlier one's numbers make no one curve."""
    on_key(key)
    log, state = _begin(lab, task, data, parent, key), checkpoint.read(key)
    if not _makes_one_curve(task.config, log, state):
        key = new_key()
        on_key(key)
        if state is not None:
            checkpoint.write(key, state)
        checkpoint.remove(log.key)
        log.set_tags({"sesr.continued_by": key})
        log.end("KILLED", "lost")
        log = _begin(lab, task, data, parent, key)
    _describe(log, task, data, parent)
    if state is not None:
        lab.view.note(f"{task.label}: going on from step {int(state['step'])} of run {key}")
    elif parent is not None:
        lab.view.note(f"{task.label}: starts from {parent.name}")
    elif not log.is_new:
        lab.view.note(f"{task.label}: run {key} left no checkpoint here; training it from its start")
    return log, state


def _begin(lab: Lab, task: Task, data: Data, parent: Named | None, key: str) -> RunLog:
    lineage = {} if parent is None else parent.lineage.tags
    return lab.tracker.begin(
        key,
        experiment=task.experiment,
        name=task.label,
        tags={
            **{**task.tags, **_identity(task, data), **lineage, DATABASE: lab.locks.identity},
            notes.NOTE: notes.beginning(task),
        },
        parent_key=task.study_key,
    )


def _makes_one_curve(config: TrialConfig, log: RunLog, state: dict[str, Tensor] | None) -> bool:
    """Whether going on repeats what was logged after the checkpoint: by the clock no run comes to the same steps."""
    if config.max_seconds is None:
        return True
    if log.is_new:  # what it has logged is not known here
        return state is None
    reached = -1 if state is None else int(state["step"])
    return log.logged_until <= max(reached, 0)


def _describe(log: RunLog, task: Task, data: Data, parent: Named | None) -> None:
    """Settings, data and parent of the run; written again after a kill, which changes nothing."""
    profile = {"lr": data.lr_origin, "scale": data.scale, "training": len(data.train), "validation": len(data.valid)}
    log.log_dataset(data.source, data.source, digest=data.fingerprint, profile=profile, context="training")
    if parent is not None and parent.version is not None:
        log.log_model_input(parent.version.model_id)
    log.log_params(_params(task.config))  # last, so that they go with the first scores


def _identity(task: Task, data: Data) -> dict[str, str]:
    """Tags that a trial's runs share when they would train the same network on the same pictures."""
    return {
        **{key: value for key, value in task.tags.items() if key == "sesr.kind"},
        "sesr.config_fingerprint": task.config.fingerprint,
        "sesr.data_fingerprint": data.fingerprint,
    }


def _resumable_of_0_1(lab: Lab, tags: dict[str, str]) -> str | None:
    """The id of a run with those tags of which version 0.1 has left a checkpoint here, and no journal."""
    known = {trace.key for trace in lab.tracker.trace()}
    for key in checkpoint.kept():
        if key not in known and patiently(lab, partial(lab.tracker.holds, key)):
            run = patiently(lab, partial(lab.tracker.run, key))
            if tags.items() <= run.tags.items() and run.status in ("KILLED", "RUNNING"):
                return key
    return None


def _params(config: TrialConfig) -> dict[str, object]:
    """Every setting, with those of the recipe as they are used."""
    recipe = {key: value for key, value in asdict(config.resolved_recipe()).items() if key != "name"}
    recipe["patch_lr"] = recipe.pop("patch")
    given = {key: value for key, value in config.model_dump().items() if value is not None}
    return {"network": config.architecture.name, **given, **recipe}


def say(lab: Lab, task: Task, outcome: Outcome) -> None:
    """Says what is worth saying of a trial's end."""
    if outcome.result != "finished":
        lab.view.note(f"{task.label}: {outcome.result}: {outcome.reason}")
    elif (outcome.psnr or 0.0) < (outcome.bicubic_psnr or 0.0):
        lab.view.note(f"warning: {task.label} is below bicubic after {outcome.steps} steps; train it for longer")
