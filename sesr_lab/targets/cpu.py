"""This machine's own CPU as a target: networks timed by running them in onnxruntime, in float32 on one thread.

A thread's own CPU time is taken, which on an idle core is the time that passes: other work beside it then disturbs
less. All networks take turns, so that a busy moment hits them alike. Nothing may train meanwhile.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sesr_lab.targets.estimate import CPU, Estimate, Shape, Size, activation_bytes, check_fits, macs_of
from sesr_lab.targets.onnx_graph import INPUT_NAME, float_graph
from sesr_lab.targets.standin import stand_in
from sesr_lab.targets.tool import tool, version_of

PACKAGE = "onnxruntime"
REPEATS, FEWEST_REPEATS = 15, 3
SECONDS = 40.0
"""About what measuring all networks may take; where they are slow, they are run fewer times."""
TOGETHER = 16
"""Networks that are in memory at once and take turns."""
FLOAT32 = 4


def onnxruntime_version() -> str:
    """The tool and its version, as estimates name it.

    Raises:
        TargetError: it is not installed.
    """
    return f"{PACKAGE} {version_of(PACKAGE)}"


def cpu_estimates(shapes: Sequence[Shape], size: Size) -> list[Estimate]:
    """What the networks take on this CPU: medians over interleaved repeats, with the distance of their quartiles.

    Raises:
        TargetError: onnx or onnxruntime is missing, or the picture is too large for this machine's memory.
    """
    for shape in shapes:
        check_fits(CPU, shape, size, bytes_per_value=FLOAT32, memory=_memory())
    seconds = SECONDS / max(1, -(-len(shapes) // TOGETHER))
    groups = [shapes[start : start + TOGETHER] for start in range(0, len(shapes), TOGETHER)]
    return [estimate for group in groups for estimate in _measured(group, size, seconds)]


def machine() -> str:
    """The CPU that times are of: they hold on the same one only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()


def _measured(shapes: Sequence[Shape], size: Size, seconds: float) -> list[Estimate]:
    sessions = [_session(shape) for shape in shapes]
    picture = np.random.default_rng(0).random((1, 1, size.height, size.width), np.float32)
    warm = sum(_time_ms(session, picture) for session in sessions) / 1000
    repeats = max(FEWEST_REPEATS, min(REPEATS, int(seconds / max(warm, 1e-3))))
    taken: list[list[float]] = [[] for _ in sessions]
    for _ in range(repeats):
        for session, times in zip(sessions, taken, strict=True):
            times.append(_time_ms(session, picture))
    return [_estimate(shape, size, times) for shape, times in zip(shapes, taken, strict=True)]


def _estimate(shape: Shape, size: Size, times_ms: Sequence[float]) -> Estimate:
    low, _, high = statistics.quantiles(times_ms, n=4, method="inclusive")
    return Estimate(
        target=CPU,
        tool=onnxruntime_version(),
        input=str(size),
        macs=macs_of(shape, size),
        milliseconds=statistics.median(times_ms),
        spread_ms=high - low,
        memory_bytes={"RAM": activation_bytes(shape, size, FLOAT32)},
    )


def _session(shape: Shape) -> Any:
    runtime, _ = tool("onnxruntime", PACKAGE), tool("onnx", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # so that networks that wait for their turn hold no memory
    options.log_severity_level = 3
    return runtime.InferenceSession(
        float_graph(stand_in(shape)).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _time_ms(session: Any, picture: np.ndarray) -> float:
    start = time.thread_time()
    session.run(None, {INPUT_NAME: picture})
    return (time.thread_time() - start) * 1000


def _memory() -> int:
    """This machine's memory in bytes."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
