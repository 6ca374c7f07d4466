"""Which networks a study gives up early, and that none of its final Pareto set is among them."""

from pathlib import Path

import pytest
from labs import lab, storage, study
from scripted import Scripted

from sesr_lab.errors import ConfigError
from sesr_lab.study.config import TrialConfig
from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep.driver import Sweep, sweep
from sesr_lab.sweep.pruning import Rung, beaten_by

OWN = Rung("own", 400, 30.00, 1000.0)


@pytest.mark.parametrize(
    ("other", "beats"),
    [
        (Rung("cheaper and better", 400, 30.05, 900.0), True),
        (Rung("as dear and better", 400, 30.05, 1000.0), True),
        (Rung("dearer and better", 400, 30.05, 1001.0), False),
        (Rung("better within the margin", 400, 30.04, 900.0), False),
        (Rung("worse", 400, 29.0, 900.0), False),
        (Rung("better, at another step", 800, 31.0, 900.0), False),
    ],
)
def test_a_network_is_beaten_by_one_that_costs_no_more_and_is_better_at_the_same_step(other: Rung, beats: bool) -> None:
    assert (beaten_by(OWN, [other], 0.04) is other) == beats


def test_the_best_of_those_that_beat_it_is_named() -> None:
    better = [Rung(str(psnr), 400, psnr, 1.0) for psnr in (30.1, 30.3, 30.2)]
    assert beaten_by(OWN, better, 0.04) is better[1]


# Whole studies, with scores from a formula


def curve(config: TrialConfig, part: float) -> float:
    """Every m has its best f; what is better early is better in the end."""
    fit = 0.3 * abs(config.f - 2 * config.m)
    return 28.0 + 0.5 * config.m**0.5 - fit + 1.5 * part**0.5 + 0.002 * (config.seed % 5)


def swept(tmp_path: Path, spec: StudySpec) -> tuple[Sweep, Scripted]:
    tmp_path.mkdir(exist_ok=True)
    executor = Scripted(curve)
    return sweep(spec, lab(tmp_path)[0], storage(tmp_path), start=executor.start), executor


@pytest.mark.slow
def test_pruning_saves_steps_and_loses_no_member_of_the_pareto_set(tmp_path: Path, data: str) -> None:
    space = {"m": [1, 2, 3, 4], "f": [2, 4, 6, 8], "feature_size": [8]}
    whole, all_steps = swept(tmp_path / "whole", study(data, trials=16, space=space))
    pruned, some_steps = swept(tmp_path / "pruned", study(data, trials=16, space=space, pruning={}))
    networks = [outcome.network for outcome in whole.outcomes if outcome.label in whole.pareto]
    assert networks == [outcome.network for outcome in pruned.outcomes if outcome.label in pruned.pareto]
    given_up = [outcome for outcome in pruned.outcomes if outcome.result == "pruned"]
    assert given_up
    assert some_steps.steps < 0.75 * all_steps.steps
    assert len(pruned.outcomes) == len(whole.outcomes) == 16
    for outcome in given_up:
        assert "no dearer, had" in outcome.reason
        assert outcome.steps == 4
        assert outcome.psnr is not None
        assert outcome.model is None
    assert pruned.counts["pruned"] == len(given_up)


@pytest.mark.slow
def test_published_networks_are_given_up_only_where_that_is_asked_for(tmp_path: Path, data: str) -> None:
    networks = [{"m": 4, "f": 8, "feature_size": 8}, {"m": 11, "f": 32, "feature_size": 64}]
    for presets, result in ((False, "finished"), (True, "pruned")):
        spec = study(data, trials=2, space={}, enqueue=networks, pruning={"presets": presets})
        outcomes = swept(tmp_path / str(presets), spec)[0].outcomes
        assert [outcome.result for outcome in outcomes] == ["finished", result]


@pytest.mark.slow
def test_others_are_compared_with_published_networks(tmp_path: Path, data: str) -> None:
    networks = [{"m": 11, "f": 16, "feature_size": 64}, {"m": 12, "f": 32, "feature_size": 8}]
    outcomes = swept(tmp_path, study(data, trials=2, space={}, enqueue=networks, pruning={}))[0].outcomes
    assert [outcome.result for outcome in outcomes] == ["finished", "pruned"]
    assert outcomes[0].label in outcomes[1].reason


@pytest.mark.slow
def test_a_study_of_one_objective_is_pruned_by_optuna(tmp_path: Path, data: str) -> None:
    spec = study(
        data,
        trials=8,
        space={"m": [4], "f": [1, 2, 4, 6, 8, 10, 12, 14], "feature_size": [8]},
        objective="psnr",
        pruning={"pruner": "median"},
    )
    outcomes = swept(tmp_path, spec)[0].outcomes
    given_up = [outcome for outcome in outcomes if outcome.result == "pruned"]
    assert given_up
    assert max(outcomes, key=lambda outcome: outcome.psnr or 0.0).result == "finished"
    assert "Optuna's pruner median" in given_up[0].reason


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": {"max_seconds": 5.0}}, "not max_seconds"),
        ({"pruning": {"pruner": "median"}}, 'is for objective = "psnr"'),
        ({"pruning": {"margin": 0.1}, "objective": "psnr"}, 'is for objective = "pareto"'),
        ({"pruning": {"rung": 1.0}}, "pruning.rung: found 1.0"),
    ],
)
def test_pruning_that_could_do_nothing_is_refused(data: str, changes: dict[str, object], says: str) -> None:
    from sesr_lab.study.config import checked

    values = {"name": "x", "trials": 1, "space": {"m": [1]}, "pruning": {}, **changes}
    with pytest.raises(ConfigError, match=says):
        checked(StudySpec, values, where="x.toml")
