"""kernel.c, as each kind of processor compiles it, against plain PyTorch."""

from __future__ import annotations

import copy
import ctypes
import platform
import random
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trainable import network, smooth_pool

from sesr_lab.training import kernel, library
from sesr_lab.training.engine import SimpleEngine
from sesr_lab.training.kernel import KernelEngine, products_here
from sesr_lab.training.recipe import recipe

X86 = platform.machine().lower() in ("x86_64", "amd64")
FLAGS = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
needs_compiler = pytest.mark.skipif(library.compiler() is None, reason="no C compiler")
pytestmark = [needs_compiler, pytest.mark.usefixtures("one_thread")]

Shape = tuple[int, int, int, int, int, int, str]
SHAPES: list[Shape] = [  # m, f, feature size, scale, batch, patch, recipe
    (2, 16, 24, 2, 3, 18, "fast"),
    (0, 7, 5, 4, 1, 17, "fast"),
    (30, 4, 3, 2, 1, 16, "fast"),
    (3, 1, 1, 2, 2, 23, "paper"),
    (1, 64, 24, 2, 1, 30, "fast"),
    (5, 20, 33, 4, 2, 25, "paper"),
    (1, 9, 1024, 4, 2, 19, "fast"),
    (2, 32, 16, 2, 17, 34, "paper"),
]


def _fuzzed(count: int) -> list[Shape]:
    """Small shapes by chance, the same ones each time."""
    rng = random.Random(0)
    return [
        (
            *(rng.randint(0, 6), rng.randint(1, 40), rng.randint(1, 40), rng.choice((2, 4))),
            *(rng.randint(1, 5), rng.randint(16, 36), rng.choice(("fast", "paper"))),
        )
        for _ in range(count)
    ]


def bfloat16_flags(f: int, scale: int) -> tuple[str, ...]:
    """Of the kernel with bfloat16 products on processors without them: the intrinsics are avx512.h's, in plain C."""
    intrinsics = str(Path(__file__).with_name("avx512.h"))
    flags = ("-O1", "-march=x86-64-v3", "-DLANES=16", "-include", intrinsics)
    return (*flags, "-DBFLOAT16", f"-DF={f}", f"-DSCALE={scale}")


needs_x86 = pytest.mark.skipif(not X86, reason="the intrinsics' types are x86-64's")


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


STEPS = 4
RATES = [1e-4, 1e-4, 2e-4, 1e-4]


class Case:
    """One shape's network, pictures and plan, with what plain PyTorch makes of them."""

    def __init__(self, shape: Shape, **kind: Any) -> None:
        m, f, feature_size, scale, batch, patch, name = shape
        self.pool, self.net = smooth_pool(scale), network(m, f, feature_size, scale, **kind)
        self.settings = recipe(name, scale, batch_size=batch, patch=patch)  # type: ignore[arg-type]
        self.plan = self.pool.plan(0, 0, STEPS, batch_size=batch, patch=patch)
        simple = SimpleEngine(copy.deepcopy(self.net), self.pool, self.settings)
        self.losses, self.state = simple.run(self.plan, RATES), simple.state()

    def engine(self, compiled: ctypes.CDLL | None = None) -> KernelEngine:
        return KernelEngine(copy.deepcopy(self.net), self.pool, self.settings, compiled=compiled)

    def check(self, losses: Tensor, state: dict[str, Tensor]) -> None:
        torch.testing.assert_close(losses, self.losses, rtol=1e-5, atol=1e-7)
        assert state.keys() == self.state.keys()
        for key, value in self.state.items():
            # Winograd's products lose about one decimal of float32's seven; Adam's first steps divide small by small.
            rtol = 1e-4 if "exp_avg" in key else 1e-2
            error = float((state[key] - value).norm()) / (float(value.norm()) or 1.0)
            assert error < rtol, f"{key}: {error}"


def check(shape: Shape, compiled: ctypes.CDLL, **kind: Any) -> None:
    """Four steps have the losses and leave the weights and moments that plain PyTorch's have and leave."""
    case = Case(shape, **kind)
    engine = case.engine(compiled)
    engine.job.threads = 2
    case.check(engine.run(case.plan, RATES), engine.state())


def exact_losses(case: Case) -> Tensor:
    """Plain PyTorch's in float64: its float32 is off by up to 5e-4 after four steps, where the kernel's is not."""
    doubled = SimpleNamespace(
        rows=case.pool.rows, cut=lambda where, patch: [part.double() for part in case.pool.cut(where, patch)]
    )
    engine = SimpleEngine(copy.deepcopy(case.net).double(), doubled, case.settings)  # type: ignore[arg-type]
    return engine.run(case.plan, RATES).float()


def check_program(shape: Shape, program: Path, *, runner: tuple[str, ...] = ()) -> None:
    """The same of driver.c compiled to `program`, run by `runner`."""
    case = Case(shape)
    case.check(*run_program(case, program, runner=runner))


def run_program(case: Case, program: Path, *, runner: tuple[str, ...] = ()) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses and the state that `program` leaves, which ends well and prints nothing."""
    engine = case.engine()
    flat = [engine.flat.weights, engine.flat.average, *engine.flat.moments.values()]
    tensors = [case.pool.rows, engine.corners, engine.order, case.plan, torch.tensor(RATES, dtype=torch.float64), *flat]
    sizes = torch.tensor([STEPS, len(case.pool.rows), len(engine.flat.weights), 2])
    parts = [sizes.numpy().tobytes(), bytes(engine.job), *(tensor.numpy().tobytes() for tensor in tensors)]
    given, left = program.with_suffix(".in"), program.with_suffix(".out")
    given.write_bytes(b"".join(parts))
    done = subprocess.run([*runner, program, given, left], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    losses, *arrays = torch.from_numpy(np.fromfile(left, np.float32)).split([STEPS, *(len(each) for each in flat)])
    for tensor, array in zip(flat, arrays, strict=True):
        tensor.copy_(array)
    engine.flat.steps = STEPS
    return losses, engine.state()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_steps_are_those_of_plain_pytorch(shape: Shape, built: Callable[..., ctypes.CDLL]) -> None:
    check(shape, built(*library.native()))


@pytest.mark.parametrize("activation", ["prelu", "relu"])
@pytest.mark.parametrize("input_residual", [True, False])
@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
def test_all_kinds_of_network_are_trained(
    shape: Shape, activation: str, input_residual: bool, built: Callable[..., ctypes.CDLL]
) -> None:
    check(shape, built(*library.native()), activation=activation, input_residual=input_residual)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("m", "f", "scale", "size"),
    [(0, 5, 2, (16, 16)), (1, 8, 4, (17, 300)), (2, 16, 2, (61, 33)), (3, 7, 4, (40, 19)), (5, 4, 2, (9, 50))],
)
def test_whole_pictures_are_upscaled_as_by_plain_pytorch(
    m: int, f: int, scale: int, size: tuple[int, int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_threads", lambda: threads)
    picture = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))
    for kind in ({}, {"activation": "relu", "input_residual": False}):
        net = network(m, f, 12, scale, **kind)
        with torch.no_grad():
            torch.testing.assert_close(kernel.forward(net, picture), net(picture), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("by", ["gcc", "clang"])
@pytest.mark.parametrize("name", ["sse2", "avx2", "avx512"])
def test_every_kind_of_processor_takes_the_same_steps(
    name: str, by: str, shape: Shape, built: Callable[..., ctypes.CDLL]
) -> None:
    check(shape, built(*variant(name), by=by))


def program(folder: Path, compiler: str, *flags: str) -> Path:
    """driver.c compiled in `folder`; skips where the compiler is missing."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    made = folder / "driver"
    source = Path(__file__).with_name("driver.c")
    plain = [flag for flag in library.FLAGS if flag not in ("-fPIC", "-shared")]
    library.run_compiler([compiler, *plain, *flags, f"-I{library.FOLDER}", str(source)], made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", pytest.param("clang", marks=pytest.mark.long)])
@pytest.mark.parametrize("kinds", ["address,undefined", "thread"])
def test_sanitisers_find_nothing(tmp_path: Path, compiler: str, kinds: str) -> None:
    flags = ("-O1", "-g", f"-fsanitize={kinds}", "-fno-sanitize-recover=all", *library.native())
    try:
        made = program(tmp_path, compiler, *flags)
    except library.BuildError as error:
        pytest.skip(str(error))
    for shape in SHAPES[:5] if kinds == "thread" else SHAPES:
        check_program(shape, made)
    for shape in _fuzzed(4 if kinds == "thread" else 12):
        case = Case(shape)
        losses, _ = run_program(case, made)
        # 2e-7 was measured after four of Adam's steps, which divide small by small.
        torch.testing.assert_close(losses, exact_losses(case), rtol=1e-4, atol=0)


@pytest.mark.slow
@needs_x86
@pytest.mark.parametrize(("f", "scale"), [(7, 2), pytest.param(20, 4, marks=pytest.mark.long)])
def test_sanitisers_find_nothing_in_bfloat16_products(tmp_path: Path, f: int, scale: int) -> None:
    flags = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *bfloat16_flags(f, scale))
    try:
        made = program(tmp_path, "gcc", *flags)
    except library.BuildError as error:
        pytest.skip(str(error))
    for m, p, batch, patch in ((2, 24, 3, 18), (0, 5, 1, 16), (5, 3, 2, 34)):
        case = Case((m, f, p, scale, batch, patch, "fast"))
        losses, _ = run_program(case, made)
        torch.testing.assert_close(losses[:1], case.losses[:1], rtol=2e-3, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["aarch64-linux-gnu-gcc", "clang"])
def test_an_arm_processor_takes_the_same_steps(tmp_path: Path, compiler: str) -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("aarch64-linux-gnu-gcc is not installed, whose headers and linker clang takes too")
    target = ("--target=aarch64-linux-gnu",) if compiler == "clang" else ()
    made = program(tmp_path, compiler, "-static", *target)
    for shape in SHAPES[:5]:
        check_program(shape, made, runner=("qemu-aarch64",))


@pytest.mark.slow
@needs_x86
@pytest.mark.parametrize(("f", "scale"), [(7, 2), (16, 2), (20, 4), (32, 2)])
def test_bfloat16_products_have_the_gradients_of_autograd(
    f: int, scale: int, built: Callable[..., ctypes.CDLL]
) -> None:
    compiled = built(*bfloat16_flags(f, scale))
    for m, patch in ((2, 16), (1, 18), (0, 18), (5, 34)):
        check_bfloat16((m, f, 24, scale, 3, patch, "fast"), compiled)


@pytest.mark.skipif(products_here() != "bfloat16", reason="this processor multiplies no bfloat16")
@pytest.mark.parametrize("f", [7, 16, 32])
@pytest.mark.parametrize("scale", [2, 4])
def test_this_processors_bfloat16_products_have_the_gradients_of_autograd(
    f: int, scale: int, built: Callable[..., ctypes.CDLL]
) -> None:
    compiled = built(*library.native(), "-DBFLOAT16", f"-DF={f}", f"-DSCALE={scale}")
    for m in (2, 0):
        check_bfloat16((m, f, 24, scale, 3, 18, "fast"), compiled)


def check_bfloat16(shape: Shape, compiled: ctypes.CDLL) -> None:
    """Adam's first moments after one step at a rate of 0 are the gradients, up to one factor."""
    for kind in ({}, {"activation": "relu", "input_residual": False}):
        check_gradients(Case(shape, **kind), compiled)


def check_gradients(case: Case, compiled: ctypes.CDLL) -> None:
    fast, simple = case.engine(compiled), SimpleEngine(copy.deepcopy(case.net), case.pool, case.settings)
    # bfloat16 has 8 bits: single activations err by 0.4 %, sums over thousands of pixels by far less.
    torch.testing.assert_close(fast.run(case.plan[:1], [0.0]), simple.run(case.plan[:1], [0.0]), rtol=2e-3, atol=0)
    found = fast.state()
    for name, expected in simple.state().items():
        if name.endswith(".exp_avg"):
            assert torch.cosine_similarity(found[name].flatten(), expected.flatten(), 0) > 0.999, name
            assert float(found[name].norm()) == pytest.approx(float(expected.norm()), rel=0.02), name


@pytest.mark.parametrize("where", ["head.project", "body.expand", "slopes", "tail.expand"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("products", ["float32", pytest.param("bfloat16", marks=[pytest.mark.slow, needs_x86])])
def test_what_is_no_number_stays_none(
    where: str, value: float, products: str, built: Callable[..., ctypes.CDLL]
) -> None:
    case = Case(SHAPES[0])
    with torch.no_grad():
        dict(case.net.named_parameters())[where].flatten()[5] = value
    flags = library.native() if products == "float32" else bfloat16_flags(16, 2)
    losses = case.engine(built(*flags)).run(case.plan, RATES)
    assert not torch.isfinite(losses).any()
