"""Training states on this machine's disk: what an interrupted run goes on from. Never unpickled."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sesr_lab.errors import StoreError

if TYPE_CHECKING:
    from torch import Tensor

FOLDER_VARIABLE = "SESR_LAB_STATE"


def state_folder() -> Path:
    """Where what is not yet in a store is kept: $SESR_LAB_STATE, or .sesr-lab in the current folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or ".sesr-lab").absolute()


def folder() -> Path:
    """Where training states are kept."""
    return state_folder() / "checkpoints"


def write(run_id: str, state: dict[str, Tensor]) -> Path:
    """Writes a run's state; a reader, or a kill at any moment, finds the old state or the new one, whole.

    Raises:
        StoreError: the folder cannot be written, or the disk is full.
    """
    from safetensors.torch import save

    path = _path(run_id)
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


def read(run_id: str) -> dict[str, Tensor] | None:
    """A run's last state, or None where there is none that can be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(_path(run_id).read_bytes()))
    except (OSError, SafetensorError):
        return None


def remove(run_id: str) -> None:
    """Deletes a run's state, and what killed writers left of it; nothing happens where there is none."""
    path = _path(run_id)
    for file in (path, *path.parent.glob(f"{run_id}.*.tmp")):
        _unlink(file)


def _unlink(file: Path) -> None:
    with suppress(OSError):  # what cannot be deleted is in nobody's way
        file.unlink()


def _path(run_id: str) -> Path:
    return folder() / f"{run_id}.safetensors"
