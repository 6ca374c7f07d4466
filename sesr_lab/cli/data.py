"""`sesr-lab data`: sources listed, fetched and checked."""

from __future__ import annotations

from typing import Annotated

import typer

from sesr_lab.cli.options import Json, Scale
from sesr_lab.cli.output import show_facts
from sesr_lab.cli.terminal import doing
from sesr_lab.errors import ConfigError


def list_sources(as_json: Json = False) -> None:
    """List the data sources."""
    from sesr_lab.data.sources import describe_sources

    show_facts("data sources", describe_sources(), as_json=as_json)


def check(
    source: Annotated[str, typer.Argument(help="photos, div2k, folder:PATH or hub:REPO.")],
    scale: Scale = 2,
    as_json: Json = False,
) -> None:
    """Fetch a source if need be, read every picture of it, and prepare it for training."""
    if scale not in (2, 4):
        raise ConfigError(f"data check: scale: found {scale}; 2 or 4 is allowed")
    with doing("loading PyTorch"):
        from sesr_lab.cli.progress import loading
        from sesr_lab.data.dataset import load

    with loading() as progress:
        found = load(source, scale=scale, progress=progress)
    facts: dict[str, object] = {
        "source": found.source,
        "scale": found.scale,
        "training pictures": len(found.train),
        "validation pictures": len(found.valid),
        "low resolution": found.lr_origin,
        "fingerprint": found.fingerprint,
    }
    show_facts(found.description, facts, as_json=as_json)


def fetch(
    source: Annotated[str, typer.Argument(help="div2k or hub:REPO.")], scale: Scale = 2, as_json: Json = False
) -> None:
    """Fetch a source and prepare it for training; the same as `check`."""
    check(source, scale, as_json)
