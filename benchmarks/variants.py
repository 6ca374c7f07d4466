"""What ReLUs and the lack of the input's residual cost in dB, and what they gain in milliseconds on NPUs.

    python benchmarks/variants.py TRAIN_FOLDER SCORE_FOLDER [--steps 5000] [--seeds 0 1 2] [--preset m5]

Every variant takes the same steps on the same patches; prints the mean over the seeds, largest less smallest in
brackets, and the time on each NPU by vela.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from common import PRESETS, PairScore, machine, pairs_of, table

from sesr_lab.data.patches import PatchPool
from sesr_lab.network.model import SESR
from sesr_lab.study.config import Architecture
from sesr_lab.targets.catalog import estimates
from sesr_lab.targets.estimate import NPUS, parse_size
from sesr_lab.training.recipe import recipe
from sesr_lab.training.trainer import Budget, Evaluation, fit

VARIANTS = {
    "PReLU, input's residual (the paper's)": {"activation": "prelu", "input_residual": True},
    "ReLU": {"activation": "relu", "input_residual": True},
    "PReLU, no input's residual": {"activation": "prelu", "input_residual": False},
    "ReLU, no input's residual": {"activation": "relu", "input_residual": False},
}


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{machine()}; {options.preset} x{options.scale}, {options.steps} steps, seeds {options.seeds}")
    scorer = PairScore(pairs_of(options.score, options.scale), options.scale)
    pool = PatchPool(pairs_of(options.train, options.scale), scale=options.scale, device=torch.device("cpu"))
    size = parse_size(options.input)
    m, f, feature_size = PRESETS[options.preset]
    rows = []
    for name, variant in VARIANTS.items():
        shape = Architecture(m=m, f=f, feature_size=feature_size, scale=options.scale, **variant)
        times = [estimates(npu, [shape], size)[0].milliseconds or 0.0 for npu in NPUS]
        ends = [_trained(shape, seed, pool, scorer, options) for seed in options.seeds]
        print(f"  {name}: " + " ".join(f"{end:.3f}" for end in ends), flush=True)
        spread = f"{statistics.mean(ends):.3f} ({max(ends) - min(ends):.3f})"
        rows.append((name, spread, *(f"{ms:.2f}" for ms in times)))
    table(("network", "dB", *(f"{npu}, ms" for npu in NPUS)), rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("score", type=Path)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="m5")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--input", default="640x360")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--engine", default="auto")
    return parser.parse_args()


def _trained(shape: Architecture, seed: int, pool: PatchPool, scorer: PairScore, options: argparse.Namespace) -> float:
    """PSNR in dB after the last step."""
    torch.manual_seed(seed)
    network = SESR(**shape.model_dump())
    settings, budget = recipe("fast", options.scale), Budget(steps=options.steps)
    events = fit(network, pool, settings, budget, evaluate=scorer, seed=seed, evaluations=1, engine=options.engine)
    return [event.score.psnr for event in events if isinstance(event, Evaluation)][-1]


if __name__ == "__main__":
    main()
