"""What driving a study costs: CPU milliseconds of this process for each trial, where trials do nothing.

Three studies that were dear once: many architectures, one architecture with many seeds, and a space of 4,096 points.
Everything but training is real: Optuna on SQLite, the journal, its delivery to MLflow on SQLite, the registry.

    python benchmarks/driver.py [--trials 300] [--only seeds] [--profile]
    python benchmarks/driver.py --resume 500     from the command to the next trial, in a study of so many
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from sesr_lab.network.model import SESR
from sesr_lab.scores.metrics import Score
from sesr_lab.study.config import TrialConfig
from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep.driver import sweep
from sesr_lab.sweep.executor import Happening, Job
from sesr_lab.tracking.runs import open_store
from sesr_lab.training.trainer import Evaluation
from sesr_lab.trials import trial
from sesr_lab.trials.lab import Lab
from sesr_lab.trials.locks import Locks

SPACES: dict[str, dict[str, object]] = {
    "architectures": {
        "m": list(range(1, 13)),
        "f": list(range(2, 14)),
        "feature_size": [8, 16, 24, 32, 40, 48, 56, 64],
    },
    "seeds": {"seed": list(range(2048)), "m": [2]},
    "4,096 points": {
        "m": list(range(1, 17)),
        "f": list(range(1, 17)),
        "feature_size": [8, 16, 32, 64],
        "seed": [0, 1, 2, 3],
    },
}
EVALUATIONS = 3


class Idle:
    """An executor whose trials are over at once."""

    is_here = True

    def __init__(self) -> None:
        self._events: Iterator[Happening] = iter(())
        self._busy = False

    def free(self) -> int:
        return 0 if self._busy else 1

    def submit(self, job: Job) -> str:
        self._busy, self._events = True, self._run(job)
        return ""

    def poll(self) -> Iterator[Happening]:
        yield from self._events

    def _run(self, job: Job) -> Iterator[Happening]:
        config = job.config
        yield job.key, trial.Started(trial.trial_costs(config), Score(28.0, 0.8), 100, 10, "cpu", "simple")
        best = None
        for index in range(1, EVALUATIONS + 1):
            best = evaluation(config, index)
            yield job.key, best
        self._busy = False
        yield job.key, trial.Finished("finished", "", 100, 1.0, best, best)

    def stop(self, key: str) -> None:
        """Nothing runs long enough."""

    def cancel(self, key: str) -> None:
        """Nothing runs long enough."""

    def close(self) -> None:
        """Nothing is open."""


def evaluation(config: TrialConfig, index: int) -> Evaluation:
    """A score that depends on the network and its seed, as scores do."""
    torch.manual_seed(config.seed)
    network = SESR(m=config.m, f=config.f, feature_size=config.feature_size, scale=config.scale, block=config.block)
    psnr = 28.5 + 0.1 * config.m + 0.05 * config.f + 0.001 * (config.seed * 7919 % 100) + 0.1 * index
    return Evaluation(
        step=33 * index,
        fraction=index / EVALUATIONS,
        seconds=float(index),
        loss=0.02,
        learning_rate=1e-3,
        patches_per_second=100.0,
        score=Score(psnr, 0.9),
        weights={name: value.detach().clone() for name, value in network.state_dict().items()},
    )


class Silent:
    """A view that shows nothing, whatever it is told."""

    def __getattr__(self, name: str) -> object:
        return lambda *arguments: None


def drive(space: dict[str, object], trials: int, folder: Path) -> float:
    """CPU seconds of a study's driver, the delivery of all that it has written included."""
    spec = StudySpec.model_validate(
        {"name": "noop", "trials": trials, "space": space, "train": {"steps": 100, "data": "photos"}}
    )
    url = f"sqlite:///{folder / 'optuna.db'}"
    tracker = open_store(f"sqlite:///{folder / 'mlflow.db'}", state=folder / "state")
    os.environ["SESR_LAB_STATE"] = str(folder / "state")
    lab = Lab(tracker, Locks(url), trial.place("cpu", "simple"), Silent())  # type: ignore[arg-type]  # of all it is
    trial.load_data("photos", 2)
    began = time.process_time()
    sweep(spec, lab, url, start=lambda lab: Idle())
    tracker.flush(patience_s=600)
    return time.process_time() - began


def resume(space: dict[str, object], trials: int, folder: Path, rounds: int = 3) -> float:
    """Seconds from the command that goes on with a study of so many trials to its next trial, a median."""
    drive(space, trials, folder)
    axes = "".join(f"{key} = {values}\n" for key, values in space.items())
    study = folder / "noop.toml"
    study.write_text(f'trials = {trials + 1}\n[space]\n{axes}[train]\nsteps = 100\ndata = "photos"\n')
    stores = ["--storage", f"sqlite:///{folder / 'optuna.db'}", "--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        command = [sys.executable, "-m", "sesr_lab", "sweep", str(study), *stores]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as sweeping:
            assert sweeping.stderr is not None
            if not any("started" in line for line in sweeping.stderr):
                raise RuntimeError("no trial was started")
            found.append(time.perf_counter() - began)
            sweeping.kill()
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[300])
    parser.add_argument("--only", choices=SPACES)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--resume", type=int, metavar="TRIALS")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.resume is not None:
        with tempfile.TemporaryDirectory() as folder:
            seconds = resume(SPACES[arguments.only or "architectures"], arguments.resume, Path(folder))
        print(f"{arguments.resume} trials: the next one starts {seconds:.1f} s after the command")
        return
    profile = cProfile.Profile()
    for name, space in SPACES.items():
        for trials in arguments.trials:
            if arguments.only not in (None, name):
                continue
            with tempfile.TemporaryDirectory() as folder:
                if arguments.profile:
                    profile.enable()
                seconds = drive(space, trials, Path(folder))
                profile.disable()
            print(f"{name}: {trials} trials, {1000 * seconds / trials:.0f} ms of CPU each", flush=True)
    if arguments.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


if __name__ == "__main__":
    main()
