"""fit(): budgets, events, resuming, and what happens when training fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sesr_lab.data.patches import Pair, PatchPool
from sesr_lab.network.model import SESR, from_weights
from sesr_lab.scores.metrics import Score
from sesr_lab.training import library, trainer
from sesr_lab.training.engine import EngineName
from sesr_lab.training.recipe import recipe
from sesr_lab.training.trainer import Budget, Checkpoint, Evaluation, Event, Fitted, Progress, Restart, fit

needs_kernel = pytest.mark.skipif(library.compiler() is None, reason="no C compiler")
ENGINES = ["simple", pytest.param("kernel", marks=needs_kernel)]
SETTINGS = recipe("fast", 2, batch_size=4, patch=16)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pool() -> PatchPool:
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(3):
        coarse = torch.from_numpy(rng.random((1, 1, 14, 14), np.float32))
        hr = torch.nn.functional.interpolate(coarse, size=(64, 80), mode="bicubic").clamp(0, 1)
        pairs.append(Pair(torch.nn.functional.avg_pool2d(hr, 2)[0, 0].numpy(), hr[0, 0].numpy()))
    return PatchPool(pairs, scale=2, device=torch.device("cpu"))


def network() -> SESR:
    torch.manual_seed(0)
    return SESR(m=2, f=8, feature_size=16, scale=2)


def nothing(weights: dict[str, Tensor]) -> Score:
    return Score(psnr=float(sum(value.double().sum() for value in weights.values())), ssim=0.0)


def start(pool: PatchPool, budget: Budget, **changes: object) -> Iterator[Event]:
    arguments = {"evaluate": nothing, "engine": "auto", "evaluations": 4} | changes
    return fit(network(), pool, arguments.pop("recipe", SETTINGS), budget, **arguments)  # type: ignore[arg-type]


def curve(events: list[Event]) -> list[tuple[int, float, float, float]]:
    return [(e.step, e.loss, e.score.psnr, e.learning_rate) for e in events if isinstance(e, Evaluation)]


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_and_seed_decide_everything(pool: PatchPool, engine: EngineName) -> None:
    one, two, other = (list(start(pool, Budget(steps=40), engine=engine, seed=seed)) for seed in (0, 0, 1))
    assert curve(one) == curve(two) != curve(other)
    assert [e.step for e in one if isinstance(e, Evaluation)] == [10, 20, 30, 40]
    assert one[-1] == Fitted("finished", 40, one[-1].seconds)  # type: ignore[union-attr]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stopped_run_goes_on_to_the_same_curve(pool: PatchPool, engine: EngineName) -> None:
    whole = curve(list(start(pool, Budget(steps=60), engine=engine)))
    first = list(start(pool, Budget(steps=60), engine=engine, stop=lambda: True))
    assert isinstance(first[-1], Fitted)
    assert first[-1].status == "stopped"
    events, states = first, 1
    while isinstance(events[-1], Fitted) and events[-1].status == "stopped":
        saved = events[-2]
        assert isinstance(saved, Checkpoint)
        asked = iter([False, True])  # stops in the middle of a window, again and again
        rest = start(pool, Budget(steps=60), engine=engine, resume=saved.state, stop=lambda asked=asked: next(asked))
        events = list(rest)
        first, states = [*first, *events], states + 1
    assert states > 2
    assert [(step, score, rate) for step, _, score, rate in curve(first)] == [(s, p, r) for s, _, p, r in whole]
    assert [loss for _, loss, *_ in curve(first)] == pytest.approx([loss for _, loss, *_ in whole], rel=1e-9)


def test_a_checkpoint_holds_plain_tensors_on_the_cpu(pool: PatchPool) -> None:
    events = start(pool, Budget(steps=30), checkpoint_seconds=0.0)
    state = next(event for event in events if isinstance(event, Checkpoint)).state
    assert all(type(value) is Tensor and value.device.type == "cpu" for value in state.values())


@pytest.mark.slow
def test_a_budget_in_seconds_ends_on_time_and_at_the_lowest_rate(pool: PatchPool) -> None:
    events = list(start(pool, Budget(max_seconds=1.5)))
    last = [e for e in events if isinstance(e, Progress)][-1]
    assert last.seconds >= 1.5
    assert last.learning_rate < SETTINGS.learning_rate
    assert len(curve(events)) >= 2  # evaluations that a busy machine passes by in one chunk are not made up


def test_whichever_budget_is_spent_first_ends_the_run(pool: PatchPool) -> None:
    *_, end = start(pool, Budget(steps=8, max_seconds=600))
    assert (end.status, end.step) == ("finished", 8)  # type: ignore[union-attr]


def test_the_averaged_weights_are_scored(pool: PatchPool) -> None:
    net = network()
    events = list(fit(net, pool, SETTINGS, Budget(steps=20), evaluate=nothing, evaluations=1, engine="simple"))
    (scored,) = (e.weights for e in events if isinstance(e, Evaluation))
    assert any(not torch.equal(scored[name], value) for name, value in net.named_parameters())
    from_weights(scored)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_training_lowers_the_loss(pool: PatchPool, engine: EngineName) -> None:
    losses = [loss for _, loss, *_ in curve(list(start(pool, Budget(steps=120), engine=engine)))]
    assert losses[-1] < 0.8 * losses[0]


def explosive(**changes: object) -> object:
    return replace(SETTINGS, learning_rate=3.0, clip_norm=None, **changes)  # type: ignore[arg-type]


def test_a_run_that_explodes_starts_over_at_a_lower_rate(pool: PatchPool) -> None:
    events = list(start(pool, Budget(steps=300), recipe=explosive(restarts=9)))
    restarts = [event for event in events if isinstance(event, Restart)]
    assert restarts
    assert "learning rate" in restarts[0].reason or "silent" in restarts[0].reason
    end = events[-1]
    assert isinstance(end, Fitted)
    assert (end.status, end.step) == ("finished", 300)
    last = [event for event in events if isinstance(event, Evaluation)][-1]
    assert last.loss < 0.2


def test_a_run_that_may_not_start_over_ends_as_diverged(pool: PatchPool) -> None:
    *_, end = start(pool, Budget(steps=300), recipe=explosive(restarts=0))
    assert isinstance(end, Fitted)
    assert end.status == "diverged"
    assert "--learning-rate" in end.reason


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["paper", "fast"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["head.expand", "body.project", "slopes", "tail.project"])
def test_a_weight_that_is_no_number_ends_the_run_at_once(
    pool: PatchPool, engine: EngineName, name: str, value: float, where: str
) -> None:
    net = network()
    with torch.no_grad():
        dict(net.named_parameters())[where].flatten()[3] = value
    settings = recipe(name, 2, batch_size=4, patch=16, restarts=0)  # type: ignore[arg-type]
    *_, end = fit(net, pool, settings, Budget(steps=20), evaluate=nothing, engine=engine)
    assert isinstance(end, Fitted)
    assert (end.status, end.step) == ("diverged", 1)


def test_starting_over_survives_a_resume(pool: PatchPool) -> None:
    settings = explosive(restarts=9)
    whole = list(start(pool, Budget(steps=200), recipe=settings))
    assert any(isinstance(event, Restart) for event in whole)
    saved = next(
        event
        for event in start(pool, Budget(steps=200), recipe=settings, checkpoint_seconds=0.0)
        if isinstance(event, Checkpoint) and event.step >= 100
    )
    rest = list(start(pool, Budget(steps=200), recipe=settings, resume=saved.state))
    assert curve(rest) == curve(whole)[-len(curve(rest)) :]


def test_silent_prelus_are_noticed(pool: PatchPool, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    with torch.no_grad():
        net.head.project.zero_()
        net.head.expand.zero_()  # both: neither gets a gradient
    monkeypatch.setattr(trainer, "CHECK_STEPS", 5)
    events = list(fit(net, pool, SETTINGS, Budget(steps=20), evaluate=nothing, engine="simple"))
    (restart, *_) = (event for event in events if isinstance(event, Restart))
    assert "100% of a block's PReLUs are silent at step 5" in restart.reason
