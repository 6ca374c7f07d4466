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

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
SMALL = {"batch_size": 3, "patch": 18}
SETTINGS = recipe("fast", 2, **SMALL)  # type: ignore[arg-type]


class Queue:
    """Work that is done in its order, as late as can be."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.done = 0

    def until(self, count: int) -> None:
        while self.done < count:
            self.done += 1
            self.work[self.done - 1]()


class LateLane:
    """A lane beside the queue that trains; both are worked off only once the host waits, or the other one does."""

    def __init__(self) -> None:
        self.training, self.sending = Queue(), Queue()
        self.queue = self.training

    @contextmanager
    def current(self) -> Iterator[None]:
        self.queue = self.sending
        yield
        self.queue = self.training

    def mark(self) -> tuple[Queue, int]:
        return self.queue, len(self.queue.work)

    def wait(self, mark: tuple[Queue, int]) -> None:
        queue, count = mark
        self.queue.work.append(lambda: queue.until(count))

    def wait_here(self, mark: tuple[Queue, int]) -> None:
        queue, count = mark
        queue.until(count)


class Ring(torch.Tensor):
    """A tensor whose parts are written when their lane comes to it."""

    lane: LateLane

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_:
            to, source = (each.as_subclass(torch.Tensor) for each in args)
            cls.lane.queue.work.append(lambda: to.copy_(source))
            return args[0]
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("count", [1, HALF, HALF + 1, 3 * HALF, 5 * HALF + 3, SLOTS + HALF + 5])
def test_steps_from_the_host_are_those_from_the_device(count: int) -> None:
    near, far = smooth_pool(2), smooth_pool(2, limit=0)
    assert (near.resident, far.resident) == (True, False)
    kind: dict[str, Any] = {"m": 0, "f": 2, "p": 2}
    plan, rates = near.plan(0, 0, count, batch_size=3, patch=18), [1e-4 + 1e-6 * step for step in range(count)]
    engines = [recorded(pool, SETTINGS, **kind) for pool in (near, far)]
    losses = [engine.run(plan, rates) for engine in engines]
    assert torch.equal(*losses)
    assert all(torch.equal(value, engines[1].state()[name]) for name, value in engines[0].state().items())


def test_steps_from_the_host_are_those_of_the_simple_engine() -> None:
    pool = smooth_pool(2, limit=0)
    plan, rates = pool.plan(0, 0, 50, batch_size=3, patch=18), [1e-4] * 50
    found = recorded(pool, SETTINGS).run(plan, rates)
    # float32, summed in another order
    torch.testing.assert_close(found, SimpleEngine(network(), pool, SETTINGS).run(plan, rates), rtol=1e-3, atol=0)


def test_a_step_with_sent_patches_can_be_captured() -> None:
    pool = smooth_pool(2, limit=0)
    engine = GraphEngine(network(), pool, SETTINGS, graphs=RecordedGraphs(), loss=float32_loss)
    check_capturable(engine, lambda: engine.steps(1))


def test_nothing_is_read_before_it_came_nor_overwritten_before_it_was_read() -> None:
    pool, lane, read = smooth_pool(2, limit=0), LateLane(), []
    feed = Feed(pool, SETTINGS, torch.device("cpu"), lane)
    Ring.lane = lane
    feed.ring = feed.ring.as_subclass(Ring)

    def reading(step: int, expected: torch.Tensor) -> Callable[[], None]:
        sent = feed.ring.as_subclass(torch.Tensor)
        return lambda: read.append(torch.equal(sent[step % (2 * HALF)], expected))

    for plan in (pool.plan(0, 0, 6 * HALF + 1, batch_size=3, patch=18), pool.plan(1, 0, 2, batch_size=3, patch=18)):
        feed.begin(plan)
        for part in range(-(-len(plan) // HALF)):
            feed.enter(part)
            for step in range(part * HALF, min((part + 1) * HALF, len(plan))):
                lane.training.work.append(reading(step, pool.numbers(plan[step], 18)))
            feed.leave(part)
    assert lane.training.done < len(lane.training.work)  # the host runs ahead
    lane.training.until(len(lane.training.work))
    assert read == [True] * (6 * HALF + 3)


def test_no_replay_needs_both_halves() -> None:
    assert HALF % STEPS_PER_REPLAY == 0
    assert SLOTS % (2 * HALF) == 0


def test_pictures_beyond_the_limit_stay_with_the_host() -> None:
    pool = smooth_pool(2, limit=10)
    assert not pool.resident
    assert pool.rows.device.type == "cpu"
    assert smooth_pool(2, limit=pool.rows.nbytes).resident


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_from_the_hosts_memory_as_from_its_own() -> None:
    near, far = (smooth_pool(2, device="cuda", limit=limit) for limit in (None, 0))
    settings = recipe("fast", 2, batch_size=4, patch=18)
    plan, rates = near.plan(0, 0, 700, batch_size=4, patch=18), [1e-4] * 700
    losses = [GraphEngine(network().cuda(), pool, settings).run(plan, rates) for pool in (near, far)]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)  # sums are taken in any order there
