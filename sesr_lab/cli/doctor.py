"""`sesr-lab doctor`: what this machine and this folder have, and what is wrong with them."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sesr_lab.errors import StoreError

PACKAGES = ("sesr-lab", "torch", "optuna", "mlflow", "datasets", "pillow", "safetensors", "scikit-image", "numpy")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `found` says what to do where it is not good."""

    what: str
    good: bool
    found: str


def examine(tracking_uri: str | None, storage: str | None) -> list[Finding]:
    """What was found, in the order of the data's way; what waited for MLflow's store has been sent."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("device", _device),
        ("processor", _processor),
        ("fast engine", _engine),
        ("data: photos", _photos),
        ("data cache", _cache),
        ("training states", _states),
        ("MLflow store", lambda: _store(tracking_uri)),
        ("study database", lambda: _database(storage)),
    ]
    return [*_versions(), *(_checked(what, check) for what, check in checks)]


def _checked(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except Exception as error:  # whatever is wrong with a machine is what doctor is asked for
        return Finding(what, False, str(error) or type(error).__name__)


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

    return _room_in(default_cache(), "SESR_LAB_CACHE")


def _states() -> str:
    from sesr_lab.tracking.journal import FOLDER_VARIABLE, state_folder

    return _room_in(state_folder(), FOLDER_VARIABLE)


def _room_in(folder: Path, variable: str) -> str:
    """The folder and its free space.

    Raises:
        StoreError: nothing can be written there.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return f"{folder}, {shutil.disk_usage(there).free / 1e9:.1f} GB free"
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}; set {variable} to a folder that can be written") from None


def _store(tracking_uri: str | None) -> str:
    from sesr_lab.cli.stores import opened
    from sesr_lab.registry.catalog import versions
    from sesr_lab.tracking.store import is_http, shown

    tracker = opened(tracking_uri)
    if not is_http(tracker.uri):
        _check_writable(tracker.uri, "experiments", "name")
    return f"{shown(tracker.uri)}, {len(versions(tracker))} registered versions"


def _database(storage: str | None) -> str:
    from sesr_lab.sweep.ledger import standing
    from sesr_lab.trials.database import reported, shown, sqlite_file, storage_url

    url = storage_url(storage)
    studies = len(standing(url))
    path = sqlite_file(url)
    if path is not None and not path.exists():
        return f"{_room_in(path.parent, '--storage')}, no study yet"
    with reported(url):
        _check_writable(url, "studies", "study_name")
    return f"{shown(url)}, {studies} {'study' if studies == 1 else 'studies'}"


def _check_writable(url: str, table: str, column: str) -> None:
    """Raises what the database says where it takes no writes; leaves nothing in it."""
    from sqlalchemy import create_engine

    engine = create_engine(url)
    with engine.connect() as connection:
        if engine.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql("CREATE TABLE sesr_lab_was_here (x)")
        else:
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = {column} WHERE 1 = 0")
        connection.rollback()
    engine.dispose()
