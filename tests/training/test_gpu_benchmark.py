"""The GPU's benchmark, without a GPU: it must not fail for a typo once there is one, nor lose what it has measured."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("PIL", "mlflow", "optuna", "pydantic", "typer", "rich", "datasets", "skimage", "ray", "onnx", "scipy")
BARE = f"""
import runpy, sys
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *where: None if name.split(".")[0] in {ELSEWHERE} else found(name, *where)
)
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
sys.argv = ["gpu.py", *sys.argv[1:]]
runpy.run_path({str(ROOT / "benchmarks" / "gpu.py")!r}, run_name="__main__")
"""


def run(out: Path, *options: str, program: tuple[str, ...] = (str(ROOT / "benchmarks" / "gpu.py"),)) -> str:
    """Standard output of the benchmark on the CPU, in a process that knows nothing of a checkout."""
    command = [sys.executable, *program, "--device", "cpu", "--quick", "--out", str(out), *options]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=out)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_it_runs_from_end_to_end_with_torch_and_numpy_alone(tmp_path: Path) -> None:
    printed = run(tmp_path, program=("-c", BARE))
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    for row in found["steps"]:
        for engine in ("simple", "graph", "compiled", "graph, compiled"):
            assert row[engine]["ms"] > 0, row
    assert [row["scale"] for row in found["steps"]] == [2, 4]
    assert list(found["trials"]) == ["1", "2"]
    assert all(isinstance(pace, float) for pace in (*found["trials"].values(), *found["host"].values()))
    assert found["paper"]["all_steps_minutes"] > 0
    assert (tmp_path / "gpu.md").read_text(encoding="utf-8") == printed


@pytest.mark.slow
def test_it_trains_on_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    run(tmp_path, "--pictures", str(tmp_path), "--minutes", "0.1")
    row = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["steps"][0]
    assert row["simple"]["ms"] > 0, row
    Image.fromarray(rng.integers(0, 256, (80, 40, 3), dtype=np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(AssertionError, match="a picture has 10 pixels at x4, not 16"):
        run(tmp_path, "--pictures", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--pictures", "/nowhere"), "--pictures /nowhere: no such folder"),
        (("--device", "abacus"), "argument --device: found 'abacus'; cpu, cuda, cuda:1 and the like are allowed"),
        pytest.param(
            ("--device", "cuda:0"),
            "--device: there is no CUDA device here; --device cpu --quick",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_what_it_cannot_use_is_one_line(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    with pytest.raises(AssertionError) as caught:
        run(tmp_path, *options)
    assert says in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


def options(out: Path, minutes: float = 1.0) -> argparse.Namespace:
    return argparse.Namespace(out=out, device=torch.device("cpu"), minutes=minutes, quick=True)


def test_a_part_that_fails_or_has_no_time_is_said_and_the_others_are_kept(gpu: Any, tmp_path: Path) -> None:
    def fails() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")

    done = gpu.Run(options(tmp_path))
    row = done.row("m5", 2)
    done.part(row, "simple", lambda: {"ms": 12.345})
    done.part(row, "graph", fails)
    done.part(row, "compiled", lambda: {"ms": 1.0}, takes_s=61)
    done.part(done.found, "tests", lambda: "4 passed")
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    said = "OutOfMemoryError: CUDA out of memory."
    assert found["steps"] == [
        {"network": "m5", "scale": 2, "simple": {"ms": 12.345}, "graph": said, "compiled": "not run: no time"}
    ]
    assert found["tests"] == "4 passed"
    assert f"| m5 | 2 | - | 12.3 | {said} | - | not run: no time | - |" in (tmp_path / "gpu.md").read_text()


def test_after_a_gpu_is_lost_only_the_tests_run(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    done = gpu.Run(options(tmp_path))
    done.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    row = done.row("m5", 2)
    done.part(row, "simple", lost)
    done.part(row, "graph", lambda: {"ms": 1.0})
    done.part(done.found, "tests", lambda: "4 passed")
    assert row["graph"] == "not run: the GPU is lost: CUDA error: an illegal memory access was encountered"
    assert done.found["tests"] == "4 passed"
