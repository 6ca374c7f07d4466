"""`sesr-lab data`: sources listed, fetched and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sesr_lab.cli.options import Json, Scale
from sesr_lab.cli.output import show_facts
from sesr_lab.cli.terminal import doing
from sesr_lab.errors import ConfigError

if TYPE_CHECKING:
    from sesr_lab.data.leaks import Leak

FOUND = 4
"""Exit status where pictures are in both sets."""


def list_sources(as_json: Json = False) -> None:
    """List the data sources."""
    from sesr_lab.data.sources import describe_sources

    show_facts("data sources", describe_sources(), as_json=as_json)


def check(
    source: Annotated[str, typer.Argument(help="photos, div2k, folder:PATH or hub:REPO.")],
    scale: Scale = 2,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="A folder, a benchmark say: names its pictures that are also trained on."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch a source if need be, read every picture of it, and prepare it for training.

    With --against, exit status 4 says that pictures were found in both: whole, cropped, resized or mirrored.
    """
    if scale not in (2, 4):
        raise ConfigError(f"data check: scale: found {scale}; 2 or 4 is allowed")
    with doing("loading PyTorch"):
        from sesr_lab.cli.progress import loading
        from sesr_lab.data.dataset import load
        from sesr_lab.data.folder import paired_rows
        from sesr_lab.data.gallery import of_folder
        from sesr_lab.data.leaks import seen
        from sesr_lab.data.refusal import expanded

    with loading() as progress:
        pictures = None if against is None else of_folder(paired_rows(expanded(against), scale=scale), progress)
        found = load(source, scale=scale, progress=progress)
        leaks = [] if pictures is None else seen(found.gallery, pictures, progress)
    facts: dict[str, object] = {
        "source": found.source,
        "scale": found.scale,
        "training pictures": len(found.train),
        "validation pictures": len(found.valid),
        "low resolution": found.lr_origin,
        "fingerprint": found.fingerprint,
    }
    if pictures is not None:
        compared = {"against": str(against), "compared": len(pictures.names)}
        facts |= compared | {"in both": [asdict(leak) for leak in leaks] if as_json else len(leaks)}
    show_facts(found.description, facts, as_json=as_json)
    if leaks:
        if not as_json:
            _show(leaks)
        raise typer.Exit(FOUND)


def fetch(
    source: Annotated[str, typer.Argument(help="div2k or hub:REPO.")], scale: Scale = 2, as_json: Json = False
) -> None:
    """Fetch a source and prepare it for training; the same as `check`."""
    check(source, scale, as_json=as_json)


def _show(leaks: Sequence[Leak]) -> None:
    from sesr_lab.cli.tables import Sheet
    from sesr_lab.cli.terminal import console

    rows = [[leak.picture, leak.training, f"{leak.similarity:.2f}", leak.where] for leak in leaks]
    console().print(Sheet("in both", ["picture", "trained on", "similarity", "where"], rows))
