"""An executor whose trainings are told rather than run: scores come from a function, all else of a study is real."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch

from sesr_lab.network.model import SESR
from sesr_lab.scores.metrics import Score
from sesr_lab.study.config import TrialConfig
from sesr_lab.sweep.executor import Happening, Job
from sesr_lab.training.trainer import Checkpoint, Evaluation
from sesr_lab.trials import trial
from sesr_lab.trials.lab import Lab

Curve = Callable[[TrialConfig, float], float]
"""A network's PSNR in dB at a part of its training."""
EVALUATIONS = 10


class Scripted:
    """Runs `slots` trainings side by side, an event of each in turn."""

    is_here = True

    def __init__(self, curve: Curve, slots: int = 1, *, keeps: bool = False) -> None:
        """`keeps`: a checkpoint follows every score."""
        self.curve, self.slots, self.keeps = curve, slots, keeps
        self.trained: list[TrialConfig] = []
        self.steps = 0
        self._running: dict[str, Iterator[trial.Event]] = {}
        self._asked: set[str] = set()

    def start(self, lab: Lab) -> Scripted:
        return self

    def free(self) -> int:
        return self.slots - len(self._running)

    def submit(self, job: Job) -> str:
        self.trained.append(job.config)
        self._running[job.key] = self._events(job)
        return ""

    def poll(self) -> Iterator[Happening]:
        for key in deque(self._running):
            event = next(self._running[key])
            if isinstance(event, trial.Finished):
                del self._running[key]
            yield key, event

    def stop(self, key: str) -> None:
        self._asked.add(key)

    def cancel(self, key: str) -> None:
        self._running.pop(key, None)

    def close(self) -> None:
        self._running.clear()

    def _events(self, job: Job) -> Iterator[trial.Event]:
        config, steps = job.config, job.config.steps or 100
        begun = 0 if job.state is None else int(job.state["step"])
        yield trial.Started(trial.trial_costs(config), Score(28.0, 0.8), steps, 10, "cpu", "simple")
        best = self._evaluation(config, begun, begun / steps) if begun else None  # as a state keeps it
        for index in range(1, EVALUATIONS + 1):
            step = steps * index // EVALUATIONS
            if step <= begun:
                continue
            if job.key in self._asked:
                yield Checkpoint(step - 1, {"step": torch.tensor(begun)})
                yield trial.Finished("stopped", "", begun, 1.0, best, best)
                return
            self.steps += step - begun
            begun = step
            at = self._evaluation(config, step, index / EVALUATIONS)
            best = at if best is None or at.score.psnr > best.score.psnr else best
            yield at
            if self.keeps:
                yield Checkpoint(step, {"step": torch.tensor(step)})
        yield trial.Finished("finished", "", steps, 1.0, best, best)

    def _evaluation(self, config: TrialConfig, step: int, fraction: float) -> Evaluation:
        torch.manual_seed(config.seed)
        shape = {"m": config.m, "f": config.f, "feature_size": config.feature_size, "scale": config.scale}
        network = SESR(**shape, block=config.block)
        return Evaluation(
            step=step,
            fraction=fraction,
            seconds=fraction,
            loss=0.02,
            learning_rate=1e-3,
            patches_per_second=100.0,
            score=Score(self.curve(config, fraction), 0.9),
            weights={name: value.detach().clone() for name, value in network.state_dict().items()},
        )
