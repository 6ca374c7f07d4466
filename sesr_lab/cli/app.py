"""The command line: every command in one list, and errors and endings as text and exit status."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from sesr_lab.cli import data, machine, networks, results, studies, training
from sesr_lab.errors import SesrError
from sesr_lab.tracking.secrets import hide

DONE, USER_ERROR, BUG, INTERRUPTED = 0, 1, 3, 130

app = typer.Typer(
    name="sesr-lab",
    help="Sweeps of super-efficient super-resolution networks (SESR), trained fast and tracked in MLflow.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from sesr_lab import __version__

        print(__version__)
        raise typer.Exit


for command in (
    studies.sweep,
    training.train,
    networks.evaluate,
    results.upscale,
    results.export,
    networks.cost,
    networks.models,
    networks.promote,
    studies.status,
    studies.report,
    machine.ui,
    machine.sync,
    machine.doctor,
):
    app.command()(command)

data_app = typer.Typer(help="List, fetch and check data sources.", no_args_is_help=True)
data_app.command("list")(data.list_sources)
data_app.command("check")(data.check)
data_app.command("fetch")(data.fetch)
app.add_typer(data_app, name="data")


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
        print(hide(traceback.format_exc()), end="", file=sys.stderr)
        return BUG
    return DONE
