"""Training as a generator: it yields what happened, and whoever consumes it decides what to do about it.

It knows nothing of trials, tracking or the terminal, and needs torch alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sesr_lab.engine import Engine, EngineName, make_engine
from sesr_lab.model import SESR
from sesr_lab.patches import PatchPool
from sesr_lab.recipe import Recipe

Status = Literal["finished", "diverged", "stopped"]
CHUNK_SECONDS = 0.5
"""How often the trainer looks up: the device runs ahead for about this long between two reads of the loss."""
DIVERGED_LOSS = 0.25
"""A mean absolute error beyond this (a quarter of the range) is worse than a grey picture: training has failed."""


@dataclass(frozen=True)
class Budget:
    """When to stop: after so many steps, so many seconds, or whichever comes first."""

    steps: int | None = None
    max_seconds: float | None = None

    def fraction(self, step: int, seconds: float) -> float:
        """The part of the run that is done, from 0 to 1 and beyond."""
        by_steps = step / self.steps if self.steps else 0.0
        by_clock = seconds / self.max_seconds if self.max_seconds else 0.0
        return max(by_steps, by_clock)


@dataclass(frozen=True)
class Score:
    """Mean scores over a validation set: PSNR in dB and SSIM, on luma, border shaved."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Progress:
    """Where a running fit stands."""

    step: int
    fraction: float
    seconds: float
    """Seconds trained so far, those before a resume included."""
    loss: float
    """Mean absolute error, luma in [0, 1], averaged over the steps since the last evaluation."""
    learning_rate: float
    patches_per_second: float


@dataclass(frozen=True)
class Evaluation(Progress):
    """A `Progress` at which the network was scored."""

    score: Score
    weights: dict[str, Tensor] = field(repr=False)
    """What was scored: the averaged weights, by the network's parameter names, on the CPU."""


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to go on from here, as flat tensors on the CPU."""

    step: int
    state: dict[str, Tensor] = field(repr=False)


@dataclass(frozen=True)
class Fitted:
    """How a fit ended."""

    status: Status
    step: int
    seconds: float
    reason: str = ""


Event = Progress | Evaluation | Checkpoint | Fitted


@dataclass
class _Clock:
    """Seconds trained, over all the lives of a run."""

    before: float
    since: float = field(default_factory=time.perf_counter)

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.since


@dataclass
class _Window:
    """Losses and time since the last evaluation."""

    loss_sum: float = 0.0
    steps: int = 0
    seconds: float = 0.0

    def add(self, losses: Tensor, seconds: float) -> None:
        self.loss_sum += float(losses.double().sum())
        self.steps += len(losses)
        self.seconds += seconds

    @property
    def loss(self) -> float:
        return self.loss_sum / self.steps


def fit(
    network: SESR,
    pool: PatchPool,
    recipe: Recipe,
    budget: Budget,
    *,
    evaluate: Callable[[dict[str, Tensor]], Score],
    seed: int = 0,
    evaluations: int = 20,
    checkpoint_seconds: float = 30.0,
    engine: EngineName = "auto",
    resume: dict[str, Tensor] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Trains `network` in place; yields progress, evaluations and checkpoints, and last a `Fitted`.

    With a budget in steps the result depends on the seed alone. With one in seconds the schedule follows the
    clock, which starts here: compiling counts.

    Args:
        evaluate: scores weights, given by the network's parameter names.
        evaluations: how many times to score, evenly over the run; the last one is at its end.
        checkpoint_seconds: the least time between two checkpoints.
        resume: the state of a `Checkpoint` of a run with the same settings.
        stop: asked about twice a second; once it is true, a last `Checkpoint` and the end follow.
    """
    step, before = _position(resume)
    clock = _Clock(before)
    runner = make_engine(engine, network, pool, recipe)
    if resume is not None:
        runner.load(resume)
    fraction = budget.fraction(step, clock.seconds())
    scored = math.floor(fraction * evaluations)
    window, rate, last_checkpoint = _Window(), 0.0, time.perf_counter()
    while fraction < 1:
        count = _chunk(step, rate, budget, clock.seconds(), (scored + 1) / evaluations)
        started = time.perf_counter()
        rates = [
            recipe.learning_rate_at(_ahead(budget, step, i, clock.seconds(), rate)) for i in range(count)
        ]
        plan = pool.plan(seed, step, count, batch_size=recipe.batch_size, patch=recipe.patch)
        losses = runner.run(plan, rates).cpu()  # the only wait for the device
        spent = time.perf_counter() - started
        if step > 0:  # the first chunk pays for compiling and allocation
            rate = count / spent
        step += count
        window.add(losses, spent)
        fraction = budget.fraction(step, clock.seconds())
        progress = {
            "step": step,
            "fraction": min(fraction, 1.0),
            "seconds": clock.seconds(),
            "loss": window.loss,
            "learning_rate": rates[-1],
            "patches_per_second": window.steps * recipe.batch_size / window.seconds,
        }
        if not bool(torch.isfinite(losses).all()) or float(losses.mean()) > DIVERGED_LOSS:
            yield Fitted("diverged", step, clock.seconds(), _why(losses, step, rates[-1]))
            return
        if fraction * evaluations >= scored + 1:
            weights = {name: value.cpu() for name, value in runner.averaged().items()}
            yield Evaluation(**progress, score=evaluate(weights), weights=weights)  # type: ignore[arg-type]
            scored, window = math.floor(min(fraction, 1.0) * evaluations), _Window()
        else:
            yield Progress(**progress)  # type: ignore[arg-type]  # a mapping of mixed numbers
        if time.perf_counter() - last_checkpoint > checkpoint_seconds and window.steps == 0:
            yield Checkpoint(step, _state(runner, step, clock.seconds()))
            last_checkpoint = time.perf_counter()
        if fraction < 1 and stop():
            yield Checkpoint(step, _state(runner, step, clock.seconds()))
            yield Fitted("stopped", step, clock.seconds(), "asked to stop")
            return
    yield Fitted("finished", step, clock.seconds())


def _chunk(step: int, rate: float, budget: Budget, seconds: float, until: float) -> int:
    """Steps to run before looking up: about CHUNK_SECONDS, not past the next evaluation or the end."""
    count = max(1, round(rate * CHUNK_SECONDS))
    if budget.steps:
        count = min(count, max(1, math.ceil(until * budget.steps) - step))
    if budget.max_seconds and rate:
        count = min(count, max(1, math.ceil((until * budget.max_seconds - seconds) * rate)))
    return count


def _ahead(budget: Budget, step: int, i: int, seconds: float, rate: float) -> float:
    """The fraction of the run that will be done at `i` steps from now."""
    return budget.fraction(step + i, seconds + (i / rate if rate else 0.0))


def _position(resume: dict[str, Tensor] | None) -> tuple[int, float]:
    if resume is None:
        return 0, 0.0
    return int(resume["step"].item()), float(resume["seconds"].item())


def _state(runner: Engine, step: int, seconds: float) -> dict[str, Tensor]:
    state = {name: value.cpu() for name, value in runner.state().items()}
    return state | {"step": torch.tensor(step), "seconds": torch.tensor(seconds, dtype=torch.float64)}


def _why(losses: Tensor, step: int, learning_rate: float) -> str:
    return (
        f"the loss became {float(losses[-1]):.3g} near step {step} at learning rate {learning_rate:.2g}; "
        "try a lower --learning-rate"
    )
