"""What tests of sweeps share: pictures, drivers that can be killed, a PostgreSQL, clusters of Ray on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import postgres
import pytest
from forks import Forks
from labs import photographs

from sesr_lab.sweep.cluster import _QUIET


@pytest.fixture(scope="module")
def clusters() -> Iterator[Callable[[], Any]]:
    """Starts a cluster: a head that has no room for trials, to which nodes are added."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _QUIET.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        made = []

        def start() -> Any:
            made.append(Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}))
            return made[-1]

        yield start
        for cluster in made:
            cluster.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return photographs(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """Drivers in processes of their own."""
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def drivers() -> Iterator[tuple[Forks, Forks]]:
    """Two that begin at once, or each on a machine of its own."""
    both = Forks(), Forks()
    yield both
    for each in both:
        each.close()


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL."""
    server = postgres.Server()
    yield server
    server.remove()
