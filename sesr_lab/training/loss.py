"""The training loss: mean absolute error in the layout before depth-to-space, in two precisions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from torch import Tensor

from sesr_lab.network.model import Collapsed

Loss = Callable[[Collapsed, Tensor, Tensor, bool], Tensor]
"""The loss of collapsed weights, the body's without the identity, for lr (N, 1, H, W), target (N, scale², H, W), and
whether the output is clipped to [0, 1]. A function of tensors alone, so that compiling it serves all of a shape."""


def float32_loss(weights: Collapsed, lr: Tensor, target: Tensor, clip: bool) -> Tensor:
    """As `Loss`, in float32 throughout."""
    return _loss(weights, lr, target, clip, torch.float32)


def bfloat16_loss(weights: Collapsed, lr: Tensor, target: Tensor, clip: bool) -> Tensor:
    """As `Loss`, with activations and the weights of body and tail in bfloat16; the image and the head in float32."""
    return _loss(weights, lr, target, clip, torch.bfloat16)


def _loss(weights: Collapsed, lr: Tensor, target: Tensor, clip: bool, inside: torch.dtype) -> Tensor:
    features = F.conv2d(lr - 0.5, weights.head, padding=2)
    skip = features = features.to(inside, memory_format=torch.channels_last)
    for weight, slope in zip(weights.body.to(inside), weights.slopes.to(inside), strict=True):
        features = F.prelu(F.conv2d(features, weight, padding=1) + features, slope)
    residual = F.conv2d(features + skip, weights.tail.to(inside), padding=2).float()
    output = residual + (lr if weights.offset is None else weights.offset)
    return (output.clamp(0, 1) if clip else output).sub(target).abs().mean()


def exact_float32(device: torch.device) -> AbstractContextManager[Any]:
    """Convolutions in float32 as it is: cuDNN's default, TF32, keeps 10 of its 23 bits."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if device.type == "cuda" else nullcontext()
