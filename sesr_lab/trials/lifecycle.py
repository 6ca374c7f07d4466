"""One tracked trial from its MLflow run to its outcome, through kills and resumes."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial

import torch
from torch import Tensor

from sesr_lab.data.dataset import Data
from sesr_lab.errors import SesrError, StoreError
from sesr_lab.registry.lookup import Named
from sesr_lab.study.config import TrialConfig
from sesr_lab.tracking.runlog import RunLog
from sesr_lab.tracking.runs import RunInfo
from sesr_lab.trials import checkpoint
from sesr_lab.trials.claims import Claim
from sesr_lab.trials.lab import Lab, Task, load_data, patiently, untrained
from sesr_lab.trials.outcome import Outcome
from sesr_lab.trials.recorder import Recorder

KINDS = ("trial", "train", "parent")
DATABASE = "sesr.database"
"""The tag that says whose claims tell whether a run is alive."""


@dataclass(frozen=True)
class _Attempt:
    """A run that is open for writing, the claim on it, and the state to go on from."""

    run: RunLog
    claim: Claim
    state: dict[str, Tensor] | None = field(default=None, repr=False)


def carry_out(
    lab: Lab,
    task: Task,
    *,
    parent: Named | None = None,
    run_id: str | None = None,
    on_run: Callable[[str], None] = lambda run_id: None,
    may_publish: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Trains, records and registers one network; one that cannot be trained is an outcome, not an exception.

    Whoever asked calls `checkpoint.remove` once the outcome is safe: until then a kill loses nothing.

    Args:
        parent: the x2 network that a x4 one starts from.
        run_id: an earlier attempt's run to go on with.
        on_run: told the run's id as soon as there is one.
        may_publish: asked right before the network is registered and before its aliases move.

    Raises:
        Interrupted: the user asked to stop; a checkpoint is on disk.
        SesrError: the data or a store is unfit; the run has ended as failed with that reason.
    """
    lab.view.begin(task.label)
    data = load_data(lab, task.config)
    attempt = _open(lab, task, data, parent, run_id)
    run = attempt.run
    on_run(run.run_id)
    with attempt.claim as claim:
        recorder = Recorder(lab, task, data, parent, run, lambda: claim.current() and may_publish())
        try:
            outcome = recorder.record(attempt.state)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                _end_badly(run, error)
                raise
            outcome = untrained(task, "out of memory", str(error).splitlines()[0], run_id=run.run_id)
            run.end("FAILED", "out of memory")
        except BaseException as error:
            _end_badly(run, error)
            raise
    if outcome.result != "finished":
        lab.view.note(f"{task.label}: {outcome.result}: {outcome.reason}")
    elif (outcome.psnr or 0.0) < (outcome.bicubic_psnr or 0.0):
        lab.view.note(f"warning: {task.label} is below bicubic after {outcome.steps} steps; train it for longer")
    lab.view.end(outcome)
    return outcome


def resumable_run(lab: Lab, task: Task, data: Data) -> str | None:
    """The newest run of the same trial on the same pictures that was stopped or killed, and that nobody has now."""
    tags = _identity(task, data)
    for run in patiently(lab, partial(lab.tracker.runs, task.experiment_id, tags=tags)):
        ended = run.tags.get("sesr.end") in ("interrupted", "lost") and run.status != "RUNNING"
        holder = lab.claims.look(f"run:{run.run_id}")
        if _is_abandoned(lab, run) or (ended and not (holder and holder.alive)):
            return run.run_id
    return None


def reap(lab: Lab) -> None:
    """Ends the runs whose process was killed, wherever they are; those of other study databases are left alone."""
    for kind in KINDS:
        tags = {"sesr.kind": kind, DATABASE: lab.claims.identity}
        for run in patiently(lab, partial(lab.tracker.runs, None, tags=tags, status="RUNNING")):
            if _is_abandoned(lab, run):
                lab.tracker.reap_run(run)


def record_untrained(lab: Lab, task: Task, outcome: Outcome) -> Outcome:
    """A run for a trial that was not trained, so that MLflow has every trial with its reason; the outcome names it."""
    start = partial(
        lab.tracker.start_run,
        task.experiment_id,
        task.label,
        params=_params(task.config),
        tags={**task.tags, **task.target_tags, DATABASE: lab.claims.identity, "sesr.reason": outcome.reason[:500]},
        parent_run_id=task.study_run_id,
    )
    run = patiently(lab, start)
    run.log_constants({"params": outcome.params, "macs_720p": outcome.macs_720p, **task.target_metrics})
    run.end("KILLED" if outcome.result == "over budget" else "FAILED", outcome.result)
    lab.view.note(f"{task.label}: {outcome.result}: {outcome.reason}")
    return Outcome(**{**asdict(outcome), "run_id": run.run_id})


def _open(lab: Lab, task: Task, data: Data, parent: Named | None, run_id: str | None) -> _Attempt:
    """The run to write to: the earlier attempt's where its numbers and this attempt's make one curve, or a new one."""
    attempt = _continued(lab, task, run_id) if run_id is not None else None
    if attempt is None:
        attempt = _Attempt(*_new_run(lab, task, data, parent))
    elif not _makes_one_curve(task.config, attempt):
        attempt.run.end("KILLED", "lost")
        attempt.claim.settle("done")
        attempt = _moved(attempt, *_new_run(lab, task, data, parent))
    _describe(attempt.run, task, data, parent)
    if attempt.state is not None:
        step = int(attempt.state["step"])
        lab.view.note(f"{task.label}: going on from step {step} of run {run_id}")
    elif parent is not None:
        lab.view.note(f"{task.label}: starts from {parent.name}")
    elif run_id is not None:
        lab.view.note(f"{task.label}: run {run_id} left no checkpoint here; training it from its start")
    return attempt


def _continued(lab: Lab, task: Task, run_id: str) -> _Attempt | None:
    """The earlier run, reopened; None if another has it, or if the store does not hold it (it may be another store)."""
    if not patiently(lab, partial(lab.tracker.holds, run_id)):
        lab.view.note(f"{task.label}: this store does not hold its earlier run {run_id}; a new one is started")
        return None
    claim = lab.claims.take(f"run:{run_id}")
    if claim is None:
        return None
    return _Attempt(patiently(lab, partial(lab.tracker.reopen_run, run_id)), claim, checkpoint.read(run_id))


def _makes_one_curve(config: TrialConfig, attempt: _Attempt) -> bool:
    """Whether going on repeats what was logged after the checkpoint: by the clock no run comes to the same steps."""
    reached = -1 if attempt.state is None else int(attempt.state["step"])
    return config.max_seconds is None or attempt.run.logged_until <= max(reached, 0)


def _moved(attempt: _Attempt, run: RunLog, claim: Claim) -> _Attempt:
    """The attempt with its state under a new run."""
    if attempt.state is not None:
        checkpoint.write(run.run_id, attempt.state)
    checkpoint.remove(attempt.run.run_id)
    attempt.run.set_tags({"sesr.continued_by": run.run_id})
    return _Attempt(run, claim, attempt.state)


def _new_run(lab: Lab, task: Task, data: Data, parent: Named | None) -> tuple[RunLog, Claim]:
    lineage = {} if parent is None else parent.lineage.tags
    tags = {**task.tags, **_identity(task, data), **lineage, DATABASE: lab.claims.identity}
    start = partial(lab.tracker.start_run, task.experiment_id, task.label, tags=tags, parent_run_id=task.study_run_id)
    while True:
        run = patiently(lab, start)
        claim = lab.claims.take(f"run:{run.run_id}")
        if claim is not None:
            return run, claim
        # between the two lines another process took the run for a dead one's: it has it now


def _describe(run: RunLog, task: Task, data: Data, parent: Named | None) -> None:
    """Settings, data and parent of the run; written again after a kill, which changes nothing."""
    run.log_params(_params(task.config))
    profile = {"lr": data.lr_origin, "scale": data.scale, "training": len(data.train), "validation": len(data.valid)}
    run.log_dataset(data.source, data.source, digest=data.fingerprint, profile=profile, context="training")
    if parent is not None and parent.version is not None:
        run.log_model_input(parent.version.model_id)


def _identity(task: Task, data: Data) -> dict[str, str]:
    """Tags that a trial's runs share when they would train the same network on the same pictures."""
    return {
        **{key: value for key, value in task.tags.items() if key == "sesr.kind"},
        "sesr.config_fingerprint": task.config.fingerprint,
        "sesr.data_fingerprint": data.fingerprint,
    }


def _is_abandoned(lab: Lab, run: RunInfo) -> bool:
    """Whether a run is RUNNING for nobody: its claim, kept in this lab's database, is held by no living process."""
    if run.status != "RUNNING" or run.tags.get(DATABASE) != lab.claims.identity:
        return False
    holder = lab.claims.look(f"run:{run.run_id}")
    if holder is None:  # killed before it could take its claim, or just about to
        return time.time() - run.started.timestamp() > lab.claims.lease_s
    return holder.state == "held" and not holder.alive


def _params(config: TrialConfig) -> dict[str, object]:
    """Every setting, with those of the recipe as they are used."""
    recipe = {key: value for key, value in asdict(config.resolved_recipe()).items() if key != "name"}
    recipe["patch_lr"] = recipe.pop("patch")
    given = {key: value for key, value in config.model_dump().items() if value is not None}
    return {"network": config.architecture.name, **given, **recipe}


def _is_out_of_memory(error: BaseException) -> bool:
    """CUDA's allocator has an exception of its own; the CPU's raises a RuntimeError that names it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _end_badly(run: RunLog, error: BaseException) -> None:
    """Ends the run: interrupted where the same command can go on from its checkpoint, failed where it cannot."""
    if isinstance(error, KeyboardInterrupt):
        run.end("KILLED", "interrupted")
        return
    run.set_tags({"sesr.reason": str(error)[:500]})
    if isinstance(error, StoreError):
        run.end("KILLED", "interrupted")
        return
    if not isinstance(error, SesrError):
        run.log_file("".join(traceback.format_exception(error)).encode(), "traceback.txt")
    run.end("FAILED", "failed")
    checkpoint.remove(run.run_id)
