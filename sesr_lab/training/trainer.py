"""Training as a generator: it yields what happened, and whoever consumes it decides what to do about it.

It knows nothing of trials, tracking or the terminal, and needs torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sesr_lab.data.patches import PatchPool
from sesr_lab.network.model import SESR
from sesr_lab.scores.metrics import Score
from sesr_lab.training.clock import AwakeClock
from sesr_lab.training.engine import Engine, EngineName, make_engine, silent_share
from sesr_lab.training.recipe import Recipe

Status = Literal["finished", "diverged", "stopped"]
CHUNK_SECONDS = 0.5
"""How often the trainer looks up: the device runs ahead for about this long between two reads of the loss."""
DIVERGED_LOSS, DIVERGED_GROWTH = 0.25, 4.0
"""Training has failed where the mean absolute error is beyond a quarter of the range (worse than a grey picture)
and has grown so many times since the start: deep networks with few features start beyond it and come back."""
CHECK_STEPS = 256
"""Steps between two looks at the PReLUs; fixed, so that a run starts over at the same step however fast it is."""
SILENT_SHARE = 0.8
"""A block in which more of the PReLUs than this are never above zero passes on no gradient: the network is stuck."""
RESTART_FACTOR = 0.4
"""What the learning rate is multiplied with when training starts over."""
ROUNDING = 1e-9


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
class Restart(Progress):
    """A `Progress` at which training failed and started over from its first weights, at a lower rate."""

    reason: str


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to go on from here, as flat tensors on the CPU."""

    step: int
    state: dict[str, Tensor] = field(repr=False)


@dataclass(frozen=True)
class Launched:
    """Steps were handed to the device, and are not waited for yet: a moment to let others do the same."""


@dataclass(frozen=True)
class Fitted:
    """How a fit ended."""

    status: Status
    step: int
    seconds: float
    reason: str = ""


Event = Launched | Progress | Evaluation | Restart | Checkpoint | Fitted


def fit(  # noqa: PLR0913 (what a run is made of; all but the first four have defaults or names)
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
    """Trains `network` in place; yields progress, evaluations and checkpoints (the last at the end), then a `Fitted`.

    Before the device is waited for, a `Launched` is yielded, so that several fits can share one device.

    With a budget in steps the kernel's result depends on the seed and the kind of processor alone; plain PyTorch on
    several threads, and a GPU, add in an order of their own. With one in seconds the schedule follows the clock, which
    starts here: compiling counts, time for which the process is stopped does not. Where training fails and the recipe
    allows it, it starts over with what is left of the budget.

    Args:
        evaluate: scores weights, given by the network's parameter names.
        evaluations: how many times to score, evenly over the run; the last one is at its end.
        checkpoint_seconds: the least time between two checkpoints.
        resume: the state of a `Checkpoint` of a run with the same settings.
        stop: asked about twice a second; once it is true, a last `Checkpoint` and the end follow.
    """
    clock = AwakeClock()
    try:
        run = _Run(
            network, pool, recipe, budget, clock, seed=seed, evaluations=evaluations, engine=engine, resume=resume
        )
        yield from _until_the_end(run, evaluate, checkpoint_seconds, stop)
    finally:
        clock.stop()


def _until_the_end(
    run: _Run,
    evaluate: Callable[[dict[str, Tensor]], Score],
    checkpoint_seconds: float,
    stop: Callable[[], bool],
) -> Iterator[Event]:
    """The events of a run, from where it stands."""
    while run.fraction < 1:
        run.launch()
        yield Launched()
        failure = run.collect()
        if failure and run.attempt >= run.recipe.restarts:
            yield Fitted("diverged", run.step, run.seconds(), f"{failure}; try a lower --learning-rate")
            return
        if failure:
            run.start_over()
            yield Restart(**asdict(run.progress()), reason=failure)
        elif run.evaluation_due():
            yield run.evaluation(evaluate)
        else:
            yield run.progress()
        stopped = run.fraction < 1 and stop()
        if stopped or run.checkpoint_age() > checkpoint_seconds:
            yield run.checkpoint()
        if stopped:
            yield Fitted("stopped", run.step, run.seconds(), "asked to stop")
            return
    yield run.checkpoint()
    yield Fitted("finished", run.step, run.seconds())


class _Run:
    """Where a fit stands: steps, clock, attempts, and what was seen since the last evaluation."""

    def __init__(  # noqa: PLR0913 (what a run is made of)
        self,
        network: SESR,
        pool: PatchPool,
        recipe: Recipe,
        budget: Budget,
        clock: Callable[[], float],
        *,
        seed: int,
        evaluations: int,
        engine: EngineName,
        resume: dict[str, Tensor] | None,
    ) -> None:
        self.network, self.pool, self.recipe, self.budget = network, pool, recipe, budget
        self.seed, self.evaluations = seed, evaluations
        self.clock = clock
        self.started = self.checked = clock()
        self.runner: Engine = make_engine(engine, network, pool, recipe, budget.steps, budget.max_seconds)
        self.first = {f"first.{name}": value for name, value in self.runner.state().items()}
        self.step, self.attempt, self.origin, self.before, self.first_loss = 0, 0, 0.0, 0.0, 0.0
        self.window = _Window()
        self.rate = self.learning_rate = 0.0  # steps a second; of the last step
        if resume is not None:
            self._resume(resume)
        self.scored = self._evaluations_passed()

    @property
    def fraction(self) -> float:
        """The part of the run that is done, from 0 to 1 and beyond."""
        return self.budget.fraction(self.step, self.seconds())

    def seconds(self) -> float:
        """Seconds trained, over all the lives of the run."""
        return self.before + self.clock() - self.started

    def launch(self) -> None:
        """Hands about half a second of steps to the device."""
        started = self.clock()
        rates = self._learning_rates(self._chunk())
        plan = self.pool.plan(
            self.seed, self.step, len(rates), batch_size=self.recipe.batch_size, patch=self.recipe.patch
        )
        self.underway = _Chunk(started, plan, rates, self.runner.run(plan, rates))

    def collect(self) -> str:
        """Waits for the steps that were launched; what went wrong, or an empty text."""
        started, plan, rates, underway = self.underway
        losses = underway.cpu()  # the only wait for the device
        spent = self.clock() - started
        if self.step > 0:  # the first chunk pays for compiling and allocation
            self.rate = len(rates) / spent
        self.first_loss = self.first_loss or float(losses[0])
        good = self._good_steps(losses)
        taken = min(good + 1, len(rates))  # the steps after a bad one are as if they had not been
        self.step, self.learning_rate = self.step + taken, rates[taken - 1]
        self.window.add(losses[:taken], spent)
        return self._overshot(float(losses[good])) if good < len(rates) else self._fell_silent(plan[-1])

    def start_over(self) -> None:
        """Back to the first weights, with a lower rate and what is left of the budget."""
        self.runner.load({name.removeprefix("first."): value for name, value in self.first.items()})
        self.attempt, self.origin = self.attempt + 1, self.fraction

    def progress(self) -> Progress:
        """Where the run stands."""
        return Progress(
            step=self.step,
            fraction=min(self.fraction, 1.0),
            seconds=self.seconds(),
            loss=self.window.loss,
            learning_rate=self.learning_rate,
            patches_per_second=self.window.steps * self.recipe.batch_size / self.window.seconds,
        )

    def evaluation_due(self) -> bool:
        """Whether it is time to score."""
        return self._evaluations_passed() > self.scored

    def evaluation(self, evaluate: Callable[[dict[str, Tensor]], Score]) -> Evaluation:
        """Scores the weights; the window begins anew."""
        weights = {name: value.cpu() for name, value in self.runner.averaged().items()}
        progress = asdict(self.progress())
        self.scored, self.window = self._evaluations_passed(), _Window()
        return Evaluation(**progress, score=evaluate(weights), weights=weights)

    def checkpoint_age(self) -> float:
        """Seconds since the last checkpoint."""
        return self.clock() - self.checked

    def checkpoint(self) -> Checkpoint:
        """All that the rest of the run depends on."""
        self.checked = self.clock()
        state = {name: value.cpu() for name, value in self.runner.state().items()}
        window = (self.window.loss_sum, self.window.steps, self.window.seconds)
        position = (self.seconds(), self.attempt, self.origin, self.first_loss, *window)
        where = {"step": torch.tensor(self.step), "position": torch.tensor(position, dtype=torch.float64)}
        first = {name: value.cpu() for name, value in self.first.items()} if self.recipe.restarts else {}
        return Checkpoint(self.step, state | first | where)

    def _resume(self, state: dict[str, Tensor]) -> None:
        self.step = int(state["step"].item())
        self.before, attempt, self.origin, self.first_loss, loss_sum, steps, seconds = state["position"].tolist()
        self.attempt, self.window = int(attempt), _Window(loss_sum, int(steps), seconds)
        self.first |= {name: state[name].to(value.device) for name, value in self.first.items() if name in state}
        self.runner.load(state)

    def _chunk(self) -> int:
        """Steps to run before looking up: about CHUNK_SECONDS, not past the next check, evaluation or end."""
        count = min(max(1, round(self.rate * CHUNK_SECONDS)), CHECK_STEPS - self.step % CHECK_STEPS)
        until = (self.scored + 1) / self.evaluations
        if self.budget.steps:
            count = min(count, max(1, math.ceil(until * self.budget.steps - ROUNDING) - self.step))
        if self.budget.max_seconds and self.rate:
            left = until * self.budget.max_seconds - self.seconds()
            count = min(count, max(1, math.ceil(left * self.rate)))
        return count

    def _learning_rates(self, count: int) -> list[float]:
        """The learning rates of the next `count` steps."""
        seconds = self.seconds()
        spacing = 1 / self.rate if self.rate else 0.0
        ahead = [self.budget.fraction(self.step + i, seconds + i * spacing) for i in range(count)]
        factor = RESTART_FACTOR**self.attempt
        return [
            factor * self.recipe.learning_rate_at((fraction - self.origin) / (1 - self.origin)) for fraction in ahead
        ]

    def _good_steps(self, losses: Tensor) -> int:
        """How many steps went well before the first that did not."""
        limit = max(DIVERGED_LOSS, DIVERGED_GROWTH * self.first_loss)
        bad = (~(losses <= limit)).nonzero()  # not a number is bad too
        return int(bad[0]) if len(bad) else len(losses)

    def _overshot(self, loss: float) -> str:
        return f"the loss became {loss:.3g} at step {self.step} and learning rate {self.learning_rate:.2g}"

    def _fell_silent(self, where: Tensor) -> str:
        """Says so if a block passes on nothing, judged by the patches at `where`; later, nothing is gained."""
        early = self.fraction < 0.5 * (1 + self.origin)
        if self.step % CHECK_STEPS or not early or self.recipe.restarts == 0:
            return ""
        lr, _ = self.pool.cut(where.to(self.pool.rows.device), self.recipe.patch)
        silent = silent_share(self.network, lr)
        if silent <= SILENT_SHARE:
            return ""
        return f"{silent:.0%} of a block's PReLUs are silent at step {self.step}: the learning rate was too high"

    def _evaluations_passed(self) -> int:
        """How many evaluations should have taken place by now."""
        return math.floor(min(self.fraction, 1.0) * self.evaluations + ROUNDING)


class _Chunk(NamedTuple):
    """Steps that the device has been given."""

    started: float
    plan: Tensor
    rates: list[float]
    losses: Tensor
    """On the device; reading them waits for it."""


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
