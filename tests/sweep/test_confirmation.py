"""A study's best networks trained again: means decide, and what cannot be told apart is called a tie."""

import json
from pathlib import Path

import pytest
from labs import lab, storage, study
from scripted import Scripted

from sesr_lab.study.config import TrialConfig
from sesr_lab.sweep.confirmation import Confirmed, confirmed
from sesr_lab.sweep.driver import sweep
from sesr_lab.trials.outcome import Outcome

SPACE = {"m": [1, 2, 3], "f": [4], "feature_size": [8]}


def lucky(config: TrialConfig, part: float) -> float:
    """m = 2 is lucky in the search; over seeds m = 3 is better, and m = 1 far behind."""
    luck = 0.5 if (config.m, config.seed) == (2, 0) else 0.0
    return 29.0 + 0.3 * config.m + luck + 0.1 * part - 0.01 * (config.seed % 3)


@pytest.mark.slow
def test_the_best_mean_of_several_seeds_is_the_champion(tmp_path: Path, data: str) -> None:
    spec = study(data, trials=3, space=SPACE, objective="psnr", confirm={"top": 2, "seeds": 3, "steps": 40})
    executor = Scripted(lucky)
    here, _ = lab(tmp_path)
    result = sweep(spec, here, storage(tmp_path), start=executor.start)
    assert result.best is not None
    assert result.best.settings["m"] == 2, "by the search's one seed"
    assert [each.network for each in result.confirmed] == ["m3-f4-p8", "m2-f4-p8"]
    first, second = result.confirmed
    assert len(first.psnrs) == len(second.psnrs) == 3
    assert first.mean == pytest.approx(29.99)
    assert first.spread == pytest.approx(0.02)
    assert [(config.m, config.seed, config.steps) for config in executor.trained[3:]] == [
        *((2, seed, 40) for seed in range(3)),
        *((3, seed, 40) for seed in range(3)),
    ]
    assert here.tracker.flush() == 0
    run = here.tracker.run(result.run_id)
    assert run.tags["sesr.champion"] == first.model
    path = here.tracker.client.download_artifacts(run.run_id, "confirmed.json", str(tmp_path))
    assert json.loads(Path(path).read_text())[0]["network"] == "m3-f4-p8"
    again = sweep(spec, here, storage(tmp_path), start=executor.start)
    assert again.confirmed == result.confirmed
    assert len(executor.trained) == 9, "nothing is trained twice"


def test_one_lucky_seed_is_no_mean() -> None:
    def trained(m: int, *scores: float) -> list[Outcome]:
        return [
            Outcome(f"t{m}{index}-m{m}", f"m{m}", 2, {"m": m}, "finished", "", "", 1, 1, psnr=score)
            for index, score in enumerate(scores)
        ]

    networks = [trained(1, 34.00, 34.01, 34.02), trained(2, 34.5), trained(3, 34.03, 34.04, 34.05)]
    found = confirmed(networks, {}, seeds=3)
    assert [(each.network, len(each.psnrs)) for each in found] == [("m3", 3), ("m1", 3), ("m2", 1)]


def test_means_nearer_than_the_spread_are_ties() -> None:
    from sesr_lab.sweep.confirmation import _with_ties

    every = [
        Confirmed("a", 1, (30.0, 30.1)),
        Confirmed("b", 1, (30.0, 30.02)),
        Confirmed("c", 1, (29.0, 29.01)),
    ]
    assert _with_ties(every[0], every).ties == ("b",)
    assert _with_ties(every[2], every).ties == ()
