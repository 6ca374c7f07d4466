"""Benchmark scores as the papers compute them, on luma.

HR is cut to a multiple of the scale; LR is made from it by MATLAB's bicubic on 8-bit RGB, or comes with the set;
the network upscales LR luma; its output is clipped and rounded to 8 bits and compared with HR luma, which is not
rounded; `scale` pixels are shaved off each side; PSNR has a peak of 255.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from numpy.typing import NDArray
from torch import Tensor

from sesr_lab.data import Progress
from sesr_lab.data.folder import Location, paired_rows
from sesr_lab.data.image import luma, shave, to_levels, upscale
from sesr_lab.data.leaks import Leak
from sesr_lab.data.pair import Row, Sample, whole_sample
from sesr_lab.data.refusal import expanded
from sesr_lab.errors import DataError
from sesr_lab.network.model import SESR, run_collapsed
from sesr_lab.scores.metrics import PERFECT_DB, Score, Truth, psnr, ssim

LrOrigin = Literal["bicubic", "paired"]
"""Whether LR is made here, or comes with a set."""
Levels = NDArray[np.float64]
Upscaler = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Luma (h, w) in [0, 1] to luma (scale·h, scale·w), not clipped."""
Forward = Callable[[SESR, Tensor], Tensor]
"""A network and luma (1, 1, h, w) to (1, 1, scale·h, scale·w): `collapsed_forward`, or what does the same faster."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfPicture:
    """What upscales whole pictures, colour included: 8-bit (h, w[, 3]) to 8-bit RGB (scale·h, scale·w, 3)."""

    upscale: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


Scored = Upscaler | OfPicture | Literal["bicubic"]
"""What can be scored: a network, one of RGB, or bicubic upscaling of the RGB picture."""


@dataclass(frozen=True)
class PictureScore:
    """One picture's scores: PSNR in dB (inf if perfect) and SSIM."""

    name: str
    psnr: float
    ssim: float


@dataclass(frozen=True)
class SetScore:
    """A benchmark set's scores: means over its pictures without those that are restored exactly."""

    set: str
    psnr: float
    """In dB; inf where all pictures are restored exactly."""
    ssim: float
    pictures: tuple[PictureScore, ...]
    lr_origin: LrOrigin = "bicubic"
    left_out: tuple[str, ...] = ()
    """Names of the pictures that the means leave out."""
    trained_on: tuple[Leak, ...] | None = None
    """What of the set a network has seen in training; None where that is not known."""


@dataclass(frozen=True)
class ModelScore:
    """What `evaluate` reports of one model; params and MACs are None for bicubic."""

    model: str
    params: int | None
    macs_720p: int | None
    sets: tuple[SetScore, ...]

    def document(self) -> dict[str, Any]:
        """The same as JSON values; a score that JSON has no number for (inf, NaN) is None."""
        document: dict[str, Any] = _finite(asdict(self))
        return document


@dataclass(frozen=True)
class Benchmark(Sequence[Sample]):
    """A folder's pictures as samples, each decoded when it is asked for."""

    name: str
    scale: int
    locations: tuple[Location, ...]

    @property
    def lr_origin(self) -> LrOrigin:
        """Whether LR is made here, or comes with the set."""
        return "bicubic" if self.locations[0].lr is None else "paired"

    def __len__(self) -> int:
        return len(self.locations)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return whole_sample(_row(self.locations[index]), self.scale)


def benchmark(folder: Path, scale: int) -> Benchmark:
    """The pictures of a folder, or of its `HR/` with the LR of its `LR_x{scale}/` if it has one.

    Raises:
        DataError: no such folder, no pictures, or an LR picture is missing; and, when a picture is asked for, that
            it is damaged or too small, or that HR and LR do not match.
    """
    folder = expanded(folder)
    name = folder.resolve().parent.name if folder.name == "HR" else folder.resolve().name
    return Benchmark(name, scale, tuple(paired_rows(folder, scale=scale)))


def network_upscaler(network: SESR, device: torch.device) -> Upscaler:
    """The network as a function of one picture's luma: collapsed, in float32, on `device`."""
    network = network.to(device)

    def run(luma01: NDArray[np.float32]) -> NDArray[np.float32]:
        picture = torch.from_numpy(np.ascontiguousarray(luma01, np.float32)).to(device)
        output: NDArray[np.float32] = collapsed_forward(network, picture[None, None])[0, 0].cpu().numpy()
        return output

    return run


@torch.no_grad()
def collapsed_forward(network: SESR, x: Tensor) -> Tensor:
    """Luma (N, 1, h, w) to (N, 1, scale·h, scale·w) through the collapsed network, in full float32."""
    with torch.autocast(x.device.type, enabled=False), _exact_convolutions(x.device):
        return F.pixel_shuffle(run_collapsed(network.collapse(), x.float()), network.scale)


def bicubic_levels(sample: Sample, scale: int) -> Levels:
    """Luma in [0, 255] of the LR picture upscaled by MATLAB's bicubic and rounded to 8 bits, (scale·h, scale·w)."""
    return luma(upscale(sample.lr, scale))


def score_sample(sample: Sample, scored: Scored, *, scale: int) -> PictureScore:
    """PSNR and SSIM of one picture upscaled `scale` times; inf dB from PERFECT_DB on."""
    if scored == "bicubic":
        levels = bicubic_levels(sample, scale)
    elif isinstance(scored, OfPicture):
        made = scored.upscale(sample.lr)
        is_grey = sample.hr.ndim == 2  # then it is its own luma
        levels = np.floor(made.mean(axis=2) + 0.5) if is_grey else luma(made)
    else:
        levels = to_levels(scored((luma(sample.lr) / 255).astype(np.float32)))
    truth, levels = shave(luma(sample.hr), scale), shave(levels, scale)
    decibels = psnr(levels, truth)
    return PictureScore(sample.name, math.inf if decibels >= PERFECT_DB else decibels, ssim(levels, truth))


def score_set(
    name: str,
    samples: Sequence[Sample],
    scored: Scored,
    *,
    scale: int,
    lr_origin: LrOrigin = "bicubic",
    progress: Progress | None = None,
) -> SetScore:
    """Scores of a set and of each picture in it; what is restored exactly would make any mean infinite.

    Args:
        lr_origin: where the samples' LR is from.
        progress: called after each picture with how many are done, how many there are, and the set's name.
    """
    pictures = []
    for sample in samples:
        pictures.append(score_sample(sample, scored, scale=scale))
        if progress is not None:
            progress(len(pictures), len(samples), name)
    left_out = tuple(picture.name for picture in pictures if picture.psnr == math.inf)
    if left_out:
        _log.warning("%s: left out of the mean, since restored exactly: %s", name, ", ".join(left_out))
    counted = [picture for picture in pictures if picture.psnr != math.inf] or pictures
    means = np.mean([(picture.psnr, picture.ssim) for picture in counted], axis=0)
    return SetScore(name, float(means[0]), float(means[1]), tuple(pictures), lr_origin, left_out)


class Validator:
    """Scores networks on one validation set; called with a network, gives its `Score`.

    Pictures that bicubic alone restores exactly (flat ones) are left out, with a warning: no network can gain there,
    and their infinite PSNR would decide everything.
    """

    def __init__(
        self, valid: Sequence[Sample], scale: int, device: torch.device, *, forward: Forward | None = None
    ) -> None:
        """Raises DataError where no picture is left to score on."""
        self.scale, self.device = scale, device
        self.forward = forward or collapsed_forward
        # Apple's GPUs have no float64, which SSIM needs: scores are then computed on the CPU.
        measuring = device if device.type == "cuda" else torch.device("cpu")
        truths = [Truth(luma(sample.hr), measuring, border=scale) for sample in valid]
        bicubic = [torch.from_numpy(bicubic_levels(sample, scale)).to(measuring) for sample in valid]
        scores = torch.stack([truth.score(levels) for truth, levels in zip(truths, bicubic, strict=True)])
        kept = (scores[:, 0] < PERFECT_DB).nonzero()[:, 0].tolist()
        self._say_left_out([sample.name for index, sample in enumerate(valid) if index not in kept], len(kept))
        self.valid, self._truths = [valid[index] for index in kept], [truths[index] for index in kept]
        self._inputs = [_input(sample, device) for sample in self.valid]
        self.bicubic = _mean(scores[kept])
        """What bicubic upscaling scores on the same pictures."""

    def __call__(self, network: SESR) -> Score:
        """Mean PSNR and SSIM of the network's 8-bit luma; NaN from a network that gives NaN, and never infinite."""
        levels = (self._levels(network, index) for index in range(len(self.valid)))
        return _mean(torch.stack([truth.score(found) for truth, found in zip(self._truths, levels, strict=True)]))

    def strip(self, network: SESR, index: int = 0) -> tuple[Levels, Levels, Levels]:
        """One validation picture by bicubic, by the network, and as it should be: luma in [0, 255], (H, W)."""
        sample = self.valid[index]
        levels = self._levels(network, index).cpu().numpy()
        return bicubic_levels(sample, self.scale), levels, luma(sample.hr)

    def _levels(self, network: SESR, index: int) -> Tensor:
        """The network's output as whole levels, (H, W) float64."""
        output = self.forward(network, self._inputs[index])[0, 0].to(self._truths[index].device)
        return torch.floor(output.double().clamp(0, 1) * 255 + 0.5)

    @staticmethod
    def _say_left_out(names: Sequence[str], left: int) -> None:
        listed = ", ".join(names)
        if not left:
            found = "bicubic alone restores these validation pictures exactly, so that nothing can be gained on them"
            raise DataError(f"{listed}: {found}; score on pictures with detail")
        if names:
            _log.warning("left out of the validation score, since bicubic alone restores them exactly: %s", listed)


def _mean(scores: Tensor) -> Score:
    """The mean of (N, 2) scores; a picture that is restored exactly counts as PERFECT_DB, NaN as NaN."""
    psnr, ssim = torch.stack([scores[:, 0].clamp(max=PERFECT_DB), scores[:, 1]]).mean(1).tolist()
    return Score(psnr=psnr, ssim=ssim)  # the only wait for the device


def _input(sample: Sample, device: torch.device) -> Tensor:
    """The LR luma that a network is given, (1, 1, h, w) float32 in [0, 1]."""
    return torch.from_numpy(luma(sample.lr) / 255).float().to(device)[None, None]


def _exact_convolutions(device: torch.device) -> Any:
    """Convolutions without TF32, which keeps 10 of float32's 23 bits and is cuDNN's default."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if device.type == "cuda" else nullcontext()


def _row(location: Location) -> Row:
    """A picture's files in the form that `datasets` gives them."""
    files = {"hr": location.hr, "lr": location.lr}
    return {"name": location.name} | {key: file and {"bytes": None, "path": file} for key, file in files.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
