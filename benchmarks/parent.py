"""What a x2 parent is worth to a x4 network, and how its output block should start.

    python benchmarks/parent.py --data folder:PHOTOS --benchmark SET5/HR --steps 1000

Trains one x2 parent for each seed, then x4 networks of equal steps and seeds from scratch and from the parent with
each way of starting the output block, and prints PSNR on the benchmark at a few steps, mean and spread over seeds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sesr_lab.data import dataset as sources
from sesr_lab.data.patches import PatchPool
from sesr_lab.network.model import SESR
from sesr_lab.scores.evaluate import Validator, benchmark
from sesr_lab.scores.metrics import Score
from sesr_lab.training.recipe import recipe
from sesr_lab.training.trainer import Budget, Evaluation, Fitted, fit
from sesr_lab.training.transfer import HEADS, start_from

SCRATCH = "scratch"
EVALUATIONS = 5
FIT_BATCHES = 16


def main() -> None:
    arguments = _arguments()
    shape = {"m": arguments.m, "f": arguments.f, "feature_size": arguments.feature_size}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pools = {s: PatchPool(sources.load(arguments.data, scale=s).train, scale=s, device=device) for s in (2, 4)}
    samples = {scale: list(benchmark(arguments.benchmark, scale)) for scale in (2, 4)}
    validators = {scale: Validator(samples[scale], scale, device) for scale in (2, 4)}
    curves: dict[str, list[list[float]]] = {name: [] for name in (SCRATCH, *HEADS)}
    for seed in range(arguments.seeds):
        parent = _network(shape, 2, seed, device)
        *_, last = _train(parent, pools[2], validators[2], seed, arguments.parent_steps or arguments.steps)
        print(f"seed {seed}: parent x2 {last.score.psnr:.2f} dB", flush=True)
        for name, runs in curves.items():
            child = _network(shape, 4, seed, device)
            if name != SCRATCH:
                start_from(child, last.weights, _batches(pools[4], seed), head=name)  # type: ignore[arg-type]
            start = validators[4](child).psnr
            scores = [each.score.psnr for each in _train(child, pools[4], validators[4], seed, arguments.steps)]
            runs.append([start, *scores])
            print(f"seed {seed}: {name:8} {' '.join(f'{score:.2f}' for score in runs[-1])}", flush=True)
    _print(curves, arguments.steps, validators[4].bicubic)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="photos")
    parser.add_argument("--benchmark", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--parent-steps", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--m", type=int, default=5)
    parser.add_argument("--f", type=int, default=16)
    parser.add_argument("--feature-size", type=int, default=256)
    return parser.parse_args()


def _network(shape: dict[str, int], scale: int, seed: int, device: torch.device) -> SESR:
    torch.manual_seed(seed)
    return SESR(**shape, scale=scale).to(device)


def _train(network: SESR, pool: PatchPool, validator: Validator, seed: int, steps: int) -> Iterator[Evaluation]:
    scorer = SESR(m=network.m, f=network.f, feature_size=network.feature_size, scale=network.scale)

    def evaluate(weights: dict[str, Tensor]) -> Score:
        scorer.load_state_dict(weights)
        return validator(scorer)

    how = recipe("fast", network.scale)
    for event in fit(network, pool, how, Budget(steps), evaluate=evaluate, seed=seed, evaluations=EVALUATIONS):
        if isinstance(event, Evaluation):
            yield event
        if isinstance(event, Fitted) and event.status != "finished":
            raise SystemExit(f"training ended as {event.status}: {event.reason}")


def _batches(pool: PatchPool, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    how = recipe("fast", 4)
    plan = pool.plan(seed + 1_000_000, 0, FIT_BATCHES, batch_size=how.batch_size, patch=how.patch)
    for at in plan.to(pool.rows.device):
        yield pool.cut(at, how.patch)


def _print(curves: dict[str, list[list[float]]], steps: int, bicubic: Score) -> None:
    at = [round(steps * i / EVALUATIONS) for i in range(EVALUATIONS + 1)]
    print(f"\nbicubic {bicubic.psnr:.2f} dB; mean over {len(curves[SCRATCH])} seeds (spread: largest - smallest)\n")
    print("| start | " + " | ".join(f"step {step}" for step in at) + " |")
    print("|---|" + "---|" * len(at))
    for name, runs in curves.items():
        print(f"| {name} | " + " | ".join(_cell([run[i] for run in runs]) for i in range(len(at))) + " |")


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ({max(values) - min(values):.2f})"


if __name__ == "__main__":
    main()
