"""Whether an exported float graph does what the network does in PyTorch."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from numpy.typing import NDArray

from sesr_lab.data.image import rgb as rgb_levels
from sesr_lab.data.image import ycbcr
from sesr_lab.errors import ExportError
from sesr_lab.network.model import Collapsed, run_collapsed
from sesr_lab.results.interpolation import enlarged, rows_around
from sesr_lab.results.onnx_session import Session

TOLERANCE: Final = 1e-4
"""The most by which a float file's output, in [0, 1], may differ from PyTorch's."""
_BORDER = 16
"""High-resolution pixels where chroma may differ: bicubic mirrors the border here, and repeats its edge there."""


def parity(session: Session, network: Collapsed, *, rgb: bool) -> float:
    """The largest difference from PyTorch on noise and on a smooth picture, of odd sizes, in a batch.

    Raises:
        ExportError: it is more than TOLERANCE.
    """
    rng = np.random.default_rng(0)
    noise = rng.random((2, 3 if rgb else 1, 37, 53), np.float32)
    waves = np.sin(np.arange(37)[:, None] / 5) * np.cos(np.arange(53) / 7) / 2 + 0.5
    smooth = np.broadcast_to(waves.astype(np.float32), noise.shape)
    errors = []
    for batch in (noise, np.ascontiguousarray(smooth)):
        found, expected = session.run(batch), _reference_rgb(network, batch) if rgb else torch_output(network, batch)
        difference = np.abs(found - expected)
        if rgb:
            difference = difference[..., _BORDER:-_BORDER, _BORDER:-_BORDER]
        errors.append(difference.max())
    error = float(np.max(errors))  # NaN if one is
    if not error <= TOLERANCE:
        raise ExportError(
            f"the exported graph differs from the network by {error:.1e}; up to {TOLERANCE:.0e} is allowed; nothing was"
            " written; install another onnxruntime"
        )
    return error


@torch.no_grad()
def torch_output(network: Collapsed, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Luma (N, 1, s·H, s·W) by PyTorch, clipped to [0, 1], of luma (N, 1, H, W)."""
    subpixels = run_collapsed(network, torch.from_numpy(batch))
    made: NDArray[np.float32] = F.pixel_shuffle(subpixels, round(len(network.tail) ** 0.5)).clamp(0, 1).numpy()
    return made


def _reference_rgb(network: Collapsed, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """RGB (N, 3, s·H, s·W): luma by PyTorch, chroma by bicubic as it is done for pictures."""
    scale, made = round(len(network.tail) ** 0.5), []
    for picture in batch:
        y, *chroma = ycbcr(picture.transpose(1, 2, 0).astype(np.float64) * 255)
        large = torch_output(network, (y / 255).astype(np.float32)[None, None])[0, 0].astype(np.float64) * 255
        cb, cr = (enlarged(rows_around(c.astype(np.float32), 0, len(c)), scale).astype(np.float64) for c in chroma)
        made.append((rgb_levels(large, cb, cr) / 255).clip(0, 1).transpose(2, 0, 1).astype(np.float32))
    return np.stack(made)
