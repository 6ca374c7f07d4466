"""A fixed study by this process, by one worker and by two: how much faster, and how long a slot idles between trials.

Whole commands, in turns, each in a folder of its own; the medians of some rounds. What counts is the time from the
first trial's start to the last one's end, as MLflow has it; a slot idles from a trial's end to the next one's, less
what that one took to train and to be scored. Needs a machine that does nothing else.

    python benchmarks/wide.py [--rounds 3] [--trials 8] [--steps 400] [--m 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import machine, table
from mlflow import MlflowClient

from sesr_lab.sweep.ledger import standing

WAYS = {"this process": (1, []), "one worker": (1, ["--workers", "1"]), "two workers": (2, ["--workers", "2"])}
STUDY = """
trials = {trials}
objective = "psnr"
enqueue = [{seeds}]
[train]
scale = 2
data = "photos"
recipe = "fast"
steps = {steps}
m = {m}
f = 16
feature_size = 256
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--m", type=int, default=5)
    parser.add_argument("--only", choices=WAYS, nargs="+", default=list(WAYS))
    options = parser.parse_args()
    seeds = ", ".join(f"{{ seed = {seed} }}" for seed in range(options.trials))
    study = STUDY.format(trials=options.trials, steps=options.steps, m=options.m, seeds=seeds)
    print(f"{machine()} a slot; {options.trials} times m{options.m} x2, {options.steps} steps, {options.rounds} rounds")
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in options.only}
    for _ in range(options.rounds):
        for way in options.only:
            slots, arguments = WAYS[way]
            found[way].append(once(study, slots, arguments))
            print(way, *(f"{value:.2f}" for value in found[way][-1]), flush=True)
    spans = {way: statistics.median(span for span, _ in rounds) for way, rounds in found.items()}
    gaps = {way: statistics.median(gap for _, gap in rounds) for way, rounds in found.items()}
    rows = [(way, f"{spans['one worker'] / spans[way]:.2f}", f"{1000 * gaps[way]:.0f}") for way in options.only]
    table(("trained by", "pace, one worker = 1", "idle between two trials, ms"), rows)


def once(study: str, slots: int, arguments: list[str]) -> tuple[float, float]:
    """Seconds from the first trial's start to the last one's end, and those that a slot idled for each trial."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "seeds.toml").write_text(study)
        command = [sys.executable, "-m", "sesr_lab", "sweep", "seeds.toml", "--json", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        experiments = [each.experiment_id for each in client.search_experiments()]
        runs = client.search_runs(experiments, "tags.`sesr.kind` = 'trial'")
        outcomes = standing(f"sqlite:///{folder / 'optuna.db'}")[0].outcomes
    trained = {each.label: each.seconds for each in outcomes}
    runs = sorted(runs, key=lambda run: run.info.start_time)
    freed = sorted(run.info.end_time for run in runs)
    later = zip(runs[slots:], freed, strict=False)  # each in the slot that was free first
    gaps = [(run.info.end_time - since) / 1000 - trained[run.info.run_name] for run, since in later]
    return (max(run.info.end_time for run in runs) - runs[0].info.start_time) / 1000, statistics.median(gaps)


if __name__ == "__main__":
    main()
