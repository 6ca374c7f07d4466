"""How many cores a process may use, read from files as Linux writes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sesr_lab.training import cores

MANY = set(range(64))


@pytest.fixture(autouse=True)
def _large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: MANY, raising=False)


def allowed(tmp_path: Path, own: str, files: dict[str, str]) -> int:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    return cores.allowed(tmp_path / "own", tmp_path / "groups")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "10000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),  # the group around
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),  # in a container, its own group is the root
        ("0::/elsewhere\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../outside\n", {"cpu.max": "400000 100000\n"}, 4),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 3),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 64),
        ("5:memory:/a\n", {"cpu.max": "100000 100000\n"}, 64),
        ("", {}, 64),
    ],
)
def test_quotas_are_kept(tmp_path: Path, own: str, files: dict[str, str], expected: int) -> None:
    assert allowed(tmp_path, own, files) == expected


def test_affinity_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert allowed(tmp_path, "0::/\n", {"cpu.max": "400000 100000\n"}) == 1


def test_every_machine_has_a_core() -> None:
    assert cores.allowed() >= 1


@pytest.mark.parametrize(("cores_allowed", "threads"), [(1, 1), (2, 2), (8, 3)])
def test_pytorch_takes_no_more_threads_than_it_may(
    cores_allowed: int, threads: int, monkeypatch: pytest.MonkeyPatch, torch_threads: Callable[[int], None]
) -> None:
    torch_threads(3)
    monkeypatch.setattr(cores, "allowed", lambda: cores_allowed)
    cores.limit_torch()
    assert torch.get_num_threads() == threads
