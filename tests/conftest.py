"""What every test gets: a folder of its own as the current one, and no way to the user's stores or caches."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared pictures, which are the same for every test: preparing `photos` takes seconds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def torch_threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads PyTorch takes, until the test is over."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _out_of_reach(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_REGISTRY_URI",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT",
        "SESR_LAB_STORAGE",
        "SESR_LAB_DIV2K_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SESR_LAB_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SESR_LAB_CACHE", str(shared_cache))
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))  # where compiled kernels are kept
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
