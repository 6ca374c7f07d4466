"""Writes one trial's events down: curves, pictures, checkpoints, and at the end the registered network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

from safetensors.torch import save
from torch import Tensor

from sesr_lab.data.dataset import Data
from sesr_lab.registry.lookup import Named
from sesr_lab.registry.publish import ModelFacts, Version, publish
from sesr_lab.scores.comparison import draw_strip
from sesr_lab.tracking.runlog import RunLog
from sesr_lab.training.trainer import Checkpoint, Evaluation, Restart
from sesr_lab.trials import checkpoint, trial
from sesr_lab.trials.lab import Interrupted, Lab, Task, patiently, untrained
from sesr_lab.trials.outcome import Outcome


class Recorder:
    """Consumes one trial's events.

    The order at the end is what makes a kill harmless: last checkpoint, model version, aliases, end of the run. The
    checkpoint stays until whoever asked for the trial has stored its outcome.
    """

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

    def record(self, state: dict[str, Tensor] | None) -> Outcome:
        """Trains from `state`, or from the start; how it ended.

        Raises:
            Interrupted: the user asked to stop; a checkpoint is on disk.
            SesrError: the data or a store is unfit.
        """
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
            self.run.log_constants({**_constants(event), **self.task.target_metrics})
            self.run.set_tags({"sesr.device": event.device, "sesr.engine": event.engine, **self.task.target_tags})
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
            self.run.log_file(self._scored_weights(event), "checkpoints/last.safetensors")

    def _scored_weights(self, event: Checkpoint) -> bytes:
        """The weights by which the network is scored, as a safetensors file that any MODEL may be."""
        averaged = self.task.config.resolved_recipe().ema_decay is not None
        prefix = "average." if averaged else "weights."  # by these names a training state holds them
        weights = {k.removeprefix(prefix): v.contiguous() for k, v in event.state.items() if k.startswith(prefix)}
        return bytes(save(weights))

    def _finish(self, end: trial.Finished) -> Outcome:
        if end.status == "stopped":
            raise Interrupted(f"{self.task.label}: stopped at step {end.step}")
        version = self._publish(end) if end.status == "finished" and end.best is not None else None
        outcome = self._outcome(end, version)
        if end.reason:
            self.run.set_tags({"sesr.reason": end.reason})
        self.run.end("FINISHED" if end.status == "finished" else "FAILED", end.status)
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
            estimate=self.task.estimate,
        )
        publishing = partial(
            publish,
            self.lab.tracker,
            self.run,
            name=config.architecture.registered_name(self.lab.prefix),
            weights=end.best.weights,
            facts=facts,
            parent=None if self.parent is None else self.parent.lineage,
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
