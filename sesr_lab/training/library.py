"""kernel.c as a loaded library: compiled for the machine that runs it, and kept for the processes that follow.

A library's name holds the processor, the compiler, the source and flags that it was made of, and its own checksum. It
is taken only if it and its folder are this user's alone to write, and its bytes are whole; else it is compiled again.
Where no such folder can be had, each process compiles into a temporary one, which is gone once the library is loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = ("kernel.c", "float32.h", "bfloat16.h")
# Nothing here turns an infinity or a NaN into a number, or reorders a sum: kernel.c says how sums are taken.
FLAGS = (
    *("-O3", "-fPIC", "-shared", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-freciprocal-math"),
)


class BuildError(Exception):
    """kernel.c cannot be had on this machine; the text says why."""


@cache
def load(*defines: str) -> ctypes.CDLL:
    """kernel.c with these macros defined (`NAME` or `NAME=VALUE`), for this processor.

    Raises:
        BuildError: there is no compiler, it failed, or what it made cannot be loaded.
    """
    command = compile_command(*native(), *(f"-D{define}" for define in defines))
    name = f"kernel-{_machine()}-{_made_by(command)}"
    if (kept := _kept()) is not None:
        try:
            return ctypes.CDLL(str(_find(kept, name) or _build(command, kept, name)))
        except (OSError, BuildError):  # full, not to be written after all, or not to be executed from
            pass
    with tempfile.TemporaryDirectory(prefix="sesr-lab-") as folder:
        try:
            return ctypes.CDLL(str(_build(command, Path(folder), name)))
        except OSError as error:
            raise BuildError(f"the compiled kernel cannot be loaded: {error}") from None


def compile_command(*flags: str) -> list[str]:
    """The compiler, its flags and kernel.c; the output is still to be named.

    Raises:
        BuildError: there is no compiler.
    """
    found = compiler()
    if found is None:
        raise BuildError("no C compiler was found; install one, or set CC")
    return [found, *FLAGS, *flags, str(FOLDER / "kernel.c")]


def native() -> tuple[str, ...]:
    """The flags that ask for all that this processor has."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return ("-march=native", "-mprefer-vector-width=512")
    return ("-mcpu=native",)


def run_compiler(command: list[str], library: Path) -> None:
    """Compiles into `library`.

    Raises:
        BuildError: the compiler failed; its first words are in the text.
    """
    try:
        subprocess.run([*command, "-o", str(library), "-lm"], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        words = (error.stderr or "").strip() or "without a word"
        raise BuildError(f"{command[0]} failed: {words.splitlines()[0]}") from None
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror}") from None


@cache
def compiler() -> str | None:
    """The C compiler's path: what CC says, or cc, gcc or clang."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _find(folder: Path, name: str) -> Path | None:
    """The kept library called `name`, if it is whole and this user's alone; others by that name are removed."""
    for library in sorted(folder.glob(f"{name}-*.so")):
        if _ours(library) and library.name == _named(name, library):
            return library
        library.unlink(missing_ok=True)
    return None


def _build(command: list[str], folder: Path, name: str) -> Path:
    """Compiles aside, then renames: no process ever sees half a library."""
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        made = Path(aside) / "made.so"
        run_compiler(command, made)
        made.chmod(0o700)
        return made.replace(folder / _named(name, made))


def _named(name: str, library: Path) -> str:
    return f"{name}-{_digest(library.read_bytes())}.so"


def _kept() -> Path | None:
    """The folder in which libraries are kept, if there is one that this user alone can write."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".cache") / "sesr-lab" / "kernels"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
            return None
        folder.chmod(0o700)
    except (OSError, RuntimeError):  # nothing may be written there; or there is no home at all
        return None
    return folder


def _ours(library: Path) -> bool:
    """Whether it is a file of this user's that nobody else may write."""
    state = library.lstat()
    loose = state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISREG(state.st_mode) and state.st_uid == os.geteuid() and not loose


def _made_by(command: list[str]) -> str:
    """What decides the library's code, apart from the processor."""
    program = Path(command[0]).resolve()
    state = program.stat()
    parts = [str(program), str(state.st_size), str(state.st_mtime_ns), *command[1:]]
    texts = [(FOLDER / source).read_text(encoding="utf-8") for source in SOURCES]
    return _digest("\0".join([*parts, *texts]).encode())


@cache
def _machine() -> str:
    """What the native flags depend on: a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = [platform.processor()]
    telling = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    known = [line for line in lines if line.startswith(telling)] or lines[:1]
    return _digest("\n".join([platform.machine(), *known]).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
