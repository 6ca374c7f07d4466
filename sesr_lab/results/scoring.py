"""`sesr-lab evaluate`: the networks that a user names, scored on benchmark folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from sesr_lab.data import Progress
from sesr_lab.errors import ConfigError
from sesr_lab.network.cost import costs
from sesr_lab.network.model import from_weights
from sesr_lab.registry.lookup import Named, find
from sesr_lab.scores.evaluate import Benchmark, ModelScore, Scored, benchmark, network_upscaler, score_set
from sesr_lab.tracking.runs import Tracker

BICUBIC: Final = "bicubic"


def score_models(
    models: Sequence[str],
    folders: Sequence[Path],
    *,
    scale: int,
    device: torch.device,
    open_tracker: Callable[[], Tracker],
    prefix: str,
    progress: Progress | None = None,
) -> list[ModelScore]:
    """The scores of each of `models` on each of `folders`, in order.

    Args:
        open_tracker: opens the store; not called when `bicubic` is the only model.

    Raises:
        ConfigError: the scale is not one that SESR has.
        SesrError: a model or a picture cannot be found or read.
    """
    if scale not in (2, 4):
        raise ConfigError(f"evaluate: scale: found {scale}; 2 or 4 is allowed")
    sets = [benchmark(folder, scale) for folder in folders]
    tracker = open_tracker() if any(model != BICUBIC for model in models) else None
    found = [None if tracker is None or m == BICUBIC else find(tracker, m, scale=scale, prefix=prefix) for m in models]
    return [
        _score(model, named, sets, device=device, progress=progress) for model, named in zip(models, found, strict=True)
    ]


def _score(
    model: str, named: Named | None, sets: Sequence[Benchmark], *, device: torch.device, progress: Progress | None
) -> ModelScore:
    scored: Scored = BICUBIC if named is None else network_upscaler(from_weights(named.weights), device)
    scores = tuple(
        score_set(item.name, item, scored, scale=item.scale, lr_origin=item.lr_origin, progress=progress)
        for item in sets
    )
    if named is None:
        return ModelScore(BICUBIC, None, None, scores)
    shape = named.architecture
    counted = costs(m=shape.m, f=shape.f, feature_size=shape.feature_size, scale=shape.scale)
    return ModelScore(model, counted.params, counted.macs_720p, scores)
