"""A collapsed network in int8: ranges of its activations, scales of its weights, and what it then computes.

One calibration serves every int8 file. Values are luma units (0 black, 1 white) less the input's shift: the int8
network's input is `level - 128`, so that it stands for luma - 128/255 with scale 1/255 and zero point 0, and its
head's bias makes up for what this differs from the network's own luma - 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from numpy.typing import NDArray
from torch import Tensor

from sesr_lab.network.model import Collapsed

Form = Literal["relu", "maximum", "prelu"]
"""How a block's activation is written: fused into the convolution, max(x, slope·x), or the PReLU of the format."""

LOWEST, HIGHEST = -128, 127
SHIFT = 128 / 255
"""The luma that the int8 input's 0 stands for."""
QUANTILE = 1e-4
"""The part of an activation's values that its range leaves out at either end; from the extremes themselves, the
rare outliers cost more in rounding than they bring."""
LARGEST_WEIGHT = 127
"""Weights are symmetric, -127 to 127, as TFLite and onnxruntime ask for."""


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high` (0 is one of them) that an int8 tensor holds: scale·(q - zero_point)."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """The real value of one int8 step."""
        return (self.high - self.low) / (HIGHEST - LOWEST)

    @property
    def zero_point(self) -> int:
        """The int8 value that stands for 0."""
        return min(HIGHEST, max(LOWEST, round(LOWEST - self.low / self.scale)))


INPUT = Range(LOWEST / 255, HIGHEST / 255)
"""Of the int8 network's input and of its output: level - 128, scale 1/255, zero point 0."""


@dataclass(frozen=True)
class Ranges:
    """The range of each activation of a collapsed network with m blocks; each covers a whole tensor."""

    head: Range
    """What the head gives, (N, f, H, W)."""
    blocks: tuple[Range, ...]
    """What each block's convolution gives, before its activation: m ranges."""
    active: tuple[Range, ...]
    """What each block's activation gives: m ranges."""
    skip: Range
    """The tail's input: the last block's result plus the head's."""
    tail: Range
    """What the tail gives, (N, scale², H, W), before the input is added; that of the output where it is not added."""


@dataclass(frozen=True)
class Int8Weights:
    """A convolution's weights: values (out, in, k, k) int8 times scales (out,) are the real ones."""

    values: NDArray[np.int8]
    scales: NDArray[np.float64]

    @property
    def real(self) -> Tensor:
        """The weights that the int8 ones stand for, (out, in, k, k) float32."""
        return torch.from_numpy((self.values * self.scales[:, None, None, None]).astype(np.float32))


def quantize_weights(weights: Tensor) -> Int8Weights:
    """`weights` (out, in, k, k) in int8, a scale for each output channel."""
    real = weights.detach().cpu().double().numpy()
    largest = np.abs(real).max((1, 2, 3))
    scales = np.where(largest > 0, largest, 1.0) / LARGEST_WEIGHT
    return Int8Weights(np.rint(real / scales[:, None, None, None]).astype(np.int8), scales)


def head_bias(head: Tensor) -> Tensor:
    """The head's bias (f,): what its weights (f, 1, k, k) make of the difference between 128/255 and 0.5."""
    return (SHIFT - 0.5) * head.sum((1, 2, 3))


def tail_bias(network: Collapsed) -> Tensor | None:
    """The tail's bias (s²,) in a network that does not add its input: its offset less SHIFT; None in one that does."""
    return None if network.offset is None else (network.offset - SHIFT).expand(len(network.tail))


def form_of(slopes: Tensor) -> Form:
    """How the activation with these `slopes` (f,) is best written for an NPU.

    max(x, slope·x) is PReLU where slopes are at most 1, and Arm's compiler runs it far faster than a PReLU.
    """
    if not bool(slopes.any()):
        return "relu"
    return "maximum" if bool((slopes <= 1).all()) else "prelu"


def calibration_patches(pictures: Sequence[NDArray[np.float32]], *, count: int = 48, side: int = 96) -> Tensor:
    """Patches (count, 1, side, side) to calibrate on, from LR luma (h, w) in [0, 1], the same ones each time.

    Give pictures that are held out of training, never a benchmark. From a dozen patches the loss in PSNR varies by
    some 0.04 dB with the choice of the patches, from 48 by 0.005. Where a picture is smaller than `side`, all patches
    are as small as it is.
    """
    if not pictures:
        raise ValueError("calibration needs at least one picture")
    side = min(side, *(length for picture in pictures for length in picture.shape))
    generator = np.random.default_rng(0)
    patches = []
    for index in range(count):
        picture = pictures[index * len(pictures) // count if len(pictures) > count else index % len(pictures)]
        top, left = (int(generator.integers(length - side + 1)) for length in picture.shape)
        patches.append(picture[top : top + side, left : left + side])
    return torch.from_numpy(np.stack(patches)).float()[:, None]


@torch.no_grad()
def calibrate(network: Collapsed, patches: Tensor, *, quantile: float = QUANTILE) -> Ranges:
    """The ranges of the activations on `patches`: LR luma (N, 1, H, W) in [0, 1], as `calibration_patches` cuts them.

    The patches are rounded to 8 bits first, as the int8 network sees them.
    """
    seen: dict[str, Range] = {}

    def see(name: str, values: Tensor) -> Tensor:
        flat = values.numpy().ravel()
        low, high = np.quantile(flat, [quantile, 1 - quantile])
        seen[name] = _with_zero(float(low), float(high))
        return values

    _run(on_cpu(network), _levels(patches) - SHIFT, see, forms=["prelu"] * len(network.body))
    blocks = range(len(network.body))
    return Ranges(
        head=seen["head"],
        blocks=tuple(seen[f"blocks.{i}"] for i in blocks),
        active=tuple(seen[f"active.{i}"] for i in blocks),
        skip=seen["skip"],
        tail=seen.get("tail", INPUT),
    )


@torch.no_grad()
def simulate(network: Collapsed, ranges: Ranges, lr: Tensor, *, forms: list[Form] | None = None) -> Tensor:
    """What the int8 network makes of LR luma (N, 1, H, W) in [0, 1]: luma (N, 1, s·H, s·W), whole levels / 255.

    A file's own interpreter differs by single levels, where it rounds another way.

    Args:
        forms: how each block's activation is written; as `form_of` says if not given.
    """
    network = on_cpu(network)
    forms = forms or [form_of(slopes) for slopes in network.slopes]

    def rounded(name: str, values: Tensor) -> Tensor:
        return _round(values, _range_at(ranges, name, forms))

    weights = Collapsed(
        head=quantize_weights(network.head).real,
        body=torch.stack([quantize_weights(weight).real for weight in network.body]),
        slopes=torch.stack([_slopes(slopes, form) for slopes, form in zip(network.slopes, forms, strict=True)]),
        tail=quantize_weights(network.tail).real,
        offset=network.offset,
    )
    bias = head_bias(network.head)
    subpixels = _run(weights, _levels(lr) - SHIFT, rounded, forms=forms, bias=bias)
    scale = round(subpixels.shape[1] ** 0.5)
    return F.pixel_shuffle(subpixels + SHIFT, scale)


def block_range(ranges: Ranges, index: int, form: Form) -> Range:
    """The range of block `index`'s convolution: max(x, slope·x) takes both, and gives its result, in this one."""
    before, after = ranges.blocks[index], ranges.active[index]
    return Range(min(before.low, after.low), max(before.high, after.high)) if form == "maximum" else before


def _range_at(ranges: Ranges, name: str, forms: list[Form]) -> Range:
    kind, _, index = name.partition(".")
    if kind == "blocks":
        return block_range(ranges, int(index), forms[int(index)])
    if kind == "active":
        return ranges.active[int(index)]
    return {"head": ranges.head, "skip": ranges.skip, "tail": ranges.tail, "output": INPUT}[kind]


def _run(
    weights: Collapsed,
    x: Tensor,
    at: Callable[[str, Tensor], Tensor],
    *,
    forms: list[Form],
    bias: Tensor | None = None,
) -> Tensor:
    """The network on `x` (luma less SHIFT), each activation passed through `at`: subpixels (N, s², H, W) less SHIFT."""
    bias = head_bias(weights.head) if bias is None else bias
    skip = features = at("head", F.conv2d(x, weights.head, bias, padding=2))
    for i, (weight, slopes, form) in enumerate(zip(weights.body, weights.slopes, forms, strict=True)):
        features = F.conv2d(features, weight, padding=1)
        if form == "relu":
            features = at(f"active.{i}", features.relu())
            continue
        features = at(f"blocks.{i}", features)
        if form == "maximum":
            features = torch.maximum(features, at(f"blocks.{i}", features * slopes[:, None, None]))
        else:
            features = at(f"active.{i}", F.prelu(features, slopes))
    features = at("skip", features + skip)
    if weights.offset is not None:
        return at("output", F.conv2d(features, weights.tail, tail_bias(weights), padding=2))
    return at("output", at("tail", F.conv2d(features, weights.tail, padding=2)) + x)


def _slopes(slopes: Tensor, form: Form) -> Tensor:
    """The slopes as the int8 file holds them: a depthwise convolution has a scale for each, a PReLU one for all."""
    if form != "prelu":
        return slopes
    scale = slopes.abs().max() / LARGEST_WEIGHT
    return (slopes / scale).round() * scale


def _round(values: Tensor, range_: Range) -> Tensor:
    """`values` as an int8 tensor of that range holds them."""
    q = (values / range_.scale).round() + range_.zero_point
    return (q.clamp(LOWEST, HIGHEST) - range_.zero_point) * range_.scale


def _levels(luma01: Tensor) -> Tensor:
    """Luma rounded to whole 8-bit levels, still in [0, 1]; halves go up."""
    return (luma01.detach().cpu().float() * 255 + 0.5).floor().clamp(0, 255) / 255


def _with_zero(low: float, high: float) -> Range:
    """The range that also holds 0, which padding needs, and is not empty."""
    low, high = min(low, 0.0), max(high, 0.0)
    return Range(low, high) if high - low > 1e-6 else Range(-1e-6, 1e-6)


def on_cpu(network: Collapsed) -> Collapsed:
    """The network in float32 on the CPU, apart from what it was trained by."""
    head, body, slopes, tail = (tensor.detach().cpu().float() for tensor in network[:4])
    return Collapsed(head, body, slopes, tail, None if network.offset is None else network.offset.detach().cpu())
