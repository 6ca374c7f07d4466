"""Engines against each other: `simple` is the oracle."""

from __future__ import annotations

import copy
import ctypes
import importlib.util
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainable import network, smooth_pool

from sesr_lab.errors import ConfigError
from sesr_lab.network.model import SESR
from sesr_lab.training import cores, kernel, library
from sesr_lab.training.engine import (
    EngineName,
    SimpleEngine,
    describe_engines,
    make_engine,
    silent_share,
    why_not_compiled,
)
from sesr_lab.training.graph import GraphEngine
from sesr_lab.training.kernel import KernelEngine
from sesr_lab.training.recipe import recipe

needs_kernel = pytest.mark.skipif(library.compiler() is None, reason="no C compiler")
SMALL = {"batch_size": 3, "patch": 18}
pytestmark = pytest.mark.usefixtures("one_thread")


@needs_kernel
@pytest.mark.parametrize("name", ["paper", "fast"])
def test_kernel_trains_as_the_simple_engine_does(name: str) -> None:
    pool, net = smooth_pool(2), network()
    settings = recipe(name, 2, **SMALL)  # type: ignore[arg-type]
    fast, simple = KernelEngine(copy.deepcopy(net), pool, settings), SimpleEngine(net, pool, settings)
    plan = pool.plan(0, 0, 40, batch_size=3, patch=18)
    rates = [2e-4] * 40
    found, expected = fast.run(plan, rates), simple.run(plan, rates)
    # The same weights see the same patches: losses differ by rounding, which training multiplies slowly.
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)
    for key, value in simple.averaged().items():
        assert torch.cosine_similarity(fast.averaged()[key].flatten(), value.flatten(), 0) > 0.99, key


@needs_kernel
def test_expanded_and_collapsed_training_are_the_same_steps() -> None:
    pool = smooth_pool(2)
    settings = recipe("fast", 2, **SMALL)
    plan = pool.plan(0, 0, 5, batch_size=3, patch=18)
    expanded = make_engine("auto", network(block="expanded"), pool, settings).run(plan, [1e-3] * 5)
    collapsed = SimpleEngine(network(), pool, settings).run(plan, [1e-3] * 5)
    fast = KernelEngine(network(), pool, settings).run(plan, [1e-3] * 5)
    torch.testing.assert_close(expanded, collapsed, rtol=1e-3, atol=0)  # float32, in another order
    torch.testing.assert_close(fast, collapsed, rtol=0.01, atol=0)  # bfloat16


def test_what_is_to_train_in_the_expanded_space_does_so() -> None:
    settings = recipe("fast", 2, **SMALL)
    assert type(make_engine("auto", network(block="expanded"), smooth_pool(2), settings)) is SimpleEngine
    with pytest.raises(ConfigError, match="--engine kernel: it trains collapsed blocks only; use simple"):
        make_engine("kernel", network(block="expanded"), smooth_pool(2), settings)


@pytest.mark.slow
@needs_kernel
def test_any_number_of_threads_gives_the_same_weights() -> None:
    pool, settings = smooth_pool(2), recipe("fast", 2, batch_size=19, patch=18)
    plan = pool.plan(0, 0, 30, batch_size=19, patch=18)
    engines = [KernelEngine(network(), pool, settings) for _ in range(4)]
    for engine, threads in zip(engines, (1, 1, 2, 5), strict=True):
        engine.job.threads = threads  # more than there are cores may be
    one, *others = ((engine.run(plan, [1e-3] * 30), engine.state()) for engine in engines)
    for losses, state in others:
        assert torch.equal(losses, one[0])
        assert all(torch.equal(value, one[1][name]) for name, value in state.items())


@needs_kernel
@pytest.mark.parametrize(("steps", "rates", "batch"), [(4, 5, 3), (5, 4, 3), (4, 4, 2)])
def test_a_plan_that_does_not_match_is_refused(steps: int, rates: int, batch: int) -> None:
    pool = smooth_pool(2)
    engine = KernelEngine(network(), pool, recipe("fast", 2, **SMALL))
    with pytest.raises(ValueError, match=rf"{rates} learning rates ask for an int64 plan of \({rates}, 3, 4\)"):
        engine.run(pool.plan(0, 0, steps, batch_size=batch, patch=18), [1e-3] * rates)


@needs_kernel
def test_kernel_does_not_depend_on_how_steps_are_grouped() -> None:
    pool, settings = smooth_pool(2), recipe("fast", 2, **SMALL)
    plan = pool.plan(0, 0, 8, batch_size=3, patch=18)
    whole, parts = KernelEngine(network(), pool, settings), KernelEngine(network(), pool, settings)
    losses = whole.run(plan, [1e-3] * 8)
    assert torch.equal(losses, torch.cat([parts.run(plan[:3], [1e-3] * 3), parts.run(plan[3:], [1e-3] * 5)]))


@pytest.mark.parametrize("name", ["simple", pytest.param("kernel", marks=needs_kernel)])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_loaded_state_goes_on_exactly(name: EngineName, amsgrad: bool) -> None:
    pool = smooth_pool(2)
    settings = replace(recipe("fast", 2, **SMALL), amsgrad=amsgrad)
    plan = pool.plan(0, 0, 8, batch_size=3, patch=18)
    whole, first = (make_engine(name, network(), pool, settings) for _ in range(2))
    expected = whole.run(plan, [1e-3] * 8)[4:]
    first.run(plan[:4], [1e-3] * 4)
    second = make_engine(name, network(p=24), pool, settings)
    second.load(first.state())
    assert torch.equal(second.run(plan[4:], [1e-3] * 4), expected)
    assert all(torch.equal(value, second.averaged()[key]) for key, value in whole.averaged().items())


@needs_kernel
def test_engines_read_each_others_states() -> None:
    pool, settings = smooth_pool(2), recipe("fast", 2, **SMALL)
    plan = pool.plan(0, 0, 6, batch_size=3, patch=18)
    simple, fast = make_engine("simple", network(), pool, settings), make_engine("kernel", network(), pool, settings)
    simple.run(plan[:3], [1e-3] * 3)
    fast.load(simple.state())
    assert fast.state().keys() == simple.state().keys()
    torch.testing.assert_close(fast.run(plan[3:], [1e-3] * 3), simple.run(plan[3:], [1e-3] * 3), rtol=5e-3, atol=0)


@pytest.fixture
def other_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes what is given the one compiler of this machine, with nothing kept from others."""
    caches = (library.compiler, library.load)
    kept = tmp_path / "kept"

    def use(compiler: str) -> None:
        monkeypatch.setenv("PATH", os.devnull)
        monkeypatch.setenv("CC", compiler)
        monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
        for cached in caches:
            cached.cache_clear()

    yield use
    for cached in caches:
        cached.cache_clear()


def test_auto_trains_without_a_compiler(
    other_compiler: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    other_compiler("")
    for _ in range(2):
        engine = make_engine("auto", network(), smooth_pool(2), recipe("fast", 2, **SMALL), steps=10)
        assert type(engine) is SimpleEngine
    (said,) = caplog.messages
    assert said.endswith("no C compiler was found; install one, or set CC")
    assert describe_engines().startswith("simple: plain PyTorch, which is slow; no C compiler")


def test_a_compiler_that_fails_is_named_and_done_without(other_compiler: Callable[[str], None], tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no headers here >&2\nexit 1\n")
    broken.chmod(0o755)
    other_compiler(str(broken))
    settings, net, pool = recipe("fast", 2, **SMALL), network(), smooth_pool(2)
    assert kernel.why_not(net, pool, settings) == f"{broken} failed: no headers here"
    assert type(make_engine("auto", net, pool, settings, steps=10)) is SimpleEngine


def test_auto_takes_what_the_kernel_cannot() -> None:
    settings = recipe("fast", 2, batch_size=3, patch=15)
    assert type(make_engine("auto", network(), smooth_pool(2), settings, steps=10)) is SimpleEngine
    with pytest.raises(ConfigError, match="at least 16"):
        make_engine("kernel", network(), smooth_pool(2), settings)


@pytest.mark.parametrize("name", ["compiled", "graph"])
def test_engines_for_a_gpu_are_refused_without_one(name: EngineName) -> None:
    with pytest.raises(ConfigError, match=f"--engine {name}: it needs a CUDA device; use auto"):
        make_engine(name, network(), smooth_pool(2), recipe("fast", 2, **SMALL))


def test_no_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "allowed", lambda: 1)
    torch.set_num_threads(3)
    make_engine("simple", network(), smooth_pool(2), recipe("fast", 2, **SMALL))
    assert torch.get_num_threads() == 1


def test_a_gpu_machine_without_a_compiler_is_known_before_triton_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "triton" or None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("CC", "/usr/bin/cc")
    assert why_not_compiled() == "Python.h was not found; install Python's headers (python3-dev)"
    (tmp_path / "Python.h").touch()
    assert why_not_compiled() is None
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", os.devnull)
    assert why_not_compiled() == "neither gcc nor clang was found; install one, or set CC"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert why_not_compiled() == "Triton is not installed"


@needs_kernel
def test_a_compiler_that_knows_no_bfloat16_trains_in_float32_and_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, asked = library.load, []

    def load(*defines: str) -> ctypes.CDLL:
        if defines:
            asked.append(defines)
            raise library.BuildError("cc failed: unknown type name '__m512bh'")
        return real()

    kernel._bfloat16_library.cache_clear()

    monkeypatch.setattr(kernel, "products_here", lambda: "bfloat16")
    monkeypatch.setattr(library, "load", load)
    settings, net, pool = recipe("fast", 2, **SMALL), network(), smooth_pool(2)
    assert kernel.why_not(net, pool, settings) is None
    assert type(make_engine("auto", net, pool, settings, steps=10)) is KernelEngine
    kernel._bfloat16_library.cache_clear()
    assert len(asked) == 1
    (said,) = caplog.messages
    assert said == "training with float32 products, which are slower: cc failed: unknown type name '__m512bh'"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiles", [False, True])
def test_graph_engine_trains_as_the_simple_engine_does(compiles: bool) -> None:
    if compiles and (reason := why_not_compiled()) is not None:
        pytest.skip(reason)
    pool, settings, net = smooth_pool(2, device="cuda"), recipe("fast", 2, **SMALL), network().cuda()
    plan = pool.plan(0, 0, 40, batch_size=3, patch=18)
    fast = GraphEngine(copy.deepcopy(net), pool, settings, compiles=compiles)
    simple = make_engine("simple", net, pool, settings)
    torch.testing.assert_close(fast.run(plan, [1e-3] * 40), simple.run(plan, [1e-3] * 40), rtol=0.05, atol=0)
    fast.load(simple.state())
    torch.testing.assert_close(fast.run(plan, [1e-3] * 40), simple.run(plan, [1e-3] * 40), rtol=0.05, atol=0)


def test_silent_share_counts_prelus_that_are_never_above_zero() -> None:
    net = SESR(m=2, f=4, feature_size=8, scale=2)
    with torch.no_grad():
        net.head.project[0].zero_()[1:].fill_(1.0)  # channel 0 carries nothing, the rest one positive sum
        net.head.expand.fill_(1.0)
        net.body.project.zero_()  # blocks are identities
    bright, dark = torch.full((1, 1, 8, 8), 0.9), torch.full((1, 1, 8, 8), 0.1)
    assert silent_share(net, bright) == 0.25
    assert silent_share(net, dark) == 1.0


@pytest.mark.parametrize(("activation", "input_residual"), [("relu", True), ("prelu", False), ("relu", False)])
def test_networks_for_hardware_train_and_go_on_exactly(activation: str, input_residual: bool) -> None:
    def fresh() -> SimpleEngine:
        torch.manual_seed(1)
        made = SESR(m=2, f=8, feature_size=12, scale=2, activation=activation, input_residual=input_residual)  # type: ignore[arg-type]
        return SimpleEngine(made, pool, settings)

    pool, settings = smooth_pool(2), recipe("fast", 2, **SMALL)
    plan = pool.plan(0, 0, 40, batch_size=3, patch=18)
    whole, first, second = fresh(), fresh(), fresh()
    losses = whole.run(plan, [1e-3] * 40)
    first.run(plan[:20], [1e-3] * 20)
    second.load(first.state())
    second.run(plan[20:], [1e-3] * 20)
    assert losses[-10:].mean() < losses[:10].mean()
    for name, value in whole.averaged().items():
        assert torch.equal(second.averaged()[name], value), name
    if not input_residual:
        assert whole.averaged()["offset"].item() == 0.5
