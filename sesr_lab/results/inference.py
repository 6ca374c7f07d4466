"""MODEL, ready to run: a function from low-resolution planes to high-resolution ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from numpy.typing import NDArray
from torch import Tensor

from sesr_lab.errors import ConfigError, ModelError, TargetError
from sesr_lab.network.model import SESR, Collapsed, from_weights
from sesr_lab.registry.lookup import Named, find, is_file, of_file
from sesr_lab.registry.version import Version
from sesr_lab.results.interpolation import REACH, enlarged, rows_around
from sesr_lab.results.onnx_session import PREFIX, open_session
from sesr_lab.tracking.runs import Tracker
from sesr_lab.training import cores

Planes = NDArray[np.float32]

BICUBIC = "bicubic"
_BLOCK = 16
"""Channels that oneDNN adds up together."""


@dataclass(frozen=True)
class Network:
    """A network that upscales planes (colours, h, w) in [0, 1] to (colours, scale·h, scale·w), not clipped."""

    name: str
    """What the user called it."""
    scale: int
    radius: int
    """Low-resolution pixels on each side that an output pixel depends on."""
    colours: int
    """1 for luma, 3 for RGB."""
    run: Callable[[Planes], Planes]
    version: Version | None = None
    architecture: str = ""
    """What it is, as in `m5-f16-p256-collapsed`; empty where it is not known."""
    wide: int | None = None
    """The columns that it is fastest on, whatever the height of a tile."""


def network(
    model: str,
    *,
    scale: int | None,
    open_tracker: Callable[[], Tracker],
    prefix: str = "sesr",
    make: Callable[[Named], Network] | None = None,
) -> Network:
    """The network that MODEL names, of whatever kind; `bicubic` is one too.

    Args:
        make: what runs a network whose weights are known; PyTorch if it is None.
        open_tracker: opens the store; not called where MODEL is a file, or bicubic.

    Raises:
        ModelError: there is none, it is damaged, or its scale is not `scale`.
        ConfigError: MODEL brings its own engine, and another one is asked for.
    """
    if make is not None and (model == BICUBIC or model.lower().endswith((".onnx", ".tflite"))):
        raise ConfigError(f"{model}: --engine is for networks whose weights are at hand; leave it out")
    if model == BICUBIC:
        return _bicubic(scale or 2)
    if model.lower().endswith(".onnx"):
        found = onnx_network(model)
    elif model.lower().endswith(".tflite"):
        found = tflite_network(model)
    else:
        named = of_file(model) if is_file(model) else find(open_tracker(), model, scale=scale, prefix=prefix)
        found = (make or of_named)(named)
    if scale not in (None, found.scale):
        raise ModelError(f"{model}: its scale is {found.scale}, not {scale}; leave --scale out, or match it")
    return found


def onnx_network(file: str) -> Network:
    """The network of a file that sesr-lab has exported, run by ONNX Runtime.

    Raises:
        ModelError: the file is missing, damaged, or was exported by something else.
        ExportError: ONNX Runtime is missing.
    """
    opened = open_session(file)
    facts = opened.facts
    try:
        scale, radius, colours = (int(facts[f"{PREFIX}{key}"]) for key in ("scale", "radius", "colours"))
    except (KeyError, ValueError):
        raise ModelError(f"{file}: not exported by sesr-lab (its metadata does not say so); give such a file") from None
    name = facts.get(f"{PREFIX}name", "")
    return Network(file, scale, radius, colours, lambda planes: opened.run(planes[None])[0], architecture=name)


def tflite_network(file: str) -> Network:
    """The network of a TFLite file of luma, run by LiteRT's interpreter.

    Raises:
        ModelError: the file is missing or damaged, or is of another kind of network.
        TargetError: the interpreter is missing.
    """
    from sesr_lab.targets.interpreter import TfliteFile

    path = Path(file)
    try:
        opened = TfliteFile(path.read_bytes(), file)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}); give a file that is there") from None
    except TargetError as error:
        raise TargetError(f"{file}: {error}") from error
    return Network(file, opened.scale, opened.radius, 1, lambda planes: opened(planes[0])[None])


def _bicubic(scale: int) -> Network:
    def run(planes: Planes) -> Planes:
        return np.stack([enlarged(rows_around(plane, 0, len(plane)), scale) for plane in planes])

    return Network(BICUBIC, scale, REACH, 1, run)


def of_named(named: Named) -> Network:
    """A registered network, or one of a weights file, collapsed."""
    cores.limit_torch()
    collapsing = from_weights(named.weights)
    run, name = runner(collapsing), named.architecture.name
    return Network(named.name, collapsing.scale, radius_of(collapsing), 1, run, named.version, name)


def radius_of(collapsing: SESR) -> int:
    """Two for each of the 5x5 convolutions, one for each of 3x3."""
    return collapsing.m + 4


@torch.no_grad()
def runner(collapsing: SESR) -> Callable[[Planes], Planes]:
    """The collapsed network in PyTorch, run so that a pixel's value does not depend on how much is run around it.

    PyTorch takes another convolution for small inputs than for large ones, and its sums differ in the last bit.
    Here oneDNN's is taken for all; it adds in one order where the channels are whole blocks. Where there is no
    oneDNN, sums are float64, whose last bits the result, which is float32, does not show. A pixel's channels lie side
    by side, as oneDNN takes them without putting them in order first.
    """
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
    convolve = _onednn if has_onednn else _plain
    dtype = torch.float32 if has_onednn else torch.float64
    weights = _in_blocks(collapsing.collapse())
    head, *body, tail = (_side_by_side(w.to(dtype)) for w in (weights.head, *weights.body, weights.tail))
    slopes, offset = weights.slopes.to(dtype), weights.offset

    @torch.inference_mode()
    def run(planes: Planes) -> Planes:
        x = torch.from_numpy(np.ascontiguousarray(planes)).to(dtype)[None]
        skip = features = convolve(_side_by_side(x - 0.5), head, padding=2)
        for weight, slope in zip(body, slopes, strict=True):
            features = F.prelu(convolve(features, weight, padding=1), slope)
        subpixels = convolve(features.add_(skip), tail, padding=2).add_(x if offset is None else offset)
        made: Planes = F.pixel_shuffle(subpixels, collapsing.scale)[0].contiguous().float().numpy()
        return made

    return run


def _in_blocks(weights: Collapsed) -> Collapsed:
    """The same network with channels that do nothing, so that their number is a multiple of oneDNN's block."""
    more = -weights.head.shape[0] % _BLOCK
    return Collapsed(
        F.pad(weights.head, (0, 0, 0, 0, 0, 0, 0, more)),
        F.pad(weights.body, (0, 0, 0, 0, 0, more, 0, more)),
        F.pad(weights.slopes, (0, more)),
        F.pad(weights.tail, (0, 0, 0, 0, 0, more)),
        weights.offset,
    )


def _side_by_side(x: Tensor) -> Tensor:
    """The same values (n, c, h, w), a place's channels next to each other in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def _onednn(x: Tensor, weight: Tensor, *, padding: int) -> Tensor:
    convolved: Tensor = torch.ops.aten.mkldnn_convolution(x, weight, None, [padding, padding], [1, 1], [1, 1], 1)
    return convolved


def _plain(x: Tensor, weight: Tensor, *, padding: int) -> Tensor:
    return F.conv2d(x, weight, padding=padding)
