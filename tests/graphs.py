"""Stand-ins for CUDA graphs, and a watch over what a capture forbids: on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from trainable import network

from sesr_lab.training.graph import GraphEngine
from sesr_lab.training.loss import float32_loss
from sesr_lab.training.recipe import Recipe

HOST = ("cpu", "cuda", "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__")
MADE_ON_HOST = (torch.tensor, torch.as_tensor, torch.from_numpy)
FORBIDDEN = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded)


class NotCapturableError(AssertionError):
    """Something that a capture forbids, or that would wait for the host."""


class _NoHost(TorchFunctionMode):
    """Refuses what brings values to the host or makes tensors there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = (resolve_name(func) or "").split(".")[-1]
        moved = name == "to" and any(
            isinstance(value, (str, torch.device)) for value in [*args, *(kwargs or {}).values()]
        )
        if func in MADE_ON_HOST or name in HOST or moved:
            raise NotCapturableError(name)
        return func(*args, **(kwargs or {}))


class _Capturable(TorchDispatchMode):
    """Refuses operators whose result's shape or value the host needs, or that draw numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(tag in func.tags for tag in FORBIDDEN) or "lift_fresh" in str(func):
            raise NotCapturableError(str(func))
        return func(*args, **(kwargs or {}))


def check_capturable(engine: GraphEngine, work: Callable[[], None]) -> None:
    """Fails on what a capture forbids, what costs a wait, and lasting tensors that come to lie elsewhere."""
    work()
    before = [tensor.data_ptr() for tensor in engine.lasting()]
    with _NoHost(), _Capturable():
        work()
    if before != [tensor.data_ptr() for tensor in engine.lasting()]:
        raise NotCapturableError("a lasting tensor has moved")


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out


def launches(calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]]) -> int:
    """How many of the operators do work: views do none."""
    return sum(not func.is_view for func, *_ in calls)


class RecordedGraphs:
    """Stands in for CUDA graphs: operators are recorded and done again on the very same tensors and numbers."""

    def __init__(self) -> None:
        self.engine: GraphEngine
        self.captures = 0

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        kept = [tensor.clone() for tensor in self.engine.lasting()]
        recorder = Recorder()
        with recorder:
            work()
        for tensor, value in zip(self.engine.lasting(), kept, strict=True):
            tensor.copy_(value)  # capturing does not do the work
        return lambda: _replay(recorder.calls)


@torch.no_grad()
def _replay(calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]]) -> None:
    for func, args, kwargs, out in calls:
        if func.is_view:
            continue
        found = func(*args, **kwargs)
        if not func._schema.is_mutable:
            pairs = zip(_tensors(out), _tensors(found), strict=True)
            for old, new in pairs:
                old.copy_(new)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for each in value for tensor in _tensors(each)] if isinstance(value, (tuple, list)) else []


def recorded(pool: Any, settings: Recipe, **kind: Any) -> GraphEngine:
    graphs = RecordedGraphs()
    graphs.engine = GraphEngine(network(**kind), pool, settings, graphs=graphs, loss=float32_loss)
    return graphs.engine
