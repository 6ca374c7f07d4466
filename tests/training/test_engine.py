"""Engines against each other: `simple` is the oracle."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sesr_lab.data.patches import Pair, PatchPool
from sesr_lab.errors import ConfigError
from sesr_lab.network.model import SESR
from sesr_lab.training import kernel
from sesr_lab.training.engine import EngineName, SimpleEngine, describe_engines, make_engine, silent_share
from sesr_lab.training.kernel import KernelEngine
from sesr_lab.training.recipe import recipe

needs_kernel = pytest.mark.skipif(kernel.missing_here() is not None, reason=str(kernel.missing_here()))
SMALL = {"batch_size": 3, "patch": 18}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As many on every machine, so that sums are taken in the same order; fastest for networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def smooth_pool(scale: int, *, device: str = "cpu") -> PatchPool:
    """Three soft random pictures, with LR pixels that are means of HR pixels."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(3):
        coarse = torch.rand(1, 1, 12, 15, generator=generator)
        hr = torch.nn.functional.interpolate(coarse, size=(32 * scale, 40 * scale), mode="bicubic").clamp(0, 1)
        lr = torch.nn.functional.avg_pool2d(hr, scale)
        pairs.append(Pair(lr[0, 0].numpy().astype(np.float32), hr[0, 0].numpy().astype(np.float32)))
    return PatchPool(pairs, scale=scale, device=torch.device(device))


def network(m: int = 2, f: int = 16, p: int = 24, scale: int = 2, *, block: str = "collapsed") -> SESR:
    torch.manual_seed(1)
    made = SESR(m=m, f=f, feature_size=p, scale=scale, block=block)  # type: ignore[arg-type]
    with torch.no_grad():
        made.slopes.uniform_(-0.1, 0.3)  # not zero, so that both sides of every PReLU are tried
    return made


def gradients(engine: SimpleEngine | KernelEngine) -> dict[str, torch.Tensor]:
    """The first step's gradients, up to one factor: Adam's first moments."""
    ending = ".exp_avg"
    return {name: value for name, value in engine.state().items() if name.endswith(ending)}


@needs_kernel
@pytest.mark.parametrize("f", [7, 8, 16, 20, 32])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("patch", [16, 18])
def test_kernel_has_the_gradients_of_autograd(f: int, scale: int, patch: int) -> None:
    pool, net = smooth_pool(scale), network(f=f, scale=scale)
    settings = recipe("fast", scale, batch_size=3, patch=patch)
    fast, simple = KernelEngine(copy.deepcopy(net), pool, settings), SimpleEngine(net, pool, settings)
    plan = pool.plan(0, 0, 1, batch_size=3, patch=patch)
    # bfloat16 has 8 bits: single activations err by 0.4 %, sums over thousands of pixels by far less.
    torch.testing.assert_close(fast.run(plan, [0.0]), simple.run(plan, [0.0]), rtol=2e-3, atol=0)
    for name, expected in gradients(simple).items():
        found = gradients(fast)[name]
        assert torch.cosine_similarity(found.flatten(), expected.flatten(), 0) > 0.999, name
        assert float(found.norm()) == pytest.approx(float(expected.norm()), rel=0.02), name


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


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_kernel_repeats_itself_exactly(threads: int) -> None:
    torch.set_num_threads(threads)
    pool, settings = smooth_pool(2), recipe("fast", 2, **SMALL)
    plan = pool.plan(0, 0, 8, batch_size=3, patch=18)
    first, second = (KernelEngine(network(), pool, settings).run(plan, [1e-3] * 8) for _ in range(2))
    assert torch.equal(first, second)
    simple = SimpleEngine(network(), pool, settings).run(plan, [1e-3] * 8)
    torch.testing.assert_close(first, simple, rtol=0.05, atol=0)


@needs_kernel
def test_kernel_does_not_depend_on_how_steps_are_grouped() -> None:
    pool, settings = smooth_pool(2), recipe("fast", 2, **SMALL)
    plan = pool.plan(0, 0, 8, batch_size=3, patch=18)
    whole, parts = KernelEngine(network(), pool, settings), KernelEngine(network(), pool, settings)
    losses = whole.run(plan, [1e-3] * 8)
    assert torch.equal(losses, torch.cat([parts.run(plan[:3], [1e-3] * 3), parts.run(plan[3:], [1e-3] * 5)]))


@needs_kernel
def test_kernel_reports_a_loss_that_is_not_a_number() -> None:
    pool, settings, net = smooth_pool(2), recipe("fast", 2, **SMALL), network()
    with torch.no_grad():
        net.tail.project.fill_(float("nan"))
    losses = KernelEngine(net, pool, settings).run(pool.plan(0, 0, 1, batch_size=3, patch=18), [1e-3])
    assert not torch.isfinite(losses).any()


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


@needs_kernel
def test_compiled_kernels_are_kept_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel.load.cache_clear()
    kernel.load(8, 2)
    (library,) = (tmp_path / "sesr-lab").iterdir()
    written = library.stat().st_mtime_ns
    kernel.load.cache_clear()
    kernel.load(8, 2)
    assert [(path, path.stat().st_mtime_ns) for path in (tmp_path / "sesr-lab").iterdir()] == [(library, written)]


def test_auto_trains_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CC", raising=False)
    kernel.compiler.cache_clear()
    try:
        engine = make_engine("auto", network(), smooth_pool(2), recipe("fast", 2, **SMALL), steps=10)
        assert type(engine) is SimpleEngine
        assert describe_engines().startswith("simple: ")
    finally:
        kernel.compiler.cache_clear()


@needs_kernel
def test_a_compiler_that_fails_is_named_and_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no headers here >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caches = (kernel.compiler, kernel.load, kernel._cannot_build)
    settings, net, pool = recipe("fast", 2, **SMALL), network(), smooth_pool(2)
    try:
        for cached in caches:
            cached.cache_clear()
        assert kernel.why_not(net, pool, settings) == f"{broken} failed: no headers here"
        assert type(make_engine("auto", net, pool, settings, steps=10)) is SimpleEngine
    finally:
        for cached in caches:
            cached.cache_clear()


def test_auto_takes_what_the_kernel_cannot() -> None:
    settings = recipe("fast", 2, batch_size=3, patch=15)
    assert type(make_engine("auto", network(), smooth_pool(2), settings, steps=10)) is SimpleEngine
    with pytest.raises(ConfigError, match="even and at least 16"):
        make_engine("kernel", network(), smooth_pool(2), settings)


@pytest.mark.slow
def test_compiled_engine_trains_as_the_simple_engine_does() -> None:
    if kernel.compiler() is None:
        pytest.skip("torch.compile needs a C++ compiler")
    pool, settings, net = smooth_pool(2), recipe("fast", 2, **SMALL), network()
    plan = pool.plan(0, 0, 5, batch_size=3, patch=18)
    found = make_engine("compiled", copy.deepcopy(net), pool, settings).run(plan, [1e-3] * 5)
    torch.testing.assert_close(found, SimpleEngine(net, pool, settings).run(plan, [1e-3] * 5), rtol=0.01, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graph_engine_trains_as_the_simple_engine_does() -> None:
    pool, settings, net = smooth_pool(2, device="cuda"), recipe("fast", 2, **SMALL), network().cuda()
    plan = pool.plan(0, 0, 40, batch_size=3, patch=18)
    fast = make_engine("graph", copy.deepcopy(net), pool, settings)
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


def test_the_kernel_leaves_networks_for_hardware_to_other_engines() -> None:
    pool, settings = smooth_pool(2), recipe("fast", 2, **SMALL)
    for variant in ({"activation": "relu"}, {"input_residual": False}):
        made = SESR(m=1, f=8, feature_size=12, scale=2, **variant)  # type: ignore[arg-type]
        assert isinstance(make_engine("auto", made, pool, settings, steps=10), SimpleEngine)
        with pytest.raises(ConfigError, match="kernel"):
            make_engine("kernel", made, pool, settings)
