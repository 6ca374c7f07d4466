"""Many processes that are the first on a new store, and clocks that are set back: no run is lost or misplaced."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from checker import curves, faults_in, table
from forks import KILLED, Forks
from labs import lab

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def runs(folder: Path, experiment: str) -> list[tuple[str, str]]:
    """Name and state of each run of an experiment."""
    asked = "select r.name, r.status from runs r join experiments e using (experiment_id) where e.name = ? order by 1"
    with closing(sqlite3.connect(folder / "mlflow.db")) as mlflow:
        return mlflow.execute(asked, [experiment]).fetchall()


def misplaced(folder: Path) -> list[str]:
    """Runs of trials that are not below their study's run."""
    below = "select value from tags where run_uuid = r.run_uuid and key = 'mlflow.parentRunId'"
    asked = (
        "select r.name from runs r where r.name like 't0%' and not exists (select 1 from runs p where"
        f" p.run_uuid = ({below}) and p.experiment_id = r.experiment_id and p.name not like 't0%')"
    )
    with closing(sqlite3.connect(folder / "mlflow.db")) as mlflow:
        return [name for (name,) in mlflow.execute(asked)]


def test_two_sweeps_at_once_on_an_empty_store_lose_nothing(forks: Forks, data: str, tmp_path: Path) -> None:
    new = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert forks.run(tmp_path, data=data, copies=2, uri=new) == 0, forks.said
    for number in range(2):
        prefix = f"sesr{number}"
        assert faults_in(tmp_path, networks=3, study=f"tiny{number}", prefix=prefix) == []
        assert [len(curve) for curve in curves(tmp_path / "mlflow.db", study=f"tiny{number}").values()] == [10] * 3
    assert misplaced(tmp_path) == []


@pytest.mark.long
def test_eight_processes_that_are_first_on_a_new_store_lose_nothing(forks: Forks, data: str, tmp_path: Path) -> None:
    new, one = f"sqlite:///{tmp_path / 'mlflow.db'}", {"trials": 1}
    assert forks.run(tmp_path, data=data, copies=8, trains=[1, 3, 5, 7], study=one, uri=new) == 0, forks.said
    for number in (0, 2, 4, 6):
        assert faults_in(tmp_path, networks=1, study=f"tiny{number}", prefix=f"sesr{number}") == []
    assert runs(tmp_path, "train") == [("m1-f4-p8-x2", "FINISHED")] * 4
    assert misplaced(tmp_path) == []


def test_a_clock_that_is_set_back_loses_and_misplaces_no_run(forks: Forks, data: str, tmp_path: Path) -> None:
    calm, moved = tmp_path / "calm", tmp_path / "moved"
    for folder in (calm, moved):
        folder.mkdir()
        lab(folder)
    assert forks.run(calm, data=data) == 0
    assert forks.run(moved, data=data, clock_set_back_at=5, fault="score heard:14") == KILLED
    assert forks.run(moved, data=data, clock_s=-7200.0, clock_set_back_at=8) == 0
    assert faults_in(moved, networks=3) == []
    assert misplaced(moved) == []
    assert table(moved) == table(calm)
    of_calm, of_moved = (curves(folder / "mlflow.db") for folder in (calm, moved))
    assert of_moved == of_calm
