"""`sesr-lab ui` and `doctor`: MLflow on the right store, and what this machine has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sesr_lab.cli.options import Json, Storage, Store
from sesr_lab.cli.output import print_json
from sesr_lab.cli.terminal import doing


def ui(
    host: Annotated[
        str, typer.Option("--host", help="Address to serve on; 0.0.0.0 for other machines too.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on this machine.")] = 5000,
    tracking_uri: Store = None,
) -> None:
    """Open MLflow on the store that sesr-lab writes to."""
    from sesr_lab.cli.serve import serve

    serve(tracking_uri, host=host, port=port)


def doctor(tracking_uri: Store = None, storage: Storage = None, as_json: Json = False) -> None:
    """Say what device, store, data and versions there are, and what is wrong with them."""
    with doing("examining this machine"):
        from sesr_lab.cli.doctor import examine

        findings = examine(tracking_uri, storage)
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        from sesr_lab.cli.tables import show_findings

        show_findings(findings)
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)
