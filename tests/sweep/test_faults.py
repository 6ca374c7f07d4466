"""Studies that are killed at every named point, and at random: what the next start makes of them."""

import random
from pathlib import Path

import pytest
from checker import faults_in, table
from forks import KILLED, Forks

from sesr_lab.faults import POINTS

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, data: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, float]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert forks.run(folder, data=data) == 0
    assert faults_in(folder, networks=3) == []
    return table(folder)


@pytest.mark.parametrize("slots", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("point", POINTS)
def test_a_driver_killed_at_a_point_ends_as_if_it_had_not_been(
    forks: Forks, data: str, tmp_path: Path, undisturbed: list[tuple[str, float]], point: str, slots: int
) -> None:
    times = 2 if point not in ("study finished", "best handed over") else 1
    assert forks.run(tmp_path, data=data, fault=f"{point}:{times}", slots=slots) == KILLED
    assert forks.run(tmp_path, data=data, slots=slots) == 0
    assert faults_in(tmp_path, networks=3) == []
    if slots == 1:
        assert table(tmp_path) == undisturbed
    assert list((tmp_path / "state" / "checkpoints").glob("*")) == []


@pytest.mark.long
def test_fifty_random_kills_give_the_table_of_an_undisturbed_study(forks: Forks, data: str, tmp_path: Path) -> None:
    spec = {"trials": 30, "space": {"m": [1, 2, 3, 4, 5, 6], "f": [2, 4, 6, 8, 10], "feature_size": [8]}}
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    assert forks.run(calm, data=data, study=spec) == 0
    chance = random.Random(0)
    kills = 0
    while kills < 50:
        status = forks.run(rough, data=data, study=spec, pause_s=0.02, kill_after_s=0.2 + 1.6 * chance.random())
        kills += status == KILLED
        assert status in (0, KILLED)
        if status == 0:
            break
    assert kills >= 20, "the study was over before it had been disturbed"
    assert forks.run(rough, data=data, study=spec) == 0
    assert faults_in(rough, networks=30) == []
    assert table(rough) == table(calm)
