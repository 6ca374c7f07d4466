"""`sesr-lab train`: one network."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sesr_lab.cli.options import (
    Activation,
    BatchSize,
    BlockType,
    Device,
    Engine,
    F,
    FeatureSize,
    InputResidual,
    Json,
    M,
    ModelName,
    Patch,
    Preset,
    Scale,
    Storage,
    Store,
    network_settings,
)
from sesr_lab.cli.output import print_json
from sesr_lab.cli.terminal import doing
from sesr_lab.errors import SesrError

if TYPE_CHECKING:
    from sesr_lab.trials.outcome import Outcome


def train(
    preset: Preset = None,
    m: M = None,
    f: F = None,
    feature_size: FeatureSize = None,
    block: BlockType = None,
    activation: Activation = None,
    input_residual: InputResidual = None,
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

    shape = {"m": m, "f": f, "feature_size": feature_size, "block": block}
    settings = network_settings(preset, **shape, activation=activation, input_residual=input_residual) | {
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
    with doing("loading PyTorch"):
        from sesr_lab.cli.lab import lab_for
        from sesr_lab.trials.train import train as run_train

    title = f"{config.architecture.name} x{scale}"
    with lab_for(title, tracking_uri, storage, device, engine, model_name) as (lab, _):
        outcome = run_train(config, lab, fresh=fresh)
    _show_outcome(outcome, as_json=as_json)
    if outcome.result != "finished":
        raise SesrError(f"{outcome.label}: {outcome.result}: {outcome.reason}")


def _show_outcome(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        best = {"best_psnr": outcome.psnr, "status": outcome.result}
        name, _, version = (outcome.model or "").removeprefix("models:/").rpartition("/")
        registered = {"model": name or None, "version": int(version) if version else None, "uri": outcome.model}
        print_json({**asdict(outcome), **best, **registered})
        return
    from sesr_lab.cli.outcomes import show_outcomes

    lines = ["sesr-lab ui                     # its curves and pictures in MLflow"]
    if outcome.model:
        lines.append(f"sesr-lab evaluate {outcome.model} --benchmark FOLDER --scale {outcome.scale}")
    show_outcomes([outcome], title=outcome.model or outcome.label, next_lines=lines)
