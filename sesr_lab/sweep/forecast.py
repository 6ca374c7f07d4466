"""What a study would take: what is known of it already, whether there is room for it, and how long it lasts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from sesr_lab.data.patches import Pair, PatchPool
from sesr_lab.network.model import SESR
from sesr_lab.scores.metrics import Score
from sesr_lab.study.config import TrialConfig
from sesr_lab.study.spec import StudySpec
from sesr_lab.study.summary import corners
from sesr_lab.sweep.ledger import standing_of
from sesr_lab.sweep.records import FEWEST, Standing, TimeLeft
from sesr_lab.sweep.search import Search
from sesr_lab.training.trainer import Budget, Progress, fit
from sesr_lab.trials.trial import Place

LOOK_S = 1.0
"""So long a network is trained to see how long one of its steps takes."""


def forecast(spec: StudySpec, url: str, where: Place, room: int | None = None) -> tuple[Mapping[str, object], TimeLeft]:
    """Facts about the study as it would go on from what is stored at `url`, and the time that it still takes.

    Args:
        room: how many networks are trained at a time; one without it.

    Raises:
        StoreError: the database cannot be read.
    """
    found = standing_of(url, spec.name)
    left = max(0, min(spec.trials, _most(spec)) - (0 if found is None else found.done))
    time = _time_left(spec, found, left, where, room or 1)
    return {"trained already": 0 if found is None else found.done, "to be trained": left}, time


def _most(spec: StudySpec) -> int:
    """How many networks there are to train at most.

    Raises:
        ConfigError: none fits the study's limits.
    """
    search = Search(spec)  # a candidates' study is not looked up: it may not have run yet
    if spec.candidates is not None or (spec.space and search.fitting is None):
        return spec.trials
    listed = {point.fingerprint for point in search.fitting or ()}
    whole = [each for each in search.named if each.keys() >= spec.space.keys()]
    return len(listed | {search.point(each).fingerprint for each in whole}) + len(search.named) - len(whole)


def _time_left(spec: StudySpec, found: Standing | None, left: int, where: Place, slots: int) -> TimeLeft:
    at_once = "one" if slots == 1 else str(slots)
    rounds = math.ceil(left / slots)
    known = [] if found is None else [each.seconds for each in found.outcomes if each.result == "finished"]
    if len(known) >= FEWEST:
        mean = sum(known) / len(known)
        return TimeLeft(rounds * mean, f"{len(known)} of its networks that took {mean:.0f} s each, {at_once} at a time")
    cheap, dear = _extremes(spec)
    if cheap.max_seconds is not None:
        seconds = cheap.max_seconds
        return TimeLeft(rounds * seconds, f"its {seconds:g} s for each network, {at_once} at a time")
    if cheap.steps is None:
        return TimeLeft(math.nan, "nothing: how many steps its epochs have is known once its pictures are read")
    both = [step_s(config, where) for config in (cheap, dear)]
    mean = sum(both) / 2 * cheap.steps
    names = [config.architecture.short_name for config in (cheap, dear)]
    told = " and ".join(f"{name} ({1000 * each:.1f} ms)" for name, each in zip(names, both, strict=True))
    text = f"a step of its least and its largest network here, {told}, {at_once} at a time; scoring is not counted"
    return TimeLeft(rounds * mean, text)


def step_s(config: TrialConfig, where: Place) -> float:
    """Seconds that a step of training takes here, seen for about a second on random pictures."""
    recipe, scale = config.resolved_recipe(), config.scale
    side = 2 * recipe.patch
    chance = torch.Generator().manual_seed(0)
    pairs = [
        Pair(torch.rand(side // scale, side // scale, generator=chance).numpy(), torch.rand(side, side).numpy())
        for _ in range(2)
    ]
    events = fit(
        SESR(**config.architecture.model_dump()).to(where.device),
        PatchPool(pairs, scale=scale, device=where.device),
        recipe,
        Budget(steps=1_000_000),
        evaluate=lambda weights: Score(0.0, 0.0),
        evaluations=1,
        checkpoint_seconds=math.inf,
        engine=where.engine,
    )
    first: Progress | None = None
    for event in events:
        if not isinstance(event, Progress):
            continue
        first = first or event  # compiling is over by then
        if event.seconds - first.seconds >= LOOK_S:
            return (event.seconds - first.seconds) / (event.step - first.step)
    raise AssertionError("a million steps were over in a second")


def _extremes(spec: StudySpec) -> tuple[TrialConfig, TrialConfig]:
    """The trials of the cheapest and the dearest network that the study may train."""
    prices = spec.prices()
    points = [*spec.enqueue, *(spec.points if spec.points is not None else corners(spec))]
    configs = [spec.trial(point) for point in points] or [spec.trial({})]
    found = zip(prices.all_of([config.architecture for config in configs]), configs, strict=True)
    fit_in = [
        (price.macs, config.feature_size, index, config)
        for index, (price, config) in enumerate(found)
        if prices.excess(price) is None
    ]
    return min(fit_in)[-1], max(fit_in)[-1]
