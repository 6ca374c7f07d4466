"""Training states on this machine's disk: what an interrupted run goes on from. Never unpickled."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sesr_lab.errors import StoreError
from sesr_lab.tracking.journal import FOLDER_VARIABLE, state_folder

if TYPE_CHECKING:
    from torch import Tensor


def folder() -> Path:
    """Where training states are kept."""
    return state_folder() / "checkpoints"


def write(key: str, state: dict[str, Tensor]) -> Path:
    """Writes a run's state; a reader, or a kill at any moment, finds the old state or the new one, whole.

    Raises:
        StoreError: the folder cannot be written, or the disk is full.
    """
    from safetensors.torch import save

    path = _path(key)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(save({name: tensor.contiguous() for name, tensor in state.items()}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        _unlink(temporary)
        raise StoreError(f"checkpoint {path}: {error.strerror}; free some space, or set {FOLDER_VARIABLE}") from None
    return path


def read(key: str) -> dict[str, Tensor] | None:
    """A run's last state, or None where there is none that can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(_path(key).read_bytes()))
    except (OSError, SafetensorError):
        return None


def exists(key: str) -> bool:
    """Whether there is a state of that run."""
    return _path(key).exists()


def kept() -> list[str]:
    """The runs that have left a state here, the newest first."""
    files = [path for path in folder().glob("*.safetensors") if path.is_file()]
    return [path.stem for path in sorted(files, key=lambda path: -path.stat().st_mtime)]


def remove(key: str) -> None:
    """Deletes a run's state, and what killed writers left of it; nothing happens where there is none."""
    path = _path(key)
    for file in (path, *path.parent.glob(f"{key}.*.tmp")):
        _unlink(file)


def _unlink(file: Path) -> None:
    with suppress(OSError):  # what cannot be deleted is in nobody's way
        file.unlink()


def _path(key: str) -> Path:
    return folder() / f"{key}.safetensors"
