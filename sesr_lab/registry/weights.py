"""Files of weights: safetensors, checked before they are believed, and never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sesr_lab.data.refusal import is_file
from sesr_lab.errors import ModelError
from sesr_lab.study.config import Architecture

if TYPE_CHECKING:
    from torch import Tensor

EXPANDED, COLLAPSED = "weights.safetensors", "collapsed.safetensors"


def write_files(folder: Path, weights: Mapping[str, Tensor], architecture: Architecture) -> str:
    """The sha256 of the expanded weights' file; it and that of the collapsed network are now in `folder`.

    Raises:
        ValueError: `weights` are not of `architecture`.
    """
    from safetensors.torch import save_file

    from sesr_lab.network.model import from_weights, shape_of

    settings = architecture.settings
    found = shape_of(weights)
    if found.items() - architecture.model_dump().items():
        raise ValueError(f"the weights are of {found}, not of {settings}")
    named = from_weights(weights).collapse()._asdict()
    collapsed = {name: tensor for name, tensor in named.items() if tensor is not None}
    # One key only: safetensors writes several in random order, and equal weights are to make equal files.
    metadata = {"architecture": json.dumps(settings)}
    for name, tensors in ((EXPANDED, weights), (COLLAPSED, collapsed)):
        flat = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(flat, folder / name, metadata=metadata)
    return sha256_of(folder / EXPANDED)


def load_file(path: Path) -> dict[str, Tensor]:
    """The expanded weights in a safetensors file, on the CPU.

    Raises:
        ModelError: the file is missing, damaged, or holds something else, or what is no number.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file as read

    from sesr_lab.network.model import shape_of

    if not is_file(path):
        raise ModelError(f"{path}: there is no such file")
    try:
        weights = read(path)
        shape_of(weights)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: not a whole safetensors file ({error}); give the weights.safetensors of a model"
        ) from error
    except ValueError as error:
        hint = "; this is the collapsed form: give weights.safetensors" if path.name == COLLAPSED else ""
        raise ModelError(f"{path}: {error}{hint}") from error
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise ModelError(f"{path}: {broken[0]} holds what is no number (NaN or infinity); train the network again")
    return weights


def sha256_of(path: Path) -> str:
    """The hex digest of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
