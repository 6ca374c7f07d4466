"""The SESR network: linear blocks that train in an expanded space and run collapsed (arXiv 2103.09404).

Corrections of the reference code (ARM-software/sesr at 26dd727) are named where they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypedDict

import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from torch import Tensor, nn

Block = Literal["collapsed", "expanded"]
Activation = Literal["prelu", "relu"]
SCALES = (2, 4)
MID_GREY = 0.5
"""The luma that a network's features start from; without the input's residual, also what its output starts from."""


class Shape(TypedDict):
    """What a network's weights tell of it: all that `SESR` is made from, but for the space that it runs in."""

    m: int
    f: int
    feature_size: int
    scale: int
    activation: Activation
    input_residual: bool


class LinearBlocks(nn.Module):
    """`count` equal linear blocks: W₁ (k×k, in→p) then W₂ (1×1, p→out), without biases.

    The blocks' weights are stacked, so that one batched product collapses all of them.
    """

    def __init__(
        self, count: int, channels: tuple[int, int], *, kernel: int, feature_size: int, residual: bool
    ) -> None:
        super().__init__()
        inputs, outputs = channels
        # Correction: the reference adds an identity wherever in == out, so at x4 with f = 16 its output block
        # silently gets one, in the collapsed form only. Here a block has a residual because it says so.
        self.residual = residual
        self.kernel = kernel
        self.expand = nn.Parameter(torch.empty(count, feature_size, inputs, kernel, kernel))
        self.project = nn.Parameter(torch.empty(count, outputs, feature_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot-uniform weights, as Keras draws them for the reference."""
        _, p, inputs, k, _ = self.expand.shape
        outputs = self.project.shape[1]
        nn.init.uniform_(self.expand, *_symmetric((6 / ((inputs + p) * k * k)) ** 0.5))
        nn.init.uniform_(self.project, *_symmetric((6 / (p + outputs)) ** 0.5))

    def collapse(self) -> Tensor:
        """Weights of the equal small convolutions, (count, out, in, k, k): W₂W₁, plus the identity if residual.

        Correction: the reference convolves a padded identity with both layers (20 times the work of this
        product), and its biases leak into the weights as an offset; here there are no biases in either form.
        """
        weight = torch.bmm(self.project, self.expand.flatten(2))  # (count, out, in·k·k)
        weight = weight.view(*weight.shape[:2], *self.expand.shape[2:])
        return weight + self.identity() if self.residual else weight

    def identity(self) -> Tensor:
        """Weights of the convolution that changes nothing, (channels, channels, k, k)."""
        channels = self.project.shape[1]
        weight = torch.zeros(channels, channels, self.kernel, self.kernel, device=self.expand.device)
        weight[:, :, self.kernel // 2, self.kernel // 2] = torch.eye(channels, device=self.expand.device)
        return weight.to(self.expand.dtype)

    def forward_expanded(self, x: Tensor, index: int) -> Tensor:
        """Block `index` applied to (N, in, H, W) in the expanded space: (N, out, H, W)."""
        wide = F.conv2d(x, self.expand[index], padding=self.kernel // 2)  # (N, p, H, W)
        out = F.conv2d(wide, self.project[index, :, :, None, None])
        return out + x if self.residual else out


class Collapsed(NamedTuple):
    """The small network: what is run and deployed. Convolution weights are (out, in, k, k), slopes (m, f)."""

    head: Tensor
    body: Tensor
    slopes: Tensor
    """Of the PReLUs; all zero in a network with ReLUs, which is the same function."""
    tail: Tensor
    offset: Tensor | None = None
    """What the tail's result is added to where it is not the input: (1,) luma; None if it is."""


class SESR(nn.Module):
    """SESR-M`m`: luma (N, 1, H, W) in [0, 1] to (N, 1, scale·H, scale·W), not clipped.

    `block` says in which space a forward pass runs; both forms hold the same parameters and are the same
    function of them. Correction: the reference's expanded blocks have biases that its collapsed blocks treat
    differently, so there the two are different models.

    `activation` relu and no `input_residual` are the paper's variant for hardware (section 5): the network then has
    no slopes, and gives mid-grey plus the tail's result, as its first block has taken mid-grey off.
    """

    def __init__(
        self,
        *,
        m: int,
        f: int,
        feature_size: int,
        scale: int,
        block: Block = "collapsed",
        activation: Activation = "prelu",
        input_residual: bool = True,
    ) -> None:
        super().__init__()
        self.m, self.f, self.feature_size, self.scale = m, f, feature_size, scale
        self.block: Block = block
        self.activation: Activation = activation
        self.input_residual = input_residual
        self.head = LinearBlocks(1, (1, f), kernel=5, feature_size=feature_size, residual=False)
        self.body = LinearBlocks(m, (f, f), kernel=3, feature_size=feature_size, residual=True)
        # PReLU starts as ReLU, as in the reference; a network with ReLUs has no slopes, and says so by this shape.
        prelu = activation == "prelu"
        self.slopes = nn.Parameter(torch.zeros(m, f if prelu else 0), requires_grad=prelu)
        self.tail = LinearBlocks(1, (f, scale**2), kernel=5, feature_size=feature_size, residual=False)
        # Not trained; a parameter so that it travels with the weights and tells what the network is.
        self.offset = None if input_residual else nn.Parameter(torch.tensor([MID_GREY]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """The upscaled luma, (N, 1, scale·H, scale·W)."""
        return F.pixel_shuffle(self.subpixels(x), self.scale)

    def subpixels(self, x: Tensor) -> Tensor:
        """The upscaled luma before depth-to-space, (N, scale², H, W): the layout in which the loss is taken."""
        return run_collapsed(self.collapse(), x) if self.block == "collapsed" else self._run_expanded(x)

    def collapse(self) -> Collapsed:
        """The equal small network, differentiable with respect to this one's parameters."""
        head, tail = self.head.collapse()[0], self.tail.collapse()[0]
        slopes = self.slopes if self.activation == "prelu" else torch.zeros(self.m, self.f).to(head)
        return Collapsed(head, self.body.collapse(), slopes, tail, self.offset)

    def _run_expanded(self, x: Tensor) -> Tensor:
        skip = features = self.head.forward_expanded(x - MID_GREY, 0)
        for index in range(self.m):
            features = self.body.forward_expanded(features, index)
            features = F.prelu(features, self.slopes[index]) if self.activation == "prelu" else features.relu()
        residual = self.tail.forward_expanded(features + skip, 0)
        return residual + (x if self.offset is None else self.offset)


def run_collapsed(weights: Collapsed, x: Tensor) -> Tensor:
    """The collapsed network's output before depth-to-space, (N, scale², H, W), for luma (N, 1, H, W)."""
    skip = features = F.conv2d(x - MID_GREY, weights.head, padding=2)
    for weight, slope in zip(weights.body, weights.slopes, strict=True):
        features = F.prelu(F.conv2d(features, weight, padding=1), slope)
    residual = F.conv2d(features + skip, weights.tail, padding=2)
    return residual + (x if weights.offset is None else weights.offset)


def subpixels_of(hr: Tensor, scale: int) -> Tensor:
    """Luma (N, 1, scale·H, scale·W) in the network's own layout, (N, scale², H, W)."""
    return F.pixel_unshuffle(hr, scale)


def shape_of(weights: Mapping[str, Tensor]) -> Shape:
    """m, f, feature_size, scale, activation and input_residual of a network, read off its weights.

    Raises:
        ValueError: a tensor is missing, or the shapes are of no SESR network at x2 or x4.
    """
    try:
        m, feature_size, f, _, _ = weights["body.expand"].shape
        _, outputs, _ = weights["tail.project"].shape
        slopes = weights["slopes"].shape
    except (KeyError, ValueError):
        needed = "body.expand, tail.project or slopes"
        raise ValueError(f"not the weights of a SESR network: wrong or missing {needed}") from None
    shape: Shape = {
        "m": m,
        "f": f,
        "feature_size": feature_size,
        "scale": round(outputs**0.5),
        "activation": "relu" if slopes == (m, 0) else "prelu",
        "input_residual": "offset" not in weights,
    }
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in SESR(**shape).state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if found != expected:
        wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        raise ValueError(f"not the weights of a SESR network: wrong or missing {', '.join(wrong)}")
    if shape["scale"] not in SCALES:
        raise ValueError(f"not the weights of a SESR network: scale {shape['scale']}; 2 or 4 is allowed")
    return shape


def from_weights(weights: Mapping[str, Tensor], *, block: Block = "collapsed") -> SESR:
    """The network that holds `weights`, in float32.

    Raises:
        ValueError: as `shape_of`.
    """
    network = SESR(**shape_of(weights), block=block)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network


def _symmetric(bound: float) -> tuple[float, float]:
    return -bound, bound
