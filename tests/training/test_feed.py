"""A training set that stays with the host trains alike: on the CPU, with a late lane in place of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from graphs import RecordedGraphs, check_capturable, recorded
from trainable import network, smooth_pool

from sesr_lab.training.engine import SimpleEngine
from sesr_lab.training.feed import HALF, Feed
from sesr_lab.training.graph import SLOTS, STEPS_PER_REPLAY, GraphEngine
from sesr_lab.training.loss import float32_loss
from sesr_lab.training.recipe import recipe

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"batch_size": 3, "patch": 18}
SETTINGS = recipe("fast", 2, **SMALL)  # type: ignore[arg-type]


class SlowLane:
    """A queue whose work is done only once somebody waits for it: what is not waited for is not there."""

    def __init__(self) -> None:
        self.queued: list[Callable[[], None]] = []
        self.inside = False
        self.waits_for_reading: list[int] = []
        self.marks = 0

    @contextmanager
    def current(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def mark(self) -> tuple[int, int]:
        self.marks += 1
        return (self.marks, len(self.queued) if self.inside else 0)

    def wait(self, mark: tuple[int, int]) -> None:
        if self.inside:
            self.waits_for_reading.append(mark[0])
        else:
            self._do(mark[1])

    def wait_here(self, mark: tuple[int, int]) -> None:
        self._do(mark[1])

    def _do(self, count: int) -> None:
        for work in self.queued[:count]:
            work()
        self.queued[:count] = [lambda: None] * min(count, len(self.queued))


class Ring(torch.Tensor):
    """A tensor whose parts are written when their lane comes to it."""

    lane: SlowLane

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_ and cls.lane.inside:
            to, source = (each.as_subclass(torch.Tensor) for each in args)
            cls.lane.queued.append(lambda: to.copy_(source))
            return args[0]
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("count", [1, HALF, HALF + 1, 3 * HALF, 5 * HALF + 3, SLOTS + HALF + 5])
def test_steps_from_the_host_are_those_from_the_device(count: int) -> None:
    near, far = smooth_pool(2), smooth_pool(2, limit=lambda: 0)
    assert (near.resident, far.resident) == (True, False)
    kind: dict[str, Any] = {"m": 0, "f": 2, "p": 2}
    plan, rates = near.plan(0, 0, count, batch_size=3, patch=18), [1e-4 + 1e-6 * step for step in range(count)]
    engines = [recorded(pool, SETTINGS, **kind) for pool in (near, far)]
    losses = [engine.run(plan, rates) for engine in engines]
    assert torch.equal(*losses)
    assert all(torch.equal(value, engines[1].state()[name]) for name, value in engines[0].state().items())


def test_steps_from_the_host_are_those_of_the_simple_engine() -> None:
    pool = smooth_pool(2, limit=lambda: 0)
    plan, rates = pool.plan(0, 0, 50, batch_size=3, patch=18), [1e-4] * 50
    found = recorded(pool, SETTINGS).run(plan, rates)
    # float32, summed in another order
    torch.testing.assert_close(found, SimpleEngine(network(), pool, SETTINGS).run(plan, rates), rtol=1e-3, atol=0)


def test_a_step_with_sent_patches_can_be_captured() -> None:
    pool = smooth_pool(2, limit=lambda: 0)
    engine = GraphEngine(network(), pool, SETTINGS, graphs=RecordedGraphs(), loss=float32_loss)
    check_capturable(engine, lambda: engine.steps(1))


def test_nothing_is_read_before_it_came_nor_overwritten_before_it_was_read() -> None:
    pool, lane = smooth_pool(2, limit=lambda: 0), SlowLane()
    feed = Feed(pool, SETTINGS, torch.device("cpu"), lane)
    Ring.lane = lane
    feed.ring = feed.ring.as_subclass(Ring)
    for plan in (pool.plan(0, 0, 4 * HALF + 1, batch_size=3, patch=18), pool.plan(1, 0, 2, batch_size=3, patch=18)):
        feed.begin(plan)
        for part in range(-(-len(plan) // HALF)):
            feed.enter(part)
            for step in range(part * HALF, min((part + 1) * HALF, len(plan))):
                sent = feed.ring.as_subclass(torch.Tensor)[step % (2 * HALF)]
                assert torch.equal(sent, pool.numbers(plan[step], 18))
            feed.leave(part)
    assert lane.waits_for_reading == sorted(lane.waits_for_reading)  # each copy for the reading before it
    assert len(lane.waits_for_reading) == 6


def test_no_replay_needs_both_halves() -> None:
    assert HALF % STEPS_PER_REPLAY == 0
    assert SLOTS % (2 * HALF) == 0


def test_pictures_beyond_the_limit_stay_with_the_host() -> None:
    pool = smooth_pool(2, limit=lambda: 10)
    assert not pool.resident
    assert pool.rows.device.type == "cpu"
    assert smooth_pool(2, limit=lambda: pool.rows.nbytes).resident


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_from_the_hosts_memory_as_from_its_own() -> None:
    near, far = (smooth_pool(2, device="cuda", limit=limit) for limit in (None, lambda: 0))
    settings = recipe("fast", 2, batch_size=4, patch=18)
    plan, rates = near.plan(0, 0, 700, batch_size=4, patch=18), [1e-4] * 700
    losses = [GraphEngine(network().cuda(), pool, settings).run(plan, rates) for pool in (near, far)]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)  # sums are taken in any order there
