"""What giving networks up early saves, and what it loses: three studies, each with pruning and without, same seeds.

The sampler draws at random, so that both ask for the same networks; every network is really trained, both times. What
counts is steps, so the machine may do other things meanwhile. Goes on where it was stopped, in the same folder.

A network that is trained twice comes to the same scores at each step. So --replay does not train the second time: it
asks the rule of `pareto` studies about the curves of the first.

    python benchmarks/pruning.py FOLDER [--trials 24] [--steps 400] [--only x2-pareto] [--replay]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import machine, table
from mlflow import MlflowClient

from sesr_lab.study.files import built_in
from sesr_lab.study.spec import Pruning
from sesr_lab.sweep.ledger import standing
from sesr_lab.sweep.pruning import Rung, beaten_by
from sesr_lab.trials.outcome import Outcome, best_of, pareto

SMALL_X4 = {
    "objective": "pareto",
    "enqueue": ["m3", "m5"],
    "space": {"m": [1, 2, 3, 4, 5, 7], "f": [4, 6, 8, 10, 12, 16, 20], "feature_size": [32, 64, 128, 256]},
    "train": {"scale": 4, "recipe": "fast", "parent": "none"},
}
STUDIES = ("x2-pareto", "x2-budget", "x4-small")
PRUNED, WHOLE = "pruned", "whole"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--data", default="photos")
    parser.add_argument("--only", choices=STUDIES)
    parser.add_argument("--replay", action="store_true")
    options = parser.parse_args()
    print(f"{machine()}; {options.data}, {options.steps} steps, a random sampler")
    rows = []
    for name in [options.only] if options.only else STUDIES:
        settings = settings_of(name)
        settings |= {"trials": options.trials, "sampler": "random", "pruning": {}}
        settings["train"] |= {"steps": options.steps, "data": options.data}
        folders = {each: options.folder / name / each for each in (WHOLE, PRUNED)}
        for each, folder in folders.items():
            if each == PRUNED and options.replay:
                continue
            run(settings if each == PRUNED else {**settings, "pruning": None}, folder)
        whole = outcomes(folders[WHOLE])
        again = replayed(whole, folders[WHOLE], settings) if options.replay else outcomes(folders[PRUNED])
        rows.append(compared(name, whole, again))
    table(("study", "networks", "given up", "steps saved", "final set", "of it lost"), rows)


def settings_of(name: str) -> dict[str, Any]:
    """One of the studies that come with the package, or the small one above, as a file has it."""
    return tomllib.loads(built_in()[name].read_text()) if name in built_in() else json.loads(json.dumps(SMALL_X4))


def run(settings: dict[str, Any], folder: Path) -> None:
    """Runs the study to its end in a folder of its own, with the command that everybody uses."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(toml(settings))
    command = [sys.executable, "-m", "sesr_lab", "sweep", "study.toml", "--json"]
    with (folder / "sweep.json").open("w") as out, (folder / "sweep.log").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, env=environment, stdout=out, stderr=log, check=True)


def toml(settings: dict[str, Any]) -> str:
    """The settings as a study's file, its tables last."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if isinstance(value, int | str | list)]
    for key, value in settings.items():
        if isinstance(value, dict):
            plain += [f"[{key}]", *(f"{name} = {json.dumps(each)}" for name, each in value.items())]
    return "\n".join(plain) + "\n"


def outcomes(folder: Path) -> tuple[Outcome, ...]:
    """How the networks of a folder's study ended."""
    return standing(f"sqlite:///{folder / 'optuna.db'}")[0].outcomes


def replayed(whole: tuple[Outcome, ...], folder: Path, settings: dict[str, Any]) -> tuple[Outcome, ...]:
    """How the networks would have ended with pruning, by the curves that they have."""
    pruning = Pruning(**settings["pruning"])
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = {run.info.run_name: run.info.run_id for run in client.search_runs(experiments)}
    rungs: list[Rung] = []
    found = []
    for number, outcome in enumerate(whole):
        curve = client.get_metric_history(runs[outcome.label], "val/psnr")
        at = next(point for point in curve if point.step >= pruning.rung * outcome.steps)
        own = Rung(outcome.label, at.step, at.value, outcome.cost)
        is_spared = number < len(settings["enqueue"])
        if beaten_by(own, rungs, pruning.margin) is not None and not is_spared:
            outcome = replace(outcome, result="pruned", steps=at.step)  # noqa: PLW2901
        rungs.append(own)
        found.append(outcome)
    return tuple(found)


def compared(name: str, whole: tuple[Outcome, ...], pruned: tuple[Outcome, ...]) -> tuple[str, ...]:
    """A line of the table."""
    given_up = [each for each in pruned if each.result == "pruned"]
    saved = 1 - sum(each.steps for each in pruned) / sum(each.steps for each in whole)
    best = final(name, whole)
    lost = best - final(name, pruned)
    return name, str(len(whole)), str(len(given_up)), f"{saved:.0%}", str(len(best)), ", ".join(sorted(lost)) or "none"


def final(name: str, outcomes: tuple[Outcome, ...]) -> set[str]:
    """The networks that a study ends with: its Pareto set, or its best where it looks for one."""
    found = [best_of(outcomes)] if name == "x2-budget" else pareto(outcomes)
    return {outcome.label for outcome in found if outcome is not None}


if __name__ == "__main__":
    main()
