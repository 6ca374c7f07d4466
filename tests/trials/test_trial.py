"""Where a trial runs, and which evaluation it counts as its best."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from labs import TINY, photographs

from sesr_lab.scores.metrics import Score
from sesr_lab.study.config import TrialConfig
from sesr_lab.training import cores
from sesr_lab.training.trainer import Evaluation
from sesr_lab.trials import trial
from sesr_lab.trials.trial import _better


def evaluation(psnr: float) -> Evaluation:
    numbers = {
        "step": 1,
        "fraction": 0.5,
        "seconds": 1.0,
        "loss": 0.1,
        "learning_rate": 1e-3,
        "patches_per_second": 1.0,
    }
    return Evaluation(**numbers, score=Score(psnr, 0.9), weights={})  # type: ignore[arg-type]  # step is a whole number


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_a_score_that_is_not_finite_is_never_the_best(odd: float) -> None:
    good = evaluation(30)
    assert _better(evaluation(odd), None) is None
    assert _better(evaluation(odd), good) is good


def test_the_higher_of_two_scores_is_the_best_and_of_equals_the_first() -> None:
    low, high = evaluation(30), evaluation(31)
    assert _better(high, low) is _better(low, high) is high
    assert _better(evaluation(30), low) is low


# Pictures


def pictures(config: TrialConfig, **options: object) -> list[int]:
    events = trial.run(config, trial.place("cpu", "simple"), **options)  # type: ignore[arg-type]
    return [event.percent for event in events if isinstance(event, trial.Strip)]


@pytest.mark.slow
@pytest.mark.parametrize("budget", [{"steps": 7}, {"steps": 40}, {"max_seconds": 2.0}])
def test_runs_of_any_length_have_their_pictures_at_the_same_percents(tmp_path: Path, budget: dict[str, float]) -> None:
    config = TrialConfig(**TINY, data=photographs(tmp_path / "p"), patch=32, batch_size=2, **budget)  # type: ignore[arg-type]
    assert pictures(config) == [0, 25, 50, 75, 100]


def test_a_run_that_goes_on_has_the_rest_of_the_pictures(tmp_path: Path) -> None:
    config = TrialConfig(**TINY, data=photographs(tmp_path / "p"), patch=32, batch_size=2, steps=40)  # type: ignore[arg-type]
    seen: list[int] = []
    state = None
    events = trial.run(config, trial.place("cpu", "simple"), stop=lambda: 50 in seen)
    for event in events:
        if isinstance(event, trial.Strip):
            seen.append(event.percent)
        if isinstance(event, trial.Checkpoint):
            state = event.state
    assert sorted({*seen, *pictures(config, resume=state)}) == [0, 25, 50, 75, 100]


def test_a_trial_says_which_engine_and_device_really_run(tmp_path: Path) -> None:
    config = TrialConfig(**TINY, data=photographs(tmp_path / "p"), patch=32, batch_size=2, steps=2)  # type: ignore[arg-type]
    events = trial.run(config.model_copy(update={"block": "expanded"}), trial.place("cpu", "auto"))
    started = next(event for event in events if isinstance(event, trial.Started))
    assert started.engine == "simple", "what trains in the expanded space has one engine"
    assert started.device.startswith("cpu, ")


def test_training_keeps_to_its_cores(monkeypatch: pytest.MonkeyPatch, torch_threads: Callable[[int], None]) -> None:
    torch_threads(3)
    monkeypatch.setattr(cores, "allowed", lambda: 1)
    trial.place("cpu")
    assert torch.get_num_threads() == 1
