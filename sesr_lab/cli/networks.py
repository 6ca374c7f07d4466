"""`sesr-lab evaluate`, `cost`, `models` and `promote`: what networks score and cost, and which are registered."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sesr_lab.cli.options import (
    Device,
    F,
    FeatureSize,
    Json,
    M,
    ModelName,
    Preset,
    Scale,
    Store,
    model_prefix,
    network_settings,
)
from sesr_lab.cli.output import print_json
from sesr_lab.errors import ConfigError


def evaluate(
    models: Annotated[list[str], typer.Argument(help="MODEL …: bicubic, a preset, a run id, models:/…, or a file.")],
    benchmark: Annotated[list[Path], typer.Option("--benchmark", help="A folder of HR pictures; may be repeated.")],
    scale: Scale = 2,
    tracking_uri: Store = None,
    device: Device = "auto",
    model_name: ModelName = "SESR",
    as_json: Json = False,
) -> None:
    """Score networks on benchmark folders, as the papers do."""
    from sesr_lab.cli.console import loading
    from sesr_lab.results.scoring import score_models
    from sesr_lab.tracking.runs import open_store
    from sesr_lab.trials.trial import place

    with loading() as progress:
        results = score_models(
            models,
            benchmark,
            scale=scale,
            device=place(device).device,
            open_tracker=lambda: open_store(tracking_uri),
            prefix=model_prefix(model_name),
            progress=progress,
        )
    if as_json:
        print_json({"scale": scale, "models": [result.document() for result in results]})
        return
    from sesr_lab.cli.tables import show_scores

    show_scores(results, scale=scale)


def cost(
    preset: Preset = None,
    m: M = None,
    f: F = None,
    feature_size: FeatureSize = None,
    scale: Scale = 2,
    batch_size: Annotated[int, typer.Option("--batch-size", "--batch_size", help="Patches in a batch.")] = 32,
    patch: Annotated[int, typer.Option("--patch", help="Side of a low-resolution patch in pixels.")] = 64,
    as_json: Json = False,
) -> None:
    """Count parameters and MACs, as the paper does."""
    from sesr_lab.network.cost import costs
    from sesr_lab.study.config import Architecture, checked

    if batch_size < 1 or patch < 1:
        raise ConfigError("cost: --batch-size and --patch must be at least 1")
    settings = network_settings(preset, m=m, f=f, feature_size=feature_size) | {"scale": scale}
    network = checked(Architecture, settings, where="cost")
    counted = costs(
        m=network.m,
        f=network.f,
        feature_size=network.feature_size,
        scale=network.scale,
        batch_size=batch_size,
        patch=patch,
    )
    if as_json:
        print_json(
            {"network": network.name, "scale": scale, "batch_size": batch_size, "patch": patch, **asdict(counted)}
        )
        return
    from sesr_lab.cli.tables import show_costs

    show_costs(counted, title=f"{network.name} x{scale}", batch=f"{batch_size}x{patch}x{patch}")


def models(
    name: Annotated[str, typer.Option("--name", help="Only models whose name contains this.")] = "",
    tracking_uri: Store = None,
    as_json: Json = False,
) -> None:
    """List the registered networks with scores, costs, age and lineage."""
    from sesr_lab.cli.tables import show_models, version_json
    from sesr_lab.registry.catalog import versions
    from sesr_lab.tracking.runs import open_store

    found = versions(open_store(tracking_uri), name)
    if as_json:
        print_json({"models": [version_json(version) for version in found]})
        return
    show_models(found)


def promote(
    model: Annotated[str, typer.Argument(help="MODEL to point to.")],
    alias: Annotated[str, typer.Option("--alias", help="The alias that shall point to it.")],
    scale: Annotated[int | None, typer.Option("--scale", help="2 or 4, if MODEL is a preset.")] = None,
    tracking_uri: Store = None,
    model_name: ModelName = "SESR",
    as_json: Json = False,
) -> None:
    """Point an alias to a registered network."""
    from sesr_lab.cli.tables import version_json
    from sesr_lab.registry.catalog import promote as move_alias
    from sesr_lab.registry.lookup import find
    from sesr_lab.tracking.runs import open_store

    tracker = open_store(tracking_uri)
    found = find(tracker, model, scale=scale, prefix=model_prefix(model_name))
    if found.version is None:
        raise ConfigError(f"promote: {model} is a file; name a registered network (sesr-lab models)")
    version = move_alias(tracker, found.version.uri, alias)
    if as_json:
        print_json(version_json(version))
        return
    print(f"models:/{version.name}@{alias} is now version {version.version} ({version.psnr_db:.2f} dB)")
