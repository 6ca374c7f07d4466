"""What training moves as flat tensors: the form in which the fast engines keep it."""

from __future__ import annotations

import torch
from torch import Tensor

from sesr_lab.network.model import SESR
from sesr_lab.training.recipe import Recipe

PARAMETERS = ("head.expand", "head.project", "body.expand", "body.project", "tail.expand", "tail.project", "slopes")
"""The order in the flat tensors, kernel.c's too; a network without blocks or PReLUs lacks some."""


class FlatState:
    """A network's trained weights, their average and Adam's moments, each in one tensor that stays where it is."""

    def __init__(self, network: SESR, recipe: Recipe) -> None:
        self.network = network
        self.averages = recipe.ema_decay is not None
        self.steps = 0
        named = dict(network.named_parameters())
        self.names = [name for name in PARAMETERS if named[name].requires_grad and named[name].numel()]
        self.weights = flat_weights(network)
        self.average = self.weights.clone()
        keys = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if recipe.amsgrad else ("exp_avg", "exp_avg_sq")
        self.moments = {key: torch.zeros_like(self.weights) for key in keys}  # torch.optim.Adam's names

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat tensor by parameter name, in the parameters' shapes."""
        named = dict(self.network.named_parameters())
        pieces = flat.split_with_sizes([named[name].numel() for name in self.names])
        return {name: piece.view(named[name].shape) for name, piece in zip(self.names, pieces, strict=True)}

    def averaged(self) -> dict[str, Tensor]:
        """As `Engine.averaged`."""
        source = self.split(self.average if self.averages else self.weights)
        return {name: value.clone() for name, value in (source | self._fixed()).items()}

    def state(self) -> dict[str, Tensor]:
        """As `Engine.state`; the same names as SimpleEngine's."""
        fixed = self._fixed()
        state = {f"weights.{name}": value for name, value in (self.split(self.weights) | fixed).items()}
        state |= {f"average.{name}": value for name, value in (self.split(self.average) | fixed).items()}
        for key, moment in self.moments.items():
            state |= {f"adam.{name}.{key}": value for name, value in self.split(moment).items()}
        state |= {f"adam.{name}.step": torch.tensor(float(self.steps)) for name in self.names}
        return {name: value.clone() for name, value in state.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """As `Engine.load`."""
        flats = {"weights.{}": self.weights, "average.{}": self.average}
        flats |= {f"adam.{{}}.{key}": moment for key, moment in self.moments.items()}
        for key, flat in flats.items():
            for name, piece in self.split(flat).items():
                piece.copy_(state[key.format(name)])
        self.steps = int(state[f"adam.{self.names[0]}.step"].item())
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """The network gets the weights."""
        named = dict(self.network.named_parameters())
        for name, value in self.split(self.weights).items():
            named[name].copy_(value)

    def _fixed(self) -> dict[str, Tensor]:
        """The parameters that training leaves alone, by name."""
        named = self.network.named_parameters()
        return {name: value.detach() for name, value in named if name not in self.names}


def flat_weights(network: SESR) -> Tensor:
    """A copy of what training moves, (parameters,)."""
    named = dict(network.named_parameters())
    return torch.cat([named[name].detach().flatten() for name in PARAMETERS])
