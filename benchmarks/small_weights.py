"""Optimisers that move the small (collapsed) weights themselves, on the kernel's gradients: Adam, and SOAP.

The kernel trains expanded weights alone. Of a network whose first layers are the identity, in a feature size of 25·f,
the second layers are the small weights; a step at rate 0 without momentum leaves their gradient in Adam's first moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sesr_lab.data.patches import PatchPool
from sesr_lab.network.model import SESR
from sesr_lab.training.kernel import KernelEngine
from sesr_lab.training.recipe import Recipe

BETAS = (0.9, 0.95)
EPS = 1e-8
AVERAGE = 0.99
ROTATE_EVERY = 40
SLOPES_RATE = 1e-3
"""Slopes are no weights of a block: they keep the recipe's own peak rate, by Adam."""


@dataclass
class Moments:
    """Of one parameter: Adam's, and for SOAP the two sides' covariances and their eigenvectors."""

    first: Tensor
    second: Tensor
    left: Tensor | None = None
    right: Tensor | None = None
    rotations: tuple[Tensor, Tensor] | None = None


class SmallWeights:
    """A network's small weights, trained by themselves; blocks (count, out, in·k·k), slopes (m, f)."""

    def __init__(self, network: SESR, pool: PatchPool, recipe: Recipe, *, soap: bool) -> None:
        self.network = _identity_of(network)
        still = replace(recipe, adam_beta1=0.0, clip_norm=None, ema_decay=None, even_pace=False)
        self.engine = KernelEngine(self.network, pool, still)
        self.soap, self.steps = soap, 0
        self.gradients = self._small(self.engine.flat.moments["exp_avg"])
        self.weights = self._small(self.engine.flat.weights)
        self.average = {name: weight.clone() for name, weight in self.weights.items()}
        self.moments = {name: Moments(torch.zeros_like(w), torch.zeros_like(w)) for name, w in self.weights.items()}

    def run(self, plan: Tensor, rates: Sequence[float], slope_rates: Sequence[float]) -> None:
        for at, rate, slope_rate in zip(plan, rates, slope_rates, strict=True):
            self.engine.run(at[None], [0.0])
            self.steps += 1
            for name, weight in self.weights.items():
                rotated = self.soap and name != "slopes"
                step = self._soap(name) if rotated else _adam(self.moments[name], self.gradients[name], self.steps)
                weight.sub_(step, alpha=slope_rate if name == "slopes" else rate)
                self.average[name].lerp_(weight, 1 - AVERAGE)

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights as those of the wide network."""
        state = self.engine.averaged()
        for name, value in self.average.items():
            if name == "slopes":
                state["slopes"] = value.clone()
            else:
                state[f"{name}.project"][..., : value.shape[-1]] = value
        return state

    def _small(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of the small weights, or their gradients, in a flat tensor of the wide network's."""
        pieces, f = self.engine.flat.split(flat), self.network.f
        inside = {"head": 25, "body": 9 * f, "tail": 25 * f}
        return {name: pieces[f"{name}.project"][..., :size] for name, size in inside.items()} | {
            "slopes": pieces["slopes"]
        }

    def _soap(self, name: str) -> Tensor:
        """SOAP's step: Adam in the eigenvectors of both covariances. Source: arXiv 2409.11321, algorithm 3."""
        gradient, moments, beta = self.gradients[name], self.moments[name], BETAS[1]
        left, right = gradient @ gradient.mT, gradient.mT @ gradient
        if moments.left is None or moments.right is None or moments.rotations is None:
            moments.left, moments.right = left, right
            moments.rotations = torch.linalg.eigh(left)[1], torch.linalg.eigh(right)[1]
            return torch.zeros_like(gradient)  # the first gradient only says how to rotate
        q, p = moments.rotations
        moments.first.lerp_(gradient, 1 - BETAS[0])
        moments.second.mul_(beta).add_((q.mT @ gradient @ p) ** 2, alpha=1 - beta)
        count = self.steps - 1
        first = q.mT @ (moments.first / (1 - BETAS[0] ** count)) @ p
        step = q @ (first / ((moments.second / (1 - beta**count)).sqrt() + EPS)) @ p.mT
        moments.left.lerp_(left, 1 - beta)
        moments.right.lerp_(right, 1 - beta)
        if self.steps % ROTATE_EVERY == 0:  # one step of the power method, as in the paper
            moments.rotations = torch.linalg.qr(moments.left @ q)[0], torch.linalg.qr(moments.right @ p)[0]
        return step


def _adam(moments: Moments, gradient: Tensor, count: int) -> Tensor:
    moments.first.lerp_(gradient, 1 - BETAS[0])
    moments.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    root = (moments.second / (1 - BETAS[1] ** count)).sqrt()
    return moments.first / (1 - BETAS[0] ** count) / (root + EPS)


@torch.no_grad()
def _identity_of(network: SESR) -> SESR:
    """The same function with the small weights as its second layers."""
    wide = SESR(m=network.m, f=network.f, feature_size=25 * network.f, scale=network.scale)
    for name in ("head", "body", "tail"):
        own, small = getattr(wide, name), getattr(network, name)
        inside = small.expand[0, 0].numel()
        own.expand.zero_()
        own.expand[:, :inside] = torch.eye(inside).view(inside, *small.expand.shape[2:])
        own.project.zero_()
        own.project[..., :inside] = torch.bmm(small.project, small.expand.flatten(2))
    wide.slopes.copy_(network.slopes)
    return wide
