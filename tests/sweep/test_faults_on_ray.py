"""Drivers of workers on Ray that are killed at every named point, and at random: what the next start makes of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checker import faults_in, table
from forks import KILLED, Forks

from sesr_lab.faults import POINTS

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.faults]

THIRTY = {"trials": 30, "space": {"m": [1, 2, 3], "f": [2, 3, 4, 5, 6, 7, 8, 9, 10, 11], "feature_size": [8]}}


@pytest.fixture(scope="module")
def address(clusters: Callable[[], Any]) -> str:
    cluster = clusters()
    cluster.add_node(num_cpus=2)
    return str(cluster.address)


@pytest.mark.parametrize("point", POINTS)
def test_a_driver_killed_at_a_point_is_gone_on_with(
    forks: Forks, data: str, tmp_path: Path, address: str, point: str
) -> None:
    times = 2 if point not in ("study finished", "best handed over") else 1
    assert forks.run(tmp_path, data=data, address=address, fault=f"{point}:{times}") == KILLED
    assert forks.run(tmp_path, data=data, address=address) == 0
    assert faults_in(tmp_path, networks=3) == []
    assert list((tmp_path / "state" / "checkpoints").glob("*")) == []


def test_fifty_random_kills_give_the_scores_of_an_undisturbed_study(
    forks: Forks, data: str, tmp_path: Path, address: str
) -> None:
    case = {"data": data, "study": THIRTY, "address": address}
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    began = time.monotonic()
    assert forks.run(calm, **case) == 0
    whole_s, chance = time.monotonic() - began, random.Random(0)
    kills, status = 0, KILLED
    while kills < 50 and status == KILLED:
        status = forks.run(rough, **case, kill_after_s=whole_s * chance.uniform(0.1, 0.4))
        assert status in (0, KILLED)
        kills += status == KILLED
    assert kills >= 5, "the study was over before it had been disturbed"
    assert forks.run(rough, **case) == 0
    assert faults_in(rough, networks=30) == []
    assert scores(rough) == scores(calm)


def scores(folder: Path) -> list[tuple[str, float]]:
    """The networks and their scores; which is tried first is a matter of which worker is free."""
    return sorted((name.partition("-")[2], psnr) for name, psnr in table(folder))
