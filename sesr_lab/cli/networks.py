"""`sesr-lab evaluate`, `cost`, `models` and `promote`: what networks score and cost, and which are registered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sesr_lab.cli.options import (
    Activation,
    Device,
    F,
    FeatureSize,
    InputResidual,
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
from sesr_lab.cli.stores import opened
from sesr_lab.cli.terminal import doing
from sesr_lab.errors import ConfigError


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(help="MODEL …: bicubic, a preset, a run id, models:/…, a weights file, .onnx or .tflite."),
    ],
    benchmark: Annotated[list[Path], typer.Option("--benchmark", help="A folder of HR pictures; may be repeated.")],
    scale: Scale = 2,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="Add the paper's own scores.")] = False,
    log: Annotated[
        bool, typer.Option("--log", help="Keep scores and worst pictures with the runs that trained the networks.")
    ] = False,
    tracking_uri: Store = None,
    device: Device = "auto",
    model_name: ModelName = "SESR",
    as_json: Json = False,
) -> None:
    """Score networks on benchmark folders, as the papers do."""
    if as_json and (markdown or paper):
        raise ConfigError(
            f"evaluate: {'--markdown' if markdown else '--paper'}: --json has another form; leave one out"
        )
    with doing("loading PyTorch"):
        from sesr_lab.cli.progress import loading
        from sesr_lab.results.score_table import PAPER_NOTE, check_paper, lr_of, markdown_of, paper_rows, score_rows
        from sesr_lab.results.scoring import score_models
        from sesr_lab.scores.evaluate import benchmark as opened_set
        from sesr_lab.trials.trial import place

    if paper:
        check_paper([opened_set(folder, scale).name for folder in benchmark])
    with loading() as progress:
        results = score_models(
            models,
            benchmark,
            scale=scale,
            device=place(device).device,
            open_tracker=lambda: opened(tracking_uri),
            prefix=model_prefix(model_name),
            log=log,
            progress=progress,
        )
    if as_json:
        print_json({"scale": scale, "models": [result.document() for result in results]})
        return
    rows = score_rows(results)
    if paper:
        rows += paper_rows([item.set for item in results[0].sets], scale)
    if markdown:
        print(markdown_of(results, rows, scale) + (f" {PAPER_NOTE}." if paper else ""))
        return
    from sesr_lab.cli.tables import show_scores

    show_scores(results, rows, scale=scale, lr=lr_of(results))
    if paper:
        print(PAPER_NOTE)


def cost(
    preset: Preset = None,
    m: M = None,
    f: F = None,
    feature_size: FeatureSize = None,
    activation: Activation = None,
    input_residual: InputResidual = None,
    scale: Scale = 2,
    batch_size: Annotated[int, typer.Option("--batch-size", "--batch_size", help="Patches in a batch.")] = 32,
    patch: Annotated[int, typer.Option("--patch", help="Side of a low-resolution patch in pixels.")] = 64,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Time on it too: ethos-u55-256, ethos-u65-512, ethos-u85-2048, onnxruntime-cpu."),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--input", help="The picture that the target is given, as in 640x360 (which it is).")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Estimate or measure again what is remembered.")] = False,
    as_json: Json = False,
) -> None:
    """Count parameters and MACs, as the paper does; with --target, the time there (of all presets if none is named)."""
    from sesr_lab.cli.costing import cost_of, cost_on
    from sesr_lab.study.config import PRESETS, Architecture, checked
    from sesr_lab.targets.estimate import INPUT, MACS

    if batch_size < 1 or patch < 1:
        raise ConfigError("cost: --batch-size and --patch must be at least 1")
    if target in (None, MACS) and (size is not None or fresh):
        flag = "--input" if size is not None else "--fresh"
        raise ConfigError(f"cost: {flag} is of use with a --target that takes time")
    given = {"m": m, "f": f, "feature_size": feature_size}
    variant = {"activation": activation, "input_residual": input_residual, "scale": scale}
    every_preset = target is not None and preset is None and not any(given.values())
    names = list(PRESETS) if every_preset else [preset]
    networks = [checked(Architecture, network_settings(name, **given, **variant), where="cost") for name in names]
    if target is None:
        cost_of(networks[0], batch_size=batch_size, patch=patch, as_json=as_json)
    else:
        cost_on(target, networks, size or INPUT, fresh=fresh, as_json=as_json)


def models(
    name: Annotated[str, typer.Option("--name", help="Only models whose name contains this.")] = "",
    tracking_uri: Store = None,
    as_json: Json = False,
) -> None:
    """List the registered networks with scores, costs, age and lineage."""
    from sesr_lab.cli.versions import show_models, version_json
    from sesr_lab.registry.catalog import versions

    found = versions(opened(tracking_uri), name)
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
    from sesr_lab.cli.versions import version_json
    from sesr_lab.registry.catalog import aliases_of
    from sesr_lab.registry.catalog import promote as move_alias
    from sesr_lab.registry.lookup import find

    tracker = opened(tracking_uri)
    with doing(f"checking {model}"):
        found = find(tracker, model, scale=scale, prefix=model_prefix(model_name))
    if found.version is None:
        raise ConfigError(f"promote: {model} is a file; name a registered network (sesr-lab models)")
    before = aliases_of(tracker, found.version.name).get(alias)
    version = move_alias(tracker, found.version.uri, alias)
    if as_json:
        print_json(version_json(version) | {"moved": before != version.version, "before": before})
        return
    moved = "already was" if before == version.version else "is now"
    instead = f", no longer version {before}" if before not in (None, version.version) else ""
    print(f"models:/{version.name}@{alias} {moved} version {version.version} ({version.psnr_db:.2f} dB){instead}")
