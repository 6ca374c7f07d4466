"""The GPU's benchmark, without a GPU: it must not fail for a typo when one is lent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_gpu_benchmark_runs_from_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--device", "cpu", "--quick", "--out", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert {"simple", "graph"} <= found["steps"][0].keys()
    assert [row["trials"] for row in found["trials"]] == [1, 2]
    assert (tmp_path / "gpu.md").read_text(encoding="utf-8").strip() == done.stdout.strip()
