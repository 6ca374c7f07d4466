"""Trials in turns do what each does alone: small trainings on the CPU, and scripted ones for the order of turns."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from labs import TINY, photographs

from sesr_lab.study.config import TrialConfig
from sesr_lab.training.trainer import Checkpoint, Evaluation, Launched, Progress
from sesr_lab.trials import trial
from sesr_lab.trials.together import Events, Turns

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Generator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def configs(folder: Path) -> list[TrialConfig]:
    """Three networks that differ in shape, seed, block and length."""
    given = {**TINY, "data": photographs(folder), "patch": 32, "batch_size": 4}
    return [
        TrialConfig.model_validate({**given, **own})
        for own in (
            {"steps": 60, "seed": 0},
            {"steps": 120, "seed": 1, "m": 2, "f": 5},
            {"steps": 40, "seed": 2, "block": "expanded"},
        )
    ]


def facts(events: list[trial.Event]) -> list[Any]:
    """What does not depend on the clock: scores, states and ends, to the last bit."""
    told: list[Any] = []
    clock = ("position", "best", "last")
    for event in events:
        if isinstance(event, Evaluation):
            told.append(
                (event.step, event.learning_rate, event.score, {k: v.tolist() for k, v in event.weights.items()})
            )
        elif isinstance(event, Checkpoint):
            told.append((event.step, {k: v.tolist() for k, v in event.state.items() if k not in clock}))
        elif isinstance(event, trial.Finished):
            told.append((event.status, event.step, event.best and event.best.score))
        elif isinstance(event, trial.Started):
            told.append(event)
    return told


def run_together(made: dict[str, Events]) -> dict[str, list[trial.Event]]:
    turns, told = Turns(CPU), {key: list[trial.Event]() for key in made}
    for key, events in made.items():
        turns.add(key, events)
    while (advanced := turns.advance()) is not None:
        key, event = advanced
        assert not isinstance(event, Exception)
        told[key].append(event)
        if isinstance(event, trial.Finished):
            turns.remove(key)
    assert not len(turns)
    return told


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "simple"])
def test_trials_in_turns_do_to_the_bit_what_each_does_alone(tmp_path: Path, engine: str) -> None:
    where = trial.place("cpu", engine)
    wanted = configs(tmp_path / "pictures")
    alone = [list(trial.run(config, where)) for config in wanted]
    together = run_together({str(i): trial.run_in_turns(config, where) for i, config in enumerate(wanted)})
    for index, expected in enumerate(alone):
        assert facts(together[str(index)]) == facts(expected)
        assert len(facts(expected)) > 5


def scripted(name: str, script: str, told: list[str]) -> Events:
    """A trial by letters: L hands over steps, p tells of progress, ! dies."""
    try:
        for letter in script:
            told.append(f"{name}{letter}")
            if letter == "!":
                raise torch.OutOfMemoryError("no room")
            yield Launched() if letter == "L" else Progress(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    finally:
        told.append(f"{name} closed")


def test_a_turn_is_from_the_wait_to_the_next_launch() -> None:
    told: list[str] = []
    turns = Turns(CPU)
    for name in "abc":
        turns.add(name, scripted(name, "LpLppLp", told))
    for _ in range(6):
        turns.advance()
    # Each has handed over its steps before the first is waited for; and again before it lets the next one wait.
    assert told == ["aL", "bL", "cL", "ap", "aL", "bp", "bL", "cp", "cL", "ap", "ap", "aL", "bp"]


def test_a_trial_that_dies_is_told_and_the_others_go_on() -> None:
    told: list[str] = []
    turns = Turns(CPU)
    turns.add("a", scripted("a", "LpLp", told))
    turns.add("b", scripted("b", "L!", told))
    events = [turns.advance() for _ in range(3)]
    assert [event and event[0] for event in events] == ["a", "b", "a"]
    assert isinstance(events[1] and events[1][1], torch.OutOfMemoryError)
    assert len(turns) == 1
    end = turns.advance()
    assert end is not None
    assert str(end[1]) == "a trial ended without saying how"  # and is not waited for in vain
    assert turns.advance() is None


def test_a_removed_trial_is_closed_and_never_heard_of_again() -> None:
    told: list[str] = []
    turns = Turns(CPU)
    for name in "ab":
        turns.add(name, scripted(name, "LpLpLp", told))
    turns.advance()
    turns.remove("a")
    turns.remove("x")
    assert told[-1] == "a closed"
    assert [turns.advance() for _ in range(2)] == [("b", Progress(0, 0.0, 0.0, 0.0, 0.0, 0.0))] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_trials_in_turns_on_a_gpu_score_as_each_does_alone(tmp_path: Path) -> None:
    where = trial.place("cuda")
    wanted = configs(tmp_path / "pictures")
    alone = [list(trial.run(config, where))[-1] for config in wanted]
    turns = Turns(where.device)
    for index, config in enumerate(wanted):
        turns.add(str(index), trial.run_in_turns(config, where))
    ends: dict[str, trial.Finished] = {}
    while (advanced := turns.advance()) is not None:
        key, event = advanced
        assert not isinstance(event, Exception)
        if isinstance(event, trial.Finished):
            ends[key] = event
            turns.remove(key)
    for index, expected in enumerate(alone):
        found = ends[str(index)]
        assert isinstance(expected, trial.Finished)
        assert found.step == expected.step
        assert found.best is not None
        assert expected.best is not None
        # Sums are taken in any order there, and a few steps let that grow.
        assert found.best.score.psnr == pytest.approx(expected.best.score.psnr, abs=0.1)
