"""What tests of sweeps share: clusters of Ray on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
