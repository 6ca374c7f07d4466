"""The command line's options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

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
BatchSize = Annotated[int | None, typer.Option("--batch-size", "--batch_size", help="Patches in a batch (recipe's).")]
Patch = Annotated[
    int | None, typer.Option("--patch", help="Side of a high-resolution patch, a multiple of the scale (recipe's).")
]
ModelName = Annotated[
    str, typer.Option("--model-name", "--model_name", help="First word of registered models' names, in lower case.")
]
