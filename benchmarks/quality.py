"""Time to quality: PSNR on a folder against wall time, training from scratch, compiling included.

    python benchmarks/quality.py TRAIN_FOLDER SCORE_FOLDER [--seconds 120 | --steps 50000] [--seeds 0 1 2 3 4]
        [--recipes fast paper] [--preset m5] [--scale 2] [--target 36.85] [--threads 2]

With a budget in steps, time spent scoring is taken off; within one in seconds it counts. Prints each run's curve,
the median and worst end over the seeds, and the seconds until `--target` is first seen, with the recipes' ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from common import PairScore, machine, network, pairs_of, table

from sesr_lab.data.patches import PatchPool
from sesr_lab.scores.metrics import Score
from sesr_lab.training.recipe import recipe
from sesr_lab.training.trainer import Budget, Evaluation, Restart, fit

Curve = list[tuple[float, float]]
"""Seconds trained and PSNR."""


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{machine()}; {options.preset} x{options.scale}, {options.seconds or ''} s, {options.steps or ''} steps")
    scorer = PairScore(pairs_of(options.score, options.scale), options.scale)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pool = PatchPool(pairs_of(options.train, options.scale), scale=options.scale, device=device)
    rows, reached = [], {}
    for name in options.recipes:
        curves = [_curve(name, seed, pool, scorer, options) for seed in options.seeds]
        ends = [curve[-1][1] for curve in curves]
        reached[name] = [_seconds_to(options.target, curve) for curve in curves]
        middle = statistics.median(reached[name])
        rows.append((name, f"{statistics.median(ends):.3f}", f"{min(ends):.3f}", f"{middle:.1f}"))
    table(("recipe", "median dB", "worst dB", f"s to {options.target} dB"), rows)
    if {"paper", "fast"} <= reached.keys():
        ratio = statistics.median(reached["paper"]) / statistics.median(reached["fast"])
        print(f"paper / fast to {options.target} dB: {ratio:.1f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("score", type=Path)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--recipes", nargs="+", default=["fast"], choices=["fast", "paper"])
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--preset", default="m5")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--target", type=float, default=36.85)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--learning-rate", type=float)
    return parser.parse_args()


def _curve(name: str, seed: int, pool: PatchPool, scorer: PairScore, options: argparse.Namespace) -> Curve:
    """One run's curve, printed as it goes."""
    scoring = 0.0

    def evaluate(weights: dict[str, torch.Tensor]) -> Score:
        nonlocal scoring
        start = time.perf_counter()
        score = scorer(weights)
        scoring += time.perf_counter() - start
        return score

    settings = recipe(name, options.scale, learning_rate=options.learning_rate)  # type: ignore[arg-type]
    run = network(options.preset, scale=options.scale, seed=seed).to(pool.rows.device)
    budget = Budget(steps=options.steps, max_seconds=options.seconds)
    curve: Curve = []
    for event in fit(
        run,
        pool,
        settings,
        budget,
        evaluate=evaluate,
        seed=seed,
        evaluations=options.evaluations,
        engine=options.engine,
    ):
        if isinstance(event, Evaluation):
            curve.append((event.seconds - scoring if options.seconds is None else event.seconds, event.score.psnr))
            last = event.step
        if isinstance(event, Restart):
            print(f"  {name} seed {seed} started over: {event.reason}")
    print(f"  {name} seed {seed}, {last} steps: " + " ".join(f"{psnr:.2f}@{s:.0f}s" for s, psnr in curve), flush=True)
    return curve


def _seconds_to(target: float, curve: Curve) -> float:
    return next((seconds for seconds, psnr in curve if psnr >= target), float("inf"))


if __name__ == "__main__":
    main()
