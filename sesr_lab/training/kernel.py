"""Training steps on the CPU in one piece of C (kernel.c), compiled on first use and kept in a cache folder.

It takes a CPU with AVX-512 and its bfloat16 products, and a C compiler; `why_not` says what is missing.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sesr_lab.data.patches import LEVELS, PatchPool, symmetry_corners, symmetry_orders
from sesr_lab.network.model import SESR
from sesr_lab.training.recipe import Recipe

SOURCE = Path(__file__).with_suffix(".c")
SMALLEST_PATCH = 16
LARGEST_F = 64
# Sums may be reordered, but infinities and NaN stay what they are: the trainer looks for them.
FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-fPIC", "-shared", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"),
)
PARAMETERS = ("head.expand", "head.project", "body.expand", "body.project", "tail.expand", "tail.project", "slopes")
"""The order in which kernel.c lays out a network's parameters."""


class Job(ctypes.Structure):
    """`Job` of kernel.c, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("blocks", "feature_size", "patch", "batch", "threads")),
        *((name, ctypes.c_int64) for name in ("amsgrad", "clip_output")),
        *((name, ctypes.c_double) for name in ("beta1", "beta2", "eps", "clip_norm", "ema_decay")),
        ("pace", ctypes.c_double * 4),
        ("rows", ctypes.c_void_p),
        ("level", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("corners", "order")),
        *((name, ctypes.c_void_p) for name in ("weights", "moment", "second", "largest", "average")),
    )


def why_not(network: SESR, pool: PatchPool, recipe: Recipe) -> str | None:
    """What keeps the kernel from training this network here, or None if nothing does."""
    if next(network.parameters()).device.type != "cpu" or pool.rows.device.type != "cpu":
        return "it runs on the CPU only"
    if recipe.patch < SMALLEST_PATCH or recipe.patch % 2:
        return f"its patches are even and at least {SMALLEST_PATCH} pixels wide"
    if network.activation != "prelu" or not network.input_residual:
        return "it trains the paper's networks only, with PReLU and the input's residual"
    if network.f > LARGEST_F:
        return f"it takes up to {LARGEST_F} channels"
    return missing_here() or _cannot_build(network.f, network.scale)


def missing_here() -> str | None:
    """What this machine lacks for the kernel, or None."""
    if not torch.cpu._is_avx512_bf16_supported():
        return "this CPU has no AVX-512 bfloat16"
    return "no C compiler was found; install one, or set CC" if compiler() is None else None


class KernelEngine:
    """Adam steps in kernel.c, on as many threads as torch uses, for collapsed blocks."""

    def __init__(self, network: SESR, pool: PatchPool, recipe: Recipe) -> None:
        self.network, self.pool, self.recipe = network, pool, recipe
        self.steps = 0
        named = dict(network.named_parameters())
        self.weights = torch.cat([named[name].detach().flatten() for name in PARAMETERS])
        self.average = self.weights.clone()
        self.moments = {key: torch.zeros_like(self.weights) for key in _moment_names(recipe)}
        self.run_steps = load(network.f, network.scale)
        self.corners = symmetry_corners(recipe.patch)
        self.order = symmetry_orders(network.scale)
        self.job = self._job()

    def run(self, plan: Tensor, learning_rates: Sequence[float]) -> Tensor:
        """As `Engine.run`."""
        plan, count = plan.contiguous(), len(learning_rates)
        losses = torch.empty(count)
        rates = (ctypes.c_double * count)(*learning_rates)
        arguments = (ctypes.byref(self.job), self.steps, count, plan.data_ptr(), rates, losses.data_ptr())
        if self.run_steps(*arguments) != 0:
            raise MemoryError(f"no memory for {self.job.threads} threads with patches of {self.recipe.patch}")
        self.steps += count
        self._publish()
        return losses

    def cut_only(self, plan: Tensor) -> None:
        """Cuts the patches of `plan` and drops them, each thread its share in turn: what the data costs."""
        cut = ctypes.CDLL(str(_build(self.network.f, self.network.scale))).sesr_cut
        share = plan.flatten(0, 1)[:: self.job.threads].contiguous()
        cut(ctypes.byref(self.job), ctypes.c_int64(len(share)), ctypes.c_void_p(share.data_ptr()))

    def averaged(self) -> dict[str, Tensor]:
        """As `Engine.averaged`."""
        source = self.average if self.recipe.ema_decay else self.weights
        return {name: value.clone() for name, value in self._split(source).items()}

    def state(self) -> dict[str, Tensor]:
        """As `Engine.state`; the same names as SimpleEngine's."""
        state = {f"weights.{name}": value for name, value in self._split(self.weights).items()}
        state |= {f"average.{name}": value for name, value in self._split(self.average).items()}
        for key, moment in self.moments.items():
            state |= {f"adam.{name}.{key}": value for name, value in self._split(moment).items()}
        state |= {f"adam.{name}.step": torch.tensor(float(self.steps)) for name in PARAMETERS}
        return {name: value.clone() for name, value in state.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """As `Engine.load`."""
        for name in PARAMETERS:
            self._split(self.weights)[name].copy_(state[f"weights.{name}"])
            self._split(self.average)[name].copy_(state[f"average.{name}"])
            for key, moment in self.moments.items():
                self._split(moment)[name].copy_(state[f"adam.{name}.{key}"])
        self.steps = int(state[f"adam.{PARAMETERS[0]}.step"].item())
        self._publish()

    def _job(self) -> Job:
        network, recipe = self.network, self.recipe
        paces = recipe.paces(f=network.f, feature_size=network.feature_size, scale=network.scale)
        largest = self.moments.get("max_exp_avg_sq")
        return Job(
            blocks=network.m,
            feature_size=network.feature_size,
            patch=recipe.patch,
            batch=recipe.batch_size,
            threads=min(torch.get_num_threads(), recipe.batch_size),
            amsgrad=recipe.amsgrad,
            clip_output=recipe.clip_output,
            beta1=recipe.adam_beta1,
            beta2=recipe.adam_beta2,
            eps=recipe.adam_eps,
            clip_norm=recipe.clip_norm or 0.0,
            ema_decay=recipe.ema_decay or 0.0,
            pace=(ctypes.c_double * 4)(*(paces[name] for name in ("head", "body", "tail", "slopes"))),
            rows=self.pool.rows.data_ptr(),
            level=1 / LEVELS,
            corners=self.corners.data_ptr(),
            order=self.order.data_ptr(),
            weights=self.weights.data_ptr(),
            moment=self.moments["exp_avg"].data_ptr(),
            second=self.moments["exp_avg_sq"].data_ptr(),
            largest=None if largest is None else largest.data_ptr(),
            average=self.average.data_ptr(),
        )

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat tensor by parameter name, in the parameters' shapes."""
        named = dict(self.network.named_parameters())
        pieces = flat.split_with_sizes([named[name].numel() for name in PARAMETERS])
        return {name: piece.view(named[name].shape) for name, piece in zip(PARAMETERS, pieces, strict=True)}

    @torch.no_grad()
    def _publish(self) -> None:
        """The network gets the weights."""
        named = dict(self.network.named_parameters())
        for name, value in self._split(self.weights).items():
            named[name].copy_(value)


@cache
def load(f: int, scale: int) -> ctypes._NamedFuncPointer:
    """kernel.c's `sesr_run` for networks with `f` channels, compiled if the cache does not hold it."""
    run = ctypes.CDLL(str(_build(f, scale))).sesr_run
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    run.argtypes = [ctypes.POINTER(Job), integer, integer, pointer, ctypes.POINTER(ctypes.c_double), pointer]
    run.restype = ctypes.c_int
    return run


@cache
def compiler() -> str | None:
    """The C compiler's path: what CC says, or cc, gcc or clang."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _build(f: int, scale: int) -> Path:
    """The compiled library's path; written under another name first, so that runs side by side do not meet."""
    command = [str(compiler()), *FLAGS, f"-DF={f}", f"-DSCALE={scale}", str(SOURCE)]
    identity = "\n".join([*command, _machine(), SOURCE.read_text(encoding="utf-8")])
    library = _folder() / f"kernel-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            subprocess.run([*command, "-o", str(made), "-lm"], check=True, capture_output=True, text=True)
            made.replace(library)
    return library


@cache
def _cannot_build(f: int, scale: int) -> str | None:
    """What the compiler or the loader said against kernel.c, or None if it is ready to run."""
    try:
        load(f, scale)
    except subprocess.CalledProcessError as error:
        return f"{compiler()} failed: {(error.stderr or 'without a word').strip().splitlines()[0]}"
    except OSError as error:
        return f"the compiled kernel cannot be loaded: {error}"
    return None


def _folder() -> Path:
    """Where compiled kernels are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "sesr-lab"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written: a new folder for every process
        return Path(tempfile.mkdtemp(prefix="sesr-lab-"))
    return folder


def _machine() -> str:
    """What `-march=native` depends on: a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines[:40] if line.startswith(("model name", "flags")))


def _moment_names(recipe: Recipe) -> tuple[str, ...]:
    """torch.optim.Adam's names for its state."""
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if recipe.amsgrad else ("exp_avg", "exp_avg_sq")
