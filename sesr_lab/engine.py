"""What runs training steps. `simple` is plain eager PyTorch in float32: slow, and the oracle for the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from torch import Tensor

from sesr_lab import kernel
from sesr_lab.model import SESR
from sesr_lab.patches import PatchPool
from sesr_lab.recipe import Recipe

EngineName = Literal["auto", "simple", "kernel"]
ENGINES: tuple[EngineName, ...] = ("auto", "simple", "kernel")


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
        return torch.stack([self._step(at, rate) for at, rate in zip(plan, learning_rates, strict=True)])

    def averaged(self) -> dict[str, Tensor]:
        """As `Engine.averaged`."""
        source = self.average if self.recipe.ema_decay else dict(self.network.named_parameters())
        return {name: value.detach().clone() for name, value in source.items()}

    def state(self) -> dict[str, Tensor]:
        """As `Engine.state`."""
        names = [name for name, _ in self.network.named_parameters()]
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
        names = [name for name, _ in self.network.named_parameters()]
        moments["state"] = {i: _below(state, f"adam.{name}.") for i, name in enumerate(names)}
        self.optimizer.load_state_dict(moments)

    def _step(self, where: Tensor, learning_rate: float) -> Tensor:
        lr, target = self.pool.cut(where, self.recipe.patch)
        output = self.network.subpixels(lr.to(self.device))
        if self.recipe.clip_output:
            output = output.clamp(0, 1)
        loss = (output - target.to(self.device)).abs().mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        if self.recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["pace"]
        self.optimizer.step()
        self._update_average()
        return loss.detach()

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.recipe.ema_decay is not None:
            for name, value in self.network.named_parameters():
                self.average[name].lerp_(value, 1 - self.recipe.ema_decay)


def _adam(network: SESR, recipe: Recipe) -> torch.optim.Adam:
    """Adam with a group for each parameter, whose `pace` the learning rate is multiplied with."""
    paces = recipe.paces(f=network.f, feature_size=network.feature_size, scale=network.scale)
    groups = [
        {"params": [parameter], "pace": paces[name.split(".")[0]]} for name, parameter in network.named_parameters()
    ]
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
    """The engine called `name`; `auto` takes the fastest that fits the network's device and recipe."""
    if name == "kernel" or (name == "auto" and kernel.why_not(network, pool, recipe) is None):
        return kernel.KernelEngine(network, pool, recipe)
    return SimpleEngine(network, pool, recipe)


def describe_engines() -> str:
    """One line: which engine trains on this machine, and what keeps a faster one away."""
    missing = kernel.missing_here()
    return "kernel: whole steps in bfloat16 C code" if missing is None else f"simple: {missing}"


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


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
