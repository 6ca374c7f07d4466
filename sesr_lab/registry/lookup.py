"""MODEL: the words by which a user names a network, and the network they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sesr_lab.data import refusal
from sesr_lab.errors import ModelError
from sesr_lab.registry import catalog
from sesr_lab.registry.version import Lineage, Version, lineage_of, lineage_of_file
from sesr_lab.registry.weights import load_file, sha256_of
from sesr_lab.study.config import PRESETS, Architecture, checked, preset
from sesr_lab.tracking.runs import Tracker

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Named:
    """A network that was found and checked."""

    name: str
    """What the user called it."""
    architecture: Architecture
    weights: Mapping[str, Tensor] = field(repr=False)
    version: Version | None
    """Its registered version; None for a weights file."""
    lineage: Lineage
    """How what starts from it names it."""


def find(tracker: Tracker, model: str, *, scale: int | None = None, prefix: str = "sesr") -> Named:
    """The network that `model` names; a preset's name stands for the best registered network of that shape.

    Raises:
        ModelError: there is none, its weights are not what was published, or its scale is not `scale`.
        ConfigError: it is a file of weights of a network that is too large.
    """
    if is_file(model):
        found = of_file(model)
    elif model.lower() in PRESETS:
        found = of_version(tracker, _best_of_preset(tracker, model.lower(), scale or 2, prefix), name=model)
    else:
        found = of_version(tracker, catalog.resolve(tracker, model), name=model)
    if scale is not None and found.architecture.scale != scale:
        raise ModelError(f"{model}: its scale is {found.architecture.scale}, not {scale}; use --scale to match")
    return found


def of_version(tracker: Tracker, version: Version, *, name: str | None = None) -> Named:
    """The network of a registered version, its checksum and shapes verified.

    Raises:
        ModelError: the file is missing, altered, or of another shape.
    """
    weights = catalog.load(tracker, version).weights
    return Named(name or version.uri, version.architecture, weights, version, lineage_of(version))


def is_file(model: str) -> bool:
    """Whether MODEL names a file, for which no store is needed."""
    return Path(model).suffix == ".safetensors" or refusal.is_file(model)


def of_file(model: str) -> Named:
    """The network of a file of weights.

    Raises:
        ModelError: the file is missing, damaged, or holds something else.
        ConfigError: its network is too large.
    """
    from sesr_lab.network.model import shape_of

    path = Path(model)
    weights = load_file(path)
    lineage = lineage_of_file(str(path.resolve()), sha256_of(path))
    return Named(model, checked(Architecture, shape_of(weights), where=model), weights, None, lineage)


def _best_of_preset(tracker: Tracker, name: str, scale: int, prefix: str) -> Version:
    """The champion of a preset's network, collapsed or else expanded."""
    blocks = ("collapsed", "expanded")
    names = [
        Architecture(**preset(name), block=block, scale=scale).registered_name(prefix)  # type: ignore[arg-type]
        for block in blocks
    ]
    known = {version.name for version in catalog.versions(tracker) if version.name in names}
    chosen = next((candidate for candidate in names if candidate in known), None)
    if chosen is None:
        raise ModelError(
            f"{name} at scale {scale}: no such network is registered; train it: "
            f"sesr-lab train --preset {name} --scale {scale}"
        )
    return catalog.resolve(tracker, chosen)
