"""What the benchmarks share: pictures as training pairs, scores on a folder, timing, tables."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sesr_lab.data.image import downscale, luma, modcrop, shave, to_levels
from sesr_lab.data.patches import Pair
from sesr_lab.network.model import SESR, from_weights
from sesr_lab.scores.metrics import Score, psnr

PRESETS = {"m3": (3, 16, 256), "m5": (5, 16, 256), "m7": (7, 16, 256), "m11": (11, 16, 64), "xl": (11, 32, 64)}


def network(preset: str, *, scale: int = 2, seed: int = 0, block: str = "collapsed") -> SESR:
    m, f, feature_size = PRESETS[preset]
    torch.manual_seed(seed)
    return SESR(m=m, f=f, feature_size=feature_size, scale=scale, block=block)  # type: ignore[arg-type]


def pairs_of(folder: Path, scale: int) -> list[Pair]:
    """Each picture's luma in [0, 1], and that of its MATLAB bicubic reduction."""
    from sesr_lab.data.picture import list_pictures, read_picture  # with Pillow, which noise does not need

    return [pair_of(modcrop(read_picture(path), scale), scale) for path in list_pictures(folder)]


def pair_of(picture: np.ndarray, scale: int) -> Pair:
    lr, hr = luma(downscale(picture, scale)), luma(picture)
    return Pair((lr / 255).astype(np.float32), (hr / 255).astype(np.float32))


def random_pairs(count: int, side: int, scale: int) -> list[Pair]:
    """Pictures of noise: as good as any for timing."""
    rng = np.random.default_rng(0)
    pictures = (rng.integers(0, 256, (side * scale, side * scale, 3), dtype=np.uint8) for _ in range(count))
    return [pair_of(picture, scale) for picture in pictures]


class PairScore:
    """Mean PSNR of weights on pictures, scored as the papers do; SSIM is left out."""

    def __init__(self, pairs: Sequence[Pair], scale: int) -> None:
        self.pairs, self.scale = pairs, scale

    def __call__(self, weights: dict[str, Tensor]) -> Score:
        trained = from_weights(weights)
        with torch.inference_mode():
            values = [self._psnr(trained, pair) for pair in self.pairs]
        return Score(psnr=statistics.mean(values), ssim=float("nan"))

    def _psnr(self, trained: SESR, pair: Pair) -> float:
        output = trained(torch.from_numpy(pair.lr)[None, None])[0, 0].numpy()
        return psnr(shave(to_levels(output), self.scale), shave(pair.hr.astype(np.float64) * 255, self.scale))


def interleaved(
    sides: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds by `clock` of each side in each round; all take turns, so that a busy moment hits them alike."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = clock()
            run()
            taken[name].append(clock() - start)
    return taken


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a Markdown table."""
    widths = [max(len(row[i]) for row in (heading, *rows)) for i in range(len(heading))]
    for row in (heading, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def machine() -> str:
    """The processor or GPU, threads and torch, in one line."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
