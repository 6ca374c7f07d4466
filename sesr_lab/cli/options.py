"""The command line's options that several commands share, and what they stand for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sesr_lab.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else.")]
Store = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow's store (MLFLOW_TRACKING_URI, else MLflow's own default here)."),
]
Storage = Annotated[
    str | None,
    typer.Option("--storage", envvar="SESR_LAB_STORAGE", help="Optuna's storage URL (sqlite:///optuna.db here)."),
]
Device = Annotated[str, typer.Option("--device", help="auto (the GPU where there is one), cpu, cuda, cuda:1 …")]
Engine = Annotated[str, typer.Option("--engine", help="auto (the fastest), simple, compiled, kernel or graph.")]
Scale = Annotated[int, typer.Option("--scale", help="2 or 4.")]
Preset = Annotated[str | None, typer.Option("--preset", help="m3, m5, m7, m11 or xl: the paper's m, f, feature size.")]
M = Annotated[int | None, typer.Option("--m", help="Number of 3x3 blocks (5).")]
F = Annotated[int | None, typer.Option("--f", "--int-features", "--int_features", help="Channels between blocks (16).")]
FeatureSize = Annotated[
    int | None,
    typer.Option("--feature-size", "--feature_size", help="Channels inside a block while it is expanded (256)."),
]
BlockType = Annotated[
    str | None,
    typer.Option(
        "--block", "--linear-block-type", "--linear_block_type", help="collapsed or expanded training (collapsed)."
    ),
]
Activation = Annotated[
    str | None, typer.Option("--activation", help="prelu or relu, the paper's for hardware (prelu).")
]
InputResidual = Annotated[
    bool | None,
    typer.Option("--input-residual/--no-input-residual", help="Whether the input is added to the output (yes)."),
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", "--batch_size", help="Patches in a batch (recipe's).")]
Patch = Annotated[
    int | None, typer.Option("--patch", help="Side of a high-resolution patch, a multiple of the scale (recipe's).")
]
ModelName = Annotated[
    str, typer.Option("--model-name", "--model_name", help="First word of registered models' names, in lower case.")
]


def storage_url(given: str | None) -> str:
    """The study database's URL: the given one, or optuna.db in the current folder."""
    from sesr_lab.trials.database import storage_url as url_of

    return url_of(given or None)


def model_prefix(model_name: str) -> str:
    """The first word of registered models' names.

    Raises:
        ConfigError: it has characters that a model's name cannot have.
    """
    prefix = model_name.lower()
    if not prefix or not prefix.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"--model-name: {model_name!r} has other characters than letters, digits, - and _")
    return prefix


def network_settings(preset: str | None, **given: int | str | bool | None) -> dict[str, Any]:
    """The network that the flags name: the preset's settings, and what is given beside it."""
    from sesr_lab.study.config import preset as settings_of

    settings: dict[str, Any] = dict(settings_of(preset)) if preset is not None else {}
    return settings | {key: value for key, value in given.items() if value is not None}
