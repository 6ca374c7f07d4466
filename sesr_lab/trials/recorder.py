"""Writes one trial's events down: curves, pictures, checkpoints, and at the end the network."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from safetensors.torch import save

from sesr_lab import faults
from sesr_lab.data.dataset import Data
from sesr_lab.errors import SesrError
from sesr_lab.registry.lookup import Named
from sesr_lab.registry.publish import KEPT, ClaimLostError, keep, prepare
from sesr_lab.registry.version import ModelFacts
from sesr_lab.scores.comparison import draw_strip
from sesr_lab.scores.metrics import Score
from sesr_lab.tracking import measures
from sesr_lab.tracking.runlog import RunLog
from sesr_lab.tracking.secrets import hide
from sesr_lab.training.trainer import Checkpoint, Evaluation, Restart
from sesr_lab.trials import checkpoint, trial
from sesr_lab.trials.lab import Lab, Task, untrained
from sesr_lab.trials.machine import MachineUse
from sesr_lab.trials.notes import closing
from sesr_lab.trials.outcome import Outcome, Result

REGISTERED_KINDS = ("train", "parent")
"""Runs whose network is registered as soon as it is trained; a study registers its best at its end."""
OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA out of memory",  # within what torch.compile raises in its place
    "CUDA error: out of memory",  # a graph, or pinned memory
    "CUDA driver error: out of memory",
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN
)
"""By which a RuntimeError says that there was no memory."""


class Recorder:
    """Consumes one trial's events, and never waits for anything: what it writes goes into the run's journal.

    The order at the end is what makes a kill harmless: last checkpoint, network, end of the run. The checkpoint stays
    until whoever asked for the trial has stored its outcome.
    """

    def __init__(
        self,
        lab: Lab,
        task: Task,
        data: Data,
        parent: Named | None,
        log: RunLog,
        may_publish: Callable[[], bool] = lambda: True,
    ) -> None:
        self.lab, self.task, self.data, self.parent, self.log = lab, task, data, parent, log
        self.may_publish = may_publish
        self.started: trial.Started | None = None
        self._scored: list[Score] = []
        self._uses: list[MachineUse] = []

    def feed(self, event: trial.Event) -> Outcome | None:
        """Writes the event down; the outcome, once the trial is over.

        A trial that was stopped is ended as interrupted, and has no outcome: its checkpoint is where it goes on.

        Raises:
            ClaimLostError: the network must not be published by this process.
            StoreError: this machine's disk cannot be written.
        """
        if isinstance(event, trial.Finished):
            return self._finish(event)
        self._write(event)
        return None

    def interrupted(self) -> None:
        """Ends the run where the user, or a store's failure, has stopped it; it goes on from its checkpoint."""
        self.log.break_off("KILLED", "interrupted")

    def lost(self) -> None:
        """Ends the run whose worker is gone; it goes on from its checkpoint, elsewhere maybe."""
        self.log.break_off("KILLED", "lost")

    def pruned(self, reason: str, at: Evaluation) -> Outcome:
        """Ends the run of a network that its study gives up; how it stood."""
        best = max(self._scored, key=lambda score: score.psnr)
        outcome = replace(
            untrained(self.task, "pruned", reason, key=self.log.key),
            steps=at.step,
            seconds=at.seconds,
            psnr=best.psnr,
            ssim=best.ssim,
            final_psnr=at.score.psnr,
            bicubic_psnr=self.started.bicubic.psnr if self.started else None,
            parent=None if self.parent is None else self.parent.name,
        )
        self._write_uses()
        self.log.set_tags({"sesr.reason": reason, **self._closing(outcome)})
        self.log.end("KILLED", "pruned")
        return outcome

    def failed(self, error: BaseException) -> Outcome:
        """Ends the run that has raised `error`, the traceback of a bug among its artifacts; how it ended.

        The checkpoint stays: whoever stores the outcome removes it.
        """
        reason = hide(str(error).strip() or type(error).__name__).splitlines()[0][:500]
        result: Result = "out of memory" if is_out_of_memory(error) else "failed"
        outcome = untrained(self.task, result, reason, key=self.log.key)
        self.log.set_tags({"sesr.reason": reason, **self._closing(outcome)})
        if not isinstance(error, SesrError):
            text = hide("".join(traceback.format_exception(error)))
            self.log.log_file(text.encode(), "traceback.txt")
        self.log.end("FAILED", result)
        return outcome

    def _write(self, event: trial.Event) -> None:
        if isinstance(event, trial.Started):
            self.started = event
            latency_ms = self.task.target_metrics.get("latency_ms")
            self.log.log_constants(measures.costs(event.costs.params, event.costs.macs_720p, latency_ms))
            self.log.set_tags({**_facts(event), **self.task.target_tags})
        elif isinstance(event, Evaluation):
            self.log.log_metrics(_scores(event), step=event.step)
            self._scored.append(event.score)
        elif isinstance(event, trial.Strip):
            scale = self.task.config.scale
            picture = draw_strip(event.bicubic, event.network, event.original, scale=scale)
            self.log.log_picture(measures.PICTURE, picture, step=event.percent)
        elif isinstance(event, Restart):
            self.lab.view.note(f"{self.task.label}: starting over at a lower learning rate: {event.reason}")
            self.log.set_tags({"sesr.restarted": f"at step {event.step}: {event.reason}"})
        elif isinstance(event, MachineUse):
            self._uses.append(event)
        elif isinstance(event, Checkpoint):
            checkpoint.write(self.log.key, event.state)
            self._write_uses()
            self.log.log_file(self._scored_weights(event), "checkpoints/last.safetensors")

    def _write_uses(self) -> None:
        """Writes down how the machine was used, no further than training is kept: no step is looked at twice."""
        for use in self._uses:
            values = {f"{measures.SYSTEM}{name}": value for name, value in use.values.items()}
            self.log.log_metrics(values, step=use.step, time_ms=use.time_ms)
        self._uses.clear()

    def _scored_weights(self, event: Checkpoint) -> bytes:
        """The weights by which the network is scored, as a safetensors file that any MODEL may be."""
        averaged = self.task.config.resolved_recipe().ema_decay is not None
        prefix = "average." if averaged else "weights."  # by these names a training state holds them
        weights = {k.removeprefix(prefix): v.contiguous() for k, v in event.state.items() if k.startswith(prefix)}
        return bytes(save(weights))

    def _finish(self, end: trial.Finished) -> Outcome | None:
        if end.status == "stopped":
            self.interrupted()
            return None
        if end.status == "finished" and end.best is not None:
            self._keep(end)
        faults.point("network kept")
        outcome = self._outcome(end)
        self.log.set_tags({**({"sesr.reason": end.reason} if end.reason else {}), **self._closing(outcome)})
        self.log.end("FINISHED" if end.status == "finished" else "FAILED", end.status)
        faults.point("run ended")
        return outcome

    def _closing(self, outcome: Outcome) -> dict[str, str]:
        started = self.started
        where = "" if started is None else f"the engine {started.engine} on {started.device}"
        return closing(self.task, outcome, where=where)

    def _keep(self, end: trial.Finished) -> None:
        """Stores the network with the run, and has it registered where its kind is."""
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
        if not self.may_publish():
            name = config.architecture.registered_name(self.lab.prefix)
            raise ClaimLostError(f"{name}: another process has taken over this training; its version counts")
        scores = measures.best(facts.psnr_db, facts.ssim)
        prepared = prepare(
            config.architecture.registered_name(self.lab.prefix),
            weights=end.best.weights,
            facts=facts,
            parent=None if self.parent is None else self.parent.lineage,
            time_ms=self.log.log_result(scores, step=end.best.step),
        )
        keep(self.log, prepared)
        if self.task.tags.get("sesr.kind") in REGISTERED_KINDS:
            self.log.publish(prepared.publication)

    def _outcome(self, end: trial.Finished) -> Outcome:
        result: Result = "finished" if end.status == "finished" else "diverged"
        return replace(
            untrained(self.task, result, end.reason, key=self.log.key),
            steps=end.step,
            seconds=end.seconds,
            psnr=end.best.score.psnr if end.best else None,
            ssim=end.best.score.ssim if end.best else None,
            final_psnr=end.last.score.psnr if end.last else None,
            bicubic_psnr=self.started.bicubic.psnr if self.started else None,
            parent=None if self.parent is None else self.parent.name,
        )


def publish_outcome(lab: Lab, outcome: Outcome) -> None:
    """Has the network of a trial registered that has ended; again, it changes nothing.

    It is one of a study's best: the driver calls this for them at the study's end, and when it is interrupted.
    """
    key = outcome.key
    if not key or outcome.result != "finished":  # version 0.1 has registered every network itself
        return
    found = lab.tracker.delivered(key)
    if found is None or not found.model:
        lab.tracker.publish_kept(key, KEPT)


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch's allocator on CUDA has an exception of its own; others raise a RuntimeError that names them."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def _facts(started: trial.Started) -> dict[str, str]:
    """What does not change in a run and is no ground to choose a network by: tags, of which the UI draws no charts."""
    return {
        "sesr.device": started.device,
        "sesr.engine": started.engine,
        "sesr.bicubic_psnr_db": f"{started.bicubic.psnr:.4f}",
        "sesr.bicubic_ssim": f"{started.bicubic.ssim:.4f}",
        "sesr.training_pictures": str(started.images),
        **{f"sesr.{key}": str(value) for key, value in asdict(started.costs).items()},
    }


def _scores(evaluation: Evaluation) -> dict[str, float]:
    return measures.rounded(
        {
            measures.PSNR: evaluation.score.psnr,
            measures.SSIM: evaluation.score.ssim,
            measures.LOSS: evaluation.loss,
            measures.LEARNING_RATE: evaluation.learning_rate,
            measures.PACE: evaluation.patches_per_second,
            measures.SECONDS: evaluation.seconds,
        }
    )
