"""`sesr-lab evaluate`: the networks that a user names, scored on benchmark folders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from sesr_lab.data import Progress
from sesr_lab.data.dataset import prepared_folder
from sesr_lab.data.gallery import Gallery, kept, of_folder
from sesr_lab.data.leaks import Leak, seen
from sesr_lab.errors import ConfigError
from sesr_lab.network.cost import costs
from sesr_lab.network.model import from_weights
from sesr_lab.registry.lookup import Named, find
from sesr_lab.scores.evaluate import Benchmark, ModelScore, Scored, benchmark, network_upscaler, score_set
from sesr_lab.tracking.runs import Tracker

BICUBIC: Final = "bicubic"
_log = logging.getLogger(__name__)


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
    seen_in_training = _Seen(sets, progress)
    return [
        _score(model, named, sets, seen_in_training, device=device, progress=progress)
        for model, named in zip(models, found, strict=True)
    ]


class _Seen:
    """Which pictures of the sets a network has seen in training, where its pictures were prepared on this machine."""

    def __init__(self, sets: Sequence[Benchmark], progress: Progress | None) -> None:
        self.sets, self.progress = sets, progress
        self._known: dict[tuple[str, int], tuple[Leak, ...] | None] = {}
        self._galleries: dict[int, Gallery] = {}

    def by(self, model: str, named: Named | None, index: int) -> tuple[Leak, ...] | None:
        """What a network has seen of a set, which is said; None where that is not known, and nothing for bicubic."""
        if named is None:
            return ()
        fingerprint = "" if named.version is None else named.version.data_fingerprint
        if (fingerprint, index) not in self._known:
            self._known[fingerprint, index] = self._find(fingerprint, index)
        found = self._known[fingerprint, index]
        if found:
            item, pictures = self.sets[index], {leak.picture: leak for leak in reversed(found)}
            listed = ", ".join(f"{leak.picture} ({leak.where})" for leak in pictures.values())
            said = f"was trained on what {len(pictures)} of the {len(item)} pictures show, and scores too well there"
            _log.warning("%s: %s %s: %s", item.name, model, said, listed)
        return found

    def _find(self, fingerprint: str, index: int) -> tuple[Leak, ...] | None:
        trained_on = kept(fingerprint, prepared_folder())
        if trained_on is None:
            return None
        if index not in self._galleries:
            self._galleries[index] = of_folder(self.sets[index].locations, self.progress)
        try:
            return tuple(seen(trained_on, self._galleries[index], self.progress))
        except LookupError:  # some of the prepared pictures were deleted
            return None


def _score(
    model: str,
    named: Named | None,
    sets: Sequence[Benchmark],
    seen_in_training: _Seen,
    *,
    device: torch.device,
    progress: Progress | None,
) -> ModelScore:
    scored: Scored = BICUBIC if named is None else network_upscaler(from_weights(named.weights), device)
    scores = tuple(
        replace(
            score_set(item.name, item, scored, scale=item.scale, lr_origin=item.lr_origin, progress=progress),
            trained_on=seen_in_training.by(model, named, index),
        )
        for index, item in enumerate(sets)
    )
    if named is None:
        return ModelScore(BICUBIC, None, None, scores)
    shape = named.architecture
    counted = costs(m=shape.m, f=shape.f, feature_size=shape.feature_size, scale=shape.scale)
    return ModelScore(model, counted.params, counted.macs_720p, scores)
