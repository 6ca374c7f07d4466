"""How an ONNX file is opened; what it computes is in test_export.py."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from sesr_lab.results import onnx_session
from sesr_lab.training import cores


@pytest.mark.parametrize(("asked", "cores_allowed", "threads"), [(0, 2, 2), (0, 64, 0), (5, 2, 5)])
def test_onnx_runtime_keeps_to_its_cores(
    asked: int, cores_allowed: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    class Opened:
        def __init__(self, source: bytes, options: Any, providers: list[str]) -> None:
            opened.append(options)

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="x")]

        def get_modelmeta(self) -> SimpleNamespace:
            return SimpleNamespace(custom_metadata_map={})

    runtime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=Opened)
    monkeypatch.setattr(onnx_session, "onnxruntime_package", lambda: runtime)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cores, "allowed", lambda: cores_allowed)
    onnx_session.open_session(b"", threads=asked)
    assert opened[0].intra_op_num_threads == threads
