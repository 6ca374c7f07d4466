"""Training steps on the CPU in one piece of C (kernel.c), on any processor that has a C compiler.

Its products are float32, or bfloat16 where the processor multiplies pairs of them; `why_not` says what is missing.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from torch import Tensor

from sesr_lab.data.patches import LEVELS, PatchPool, symmetry_corners, symmetry_orders
from sesr_lab.network.model import SESR, run_collapsed
from sesr_lab.training import cores, library
from sesr_lab.training.flat import FlatState, flat_weights
from sesr_lab.training.recipe import Recipe

SMALLEST_PATCH = 16
LARGEST_F = 64
GROUPS = 16
"""As in kernel.c: more threads than groups of patches find no work."""


class Job(ctypes.Structure):
    """`Job` of kernel.c, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("blocks", "features", "feature_size", "scale", "patch", "batch")),
        *((name, ctypes.c_int64) for name in ("threads", "amsgrad", "clip_output", "input_residual", "relu")),
        *((name, ctypes.c_double) for name in ("offset", "beta1", "beta2", "eps", "clip_norm", "ema_decay")),
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
    if recipe.patch < SMALLEST_PATCH:
        return f"its patches are at least {SMALLEST_PATCH} pixels wide"
    try:
        _library_for(network, recipe)
    except library.BuildError as error:
        return str(error)
    return None


def missing_here() -> str | None:
    """What this machine lacks for the kernel, or None."""
    try:
        library.load()
    except library.BuildError as error:
        return str(error)
    return None


def products_here() -> str:
    """What the kernel multiplies on this processor."""
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


@torch.no_grad()
def forward(network: SESR, x: Tensor) -> Tensor:
    """Luma (1, 1, h, w) to (1, 1, scale·h, scale·w) on the CPU in float32, by kernel.c.

    Raises:
        BuildError: kernel.c cannot be had here; `missing_here` says so before.
    """
    height, width = x.shape[2:]
    if min(height, width) < SMALLEST_PATCH:
        return F.pixel_shuffle(run_collapsed(network.collapse(), x), network.scale)
    weights, picture = flat_weights(network), x.contiguous()
    upscaled = torch.empty(1, network.scale**2, height, width)
    job = Job(**_shape(network), weights=weights.data_ptr(), threads=_threads())
    size = (ctypes.c_int64(height), ctypes.c_int64(width))
    places = (ctypes.c_void_p(picture.data_ptr()), *size, ctypes.c_void_p(upscaled.data_ptr()))
    if library.load().sesr_upscale(ctypes.byref(job), *places) != 0:
        raise MemoryError(f"no memory to upscale a picture of {width}x{height}")
    return F.pixel_shuffle(upscaled, network.scale)


class KernelEngine:
    """Adam steps in kernel.c for collapsed blocks, on as many threads as torch uses and the machine allows.

    The result depends on the plan, the rates and the processor, and not on the number of threads.
    """

    def __init__(self, network: SESR, pool: PatchPool, recipe: Recipe, *, compiled: ctypes.CDLL | None = None) -> None:
        self.pool, self.recipe = pool, recipe
        self.flat = FlatState(network, recipe)
        self.averaged, self.state, self.load = self.flat.averaged, self.flat.state, self.flat.load
        self.library = compiled or _library_for(network, recipe)
        self.corners = symmetry_corners(recipe.patch)
        self.order = symmetry_orders(network.scale)
        self.job = self._job(network)

    def run(self, plan: Tensor, learning_rates: Sequence[float]) -> Tensor:
        """As `Engine.run`.

        Raises:
            ValueError: the plan is not one of as many steps as there are learning rates, each of a batch.
        """
        plan, count = plan.contiguous(), len(learning_rates)
        if plan.shape != (count, self.recipe.batch_size, 4) or plan.dtype != torch.int64:
            wanted = (count, self.recipe.batch_size, 4)
            raise ValueError(f"{count} learning rates ask for an int64 plan of {wanted}, not {tuple(plan.shape)}")
        losses = torch.empty(count)
        rates = (ctypes.c_double * count)(*learning_rates)
        places = (ctypes.c_void_p(plan.data_ptr()), rates, ctypes.c_void_p(losses.data_ptr()))
        steps = (ctypes.c_int64(self.flat.steps), ctypes.c_int64(count))
        if self.library.sesr_run(ctypes.byref(self.job), *steps, *places) != 0:
            raise MemoryError(f"no memory for {self.job.threads} threads with patches of {self.recipe.patch}")
        self.flat.steps += count
        self.flat.publish()
        return losses

    def cut_only(self, plan: Tensor) -> None:
        """Cuts the patches of `plan` and drops them, each thread its share in turn: what the data costs."""
        share = plan.flatten(0, 1)[:: self.job.threads].contiguous()
        self.library.sesr_cut(ctypes.byref(self.job), ctypes.c_int64(len(share)), ctypes.c_void_p(share.data_ptr()))

    def _job(self, network: SESR) -> Job:
        recipe, flat = self.recipe, self.flat
        paces = recipe.paces(f=network.f, feature_size=network.feature_size, scale=network.scale)
        largest = flat.moments.get("max_exp_avg_sq")
        return Job(
            **_shape(network),
            patch=recipe.patch,
            batch=recipe.batch_size,
            threads=min(_threads(), recipe.batch_size, GROUPS),
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
            weights=flat.weights.data_ptr(),
            moment=flat.moments["exp_avg"].data_ptr(),
            second=flat.moments["exp_avg_sq"].data_ptr(),
            largest=None if largest is None else largest.data_ptr(),
            average=flat.average.data_ptr(),
        )


def _shape(network: SESR) -> dict[str, float]:
    """A `Job`'s fields that say what the network is."""
    return {
        "blocks": network.m,
        "features": network.f,
        "feature_size": network.feature_size,
        "scale": network.scale,
        "input_residual": network.offset is None,
        "relu": network.activation == "relu",
        "offset": 0.0 if network.offset is None else float(network.offset),
    }


def _threads() -> int:
    return min(torch.get_num_threads(), cores.allowed())


def _library_for(network: SESR, recipe: Recipe) -> ctypes.CDLL:
    """kernel.c as it trains this network fastest here.

    Raises:
        BuildError: it cannot be had.
    """
    if products_here() == "bfloat16" and network.f <= LARGEST_F and recipe.patch % 2 == 0:
        return _bfloat16_library(network.f, network.scale) or library.load()
    return library.load()


@cache
def _bfloat16_library(f: int, scale: int) -> ctypes.CDLL | None:
    """kernel.c with bfloat16 products; None where the compiler is older than the processor and knows none."""
    try:
        return library.load("BFLOAT16", f"F={f}", f"SCALE={scale}")
    except library.BuildError as error:
        if missing_here() is None:
            logging.getLogger(__name__).warning("training with float32 products, which are slower: %s", error)
        return None
