"""One trial end to end, as a generator of frozen events. It knows nothing of MLflow, Optuna or the terminal."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sesr_lab.data import Progress as Preparing
from sesr_lab.data import dataset as sources
from sesr_lab.data.patches import PatchPool
from sesr_lab.errors import ConfigError
from sesr_lab.network.cost import Costs, costs
from sesr_lab.network.model import SESR
from sesr_lab.scores.evaluate import Forward, Validator
from sesr_lab.scores.metrics import Score
from sesr_lab.study.config import TrialConfig, one_of
from sesr_lab.training import cores, kernel
from sesr_lab.training.engine import ENGINES, EngineName, engine_of
from sesr_lab.training.trainer import ROUNDING, Budget, Checkpoint, Evaluation, Fitted, Launched, Progress, Status, fit
from sesr_lab.training.transfer import start_from
from sesr_lab.trials.machine import MachineUse, Meter, Sampling

STRIPS = 4
"""How many times over a run the validation picture is shown."""
KEPT_NUMBERS = ("step", "fraction", "seconds", "loss", "learning_rate", "patches_per_second")
FIT_BATCHES = 16
"""Batches of the training set on which a x4 network's output block is first fitted."""


@dataclass(frozen=True)
class Started:
    """What a trial is about to do."""

    costs: Costs
    bicubic: Score
    """Bicubic's score on the same validation pictures."""
    steps: int | None
    images: int
    device: str
    engine: str


@dataclass(frozen=True)
class Strip:
    """One validation picture's luma, in levels of 255: three arrays (H, W)."""

    step: int
    percent: int
    """Of the training, a multiple of 100 / STRIPS: runs with the same schedule or not have the same."""
    bicubic: NDArray[np.float64] = field(repr=False)
    network: NDArray[np.float64] = field(repr=False)
    original: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True)
class Finished:
    """How a trial ended. `best` is the evaluation with the highest PSNR; None if there was none."""

    status: Status
    reason: str
    step: int
    seconds: float
    best: Evaluation | None
    last: Evaluation | None


Event = Started | Progress | Evaluation | Strip | MachineUse | Checkpoint | Finished


@dataclass(frozen=True)
class Place:
    """Where and how trials run."""

    device: torch.device
    engine: EngineName = "auto"
    sampling: Sampling = field(default_factory=Sampling)
    """When the machine's use is looked at."""


def place(device: str = "auto", engine: str = "auto") -> Place:
    """The place called `device`, `auto` being the GPU where there is one, and the engine called `engine`.

    Raises:
        ConfigError: there is no such device here, or no such engine at all.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine: {engine!r} is unknown; {one_of(engine, ENGINES)}")
    cores.limit_torch()
    if device == "auto":
        return Place(torch.device("cuda" if torch.cuda.is_available() else "cpu"), engine)
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device: {device!r} cannot be used here ({reason}); use auto or cpu") from None
    return Place(chosen, engine)


def name_of(device: torch.device) -> str:
    """What the device is, as in `cuda:0, NVIDIA H100` or `cpu, 2 threads`."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    return f"{device}, {min(torch.get_num_threads(), cores.allowed())} threads"


def run(
    config: TrialConfig,
    where: Place,
    *,
    parent: Mapping[str, Tensor] | None = None,
    resume: dict[str, Tensor] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Trains and scores the network that `config` describes.

    Args:
        parent: the expanded weights of the x2 network that a x4 one starts from.
        resume: the state of a `Checkpoint` of the same trial.
        stop: asked about twice a second; once true, a checkpoint and a `Finished` of status stopped follow.

    Raises:
        DataError: the data cannot be loaded, or its pictures are smaller than a patch.
    """
    with closing(run_in_turns(config, where, parent=parent, resume=resume, stop=stop)) as events:
        for event in events:
            if not isinstance(event, Launched):
                yield event


def run_in_turns(
    config: TrialConfig,
    where: Place,
    *,
    parent: Mapping[str, Tensor] | None = None,
    resume: dict[str, Tensor] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Event | Launched, None, None]:
    """As `run`, with a `Launched` wherever another trial may have its turn before this one waits for the device."""
    recipe = config.resolved_recipe()
    loaded = load_data(config.data, config.scale)
    loaded.check_patch(recipe.patch)
    pool, validator = _material(config.data, config.scale, where.device)
    steps = config.steps_for(pool.images)
    network = _network(config, where.device)
    engine = engine_of(where.engine, network, pool, recipe)
    yield Started(trial_costs(config), validator.bicubic, steps, pool.images, name_of(where.device), engine)
    if parent is not None and resume is None:
        batches = _batches(pool, config, where.device)
        start_from(network, {name: tensor.to(where.device) for name, tensor in parent.items()}, batches)
    if resume is None:
        yield Strip(0, 0, *validator.strip(network))
    events = fit(
        network,
        pool,
        recipe,
        Budget(steps=steps, max_seconds=config.max_seconds),
        evaluate=_Scorer(validator, config, where.device),
        seed=config.seed,
        engine=where.engine,
        resume=resume,
        stop=stop,
    )
    yield from _watched(events, validator, config, where, resume=resume)


def trial_costs(config: TrialConfig) -> Costs:
    """What the network of `config` costs, its training counted with the trial's own batch."""
    recipe = config.resolved_recipe()
    return costs(
        m=config.m,
        f=config.f,
        feature_size=config.feature_size,
        scale=config.scale,
        batch_size=recipe.batch_size,
        patch=recipe.patch,
    )


_LOADED: dict[tuple[str, int], sources.Data] = {}


def load_data(source: str, scale: int, progress: Preparing | None = None) -> sources.Data:
    """The data, loaded once for all the trials of a process; `progress` is told of what is fetched and prepared."""
    if (source, scale) not in _LOADED:
        _LOADED[source, scale] = sources.load(source, scale=scale, progress=progress)
    return _LOADED[source, scale]


def offer_data(data: sources.Data) -> None:
    """Takes data that came from elsewhere for its source, which may not be on this machine."""
    _LOADED.setdefault((data.source, data.scale), data)


def forget_data() -> None:
    """Loads the data anew when it is next asked for."""
    _LOADED.clear()
    _material.cache_clear()


@lru_cache(maxsize=2)
def _material(source: str, scale: int, device: torch.device) -> tuple[PatchPool, Validator]:
    """The patches and the validation set, resident on the device, once for all the trials of a process."""
    loaded = load_data(source, scale)
    return (
        PatchPool(loaded.train, scale=scale, device=device),
        Validator(loaded.valid, scale=scale, device=device, forward=_forward(device)),
    )


def _forward(device: torch.device) -> Forward | None:
    """The fastest forward pass on the device; None stands for plain PyTorch's."""
    return kernel.forward if device.type == "cpu" and kernel.missing_here() is None else None


class _Scorer:
    """Scores weights on the validation set with a network of their own, so that training is not disturbed."""

    def __init__(self, validator: Validator, config: TrialConfig, device: torch.device) -> None:
        self.validator = validator
        self.network = _network(config, device)

    def __call__(self, weights: dict[str, Tensor]) -> Score:
        self.network.load_state_dict(weights)
        return self.validator(self.network)


def _watched(
    events: Iterator[Launched | Progress | Evaluation | Checkpoint | Fitted],
    validator: Validator,
    config: TrialConfig,
    where: Place,
    *,
    resume: dict[str, Tensor] | None,
) -> Iterator[Event | Launched]:
    """The trainer's events, the machine's use, a `Strip` at a few evaluations, a `Finished` for the trainer's end."""
    kept = None if resume is None else _kept_in(resume, "best")
    best = _better(kept, None) if kept is not None else None
    last = None if resume is None else _kept_in(resume, "last")
    due = _strips_until(last.fraction if last else 0.0) + 1
    scorer, meter = _network(config, where.device), Meter(where.device, where.sampling)
    for event in events:
        if isinstance(event, Fitted):
            yield Finished(event.status, event.reason, event.step, event.seconds, best, last)
            return
        if isinstance(event, Progress) and (use := meter.look(event.step, event.seconds)):
            yield use
        yield _with_scores(event, best, last) if isinstance(event, Checkpoint) else event
        if not isinstance(event, Evaluation):
            continue
        last = event
        best = _better(event, best)
        if (shown := _strips_until(event.fraction)) >= due:
            due = shown + 1
            scorer.load_state_dict(event.weights)
            yield Strip(event.step, 100 * shown // STRIPS, *validator.strip(scorer))


def _strips_until(fraction: float) -> int:
    """How many strips a run shows up to there, without the one at its start."""
    return math.floor(fraction * STRIPS + ROUNDING)


def _better(new: Evaluation, best: Evaluation | None) -> Evaluation | None:
    """The one with the higher PSNR; a PSNR that is not finite never counts."""
    if not math.isfinite(new.score.psnr):
        return best
    return new if best is None or new.score.psnr > best.score.psnr else best


def _with_scores(checkpoint: Checkpoint, best: Evaluation | None, last: Evaluation | None) -> Checkpoint:
    """The checkpoint with the best and the last evaluation, so that a resumed trial does not forget them."""
    if best is None or last is None:
        return checkpoint
    kept = {f"best.{name}": tensor for name, tensor in best.weights.items()}
    return Checkpoint(checkpoint.step, checkpoint.state | kept | {"best": _numbers(best), "last": _numbers(last)})


def _numbers(evaluation: Evaluation) -> Tensor:
    numbers = [getattr(evaluation, name) for name in KEPT_NUMBERS] + [evaluation.score.psnr, evaluation.score.ssim]
    return torch.tensor(numbers, dtype=torch.float64)


def _kept_in(state: dict[str, Tensor], which: str) -> Evaluation | None:
    """The evaluation that `_with_scores` put into a state; the last one without its weights, unless it is the best."""
    if which not in state:
        return None
    *numbers, psnr, ssim = state[which].tolist()
    values = dict(zip(KEPT_NUMBERS, numbers, strict=True)) | {"step": int(numbers[0])}
    weights = {name.removeprefix(f"{which}."): tensor for name, tensor in state.items() if name.startswith(f"{which}.")}
    return Evaluation(**values, score=Score(psnr, ssim), weights=weights)


def _network(config: TrialConfig, device: torch.device) -> SESR:
    """A network drawn from the trial's seed, the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = SESR(**config.architecture.model_dump())
    return network.to(device)


def _batches(pool: PatchPool, config: TrialConfig, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """A few batches of the training set, drawn apart from those that training will see first."""
    recipe = config.resolved_recipe()
    seed = random.Random(config.seed).randrange(2**31)
    plan = pool.plan(seed, 0, FIT_BATCHES, batch_size=recipe.batch_size, patch=recipe.patch)
    for at in plan.to(pool.rows.device):
        lr, target = pool.cut(at, recipe.patch)
        yield lr.to(device), target.to(device)
