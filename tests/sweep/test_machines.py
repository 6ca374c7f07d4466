"""Drivers of one study on two machines: a PostgreSQL and an MLflow server for both, and a disk for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from checker import curves, faults_in, table
from forks import KILLED, Forks
from mlflow_store import Server
from postgres import states

pytestmark = [pytest.mark.slow, pytest.mark.faults]

EIGHT = {"trials": 8, "space": {"m": [1, 2, 3, 4], "f": [2, 4], "feature_size": [8]}}


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.mark.long
def test_two_machines_train_each_network_once(
    server: postgres.Server, mlflow_server: Server, drivers: tuple[Forks, Forks], data: str, tmp_path: Path
) -> None:
    case = {"data": data, "study": EIGHT | {"name": "both"}, "storage": server.database()}
    for number, machine in enumerate(drivers):
        machine.begin(tmp_path / str(number), **case, uri=mlflow_server.uri, prefix="both", pause_s=0.05)
    assert [machine.end() for machine in drivers] == [0, 0]
    store = mlflow_server.folder / "server.db"
    of = {"url": case["storage"], "store": store, "study": "both"}
    assert faults_in(tmp_path, networks=8, prefix="both", **of) == []
    assert [len(curve) for curve in curves(store, study="both").values()] == [10] * 8


def test_what_a_killed_machine_had_begun_is_the_others_and_it_changes_nothing_when_it_comes_back(
    server: postgres.Server, mlflow_server: Server, drivers: tuple[Forks, Forks], data: str, tmp_path: Path
) -> None:
    url, store = server.database(), mlflow_server.folder / "server.db"
    case = {"data": data, "study": EIGHT | {"name": "dead"}, "storage": url, "uri": mlflow_server.uri, "prefix": "dead"}
    of = {"url": url, "store": store, "study": "dead"}
    assert drivers[0].run(tmp_path / "0", **case, slots=2, fault="score heard:23") == KILLED
    assert states(url, "dead").count("RUNNING") == 2
    assert drivers[1].run(tmp_path / "1", **case) == 0
    assert faults_in(tmp_path, networks=8, prefix="dead", **of) == []
    before = table(tmp_path, store=store, study="dead")
    assert drivers[0].run(tmp_path / "0", **case) == 0
    assert faults_in(tmp_path, networks=8, prefix="dead", **of) == []
    assert table(tmp_path, store=store, study="dead") == before
    assert [len(curve) for curve in curves(store, study="dead").values()] == [10] * 8
