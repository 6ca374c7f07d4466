"""The command line: parse, call one function, show the result. Whatever is heavy is imported inside."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sesr_lab.cli.options import (
    BatchSize,
    BlockType,
    Device,
    Engine,
    F,
    FeatureSize,
    Json,
    M,
    ModelName,
    Patch,
    Preset,
    Scale,
    Storage,
    Store,
)
from sesr_lab.errors import ConfigError, SesrError

if TYPE_CHECKING:
    from sesr_lab.sweep.driver import Sweep
    from sesr_lab.trials.lab import Lab
    from sesr_lab.trials.outcome import Outcome

DONE, USER_ERROR, BUG, INTERRUPTED = 0, 1, 3, 130

app = typer.Typer(
    name="sesr-lab",
    help="Sweeps of super-efficient super-resolution networks (SESR), trained fast and tracked in MLflow.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="List, fetch and check data sources.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from sesr_lab import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def sweep(
    study: Annotated[str, typer.Argument(help="A built-in study's name, or the path to a .toml file.")] = "quickstart",
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Train this many networks in all.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Train on this source instead of the study's.")] = None,
    list_studies: Annotated[bool, typer.Option("--list", help="List the built-in studies and exit.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the space and its costs; train nothing.")] = False,
    tracking_uri: Store = None,
    storage: Storage = None,
    device: Device = "auto",
    engine: Engine = "auto",
    model_name: ModelName = "SESR",
    as_json: Json = False,
) -> None:
    """Run a study, or go on with it where it stopped."""
    from sesr_lab.study.spec import built_in, load_study, space_summary

    if list_studies:
        descriptions = {name: load_study(name).description for name in built_in()}
        _show_mapping("built-in studies", descriptions, as_json=as_json)
        return
    spec = load_study(study)
    if data is not None or trials is not None:
        spec = spec.changed(trials=trials, data=data)
    if dry_run:
        _show_mapping(f"study {spec.name}", space_summary(spec), as_json=as_json)
        return
    from sesr_lab.sweep.driver import sweep as run_sweep

    with _lab(spec.name, tracking_uri, storage, device, engine, model_name) as (lab, storage_url):
        result = run_sweep(spec, lab, storage_url)
    _show_sweep(result, as_json=as_json)
    if result.outcomes and result.best is None:
        raise SesrError(f"study {spec.name}: no network could be trained; {result.outcomes[-1].reason}")


@app.command()
def train(
    preset: Preset = None,
    m: M = None,
    f: F = None,
    feature_size: FeatureSize = None,
    block: BlockType = None,
    scale: Scale = 2,
    recipe: Annotated[str, typer.Option("--recipe", help="fast (ours) or paper (the reference's).")] = "fast",
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the pictures (300).")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps to train, instead of epochs.")] = None,
    max_seconds: Annotated[float | None, typer.Option("--max-seconds", help="Seconds to train, at most.")] = None,
    batch_size: BatchSize = None,
    patch: Patch = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--learning_rate", help="Rate, or its peak (recipe's).")
    ] = None,
    data: Annotated[str, typer.Option("--data", help="photos, div2k, folder:PATH or hub:REPO.")] = "photos",
    seed: Annotated[int, typer.Option("--seed", help="Decides the first weights and the order of patches.")] = 0,
    parent: Annotated[
        str, typer.Option("--parent", help="For x4: auto, require, none, or the MODEL to start from.")
    ] = "auto",
    parent_block: Annotated[
        str, typer.Option("--parent-block", help="any, or same: whether a parent of the other block type will do.")
    ] = "any",
    fresh: Annotated[bool, typer.Option("--fresh", help="Do not go on with the same training stopped before.")] = False,
    tracking_uri: Store = None,
    storage: Storage = None,
    device: Device = "auto",
    engine: Engine = "auto",
    model_name: ModelName = "SESR",
    as_json: Json = False,
) -> None:
    """Train one network (M5 x2 by default), tracked and registered."""
    from sesr_lab.study.config import TrialConfig, checked

    settings = _network(preset, m, f, feature_size, block) | {
        "scale": scale,
        "recipe": recipe,
        "epochs": epochs,
        "steps": steps,
        "max_seconds": max_seconds,
        "batch_size": batch_size,
        "patch": patch,
        "learning_rate": learning_rate,
        "data": data,
        "seed": seed,
        "parent": parent,
        "parent_block": parent_block,
    }
    config = checked(TrialConfig, settings, where="train")
    from sesr_lab.trials.train import train as run_train

    title = f"{config.architecture.name} x{scale}"
    with _lab(title, tracking_uri, storage, device, engine, model_name) as (lab, _):
        outcome = run_train(config, lab, fresh=fresh)
    _show_outcome(outcome, as_json=as_json)
    if outcome.result != "finished":
        raise SesrError(f"{outcome.label}: {outcome.result}: {outcome.reason}")


@app.command()
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
            prefix=_prefix(model_name),
            progress=progress,
        )
    if as_json:
        _print_json({"scale": scale, "models": [result.document() for result in results]})
        return
    from sesr_lab.cli.tables import show_scores

    show_scores(results, scale=scale)


@app.command()
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
    settings = _network(preset, m, f, feature_size, None) | {"scale": scale}
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
        _print_json(
            {"network": network.name, "scale": scale, "batch_size": batch_size, "patch": patch, **asdict(counted)}
        )
        return
    from sesr_lab.cli.tables import show_costs

    show_costs(counted, title=f"{network.name} x{scale}", batch=f"{batch_size}x{patch}x{patch}")


@app.command()
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
        _print_json({"models": [version_json(version) for version in found]})
        return
    show_models(found)


@app.command()
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
    found = find(tracker, model, scale=scale, prefix=_prefix(model_name))
    if found.version is None:
        raise ConfigError(f"promote: {model} is a file; name a registered network (sesr-lab models)")
    version = move_alias(tracker, found.version.uri, alias)
    if as_json:
        _print_json(version_json(version))
        return
    print(f"models:/{version.name}@{alias} is now version {version.version} ({version.psnr_db:.2f} dB)")


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="A study's name; all of them without one.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show where the stored studies stand."""
    from sesr_lab.sweep.ledger import standing

    found = standing(_storage_url(storage), study)
    if as_json:
        _print_json({"studies": [asdict(item) for item in found]})
        return
    from sesr_lab.cli.tables import show_standing

    show_standing(found, whole=study is not None)


@app.command()
def ui(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on this machine.")] = 5000,
    tracking_uri: Store = None,
) -> None:
    """Open MLflow on the store that sesr-lab writes to."""
    from sesr_lab.cli.serve import serve

    serve(tracking_uri, port)


@app.command()
def doctor(tracking_uri: Store = None, storage: Storage = None, as_json: Json = False) -> None:
    """Say what device, store, data and versions there are, and what is wrong with them."""
    from sesr_lab.cli.doctor import examine

    findings = examine(tracking_uri, _storage_url(storage))
    if as_json:
        _print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        from sesr_lab.cli.tables import show_findings

        show_findings(findings)
    if not all(finding.good for finding in findings):
        raise typer.Exit(USER_ERROR)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the data sources."""
    from sesr_lab.data.sources import describe_sources

    _show_mapping("data sources", describe_sources(), as_json=as_json)


@data_app.command("check")
def data_check(
    source: Annotated[str, typer.Argument(help="photos, div2k, folder:PATH or hub:REPO.")],
    scale: Scale = 2,
    as_json: Json = False,
) -> None:
    """Fetch a source if need be, read every picture of it, and prepare it for training."""
    from sesr_lab.cli.console import loading
    from sesr_lab.data.dataset import load

    if scale not in (2, 4):
        raise ConfigError(f"data check: scale: found {scale}; 2 or 4 is allowed")
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
    _show_mapping(found.description, facts, as_json=as_json)


@data_app.command("fetch")
def data_fetch(
    source: Annotated[str, typer.Argument(help="div2k or hub:REPO.")], scale: Scale = 2, as_json: Json = False
) -> None:
    """Fetch a source and prepare it for training; the same as `check`."""
    data_check(source, scale, as_json)


def run(arguments: list[str] | None = None) -> int:
    """Runs the command line; the exit status: 0 done, 1 the user's error, 2 usage, 3 a bug, 130 interrupted."""
    try:
        app(arguments)
    except SesrError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("stopped; the same command goes on from here", file=sys.stderr)
        return end.code if isinstance(end.code, int) else DONE
    except Exception:  # a bug: its traceback is worth keeping
        traceback.print_exc()
        return BUG
    return DONE


@contextmanager
def _lab(
    title: str, tracking_uri: str | None, storage: str | None, device: str, engine: str, model_name: str
) -> Iterator[tuple[Lab, str]]:
    """Everything that a command which trains needs, and the study database's URL."""
    from sesr_lab.cli.console import watching
    from sesr_lab.cli.stopping import stop_on_signal
    from sesr_lab.tracking.runs import open_store
    from sesr_lab.trials.checkpoint import state_folder
    from sesr_lab.trials.claims import Claims
    from sesr_lab.trials.lab import Lab
    from sesr_lab.trials.trial import place

    where, prefix = place(device, engine), _prefix(model_name)
    url = _storage_url(storage)
    with watching(title) as view, stop_on_signal(view.note) as stop:
        tracker = open_store(tracking_uri, spool=state_folder() / "spool")
        yield Lab(tracker, Claims(url), where, view, stop, prefix), url
        if waiting := tracker.flush(patience_s=5.0):
            view.note(f"warning: {waiting} writes wait for the store in {state_folder() / 'spool'}; run any command")


def _storage_url(given: str | None) -> str:
    return given or f"sqlite:///{Path.cwd() / 'optuna.db'}"


def _prefix(model_name: str) -> str:
    prefix = model_name.lower()
    if not prefix or not prefix.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"--model-name: {model_name!r} has other characters than letters, digits, - and _")
    return prefix


def _network(
    preset: str | None, m: int | None, f: int | None, feature_size: int | None, block: str | None
) -> dict[str, Any]:
    """The network that the flags name: the preset's settings, and what is given beside it."""
    from sesr_lab.study.config import preset as settings_of

    given = {"m": m, "f": f, "feature_size": feature_size, "block": block}
    settings: dict[str, Any] = dict(settings_of(preset)) if preset is not None else {}
    return settings | {key: value for key, value in given.items() if value is not None}


def _show_sweep(result: Sweep, *, as_json: bool) -> None:
    if as_json:
        document = asdict(result)
        document["trials"] = document.pop("outcomes")
        _print_json(document | {"best": asdict(result.best) if result.best else None})
        return
    from sesr_lab.cli.tables import show_outcomes

    next_lines = ["sesr-lab ui                     # the study, its curves, pictures and models in MLflow"]
    if result.best is not None:
        next_lines.append(f"sesr-lab evaluate {result.best.model} --benchmark FOLDER --scale {result.best.scale}")
    show_outcomes(result.outcomes, title=f"study {result.study}", pareto=result.pareto, next_lines=next_lines)


def _show_outcome(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        best = {"best_psnr": outcome.psnr, "status": outcome.result}
        name, _, version = (outcome.model or "").removeprefix("models:/").rpartition("/")
        registered = {"model": name or None, "version": int(version) if version else None, "uri": outcome.model}
        _print_json({**asdict(outcome), **best, **registered})
        return
    from sesr_lab.cli.tables import show_outcomes

    lines = ["sesr-lab ui                     # its curves and pictures in MLflow"]
    if outcome.model:
        lines.append(f"sesr-lab evaluate {outcome.model} --benchmark FOLDER --scale {outcome.scale}")
    show_outcomes([outcome], title=outcome.model or outcome.label, next_lines=lines)


def _show_mapping(title: str, values: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        _print_json(values)
        return
    from sesr_lab.cli.tables import show_mapping

    show_mapping(title, values)


def _print_json(document: object) -> None:
    """One document on standard output; what is not a number in JSON (NaN, infinity) becomes null."""
    print(json.dumps(json.loads(json.dumps(document, default=str), parse_constant=lambda name: None), indent=2))
