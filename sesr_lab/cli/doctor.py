"""`sesr-lab doctor`: what this machine and this folder have, and what is wrong with them."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sesr_lab.errors import SesrError

PACKAGES = ("sesr-lab", "torch", "optuna", "mlflow", "datasets", "pillow", "safetensors", "scikit-image", "numpy")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `found` says what to do where it is not good."""

    what: str
    good: bool
    found: str


def examine(tracking_uri: str | None, storage: str) -> list[Finding]:
    """What was found, in the order of the data's way."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("device", _device),
        ("processor", _processor),
        ("fast engine", _engine),
        ("data: photos", _photos),
        ("data cache", _cache),
        ("MLflow store", lambda: _store(tracking_uri)),
        ("study database", lambda: _database(storage)),
    ]
    return [*_versions(), *(_checked(what, check) for what, check in checks)]


def _checked(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except SesrError as error:
        return Finding(what, False, str(error))


def _versions() -> Iterator[Finding]:
    yield Finding("Python", True, platform.python_version())
    for package in PACKAGES:
        try:
            yield Finding(package, True, version(package))
        except PackageNotFoundError:
            yield Finding(package, False, "not installed; run: pip install sesr-lab")


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return "cpu (no CUDA device)"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"cuda: {', '.join(names)}"


def _processor() -> str:
    import torch

    return f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"


def _engine() -> str:
    from sesr_lab.training.engine import describe_engines

    return describe_engines()


def _photos() -> str:
    from sesr_lab.data.dataset import load

    return load("photos", scale=2).description


def _cache() -> str:
    from sesr_lab.data.dataset import default_cache

    folder = default_cache()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    return f"{folder}, {free:.1f} GB free"


def _store(tracking_uri: str | None) -> str:
    from sesr_lab.registry.catalog import versions
    from sesr_lab.tracking.runs import open_store
    from sesr_lab.tracking.store import shown

    tracker = open_store(tracking_uri)
    return f"{shown(tracker.uri)}, {len(versions(tracker))} registered versions"


def _database(storage: str) -> str:
    from sesr_lab.sweep.ledger import standing
    from sesr_lab.tracking.store import shown

    return f"{shown(storage)}, {len(standing(storage))} studies"
