"""Arm's compiler for its NPUs as an oracle: what a network takes on an Ethos-U that need not be there.

The times are vela's estimates for the system configurations of its own vela.ini, and depend on the architecture
alone: random weights give the same ones as trained weights.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from sesr_lab.errors import TargetError
from sesr_lab.targets.estimate import NPUS, Estimate, Shape, Size, check_fits, macs_of
from sesr_lab.targets.standin import any_ranges, stand_in
from sesr_lab.targets.tflite import write_tflite
from sesr_lab.targets.tool import tool, version_of

PACKAGE = "ethos-u-vela"
MEMORY = 2**31
"""What a network's activations may take: vela's counts of bytes and strides overflow beyond it."""
FORM = 1
"""Goes up when the file that is estimated is written in another way, so that old estimates are made again."""
KIBIBYTE = 1024
_MEMORIES = {"SRAM": "sram_memory_used", "DRAM": "dram_memory_used", "flash": "off_chip_flash_memory_used"}
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Accelerator:
    """An NPU, and the system around it, by vela's names for them."""

    name: str
    system: str
    memory_mode: str


ACCELERATORS = {
    accelerator.name: accelerator
    for accelerator in (
        Accelerator(NPUS[0], "Ethos_U55_High_End_Embedded", "Shared_Sram"),
        Accelerator(NPUS[1], "Ethos_U65_High_End", "Dedicated_Sram"),
        Accelerator(NPUS[2], "Ethos_U85_SYS_DRAM_High", "Dedicated_Sram"),
    )
}


@dataclass(frozen=True)
class Compiled:
    """What vela says of a file."""

    milliseconds: float
    memory_bytes: Mapping[str, int]
    fallbacks: tuple[str, ...]
    """The layers, by the names of what they give, that fall to the CPU; their time is not in the milliseconds."""


def vela_version() -> str:
    """The tool and its version, as estimates name it.

    Raises:
        TargetError: it is not installed.
    """
    return f"{PACKAGE} {version_of(PACKAGE)}"


def vela_estimate(accelerator: Accelerator, shape: Shape, size: Size) -> Estimate:
    """What a network of that shape takes on the NPU, by vela.

    Raises:
        TargetError: vela or the file format's schema is missing, the picture is too large, or vela fails.
    """
    check_fits(accelerator.name, shape, size, bytes_per_value=1, memory=MEMORY)
    network = stand_in(shape)
    file = write_tflite(network, any_ranges(network), width=size.width, height=size.height)
    compiled = compile_file(file, accelerator)
    return Estimate(
        target=accelerator.name,
        tool=vela_version(),
        input=str(size),
        macs=macs_of(shape, size),
        milliseconds=compiled.milliseconds,
        memory_bytes=compiled.memory_bytes,
        fallbacks=compiled.fallbacks,
    )


def compile_file(file: bytes, accelerator: Accelerator) -> Compiled:
    """What vela says of an int8 TFLite file; nothing is left behind, and nothing printed.

    Raises:
        TargetError: vela is missing, cannot compile it, or says something else than is known here.
    """
    vela = tool("ethosu.vela.vela", PACKAGE)
    with tempfile.TemporaryDirectory(prefix="sesr-lab-") as name, _one_at_a_time:
        folder = Path(name)
        source = folder / "network.tflite"
        source.write_bytes(file)
        arguments = [
            *(str(source), "--output-dir", str(folder), "--config", "Arm/vela.ini", "--show-cpu-operations"),
            *("--accelerator-config", accelerator.name),
            *("--system-config", accelerator.system, "--memory-mode", accelerator.memory_mode),
        ]
        with _captured(folder / "printed") as printed:
            _run(vela.main, arguments, accelerator.name)
        try:
            with next(folder.glob("*_summary_*.csv")).open(encoding="utf-8", newline="") as table:
                summary = next(csv.DictReader(table))
        except (StopIteration, OSError, UnicodeDecodeError, csv.Error):
            raise _unknown("no table of results") from None
        return _read(summary, "".join(printed))


def _run(main: object, arguments: list[str], target: str) -> None:
    """Runs vela's main; it raises whatever Python or its C++ core come upon, and sets the recursion limit."""
    limit = sys.getrecursionlimit()
    try:
        status = main(arguments)  # type: ignore[operator]  # vela has no types
    except SystemExit as end:  # its argument parser's way to refuse an option that another version does not have
        raise _unknown(f"its options, which end with status {end.code}") from None
    except Exception as error:  # vela's core raises IndexError, RuntimeError, its own errors, and others
        reason = (str(error).strip().splitlines() or [""])[0]
        raise TargetError(
            f"{target}: vela cannot compile the network: {type(error).__name__}: {reason[:200]}"
        ) from None
    finally:
        sys.setrecursionlimit(limit)
    if status not in (0, None):
        raise TargetError(f"{target}: vela cannot compile the network: it ended with status {status}")


def _read(summary: Mapping[str, str | None], printed: str) -> Compiled:
    """vela's table and what it printed, as values."""
    try:
        seconds = float(summary["inference_time"] or "")
        memory = {name: round(float(summary[column] or "") * KIBIBYTE) for name, column in _MEMORIES.items()}
    except (KeyError, ValueError) as error:
        raise _unknown(f"its table ({error})") from None
    count = re.search(r"CPU operators = (\d+)", printed)
    if count is None:
        raise _unknown("no number of CPU operators")
    if not (math.isfinite(seconds) and seconds > 0):
        raise _unknown(f"a time of {seconds} s")
    fallbacks = re.findall(r"^\s*CPU: .*? = (.+?) \(outputs", printed, re.MULTILINE)
    if len(fallbacks) != int(count[1]):
        raise _unknown(f"{count[1]} CPU operators, {len(fallbacks)} of them by name")
    used = {name: size for name, size in memory.items() if size > 0}
    return Compiled(milliseconds=seconds * 1000, memory_bytes=used, fallbacks=tuple(fallbacks))


def _unknown(what: str) -> TargetError:
    return TargetError(
        f"{vela_version()} says something that is not known here: {what}; "
        f"install the one that is: pip install {PACKAGE}==5.2.0"
    )


@contextmanager
def _captured(file: Path) -> Iterator[list[str]]:
    """What Python code and vela's C++ core print inside, in the list that is given, once it is over."""
    printed: list[str] = []
    sys.stdout.flush()
    kept = os.dup(1)
    sink = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    python = io.StringIO()
    try:
        os.dup2(sink, 1)
        with redirect_stdout(python):
            yield printed
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(sink)
        printed += [file.read_text(encoding="utf-8", errors="replace"), python.getvalue()]
