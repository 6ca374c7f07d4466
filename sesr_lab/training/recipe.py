"""How a network is trained: the reference's recipe, and ours. Needs nothing but the standard library."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Schedule = Literal["constant", "one-cycle"]
RecipeName = Literal["paper", "fast"]

PAPER_PATCH = {2: 64, 4: 50}
"""LR patch sides of the reference, in pixels: HR 128 at x2 and 200 at x4."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how weights move, apart from the data, the budget and the seed."""

    name: RecipeName
    learning_rate: float
    """The constant rate, or the peak of the one-cycle schedule."""
    batch_size: int
    patch: int
    """Side of a low-resolution patch, in pixels."""
    crops_per_image: int
    """Patches that one picture gives in an epoch."""
    schedule: Schedule = "constant"
    warmup: float = 0.0
    """Part of the run in which the learning rate rises from near zero."""
    amsgrad: bool = False
    adam_eps: float = 1e-8
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    even_pace: bool = False
    """Divide each block's learning rate by how much further its small weights move than its own (`block_pace`)."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient; None leaves it alone."""
    ema_decay: float | None = None
    """Decay for each step of the averaged weights that are scored and kept; None scores the weights themselves."""
    restarts: int = 0
    """How often training may start over, at a lower rate, after it overshot or fell silent."""
    clip_output: bool = False
    """Clip to [0, 1] inside the training graph, as the reference does (no gradient outside)."""

    def learning_rate_at(self, fraction: float) -> float:
        """Learning rate when `fraction` (0 to 1) of the run is done."""
        if self.schedule == "constant":
            return self.learning_rate
        if fraction < self.warmup:
            return self.learning_rate * (0.04 + 0.96 * fraction / self.warmup)
        done = (fraction - self.warmup) / (1 - self.warmup)
        return self.learning_rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))

    def paces(self, *, f: int, feature_size: int, scale: int) -> dict[str, float]:
        """What the learning rate is multiplied with, by the first part of a parameter's name."""
        paces = block_paces(f=f, feature_size=feature_size, scale=scale)
        return paces if self.even_pace else dict.fromkeys(paces, 1.0)

    def steps(self, *, epochs: int, images: int) -> int:
        """Steps in `epochs` passes over `images` pictures."""
        return max(1, epochs * images * self.crops_per_image // self.batch_size)


PACE_OF_REFERENCE = 25.0
"""1 / block_pace of a 3×3 block with 16 channels and feature size 256, whose learning rate stays as given."""


def block_pace(*, feature_size: int, inputs: int, outputs: int, kernel: int) -> float:
    """What one linear block's learning rate is multiplied with so that its small weights move at an even pace.

    Adam moves every weight by about the learning rate. The small weights W₂W₁ then move by up to that rate times
    the sum over the feature size of |W₁| + |W₂|: 25 times as far at feature size 256, 5 times at 16. Above about
    0.1 a step they overshoot, activations grow, and PReLUs that start at slope 0 die: the network is stuck.
    """
    expand = math.sqrt(6 / ((inputs + feature_size) * kernel**2)) / 2  # mean |W₁| of Glorot's uniform weights
    project = math.sqrt(6 / (feature_size + outputs)) / 2
    return PACE_OF_REFERENCE / (feature_size * (expand + project))


def block_paces(*, f: int, feature_size: int, scale: int) -> dict[str, float]:
    """`block_pace` by the first part of a parameter's name: head, body, tail, slopes."""
    return {
        "head": block_pace(feature_size=feature_size, inputs=1, outputs=f, kernel=5),
        "body": block_pace(feature_size=feature_size, inputs=f, outputs=f, kernel=3),
        "tail": block_pace(feature_size=feature_size, inputs=f, outputs=scale**2, kernel=5),
        "slopes": 1.0,
    }


def paper(scale: int) -> Recipe:
    """The reference's recipe (ARM-software/sesr: train.py, utils.py): 64 crops a picture, Adam with amsgrad."""
    return Recipe(
        name="paper",
        learning_rate=2e-4,
        batch_size=32,
        patch=PAPER_PATCH[scale],
        crops_per_image=64,
        amsgrad=True,
        adam_eps=1e-7,
        clip_output=True,
    )


def fast(scale: int) -> Recipe:
    """Our recipe: small patches, one cycle, averaged weights; an epoch sees the pixels that the paper's sees."""
    batch_size, patch = 16, 32
    crops = 64 * PAPER_PATCH[scale] ** 2 // patch**2
    return Recipe(
        name="fast",
        learning_rate=1e-3,
        batch_size=batch_size,
        patch=patch,
        crops_per_image=crops,
        schedule="one-cycle",
        warmup=0.1,
        adam_beta2=0.95,
        even_pace=True,
        clip_norm=0.1,
        ema_decay=0.99,
        restarts=3,
    )


def recipe(name: RecipeName, scale: int, **changes: float | int | None) -> Recipe:
    """The named recipe with the settings in `changes` that are not None put in place."""
    base = paper(scale) if name == "paper" else fast(scale)
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(base, **given)  # type: ignore[arg-type]  # the border (config) has checked the types
