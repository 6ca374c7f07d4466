"""Starting a x4 network from its trained x2 parent, in the expanded space.

Everything but the output block is copied. The output block of a x4 network has 16 channels where its parent's
has 4, and starts in one of the ways below; what they are worth is measured in benchmarks/LOG.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from sesr_lab.network.model import SESR, run_collapsed, shape_of
from sesr_lab.training.loss import exact_float32

Head = Literal["fitted", "coarse", "nearest", "random"]
HEADS: tuple[Head, ...] = ("fitted", "coarse", "nearest", "random")
COPIED = ("m", "f", "feature_size", "input_residual")
RIDGE = 1e-4
"""Weight of the penalty in the least-squares fit, relative to the mean power of the features."""


def unfit(parent: Mapping[str, Tensor], child: SESR) -> str:
    """Why `parent` cannot start `child`: what differs, in words; nothing if it can, with another activation too."""
    found = dict(shape_of(parent))
    wanted = {key: getattr(child, key) for key in COPIED}
    differing = [f"{key} is {found[key]}, not {wanted[key]}" for key in COPIED if found[key] != wanted[key]]
    if found["scale"] != 2:
        differing.append(f"its scale is {found['scale']}, not 2")
    return ", ".join(differing)


@torch.no_grad()
def start_from(
    child: SESR, parent: Mapping[str, Tensor], batches: Iterable[tuple[Tensor, Tensor]], *, head: Head = "fitted"
) -> None:
    """Puts the x2 `parent`'s weights into the x4 `child`, in place.

    Args:
        batches: pairs (lr (N, 1, H, W), target (N, 16, H, W)) of the x4 training set; `fitted` reads them.
        head: how the output block starts. `coarse`: the parent's x2 result, each pixel repeated 2×2. `nearest`:
            nearest-neighbour upscaling (a zero block). `fitted`: from `coarse`, its 1×1 layer is solved by
            least squares on `batches`, given all the other weights. `random`: as a network from scratch.

    Raises:
        ValueError: the parent has another m, f, feature_size or input_residual, or is not x2.
    """
    if reason := unfit(parent, child):
        raise ValueError(reason)
    own = child.state_dict()
    own |= {
        name: tensor
        for name, tensor in parent.items()
        if not name.startswith("tail.") and tensor.shape == own[name].shape  # slopes are PReLUs' alone
    }
    child.load_state_dict(own)
    if head == "random":
        return
    child.tail.expand.copy_(parent["tail.expand"])
    child.tail.project.copy_(_repeated(parent["tail.project"]))
    if head == "nearest":
        child.tail.project.zero_()
    if head == "fitted":
        child.tail.project.copy_(_least_squares(child, batches))


def _repeated(project: Tensor) -> Tensor:
    """(1, 4, p) of a x2 output block as (1, 16, p) at x4: each of its subpixels stands for 2×2 of the new ones."""
    square = project.view(2, 2, -1)  # (row, column, p)
    return square.repeat_interleave(2, 0).repeat_interleave(2, 1).reshape(1, 16, -1)


def _least_squares(network: SESR, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The 1×1 layer (1, 16, p) of the output block that fits `batches` best in the mean square.

    The features of the output block's first layer are made with a fixed network, so that this is linear.
    """
    weights = network.collapse()
    p = network.feature_size
    device = network.tail.expand.device
    power = torch.zeros(p, p, dtype=torch.float64, device=device)
    moment = torch.zeros(network.scale**2, p, dtype=torch.float64, device=device)
    with exact_float32(device):
        for lr, target in batches:
            base = lr if weights.offset is None else weights.offset  # what the tail's result is added to
            wide = run_collapsed(weights._replace(tail=network.tail.expand[0]), lr) - base  # (N, p, H, W)
            features = wide.transpose(0, 1).flatten(1)  # (p, N·H·W)
            residual = (target - base).transpose(0, 1).flatten(1)  # (16, N·H·W)
            power += (features @ features.T).double()
            moment += (residual @ features.T).double()
    start = network.tail.project[0].double()
    penalty = RIDGE * power.diagonal().mean() * torch.eye(p, dtype=torch.float64, device=device)
    change: Tensor = torch.linalg.solve(power + penalty, (moment - start @ power).T).T  # shrinks towards the start
    return (start + change).float()[None]
