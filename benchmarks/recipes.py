"""Ways to train compared at the same number of steps: PSNR over seeds, on pictures that nothing was chosen on.

    python benchmarks/recipes.py TRAIN_FOLDER [--benchmark FOLDER ...] [--steps 2000] [--seeds 0 1 2]
        [--ways fast paper soap fast+copies soap+copies adam] [--preset m5] [--feature-size 256] [--threads 1]

Ways: `fast` as it is; `paper` for as many steps as see the same number of pixels; `soap` and `adam` move the small
weights themselves (see small_weights.py) by the schedule of `fast`; `+copies` trains on copies of the pictures at 0.8
and 0.6 of their size too. Scored on the benchmarks, on TRAIN_FOLDER's own hold-out and on those of `photos`. Prints a
Markdown table: means over seeds, with the largest less the smallest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from common import PRESETS, PairScore, machine, pair_of, table
from small_weights import SLOPES_RATE, SmallWeights
from torch import Tensor

from sesr_lab.data.folder import Location, split_folder
from sesr_lab.data.image import bicubic, modcrop
from sesr_lab.data.patches import Pair, PatchPool
from sesr_lab.data.picture import list_pictures, read_picture
from sesr_lab.data.sources import photos
from sesr_lab.network.model import SESR
from sesr_lab.training.engine import make_engine
from sesr_lab.training.recipe import Recipe, recipe

SCALE, SMALLEST, CHUNK = 2, 64, 250
COPIES = (1.0, 0.8, 0.6)
SOAP_RATE, ADAM_RATE = 1e-2, 5e-3
"""Peak rates of small weights. Adam's is a fifth of what `fast` may move them by in a step: at that, it gets stuck."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    print(f"{machine()}; {options.preset} x{SCALE}, feature size {options.feature_size}", flush=True)
    train, held_out = split_folder(options.train, scale=SCALE)
    sets = {folder.name if folder.name != "HR" else folder.parent.name: _of(folder) for folder in options.benchmark}
    scores = {
        name: PairScore(_pairs(rows), SCALE)
        for name, rows in {**sets, "hold-out": held_out, "photos": photos().valid}.items()
    }
    pools: dict[bool, PatchPool] = {}
    rows = []
    for steps in options.steps:
        for way in options.ways:
            copies = way.endswith("+copies")
            if copies not in pools:
                pools[copies] = PatchPool(
                    _pairs(train, COPIES if copies else (1.0,)), scale=SCALE, device=torch.device("cpu")
                )
            count = steps * _pixels(recipe("fast", SCALE)) // _pixels(_recipe(way))
            found = [_run(way, count, seed, pools[copies], scores, options) for seed in options.seeds]
            seconds = statistics.mean(taken for taken, _ in found)
            values = [[each[name] for _, each in found] for name in scores]
            cells = [f"{statistics.mean(v):.3f} ({max(v) - min(v):.3f})" for v in values]
            rows.append((way, f"{count:,}", *cells, f"{seconds:.0f}"))
    table(("way", "steps", *scores, "CPU s"), rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--benchmark", type=Path, action="append", default=[])
    parser.add_argument("--steps", type=int, nargs="+", default=[2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=["fast", "soap", "fast+copies", "soap+copies"])
    parser.add_argument("--preset", default="m5")
    parser.add_argument("--feature-size", type=int, default=256)
    parser.add_argument("--rate", type=float, help="peak rate of small weights, in place of the ways' own")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _of(folder: Path) -> list[Location]:
    return [Location(path.name, str(path)) for path in list_pictures(folder)]


def _pairs(rows: Sequence[Location], sizes: Sequence[float] = (1.0,)) -> list[Pair]:
    """Pairs of each picture in each of these sizes that leaves room for a patch."""
    made = []
    for row in rows:
        picture = read_picture(Path(row.hr))
        for size in sizes:
            height, width = (round(size * length) for length in picture.shape[:2])
            if min(height, width) >= SMALLEST:
                copy = picture if size == 1 else bicubic(picture, height=height, width=width)
                made.append(pair_of(modcrop(copy, SCALE), SCALE))
    return made


def _run(
    way: str, steps: int, seed: int, pool: PatchPool, scores: dict[str, PairScore], options: argparse.Namespace
) -> tuple[float, dict[str, float]]:
    """CPU seconds of training, and PSNR on each set."""
    m, f, _ = PRESETS[options.preset]
    torch.manual_seed(seed)
    network = SESR(m=m, f=f, feature_size=options.feature_size, scale=SCALE)
    started = time.process_time()
    weights = _trained(way.removesuffix("+copies"), network, pool, steps, seed, options.rate)
    taken = time.process_time() - started
    found = {name: score(weights).psnr for name, score in scores.items()}
    told = " ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(f"  {way}, {steps} steps, seed {seed}: {told}; {taken:.0f} CPU s", flush=True)
    return taken, found


def _trained(way: str, network: SESR, pool: PatchPool, steps: int, seed: int, rate: float | None) -> dict[str, Tensor]:
    settings = _recipe(way)
    run: Callable[[Tensor, list[float]], object]
    if way in ("fast", "paper"):
        engine = make_engine("auto", network, pool, settings, steps)
        run, averaged, peak = engine.run, engine.averaged, settings.learning_rate
    else:
        small = SmallWeights(network, pool, settings, soap=way == "soap")
        peak = rate or (SOAP_RATE if way == "soap" else ADAM_RATE)
        averaged = small.averaged

        def run(plan: Tensor, rates: list[float]) -> None:
            small.run(plan, rates, [SLOPES_RATE * each / peak for each in rates])

    for first in range(0, steps, CHUNK):
        count = min(CHUNK, steps - first)
        plan = pool.plan(seed, first, count, batch_size=settings.batch_size, patch=settings.patch)
        rates = [settings.learning_rate_at((first + i) / steps) * peak / settings.learning_rate for i in range(count)]
        run(plan, rates)
    return averaged()


def _recipe(way: str) -> Recipe:
    return recipe("paper" if way == "paper" else "fast", SCALE)


def _pixels(settings: Recipe) -> int:
    """Low-resolution pixels of a step."""
    return settings.batch_size * settings.patch**2


if __name__ == "__main__":
    main()
