"""What a network loses in int8: measured on pictures, with the file as its own runtime runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sesr_lab.data.pair import Sample
from sesr_lab.errors import ModelError
from sesr_lab.scores.evaluate import Upscaler, score_sample

LARGEST_LOSS_DB = 0.2
"""What an int8 file may lose against the float network on the same 8-bit input: about four times what is usual."""


@dataclass(frozen=True)
class Int8Loss:
    """Mean PSNR in dB over a set of pictures, on luma, border shaved."""

    float_psnr: float
    """The float network, given luma that is not rounded, as benchmarks do."""
    float_8bit_psnr: float
    """The float network, given luma rounded to 8 bits, which is all that an int8 file can be given."""
    int8_psnr: float
    pictures: int

    @property
    def loss_db(self) -> float:
        """Against the float network as benchmarks run it; rounding the input is a part of it."""
        return self.float_psnr - self.int8_psnr

    @property
    def loss_8bit_db(self) -> float:
        """Against the float network on the same input: what int8 arithmetic itself costs."""
        return self.float_8bit_psnr - self.int8_psnr


def measure_int8(floating: Upscaler, int8: Upscaler, samples: Sequence[Sample], *, scale: int) -> Int8Loss:
    """What the int8 network loses on `samples`: held-out pictures, or a benchmark."""

    def rounded(luma01: NDArray[np.float32]) -> NDArray[np.float32]:
        levels = np.floor(np.clip(luma01, 0, 1) * 255 + 0.5)
        return floating((levels / 255).astype(np.float32))

    def mean(upscaler: Upscaler) -> float:
        return float(np.mean([score_sample(sample, upscaler, scale=scale).psnr for sample in samples]))

    return Int8Loss(mean(floating), mean(rounded), mean(int8), len(samples))


def check_loss(loss: Int8Loss, *, name: str, largest_db: float = LARGEST_LOSS_DB) -> None:
    """Nothing, if the int8 network is good enough to be handed over.

    Raises:
        ModelError: it loses more than `largest_db` against the float network on the same 8-bit input.
    """
    if not loss.loss_8bit_db <= largest_db:  # so that a NaN is refused too
        raise ModelError(
            f"{name}: in int8 it loses {loss.loss_8bit_db:.2f} dB on {loss.pictures} pictures ({loss.int8_psnr:.2f} dB "
            f"where the float network has {loss.float_8bit_psnr:.2f} on the same 8-bit input); at most "
            f"{largest_db:.2f} is allowed; export it in float"
        )
