"""What runs training steps. `simple` is plain eager PyTorch in float32: slow, and the oracle for the others."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import shutil
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from torch import Tensor

from sesr_lab.data.patches import PatchPool
from sesr_lab.errors import ConfigError
from sesr_lab.network.model import SESR
from sesr_lab.training import cores, kernel
from sesr_lab.training.graph import GraphEngine, compiled
from sesr_lab.training.loss import bfloat16_loss, exact_float32
from sesr_lab.training.recipe import Recipe

EngineName = Literal["auto", "simple", "compiled", "kernel", "graph"]
ENGINES: tuple[EngineName, ...] = ("auto", "simple", "compiled", "kernel", "graph")
COMPILING_PAYS_SECONDS = 300
"""A run of at least this length earns back torch.compile's 20 to 60 seconds."""
MACS_PER_SECOND = 5e12
"""The pace of training on a GPU, to guess a run's length from its steps."""


class Engine(Protocol):
    """Moves a network's weights, step by step."""

    def run(self, plan: Tensor, learning_rates: Sequence[float]) -> Tensor:
        """The losses (steps,) of the steps that `plan` (steps, batch, 4) lays out, left on the device."""
        ...

    def averaged(self) -> dict[str, Tensor]:
        """The weights to score and keep, by the network's parameter names: their average, or as they are."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, by name; what `load` takes."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        ...


class SimpleEngine:
    """Plain eager PyTorch, one step after the other, as one would write it first."""

    def __init__(self, network: SESR, pool: PatchPool, recipe: Recipe) -> None:
        self.network, self.pool, self.recipe = network, pool, recipe
        self.device = next(network.parameters()).device
        self.optimizer = _adam(network, recipe)
        self.average = {name: value.detach().clone() for name, value in network.named_parameters()}

    def run(self, plan: Tensor, learning_rates: Sequence[float]) -> Tensor:
        """As `Engine.run`."""
        plan = plan.to(self.pool.rows.device)
        with exact_float32(self.device):
            return torch.stack([self._step(at, rate) for at, rate in zip(plan, learning_rates, strict=True)])

    def averaged(self) -> dict[str, Tensor]:
        """As `Engine.averaged`."""
        source = self.average if self.recipe.ema_decay else dict(self.network.named_parameters())
        return {name: value.detach().clone() for name, value in source.items()}

    def state(self) -> dict[str, Tensor]:
        """As `Engine.state`."""
        names = [name for name, _ in _trained(self.network)]
        state = {f"weights.{name}": value.detach() for name, value in self.network.named_parameters()}
        state |= {f"average.{name}": value for name, value in self.average.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"adam.{names[index]}.{key}": value for key, value in moments.items()}
        return {name: value.detach().clone() for name, value in state.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """As `Engine.load`."""
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                value.copy_(state[f"weights.{name}"])
                self.average[name].copy_(state[f"average.{name}"])
        moments = self.optimizer.state_dict()
        names = [name for name, _ in _trained(self.network)]
        moments["state"] = {i: _below(state, f"adam.{name}.") for i, name in enumerate(names)}
        self.optimizer.load_state_dict(moments)

    def _step(self, where: Tensor, learning_rate: float | Tensor) -> Tensor:
        lr, target = self.pool.cut(where, self.recipe.patch)
        loss = self._loss(lr.to(self.device), target.to(self.device))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        if self.recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self._set_learning_rate(learning_rate)
        self.optimizer.step()
        self._update_average()
        return loss.detach()

    def _loss(self, lr: Tensor, target: Tensor) -> Tensor:
        output = self.network.subpixels(lr)
        return (output.clamp(0, 1) if self.recipe.clip_output else output).sub(target).abs().mean()

    def _set_learning_rate(self, learning_rate: float | Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["pace"]

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.recipe.ema_decay is not None:
            for name, value in self.network.named_parameters():
                self.average[name].lerp_(value, 1 - self.recipe.ema_decay)


class CompiledEngine(SimpleEngine):
    """SimpleEngine with torch.compile and bfloat16 on a GPU, for collapsed blocks.

    torch keeps what it compiled for the process's later trials of the same shape, and on disk for other processes.
    """

    def __init__(self, network: SESR, pool: PatchPool, recipe: Recipe) -> None:
        super().__init__(network, pool, recipe)
        self.identity = network.body.identity()
        self.compiled = compiled(bfloat16_loss)

    def _loss(self, lr: Tensor, target: Tensor) -> Tensor:
        weights = self.network.collapse()
        outside = weights._replace(body=weights.body - self.identity)
        loss: Tensor = self.compiled(outside, lr, target, self.recipe.clip_output)
        return loss


def _adam(network: SESR, recipe: Recipe) -> torch.optim.Adam:
    """Adam with a group for each parameter, whose `pace` the learning rate is multiplied with."""
    paces = recipe.paces(f=network.f, feature_size=network.feature_size, scale=network.scale)
    groups = [{"params": [parameter], "pace": paces[name.split(".")[0]]} for name, parameter in _trained(network)]
    return torch.optim.Adam(
        groups,
        lr=recipe.learning_rate,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        amsgrad=recipe.amsgrad,
        eps=recipe.adam_eps,
    )


def make_engine(
    name: EngineName,
    network: SESR,
    pool: PatchPool,
    recipe: Recipe,
    steps: int | None = None,
    max_seconds: float | None = None,
) -> Engine:
    """The engine called `name`; `auto` takes the fastest for the device, the recipe and a run of this length.

    Raises:
        ConfigError: the engine called for cannot run here.
    """
    if network.block == "expanded" and name not in ("auto", "simple"):
        raise ConfigError(f"--engine {name}: it trains collapsed blocks only; use simple for expanded ones")
    cores.limit_torch()
    name = engine_of(name, network, pool, recipe)
    if name == "kernel" and (reason := kernel.why_not(network, pool, recipe)) is not None:
        raise ConfigError(f"--engine kernel: {reason}; use auto")
    if name in ("compiled", "graph") and not next(network.parameters()).is_cuda:
        raise ConfigError(f"--engine {name}: it needs a CUDA device; use auto")
    if name == "compiled" and (reason := why_not_compiled()) is not None:
        raise ConfigError(f"--engine compiled: {reason}; use auto")
    if not pool.resident:
        ahead = " and sent ahead" if name == "graph" else ""
        _say(f"the training set does not fit into the GPU's memory; its patches are cut on the CPU{ahead}")
    if name == "graph":
        return GraphEngine(network, pool, recipe, compiles=_compiles(network, recipe, steps, max_seconds))
    classes = {"simple": SimpleEngine, "compiled": CompiledEngine, "kernel": kernel.KernelEngine}
    return cast(Engine, classes[name](network, pool, recipe))


def engine_of(name: EngineName, network: SESR, pool: PatchPool, recipe: Recipe) -> EngineName:
    """The engine that runs where `name` is asked for."""
    return _fastest(network, pool, recipe) if name == "auto" else name


def _fastest(network: SESR, pool: PatchPool, recipe: Recipe) -> EngineName:
    """The engine that `auto` stands for; what is to train in the expanded space does so, at its cost."""
    if network.block == "expanded":
        return "simple"
    if next(network.parameters()).is_cuda:
        return "graph"
    reason = kernel.why_not(network, pool, recipe)
    if reason is None:
        return "kernel"
    if next(network.parameters()).device.type == "cpu":
        _say(f"training with plain PyTorch, which is slow; the fast kernel cannot be used: {reason}")
    return "simple"


def why_not_compiled() -> str | None:
    """What torch.compile lacks on this machine for a GPU, or None: Triton compiles its launchers in C."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not os.environ.get("CC") and not shutil.which("gcc") and not shutil.which("clang"):
        return "neither gcc nor clang was found; install one, or set CC"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python.h was not found; install Python's headers (python3-dev)"
    return None


def _compiles(network: SESR, recipe: Recipe, steps: int | None, max_seconds: float | None) -> bool:
    """Whether torch.compile is worth its time in a run on a GPU, and can be had."""
    if _seconds(network, recipe, steps, max_seconds) < COMPILING_PAYS_SECONDS:
        return False
    reason = why_not_compiled()
    if reason is not None:
        _say(f"training without torch.compile, with more and smaller kernels: {reason}")
    return reason is None


def _seconds(network: SESR, recipe: Recipe, steps: int | None, max_seconds: float | None) -> float:
    """About how long a run takes without compiling; a guess that is the same every time."""
    weights = network.f * (25 + 9 * network.m * network.f + 25 * network.scale**2)
    macs = 3 * weights * recipe.batch_size * recipe.patch**2
    by_steps = steps * macs / MACS_PER_SECOND if steps else math.inf
    return min(by_steps, max_seconds or math.inf)


@cache
def _say(note: str) -> None:
    """Warns once in a process, not at each of a sweep's trials."""
    logging.getLogger(__name__).warning(note)


def describe_engines() -> str:
    """One line: which engine trains on this machine, and what keeps a faster one away."""
    if torch.cuda.is_available():
        reason = why_not_compiled()
        return "graph: whole steps in CUDA graphs" + ("" if reason is None else f", without torch.compile: {reason}")
    missing = kernel.missing_here()
    if missing is not None:
        return f"simple: plain PyTorch, which is slow; {missing}"
    return f"kernel: whole steps in C, {kernel.products_here()} products, {cores.allowed()} cores allowed"


@torch.no_grad()
def silent_share(network: SESR, lr: Tensor) -> float:
    """The largest share of one block's PReLUs whose input is above zero nowhere in lr (N, 1, H, W)."""
    weights = network.collapse()
    features = F.conv2d(lr.to(weights.head.device) - 0.5, weights.head, padding=2)
    shares = []
    for weight, slope in zip(weights.body, weights.slopes, strict=True):
        features = F.conv2d(features, weight, padding=1)
        shares.append((features.amax((0, 2, 3)) <= 0).float().mean())
        features = F.prelu(features, slope)
    return float(torch.stack(shares).max())


def _trained(network: SESR) -> list[tuple[str, Tensor]]:
    """The parameters that training moves, by name and in order: the optimizer's own numbering."""
    return [(name, value) for name, value in network.named_parameters() if value.requires_grad]


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
