"""An ONNX file, ready to run in ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sesr_lab.data.refusal import is_file
from sesr_lab.errors import ModelError
from sesr_lab.targets.onnx_tools import onnxruntime_package
from sesr_lab.training import cores

Batch = NDArray[np.float32]

PREFIX = "sesr."
"""Of the names of what an exported file says of itself."""


@dataclass(frozen=True)
class Session:
    """A file that was opened."""

    run: Callable[[Batch], Batch]
    """(N, colours, H, W) to (N, colours, s·H, s·W)."""
    facts: Mapping[str, str]
    """Its metadata."""


def open_session(source: str | bytes, *, threads: int = 0) -> Session:
    """A session of a file, or of its content.

    Args:
        threads: that ONNX Runtime takes; 0 leaves it to it, unless this process may use a part of the cores only.

    Raises:
        ModelError: the file is missing or damaged.
        ExportError: ONNX Runtime is missing.
    """
    runtime = onnxruntime_package()
    label = source if isinstance(source, str) else "the exported file"
    if isinstance(source, str) and not is_file(source):
        raise ModelError(f"{label}: there is no such file")
    options = runtime.SessionOptions()
    is_limited = cores.allowed() < (os.cpu_count() or 1)
    options.intra_op_num_threads = threads or (cores.allowed() if is_limited else 0)
    options.log_severity_level = 4  # what is wrong is said below
    try:
        session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions have no common base
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{label}: not a network that ONNX Runtime can read ({reason}); export it again") from error
    name = session.get_inputs()[0].name

    def run(batch: Batch) -> Batch:
        made: Batch = session.run(None, {name: batch})[0]
        return made

    return Session(run, dict(session.get_modelmeta().custom_metadata_map))
