"""`sesr-lab evaluate`: the networks that a user names, scored on benchmark folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from sesr_lab.data import Progress
from sesr_lab.data.refusal import shown
from sesr_lab.errors import ConfigError, ModelError
from sesr_lab.network.cost import Costs, costs
from sesr_lab.network.model import from_weights
from sesr_lab.registry.lookup import Named, find, is_file, of_file
from sesr_lab.results.inference import Network, network
from sesr_lab.results.score_log import key_of, log_scores
from sesr_lab.results.seen import Seen
from sesr_lab.scores.evaluate import Benchmark, ModelScore, OfPicture, Scored, benchmark, network_upscaler, score_set
from sesr_lab.tracking.runs import Tracker

BICUBIC: Final = "bicubic"
EXPORTED: Final = (".onnx", ".tflite")


@dataclass(frozen=True)
class _Candidate:
    """What is scored under a name."""

    model: str
    scored: Scored
    costs: Costs | None = None
    named: Named | None = None


def score_models(
    models: Sequence[str],
    folders: Sequence[Path],
    *,
    scale: int,
    device: torch.device,
    open_tracker: Callable[[], Tracker],
    prefix: str,
    log: bool = False,
    progress: Progress | None = None,
) -> list[ModelScore]:
    """The scores of each of `models` on each of `folders`, in order.

    Args:
        open_tracker: opens the store; not called where no model needs one.
        log: keep the scores of registered networks with the runs that have trained them.

    Raises:
        ConfigError: the scale is not one that SESR has, or there is no run to log to, or two sets of one name to log.
        SesrError: a model or a picture cannot be found or read.
    """
    if scale not in (2, 4):
        raise ConfigError(f"evaluate: scale: found {scale}; 2 or 4 is allowed")
    sets = [benchmark(folder, scale) for folder in folders]
    tracker = (
        None if all(model == BICUBIC or _is_exported(model) or is_file(model) for model in models) else open_tracker()
    )
    found = [_candidate(model, tracker, scale=scale, device=device, prefix=prefix) for model in models]
    if log and not any(each.named is not None and each.named.version is not None for each in found):
        raise ConfigError("evaluate: --log: scores are kept with the run of a registered network; name one as MODEL")
    if log:
        _check_log(found, sets, tracker)
    seen = Seen(sets, progress)
    results = [_score(each, sets, seen, progress) for each in found]
    for each, score in zip(found, results, strict=True):
        if log and tracker is not None and each.named is not None and each.named.version is not None:
            log_scores(tracker, each.named, score, sets)
    return results


def _check_log(found: Sequence[_Candidate], sets: Sequence[Benchmark], tracker: Tracker | None) -> None:
    """Looks, before minutes of scoring, whether the scores can be kept: in runs that are there, a name for each set."""
    owners: dict[str, Benchmark] = {}
    for each in sets:
        other = owners.setdefault(key_of(each.name), each)
        if other is not each:
            both = f"{shown(other.name)} and {shown(each.name)}"
            raise ConfigError(
                f"evaluate: --log: {both} would be kept under one name; rename a folder, or leave one out"
            )
    for candidate in found:
        if tracker is not None and candidate.named is not None and candidate.named.version is not None:
            if not candidate.named.version.run_id:
                raise ConfigError(f"evaluate: --log: {candidate.model} has no run; leave it out, or --log")
            tracker.run(candidate.named.version.run_id)


def _candidate(model: str, tracker: Tracker | None, *, scale: int, device: torch.device, prefix: str) -> _Candidate:
    if model == BICUBIC:
        return _Candidate(model, BICUBIC)
    if _is_exported(model):
        opened = network(model, scale=scale, open_tracker=_no_store)
        return _Candidate(model, _of_file(opened), _costs_of(opened))
    named = of_file(model) if tracker is None else find(tracker, model, scale=scale, prefix=prefix)
    if named.architecture.scale != scale:
        raise ModelError(f"{model}: its scale is {named.architecture.scale}, not {scale}; use --scale to match")
    shape = named.architecture
    counted = costs(m=shape.m, f=shape.f, feature_size=shape.feature_size, scale=shape.scale)
    return _Candidate(model, network_upscaler(from_weights(named.weights), device), counted, named)


def _score(candidate: _Candidate, sets: Sequence[Benchmark], seen: Seen, progress: Progress | None) -> ModelScore:
    scores = tuple(
        replace(
            score_set(item.name, item, candidate.scored, scale=item.scale, lr_origin=item.lr_origin, progress=progress),
            trained_on=seen.by(candidate.model, candidate.named, index),
        )
        for index, item in enumerate(sets)
    )
    counted = candidate.costs
    if counted is None:
        return ModelScore(candidate.model, None, None, scores)
    return ModelScore(candidate.model, counted.params, counted.macs_720p, scores)


def _is_exported(model: str) -> bool:
    return model.lower().endswith(EXPORTED)


def _of_file(opened: Network) -> Scored:
    """An exported network as it is scored: of luma, or of the whole picture."""
    if opened.colours == 1:
        return lambda luma01: opened.run(luma01[None])[0]

    def upscale(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        colours = picture if picture.ndim == 3 else picture[..., None].repeat(3, axis=2)
        made = opened.run((colours.transpose(2, 0, 1) / np.float32(255)).astype(np.float32))
        levels = np.floor(np.clip(made.astype(np.float64), 0, 1) * 255 + 0.5).astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(1, 2, 0))

    return OfPicture(upscale)


def _costs_of(opened: Network) -> Costs | None:
    """What the network costs whose name an exported file has."""
    shape = re.match(r"m(\d+)-f(\d+)-p(\d+)-", opened.architecture)
    if shape is None:
        return None
    m, f, feature_size = (int(number) for number in shape.groups())
    return costs(m=m, f=f, feature_size=feature_size, scale=opened.scale)


def _no_store() -> Tracker:
    raise AssertionError("a file needs no store")
