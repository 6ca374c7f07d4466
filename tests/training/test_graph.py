"""The graph engine on the CPU: what a capture forbids, and a stand-in for graphs that replays what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from graphs import NotCapturableError, RecordedGraphs, Recorder, check_capturable, launches, recorded
from torch._dynamo.testing import CompileCounter
from trainable import network, smooth_pool

from sesr_lab.training.engine import SimpleEngine
from sesr_lab.training.graph import STEPS_PER_REPLAY, WARM_UPS, CudaGraphs, GraphEngine
from sesr_lab.training.loss import exact_float32, float32_loss
from sesr_lab.training.recipe import recipe

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"batch_size": 3, "patch": 18}


@pytest.mark.parametrize("name", ["paper", "fast"])
@pytest.mark.parametrize("kind", [{}, {"activation": "relu", "input_residual": False}, {"scale": 4}])
def test_a_step_can_be_captured(name: str, kind: dict[str, Any]) -> None:
    scale = kind.get("scale", 2)
    settings = recipe(name, scale, **SMALL)  # type: ignore[arg-type]
    engine = GraphEngine(network(**kind), smooth_pool(scale), settings, graphs=RecordedGraphs())
    check_capturable(engine, lambda: engine.steps(1))


def _moves(engine: GraphEngine) -> None:
    engine.flat.weights = engine.flat.weights + 1


MISTAKES: dict[str, Callable[[GraphEngine], Any]] = {
    "reads a value": lambda engine: engine.losses[0].item(),
    "asks whether": lambda engine: bool(engine.losses[0] > 0),
    "copies to the host": lambda engine: engine.losses.cpu(),
    "moves to a device": lambda engine: engine.losses.to("cpu"),
    "has a shape by values": lambda engine: engine.losses.nonzero(),
    "selects by values": lambda engine: engine.losses[engine.losses > 0],
    "makes a constant": lambda engine: engine.losses + torch.tensor(1.0),
    "draws numbers": lambda engine: torch.rand_like(engine.losses),
    "puts weights elsewhere": _moves,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_captured_is_seen(mistake: str) -> None:
    engine = recorded(smooth_pool(2), recipe("fast", 2, **SMALL))
    with pytest.raises(NotCapturableError):
        check_capturable(engine, lambda: MISTAKES[mistake](engine))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "fast"])
@pytest.mark.parametrize("kind", [{}, {"m": 0}, {"activation": "relu", "input_residual": False}])
def test_replayed_steps_are_those_of_the_simple_engine(name: str, kind: dict[str, Any]) -> None:
    pool, settings = smooth_pool(2), recipe(name, 2, **SMALL)  # type: ignore[arg-type]
    engine, simple = recorded(pool, settings, **kind), SimpleEngine(network(**kind), pool, settings)
    plan, rates = pool.plan(0, 0, 53, batch_size=3, patch=18), [1e-4 - 1e-6 * step for step in range(53)]
    found, expected = engine.run(plan, rates), simple.run(plan, rates)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)  # float32, summed in another order
    assert engine.graphs.captures == 2  # type: ignore[attr-defined]  # eight steps, and one
    for key, value in simple.averaged().items():
        torch.testing.assert_close(engine.averaged()[key], value, rtol=0.02, atol=1e-3)


@pytest.mark.slow
def test_a_restart_and_a_resume_replay_the_same_graphs() -> None:
    pool, settings = smooth_pool(2), recipe("fast", 2, **SMALL)
    plan, rates = pool.plan(0, 0, 40, batch_size=3, patch=18), [1e-3] * 40
    engine = recorded(pool, settings)
    first = {name: value.clone() for name, value in engine.state().items()}
    losses = engine.run(plan, rates)
    captures = engine.graphs.captures  # type: ignore[attr-defined]
    engine.load(first)
    assert torch.equal(engine.run(plan, rates), losses)
    assert engine.graphs.captures == captures  # type: ignore[attr-defined]
    resumed, half = recorded(pool, settings), recorded(pool, settings)
    half.run(plan[:20], rates[:20])
    simple = SimpleEngine(network(), pool, settings)
    simple.run(plan[:20], rates[:20])
    assert half.state().keys() == simple.state().keys()
    resumed.load(half.state())
    torch.testing.assert_close(resumed.run(plan[20:], rates[20:]), losses[20:], rtol=1e-5, atol=0)


@pytest.mark.slow
def test_steps_do_not_depend_on_how_they_are_grouped() -> None:
    pool, settings = smooth_pool(2), recipe("fast", 2, **SMALL)
    plan, rates = pool.plan(0, 0, 300, batch_size=3, patch=18), [1e-4 + 1e-6 * step for step in range(300)]
    whole, parts = recorded(pool, settings, m=0, f=2, p=2), recorded(pool, settings, m=0, f=2, p=2)
    losses = [parts.run(plan[a:b], rates[a:b]) for a, b in ((0, 11), (11, 12), (12, 290), (290, 300))]
    torch.testing.assert_close(whole.run(plan, rates), torch.cat(losses), rtol=1e-5, atol=0)


def test_a_plan_without_its_rates_is_refused() -> None:
    pool, settings = smooth_pool(2), recipe("fast", 2, **SMALL)
    with pytest.raises(ValueError, match=r"5 learning rates ask for a plan of \(5, 3, 4\), not \(4, 3, 4\)"):
        recorded(pool, settings).run(pool.plan(0, 0, 4, batch_size=3, patch=18), [1e-3] * 5)


def test_a_failed_capture_says_why_and_can_be_tried_again() -> None:
    class Full(RecordedGraphs):
        def capture(self, work: Callable[[], None]) -> Callable[[], None]:
            if not self.captures:
                self.captures += 1
                raise torch.OutOfMemoryError("out of memory")
            return super().capture(work)

    pool, settings, graphs = smooth_pool(2), recipe("fast", 2, **SMALL), Full()
    graphs.engine = GraphEngine(network(), pool, settings, graphs=graphs, loss=float32_loss)
    plan = pool.plan(0, 0, 4, batch_size=3, patch=18)
    with pytest.raises(torch.OutOfMemoryError):
        graphs.engine.run(plan, [1e-3] * 4)
    assert torch.isfinite(graphs.engine.run(plan, [1e-3] * 4)).all()


class Cuda:
    """In place of torch.cuda: the calls of a capture, in order, and of which stream waits for which."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.current = self._stream("outer")
        cuda = self

        class Graph:
            def __init__(self) -> None:
                self.capture_begin = lambda: cuda.calls.append("begin")
                self.replay = lambda: cuda.calls.append("replay")

            def capture_end(self) -> None:
                cuda.calls.append("end")
                if "fail" in cuda.calls:
                    raise RuntimeError("the capture failed, it says once more")

        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, lambda name=name: self.calls.append(name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self._stream("own"))
        monkeypatch.setattr(torch.cuda, "device", self._device)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self._inside)

    def _stream(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, wait_stream=lambda other: self.calls.append(f"{name} waits for {other.name}"))

    @contextmanager
    def _device(self, device: torch.device) -> Iterator[None]:
        self.calls.append(f"on {device}")
        yield

    @contextmanager
    def _inside(self, stream: SimpleNamespace) -> Iterator[None]:
        outer, self.current = self.current, stream
        yield
        self.current = outer


def test_a_capture_is_made_on_its_own_device_and_stream_with_all_memory_that_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(monkeypatch)
    graphs = CudaGraphs(torch.device("cuda", 1))
    with graphs.current():
        replay = graphs.capture(lambda: cuda.calls.append(f"work in {cuda.current.name}"))
        replay()
    assert cuda.calls[0] == "on cuda:1"
    in_order = ["own waits for outer", "empty_cache", "begin", "work in own", "end", "replay", "outer waits for own"]
    assert [call for call in cuda.calls if call in in_order] == in_order


def test_what_fails_in_a_capture_is_what_is_raised_and_the_stream_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(monkeypatch)
    graphs = CudaGraphs(torch.device("cuda", 1))

    def work() -> None:
        cuda.calls.append("fail")
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError), graphs.current():
        graphs.capture(work)
    assert cuda.calls[-2:] == ["end", "outer waits for own"]


def test_as_much_is_done_before_a_capture_as_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else something that is first used by the eighth step would be made in a graph."""
    engine = recorded(smooth_pool(2), recipe("fast", 2, **SMALL))
    done: list[int] = []
    monkeypatch.setattr(engine, "steps", done.append)
    engine._do_all(2 * STEPS_PER_REPLAY)
    assert done == [STEPS_PER_REPLAY] * WARM_UPS


def test_float32_is_float32_on_a_gpu() -> None:
    with exact_float32(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_few_launches_make_a_step() -> None:
    settings = recipe("fast", 2)
    engine = GraphEngine(network(5, 16, 256), smooth_pool(2), settings, graphs=RecordedGraphs())
    engine.steps(1)
    recorder = Recorder()
    with recorder:
        engine.steps(1)
    assert launches(recorder.calls) <= 105


@pytest.mark.slow
def test_every_architecture_of_a_sweep_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounter()
    compiles = torch.compile
    monkeypatch.setattr(torch, "compile", lambda part, **kind: compiles(part, backend=counter, **kind))
    torch._dynamo.reset()
    pool, settings = smooth_pool(2), recipe("paper", 2, **SMALL)
    for f in range(1, 13):
        engine = GraphEngine(network(1, f, 2), pool, settings, graphs=RecordedGraphs(), compiles=True)
        before = counter.frame_count
        engine.steps(1)
        assert counter.frame_count > before, f
    torch._dynamo.reset()
