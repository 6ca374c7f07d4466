"""That draws are what Optuna's own samplers would ask for, study for study and seed for seed."""

from __future__ import annotations

import random
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep import sampling

SPACE = {
    "m": [1, 2, 3, 4, 5],
    "f": [2, 4, 8, 16],
    "feature_size": [8],
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("given", [{}, {"m": 3}])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("objective", ["psnr", "pareto"])
def test_a_draw_is_what_optuna_asks_for_of_the_trials_that_were_shown(
    objective: str, sampler: str, given: dict[str, int]
) -> None:
    train = {"steps": 100, "data": "photos"}
    values = {"name": "x", "trials": 40, "objective": objective, "sampler": sampler, "space": SPACE, "train": train}
    spec = StudySpec.model_validate(values)
    draws = sampling.Draws(spec, sampling.sampler_of(spec))
    plain = optuna.create_study(directions=sampling.directions(spec))
    for number, trial in enumerate(trials(objective, draws.distributions)):
        for attempt in (0, 1):
            assert draws.draw(number, attempt, given) == asked(plain, spec, number, attempt, given)
        draws.show(number, trial)
        plain.add_trial(trial)


def trials(objective: str, distributions: dict[str, Any]) -> list[optuna.trial.FrozenTrial]:
    """Ended ones and running ones, with scores that tell good networks from others."""
    chance = random.Random(1)
    made = []
    for number in range(24):
        params = {"m": chance.choice(SPACE["m"]), "f": chance.choice(SPACE["f"]), "feature_size": 8}
        params["learning_rate"] = chance.uniform(1e-4, 1e-2)
        scores = [params["m"] + params["f"] / 10, params["m"] * params["f"]][: 1 if objective == "psnr" else 2]
        ended = {"state": TrialState.COMPLETE, "values": scores} if number % 7 else {"state": TrialState.RUNNING}
        made.append(create_trial(params=params, distributions=distributions, **ended))
    return made


def asked(study: optuna.Study, spec: StudySpec, number: int, attempt: int, given: dict[str, int]) -> dict[str, Any]:
    """What a sampler of that seed answers to `Study.ask`."""
    pinned = sampling.sampler_of(spec)
    sampler = sampling.KINDS[pinned["class"]](seed=sampling._seed(spec.seed, number, attempt), **pinned["arguments"])
    study.sampler = optuna.samplers.PartialFixedSampler(given, sampler) if given else sampler
    trial = study.ask(sampling.distributions(spec))
    study.tell(trial, state=TrialState.FAIL)  # samplers pass over what failed
    return dict(trial.params)
