"""kernel.c, as each kind of processor compiles it, against plain PyTorch."""

from __future__ import annotations

import copy
import ctypes
import platform
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from trainable import network, smooth_pool

from sesr_lab.training import library
from sesr_lab.training.engine import SimpleEngine
from sesr_lab.training.kernel import KernelEngine
from sesr_lab.training.recipe import recipe

X86 = platform.machine().lower() in ("x86_64", "amd64")
FLAGS = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
needs_compiler = pytest.mark.skipif(library.compiler() is None, reason="no C compiler")
pytestmark = [needs_compiler, pytest.mark.usefixtures("one_thread")]

SHAPES = [  # m, f, feature size, scale, batch, patch, recipe
    (2, 16, 24, 2, 3, 18, "fast"),
    (0, 7, 5, 4, 1, 17, "fast"),
    (30, 4, 3, 2, 1, 16, "fast"),
    (3, 1, 1, 2, 2, 23, "paper"),
    (1, 64, 24, 2, 1, 30, "fast"),
    (5, 20, 33, 4, 2, 25, "paper"),
    (1, 9, 1024, 4, 2, 19, "fast"),
    (2, 32, 16, 2, 17, 34, "paper"),
]


def variant(name: str) -> tuple[str, ...]:
    """Flags of the kind of processor called `name`; skips where this one cannot run it."""
    if name == "this one":
        return library.native()
    known = {"sse2": ("sse2", "x86-64"), "avx2": ("avx2", "x86-64-v3"), "avx512": ("avx512vl", "x86-64-v4")}
    feature, level = known[name]
    if not X86 or feature not in FLAGS:
        pytest.skip(f"this processor has no {name}")
    return (f"-march={level}", "-mprefer-vector-width=512")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ctypes.CDLL]:
    """Compiles kernel.c with flags, by the compiler called `by` or this machine's usual one."""

    @cache
    def build(*flags: str, by: str | None = None) -> ctypes.CDLL:
        command = library.compile_command(*flags)
        if by is not None:
            if shutil.which(by) is None:
                pytest.skip(f"{by} is not installed")
            command[0] = by
        made = tmp_path_factory.mktemp("kernel") / "kernel.so"
        library.run_compiler([*command, "-Wall", "-Wextra", "-Werror", "-Wno-psabi"], made)
        return ctypes.CDLL(str(made))

    return build


def check(shape: tuple[int, int, int, int, int, int, str], compiled: ctypes.CDLL) -> None:
    """Four steps have the losses and leave the weights and moments that plain PyTorch's have and leave."""
    m, f, feature_size, scale, batch, patch, name = shape
    pool, net = smooth_pool(scale), network(m, f, feature_size, scale)
    settings = recipe(name, scale, batch_size=batch, patch=patch)  # type: ignore[arg-type]
    fast = KernelEngine(copy.deepcopy(net), pool, settings, compiled=compiled)
    fast.job.threads = 2
    simple = SimpleEngine(net, pool, settings)
    plan, rates = pool.plan(0, 0, 4, batch_size=batch, patch=patch), [1e-4, 1e-4, 2e-4, 1e-4]
    torch.testing.assert_close(fast.run(plan, rates), simple.run(plan, rates), rtol=1e-5, atol=1e-7)
    found, expected = fast.state(), simple.state()
    for key, value in expected.items():
        # Winograd's products lose about one decimal of float32's seven; Adam's first steps divide small by small.
        rtol = 1e-4 if "exp_avg" in key else 1e-2
        error = float((found[key] - value).norm()) / (float(value.norm()) or 1.0)
        assert error < rtol, f"{key}: {error}"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_steps_are_those_of_plain_pytorch(
    shape: tuple[int, int, int, int, int, int, str], built: Callable[..., ctypes.CDLL]
) -> None:
    check(shape, built(*library.native()))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("by", ["gcc", "clang"])
@pytest.mark.parametrize("name", ["sse2", "avx2", "avx512"])
def test_every_kind_of_processor_takes_the_same_steps(
    name: str, by: str, shape: tuple[int, int, int, int, int, int, str], built: Callable[..., ctypes.CDLL]
) -> None:
    check(shape, built(*variant(name), by=by))
