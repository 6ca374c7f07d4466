"""`sesr-lab ui`, `sync` and `doctor`: MLflow on the right store, and what this machine has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sesr_lab.cli.options import Json, Storage, Store
from sesr_lab.cli.output import print_json
from sesr_lab.cli.terminal import doing
from sesr_lab.errors import StoreError


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


def sync(tracking_uri: Store = None, as_json: Json = False) -> None:
    """Send to MLflow's store what waits for it in this folder."""
    from sesr_lab.cli.progress import loading
    from sesr_lab.cli.stores import opened, send_waiting
    from sesr_lab.tracking.store import shown

    tracker = opened(tracking_uri)
    with loading() as progress:
        waiting = send_waiting(tracker, progress)
    elsewhere = tracker.waiting_elsewhere()
    if as_json:
        print_json({"store": shown(tracker.uri), "waiting": waiting, "elsewhere": elsewhere})
    elif not waiting:
        print(f"nothing waits for {shown(tracker.uri)}")
        for uri, count in elsewhere.items():
            print(f"{count} writes wait for {uri}; send them: sesr-lab sync --tracking-uri {uri}")
    if waiting:
        raise StoreError(f"{shown(tracker.uri)}: {waiting} writes still wait; is it up? try again later")


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
