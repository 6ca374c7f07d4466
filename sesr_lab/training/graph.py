"""Whole training steps on a GPU as CUDA graphs, for collapsed blocks: a replay needs nothing from the host.

All that a step reads or writes lies in tensors that stay where they are. Before up to SLOTS steps the host uploads
their places and rates; a counter on the device says which of them is next. So a step never waits for the host, none
differs from the one before it, and what is captured once holds for all, after a load too. Where the training set does
not fit into the device's memory, patches are cut by the host and sent ahead (`feed`).

Precision: parameters, Adam, the head, the image and the loss are float32, without TF32; activations and the small
weights of body and tail are bfloat16.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from sesr_lab.data.patches import PatchPool
from sesr_lab.network.model import SESR, Collapsed
from sesr_lab.training.feed import HALF, Feed
from sesr_lab.training.flat import FlatState
from sesr_lab.training.loss import Loss, bfloat16_loss, exact_float32
from sesr_lab.training.recipe import Recipe

SLOTS = 256
"""Steps whose places and rates are uploaded at once."""
STEPS_PER_REPLAY = 8
WARM_UPS = 2
"""How often work is done before it is captured, so that all that is allocated or chosen on first use is there."""
ARCHITECTURES = 1024
"""Shapes that torch.compile may meet in a process; beyond its own limit of 8 it would run them uncompiled."""


class Graphs(Protocol):
    """What captures work on a device, to do it again with the same tensors."""

    def current(self) -> AbstractContextManager[None]:
        """Inside, work runs on the device and in the stream that it is captured in."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does `work` again; capturing does not do it yet. Called inside `current`."""
        ...


class CudaGraphs:
    """CUDA graphs on one device, all in one stream of their own."""

    def __init__(self, device: torch.device) -> None:
        gc.collect()  # an engine holds itself, by what it has compiled and captured: those that are done with go now
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it unannotated

    @contextmanager
    def current(self) -> Iterator[None]:
        """As `Graphs.current`; streams wait for each other on the way in and out."""
        with torch.cuda.device(self.device):
            outer = torch.cuda.current_stream()
            self.stream.wait_stream(outer)
            try:
                with torch.cuda.stream(self.stream):
                    yield
            except BaseException:  # it leaves work behind too, and its tensors to whoever comes next
                with suppress(RuntimeError):  # of a GPU that is lost, which would hide why
                    outer.wait_stream(self.stream)
                raise
            outer.wait_stream(self.stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """As `Graphs.capture`. What fails inside is what is raised, out of memory too, and the stream is free again."""
        gc.collect()  # tensors that die during a capture would be freed in it
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # a capture has memory of its own, and cannot take what is only kept for later
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        try:
            work()
        except BaseException:
            with suppress(RuntimeError):  # it says once more that the capture failed, and would hide why
                graph.capture_end()
            raise
        graph.capture_end()
        replay: Callable[[], None] = graph.replay
        return replay


class GraphEngine:
    """Adam steps, crops included, captured and replayed several at a time.

    Args:
        graphs: what captures; CUDA graphs on the network's device unless told otherwise.
        compiles: whether torch.compile fuses the parts of a step first, which takes a minute and halves the launches.
    """

    def __init__(
        self,
        network: SESR,
        pool: PatchPool,
        recipe: Recipe,
        *,
        graphs: Graphs | None = None,
        loss: Loss = bfloat16_loss,
        compiles: bool = False,
    ) -> None:
        self.pool, self.recipe = pool, recipe
        self.device = device = next(network.parameters()).device
        self.graphs = graphs or CudaGraphs(device)
        self.flat = FlatState(network, recipe)
        self.averaged, self.state, self.load = self.flat.averaged, self.flat.state, self.flat.load
        self.leaf = self.flat.weights.detach().requires_grad_()  # the same memory
        self.loss = loss
        self.feed = None if pool.resident else Feed(pool, recipe, device)
        self.parts: tuple[Callable[..., Any], ...] = (self._batch, self._loss_of, adam_step)
        if compiles:
            self.parts = tuple(map(compiled, self.parts))
        self.pace = self._pace()
        home = pool.rows.device
        pool.cut(torch.zeros(recipe.batch_size, 4, dtype=torch.int64, device=home), recipe.patch)  # makes its tables
        self.plan = torch.zeros(SLOTS, recipe.batch_size, 4, dtype=torch.int64, device=device)
        self.factors = torch.zeros(SLOTS, 2, device=device)
        self.losses = torch.zeros(SLOTS, device=device)
        self.slot = torch.zeros(1, dtype=torch.int64, device=device)
        self.done: dict[int, int] = {}
        self.replays: dict[int, Callable[[], None]] = {}

    def run(self, plan: Tensor, learning_rates: Sequence[float]) -> Tensor:
        """As `Engine.run`.

        Raises:
            ValueError: the plan is not one of as many steps as there are learning rates, each of a batch.
        """
        wanted = (len(learning_rates), self.recipe.batch_size, 4)
        if plan.shape != wanted:
            raise ValueError(f"{wanted[0]} learning rates ask for a plan of {wanted}, not {tuple(plan.shape)}")
        losses = []
        with self.graphs.current(), exact_float32(self.device):
            for first in range(0, len(plan), SLOTS):
                some = slice(first, first + SLOTS)
                losses.append(self._run_slots(plan[some], learning_rates[some]))
            self.flat.publish()
            return torch.cat(losses)

    def steps(self, count: int) -> None:
        """`count` steps, from the slot that is next: what is captured. Nothing in it may wait for the host."""
        for _ in range(count):
            self._step()

    def lasting(self) -> list[Tensor]:
        """The tensors by which a step knows of the one before it, and of the host."""
        flat = self.flat
        pictures = self.pool.rows if self.feed is None else self.feed.ring
        uploaded = [self.plan, self.factors, self.losses, self.slot, self.pace, pictures]
        return [flat.weights, flat.average, *flat.moments.values(), *uploaded]

    def _run_slots(self, plan: Tensor, learning_rates: Sequence[float]) -> Tensor:
        count = len(plan)
        self.plan[:count].copy_(plan)
        self.factors[:count].copy_(self._factors(learning_rates))
        self.slot.zero_()
        if self.feed is None:
            self._do_all(count)
        else:
            self.feed.begin(plan)
            for part, first in enumerate(range(0, count, HALF)):
                self.feed.enter(part)
                self._do_all(min(HALF, count - first))
                self.feed.leave(part)
        self.flat.steps += count
        return self.losses[:count].clone()

    def _do_all(self, count: int) -> None:
        for steps in [STEPS_PER_REPLAY] * (count // STEPS_PER_REPLAY) + [1] * (count % STEPS_PER_REPLAY):
            self._do(steps)

    def _do(self, count: int) -> None:
        """`count` steps: the first times as they are, then from a graph."""
        self.done[count] = self.done.get(count, 0) + 1
        if self.done[count] <= WARM_UPS:
            self.steps(count)
            return
        if count not in self.replays:
            self.replays[count] = self.graphs.capture(lambda: self.steps(count))
        self.replays[count]()

    def _step(self) -> None:
        batch, loss_of, adam = self.parts
        lr, target = batch(self.slot)
        loss = loss_of(self.leaf, lr, target)
        (grad,) = torch.autograd.grad(loss, self.leaf)
        with torch.no_grad():
            flat = (self.flat.weights, self.flat.average, *self.flat.moments.values())
            adam(flat, grad, self.pace, self.factors.index_select(0, self.slot)[0], self.recipe)
            self.losses.index_copy_(0, self.slot, loss.detach()[None])
            self.slot.add_(1)

    def _batch(self, slot: Tensor) -> tuple[Tensor, Tensor]:
        """The patches of the step that is next, cut here or taken from what was sent."""
        if self.feed is None:
            return self.pool.cut(self.plan.index_select(0, slot)[0], self.recipe.patch)
        sent = self.feed.ring.index_select(0, slot.remainder(2 * HALF))[0]
        return self.pool.scaled(sent, self.recipe.patch)

    def _loss_of(self, leaf: Tensor, lr: Tensor, target: Tensor) -> Tensor:
        return self.loss(self._collapse(leaf), lr, target, self.recipe.clip_output)

    def _collapse(self, leaf: Tensor) -> Collapsed:
        """The small network of flat weights, the body's weights without the identity."""
        network, pieces = self.flat.network, self.flat.split(leaf)
        small = {}
        for part in ("head", "body", "tail"):
            expand = pieces.get(f"{part}.expand", network.body.expand)  # a network without blocks has no body
            project = pieces.get(f"{part}.project", network.body.project)
            small[part] = torch.bmm(project, expand.flatten(2)).view(*project.shape[:2], *expand.shape[2:])
        slopes = pieces["slopes"] if "slopes" in pieces else leaf.new_zeros(network.m, network.f)
        return Collapsed(small["head"][0], small["body"], slopes, small["tail"][0], network.offset)

    def _factors(self, learning_rates: Sequence[float]) -> Tensor:
        """What Adam's step is multiplied with, and the root of its second moments: (steps, 2)."""
        beta1, beta2 = self.recipe.adam_beta1, self.recipe.adam_beta2
        counts = range(self.flat.steps + 1, self.flat.steps + 1 + len(learning_rates))
        pairs = zip(counts, learning_rates, strict=True)
        return torch.tensor([(rate / (1 - beta1**count), (1 - beta2**count) ** -0.5) for count, rate in pairs])

    def _pace(self) -> Tensor:
        """What each parameter's rate is multiplied with, (parameters,)."""
        network = self.flat.network
        paces = self.recipe.paces(f=network.f, feature_size=network.feature_size, scale=network.scale)
        pace = torch.empty_like(self.flat.weights)
        for name, piece in self.flat.split(pace).items():
            piece.fill_(paces[name.split(".")[0]])
        return pace


def adam_step(flat: tuple[Tensor, ...], grad: Tensor, pace: Tensor, factors: Tensor, recipe: Recipe) -> None:
    """Moves all parameters at once as torch.optim.Adam does, and their average.

    Args:
        flat: weights, average, first and second moments, and with amsgrad the largest second ones: changed in place.
        grad: as they are; their norm is clipped here.
        factors: as of `GraphEngine._factors`, (2,).
    """
    weights, average, moment, second, *largest = flat
    if recipe.clip_norm is not None:
        grad = grad * (recipe.clip_norm / (torch.linalg.vector_norm(grad) + 1e-6)).clamp(max=1)
    moment.lerp_(grad, 1 - recipe.adam_beta1)
    second.mul_(recipe.adam_beta2).addcmul_(grad, grad, value=1 - recipe.adam_beta2)
    for most in largest:
        torch.maximum(most, second, out=most)
    root = (largest[0] if largest else second).sqrt()
    weights.addcdiv_(moment * (pace * factors[0]), root * factors[1] + recipe.adam_eps, value=-1)
    if recipe.ema_decay is not None:
        average.lerp_(weights, 1 - recipe.ema_decay)


def compiled(part: Callable[..., Any]) -> Callable[..., Any]:
    """`part` by torch.compile, for one shape after the other."""
    config = torch._dynamo.config
    config.recompile_limit = config.accumulated_recompile_limit = ARCHITECTURES
    made: Callable[..., Any] = torch.compile(part, dynamic=False)
    return made
