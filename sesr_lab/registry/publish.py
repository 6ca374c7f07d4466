"""Publishing a network: what becomes of it in the registry, prepared when it is scored, and written by the delivery.

A version of a registered model is made of files among its run's artifacts, so that a network can be published long
after it was trained, from another process: when its study is over, and it is the best, say.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from sesr_lab.errors import ModelError
from sesr_lab.registry.pyfunc import pyfunc_files
from sesr_lab.registry.version import TAG, Lineage, ModelFacts, describe, facts_tags
from sesr_lab.registry.weights import COLLAPSED, EXPANDED, write_files
from sesr_lab.tracking.measures import best
from sesr_lab.tracking.publication import Publication
from sesr_lab.tracking.runlog import RunLog, now_ms

KEPT = "checkpoints/best.json"
"""What a run keeps of how its network would be published, among its artifacts."""
_PATHS = {EXPANDED: "checkpoints/best.safetensors", COLLAPSED: "checkpoints/best-collapsed.safetensors"}


@dataclass(frozen=True)
class Prepared:
    """A network, ready to be published."""

    publication: Publication
    files: Mapping[str, bytes] = field(repr=False)
    """By their paths among the run's artifacts."""


class ClaimLostError(ModelError):
    """Another process has taken over what was to be published here."""


def prepare(
    name: str, *, weights: Mapping[str, Tensor], facts: ModelFacts, parent: Lineage | None = None, time_ms: int = 0
) -> Prepared:
    """What makes the network a version of the registered model `name`.

    Args:
        time_ms: when the run has logged the scores in `facts`; now, if it has not.

    Raises:
        ValueError: `weights` are not of the architecture in `facts`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sha256 = write_files(folder, weights, facts.architecture)
        files = {path: (folder / file).read_bytes() for file, path in _PATHS.items()}
    card = describe(facts, uri="{uri}", parent=parent)
    time_ms = time_ms or now_ms()
    publication = Publication(
        name=name,
        tags=facts_tags(facts) | {TAG + "sha256": sha256} | (dict(parent.tags) if parent else {}),
        description=card,
        scores=best(facts.psnr_db, facts.ssim),
        step=facts.steps,
        data=(facts.data, facts.data_fingerprint),
        time_ms=time_ms,
        artifacts=_PATHS,
        texts={"README.md": card.replace("{uri}", f"models:/{name}"), **pyfunc_files(time_ms)},
    )
    return Prepared(publication, files)


def keep(run: RunLog, prepared: Prepared) -> None:
    """Stores the network among the run's artifacts, so that it can be published later."""
    for path, content in prepared.files.items():
        run.log_file(content, path)
    run.log_file(json.dumps(prepared.publication.content()).encode(), KEPT)


def publish(run: RunLog, prepared: Prepared) -> None:
    """Makes the network a version of its registered model, with the run's next delivery; again, it changes nothing."""
    keep(run, prepared)
    run.publish(prepared.publication)
