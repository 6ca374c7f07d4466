"""One tracked trial: from its MLflow run to its registered network, through kills and resumes.

The order of what is written is what makes a kill at any point harmless: run, checkpoint, metrics, artifacts,
model version, alias, end of the run. Everything can be written again.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Literal, Protocol, TypeVar

from torch import OutOfMemoryError

from sesr_lab import checkpoint, trial
from sesr_lab.claims import Claim, Claims
from sesr_lab.config import TrialConfig
from sesr_lab.data import Data
from sesr_lab.errors import SesrError, StoreError
from sesr_lab.named import Named
from sesr_lab.registry import ModelFacts, Version, publish
from sesr_lab.runlog import RunLog
from sesr_lab.strip import draw_strip
from sesr_lab.tracking import Tracker
from sesr_lab.trainer import Checkpoint, Evaluation, Restart
from sesr_lab.version import parent_tags

T = TypeVar("T")

STORE_PATIENCE_S = 120.0
"""How long a store that does not answer is waited for where nothing can go on without it."""
RETRY_S = 5.0

Result = Literal["finished", "diverged", "out of memory", "failed", "over budget"]


class View(Protocol):
    """Who shows what happens: the terminal, or nobody."""

    def note(self, text: str) -> None:
        """Says one line."""
        ...

    def preparing(self, done: int, total: int, text: str) -> None:
        """Data is being fetched or prepared: `done` of `total`."""
        ...

    def begin(self, label: str) -> None:
        """A trial of that name starts."""
        ...

    def event(self, event: trial.Event) -> None:
        """The running trial has got on."""
        ...

    def end(self, outcome: Outcome) -> None:
        """The running trial is over."""
        ...


@dataclass(frozen=True)
class Lab:
    """Where trials run, where they are recorded, and who watches."""

    tracker: Tracker
    claims: Claims
    where: trial.Place
    view: View
    stop: Callable[[], bool] = field(default=lambda: False)
    prefix: str = "sesr"
    """The first word of registered models' names."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, in plain values: what a study remembers and a script reads."""

    label: str
    network: str
    scale: int
    settings: Mapping[str, int | str]
    """m, f, feature_size and block."""
    result: Result
    reason: str
    run_id: str
    params: int
    macs_720p: int
    steps: int = 0
    seconds: float = 0.0
    psnr: float | None = None
    """Mean over the validation pictures in dB, of the best evaluation."""
    ssim: float | None = None
    final_psnr: float | None = None
    bicubic_psnr: float | None = None
    model: str | None = None
    """The registered version, as `models:/NAME/3`."""
    parent: str | None = None
    """The x2 version that it started from, or the file."""


class Interrupted(KeyboardInterrupt):
    """A trial was stopped at a checkpoint because the user asked; the same command goes on from there."""


@dataclass(frozen=True)
class Task:
    """One trial to record: what it is, and where its run belongs."""

    config: TrialConfig
    experiment_id: str
    label: str
    tags: Mapping[str, str] = field(default_factory=dict)
    study_run_id: str | None = None


def carry_out(
    lab: Lab,
    task: Task,
    *,
    parent: Named | None = None,
    run_id: str | None = None,
    on_run: Callable[[str], None] = lambda run_id: None,
    may_publish: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Trains, records and registers one network; a trial that cannot be trained is an outcome, not an exception.

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
    run, claim = _open_run(lab, task, data, parent, run_id)
    on_run(run.run_id)
    with claim:
        try:
            outcome = _Recorder(lab, task, data, parent, run, may_publish).record()
        except OutOfMemoryError as error:
            outcome = untrained(task, "out of memory", str(error).splitlines()[0], run_id=run.run_id)
            run.end("FAILED", "out of memory")
        except BaseException as error:
            _end_badly(run, error)
            raise
    if outcome.result != "finished":
        lab.view.note(f"{task.label}: {outcome.result}: {outcome.reason}")
    lab.view.end(outcome)
    return outcome


def patiently(lab: Lab, ask: Callable[[], T]) -> T:
    """What `ask` returns, waiting for a store or registry that does not answer, and saying so.

    Raises:
        StoreError: it did not answer in time.
        Interrupted: the user asked to stop.
    """
    started = time.monotonic()
    while True:
        try:
            return ask()
        except StoreError as error:
            if time.monotonic() - started > STORE_PATIENCE_S:
                raise
            lab.view.note(f"waiting for the model registry: {error}")
            again = time.monotonic() + RETRY_S
            while time.monotonic() < again:
                if lab.stop():
                    raise Interrupted("stopped while waiting for the registry") from error
                time.sleep(min(0.2, RETRY_S))


def load_data(lab: Lab, config: TrialConfig) -> Data:
    """The trial's data; the view shows how loading it gets on.

    Raises:
        DataError: it cannot be loaded, or a picture is smaller than the trial's patch.
    """
    data = trial.load_data(config.data, config.scale, lab.view.preparing)
    data.check_patch(config.resolved_recipe().patch)
    return data


def untrained(task: Task, result: Result, reason: str, *, run_id: str = "") -> Outcome:
    """The outcome of a trial that has no trained network to show."""
    costs = trial.trial_costs(task.config)
    return Outcome(
        label=task.label,
        network=task.config.architecture.name,
        scale=task.config.scale,
        settings=task.config.architecture.model_dump(exclude={"scale"}),
        result=result,
        reason=reason,
        run_id=run_id,
        params=costs.params,
        macs_720p=costs.macs_720p,
    )


def resumable_run(lab: Lab, task: Task, data: Data) -> str | None:
    """The newest run of the same trial on the same pictures that was stopped or killed, and that nobody has now."""
    tags = _identity(task, data)
    for run in lab.tracker.runs(task.experiment_id, tags=tags):
        unfinished = run.status == "RUNNING" or run.tags.get("sesr.end") in ("interrupted", "lost")
        holder = lab.claims.look(f"run:{run.run_id}")
        if unfinished and not (holder and holder.alive):
            return run.run_id
    return None


def _open_run(lab: Lab, task: Task, data: Data, parent: Named | None, run_id: str | None) -> tuple[RunLog, Claim]:
    """The run to write to, and the claim on it: the earlier attempt's, if it is free, or a new one."""
    if run_id is not None and (claim := lab.claims.take(f"run:{run_id}")) is not None:
        return lab.tracker.reopen_run(run_id), claim
    lineage = {} if parent is None or parent.version is None else parent_tags(parent.version)
    run = lab.tracker.start_run(
        task.experiment_id,
        task.label,
        params=_params(task.config),
        tags={**task.tags, **_identity(task, data), **lineage},
        parent_run_id=task.study_run_id,
    )
    claim = lab.claims.take(f"run:{run.run_id}")
    assert claim is not None, "a new run's id is nobody else's"
    profile = {"lr": data.lr_origin, "scale": data.scale, "training": len(data.train), "validation": len(data.valid)}
    run.log_dataset(data.source, data.source, digest=data.fingerprint, profile=profile, context="training")
    if parent is not None and parent.version is not None:
        run.log_model_input(parent.version.model_id)
    return run, claim


def _identity(task: Task, data: Data) -> dict[str, str]:
    """Tags that a trial's runs share when they would train the same network on the same pictures."""
    return {
        **{key: value for key, value in task.tags.items() if key == "sesr.kind"},
        "sesr.config_fingerprint": task.config.fingerprint,
        "sesr.data_fingerprint": data.fingerprint,
    }


def _params(config: TrialConfig) -> dict[str, object]:
    """Every setting, with those of the recipe as they are used."""
    recipe = {key: value for key, value in asdict(config.resolved_recipe()).items() if key != "name"}
    recipe["patch_lr"] = recipe.pop("patch")
    given = {key: value for key, value in config.model_dump().items() if value is not None}
    return {"network": config.architecture.name, **given, **recipe}


def _end_badly(run: RunLog, error: BaseException) -> None:
    """Ends the run as interrupted or failed; a bug's traceback goes with it."""
    if isinstance(error, KeyboardInterrupt):
        run.end("KILLED", "interrupted")
        return
    if not isinstance(error, SesrError):
        run.log_file("".join(traceback.format_exception(error)).encode(), "traceback.txt")
    run.set_tags({"sesr.reason": str(error)[:500]})
    run.end("FAILED", "failed")


class _Recorder:
    """Consumes one trial's events and writes them down."""

    def __init__(
        self,
        lab: Lab,
        task: Task,
        data: Data,
        parent: Named | None,
        run: RunLog,
        may_publish: Callable[[], bool],
    ) -> None:
        self.lab, self.task, self.data, self.parent, self.run = lab, task, data, parent, run
        self.may_publish = may_publish
        self.started: trial.Started | None = None

    def record(self) -> Outcome:
        state = checkpoint.read(self.run.run_id)
        if state is not None:
            self.lab.view.note(f"{self.task.label}: going on from step {int(state['step'])} of run {self.run.run_id}")
        parent = None if self.parent is None else self.parent.weights
        events = trial.run(self.task.config, self.lab.where, parent=parent, resume=state, stop=self.lab.stop)
        for event in events:
            self.lab.view.event(event)
            if isinstance(event, trial.Finished):
                return self._finish(event)
            self._write(event)
        raise AssertionError("a trial ended without saying how")

    def _write(self, event: trial.Event) -> None:
        if isinstance(event, trial.Started):
            self.started = event
            self.run.log_constants(_constants(event))
            self.run.set_tags({"sesr.device": event.device, "sesr.engine": event.engine})
        elif isinstance(event, Evaluation):
            self.run.log_metrics(_scores(event), step=event.step)
        elif isinstance(event, trial.Strip):
            scale = self.task.config.scale
            picture = draw_strip(event.bicubic, event.network, event.original, scale=scale)
            self.run.log_picture("validation", picture, step=event.step)
        elif isinstance(event, Restart):
            self.lab.view.note(f"{self.task.label}: starting over at a lower learning rate: {event.reason}")
            self.run.set_tags({"sesr.restarted": f"at step {event.step}: {event.reason}"})
        elif isinstance(event, Checkpoint):
            checkpoint.write(self.run.run_id, event.state)

    def _finish(self, end: trial.Finished) -> Outcome:
        if end.status == "stopped":
            raise Interrupted(f"{self.task.label}: stopped at step {end.step}")
        version = self._publish(end) if end.status == "finished" and end.best is not None else None
        outcome = self._outcome(end, version)
        if end.reason:
            self.run.set_tags({"sesr.reason": end.reason})
        self.run.end("FINISHED" if end.status == "finished" else "FAILED", end.status)
        checkpoint.remove(self.run.run_id)
        return outcome

    def _publish(self, end: trial.Finished) -> Version:
        assert end.best is not None
        assert self.started is not None
        config, started = self.task.config, self.started
        facts = ModelFacts(
            architecture=config.architecture,
            psnr_db=end.best.score.psnr,
            ssim=end.best.score.ssim,
            bicubic_psnr_db=started.bicubic.psnr,
            bicubic_ssim=started.bicubic.ssim,
            costs=started.costs,
            data=config.data,
            data_fingerprint=self.data.fingerprint,
            recipe=config.recipe,
            steps=end.best.step,
            config_fingerprint=config.fingerprint,
        )
        publishing = partial(
            publish,
            self.lab.tracker,
            self.run,
            name=config.architecture.registered_name(self.lab.prefix),
            weights=end.best.weights,
            facts=facts,
            parent=None if self.parent is None else self.parent.version,
            may_publish=self.may_publish,
        )
        return patiently(self.lab, publishing)

    def _outcome(self, end: trial.Finished, version: Version | None) -> Outcome:
        bare = untrained(
            self.task, "finished" if end.status == "finished" else "diverged", end.reason, run_id=self.run.run_id
        )
        return replace(
            bare,
            steps=end.step,
            seconds=end.seconds,
            psnr=end.best.score.psnr if end.best else None,
            ssim=end.best.score.ssim if end.best else None,
            final_psnr=end.last.score.psnr if end.last else None,
            bicubic_psnr=self.started.bicubic.psnr if self.started else None,
            model=None if version is None else version.uri,
            parent=None if self.parent is None else self.parent.name,
        )


def _constants(started: trial.Started) -> dict[str, float]:
    """Costs and bicubic's scores: metrics, so that the UI sorts and plots by them."""
    return {
        **{key: float(value) for key, value in asdict(started.costs).items()},
        "bicubic_psnr": started.bicubic.psnr,
        "bicubic_ssim": started.bicubic.ssim,
        "training_pictures": float(started.images),
    }


def _scores(evaluation: Evaluation) -> dict[str, float]:
    return {
        "psnr": evaluation.score.psnr,
        "ssim": evaluation.score.ssim,
        "loss": evaluation.loss,
        "learning_rate": evaluation.learning_rate,
        "patches_per_second": evaluation.patches_per_second,
        "seconds": evaluation.seconds,
    }
