"""`sesr-lab sweep`, `status` and `report`: studies run, where they stand, and what they came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sesr_lab.cli.options import Device, Engine, Json, ModelName, Storage, Store, storage_url
from sesr_lab.cli.output import print_json, show_facts
from sesr_lab.cli.stores import opened
from sesr_lab.cli.terminal import doing
from sesr_lab.errors import SesrError, StoreError

if TYPE_CHECKING:
    from sesr_lab.results.ranking import Ranked
    from sesr_lab.results.report import Report, Study
    from sesr_lab.study.spec import StudySpec
    from sesr_lab.sweep.driver import Sweep


def sweep(
    study: Annotated[str, typer.Argument(help="A built-in study's name, or the path to a .toml file.")] = "quickstart",
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Train this many networks in all.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Train on this source instead of the study's.")] = None,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", help="Begin nothing more after so long in all: 90s, 30m, 8h."),
    ] = None,
    device_hours: Annotated[
        float | None, typer.Option("--device-hours", help="Begin nothing more after so many hours of training in all.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", help="End after so many networks in a row that gain nothing.")
    ] = None,
    max_failure_rate: Annotated[
        float | None, typer.Option("--max-failure-rate", help="End when a larger part of the networks fails: 0.5.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Train so many networks at once, on Ray (this process).")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="A Ray cluster that runs: auto, or HOST:PORT (this machine).")
    ] = None,
    trials_per_device: Annotated[
        int | None,
        typer.Option("--trials-per-device", min=1, help="Let so many networks take turns on this device (1)."),
    ] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", help="Cores for each network, and its threads (1).")] = None,
    gpus: Annotated[
        float | None, typer.Option("--gpus", help="GPUs for each network, or a part of one: 0.25 (0).")
    ] = None,
    retries: Annotated[
        int | None, typer.Option("--retries", min=0, help="Begin a trial again so often whose worker was lost (2).")
    ] = None,
    list_studies: Annotated[bool, typer.Option("--list", help="List the built-in studies and exit.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would do; train nothing.")] = False,
    tracking_uri: Store = None,
    storage: Storage = None,
    device: Device = "auto",
    engine: Engine = "auto",
    model_name: ModelName = "SESR",
    as_json: Json = False,
) -> None:
    """Run a study, or go on with it where it stopped."""
    from sesr_lab.study.files import built_in, load_study

    if list_studies:
        descriptions = {name: load_study(name).description for name in built_in()}
        show_facts("built-in studies", descriptions, as_json=as_json)
        return
    spec = load_study(study)
    limits = {
        "trials": trials,
        "timeout": timeout,
        "device_hours": device_hours,
        "patience": patience,
        "max_failure_rate": max_failure_rate,
        "workers": workers,
        "trials_per_device": trials_per_device,
        "cpus": cpus,
        "gpus": gpus,
        "retries": retries,
    }
    spec = spec.changed(data=data, **limits)
    if dry_run:
        show_facts(
            f"study {spec.name}", _foreseen(spec, storage, device, engine, address, as_json=as_json), as_json=as_json
        )
        return
    with doing("loading PyTorch"):
        from sesr_lab.cli.lab import lab_for
        from sesr_lab.sweep.cluster import workers_of
        from sesr_lab.sweep.driver import sweep as run_sweep
        from sesr_lab.sweep.together import turns_of

    start = workers_of(spec, address) or turns_of(spec)
    with lab_for(spec.name, tracking_uri, storage, device, engine, model_name, winds_down=True) as (lab, storage_url):
        result = run_sweep(spec, lab, storage_url, start=start)
    _show_sweep(result, as_json=as_json)
    if result.outcomes and result.best is None:
        raise SesrError(f"study {spec.name}: no network could be trained; {result.outcomes[-1].reason}")


def _foreseen(
    spec: StudySpec, storage: str | None, device: str, engine: str, address: str | None, *, as_json: bool
) -> Mapping[str, object]:
    """What a study would do, by name."""
    from sesr_lab.cli.outcomes import duration
    from sesr_lab.study.summary import space_summary

    with doing("measuring how long a step takes"):
        from sesr_lab.sweep.cluster import room_for
        from sesr_lab.sweep.forecast import forecast
        from sesr_lab.trials.trial import place

        room = room_for(spec, address)
        facts, time = forecast(spec, storage_url(storage), place(device, engine), room)
    told = "not known" if isnan(time.seconds) else f"about {duration(time.seconds)}"
    needs = {} if room is None else {"at a time": f"{room}, with {spec.cpus:g} CPUs and {spec.gpus:g} GPUs each"}
    rests = {"time": told, "which rests on": time.rests_on}
    return {**space_summary(spec), **facts, **needs, **rests, **({"seconds": time.seconds} if as_json else {})}


def status(
    study: Annotated[str | None, typer.Argument(help="A study's name; all of them without one.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show where the stored studies stand."""
    with doing("reading the study database"):
        from sesr_lab.sweep.ledger import standing
        from sesr_lab.tracking.runs import waiting_here

        found, unsent = standing(storage_url(storage), study), waiting_here()
    if as_json:
        print_json({"studies": [asdict(item) for item in found], "unsent": unsent})
        return
    from sesr_lab.cli.outcomes import show_standing

    show_standing(found, whole=study is not None, unsent=unsent)


def report(
    study: Annotated[str, typer.Argument(help="A stored study's name, or the path to its .toml file.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The folder to write to (STUDY-report).")] = None,
    storage: Storage = None,
    tracking_uri: Store = None,
    as_json: Json = False,
) -> None:
    """Write what a study came to: one page with plots, pictures and every trial; PNG and CSV beside it."""
    with doing("reading the study database"):
        from sesr_lab.data.refusal import shown
        from sesr_lab.results.places import with_models
        from sesr_lab.results.report import make_report, write_report
        from sesr_lab.sweep.importance import stored_study

        name, description = _described(study)
        found = replace(stored_study(name, storage_url(storage)), description=description)
    tracker, why = None, ""
    if any(trial.outcome.key or trial.outcome.model for trial in found.trials):
        try:
            tracker = opened(tracking_uri)
            found = with_models(found, tracker)
        except StoreError as error:  # the numbers are in the study database
            why = f"No pictures: {error}"
    with doing("drawing"):
        made = make_report(found, tracker=tracker)
    paths = write_report(made, out or Path(f"{name}-report"))
    note = why or made.note
    if as_json:
        print_json(_report_document(found, made, paths, note))
        return
    front = [item for item in made.placed if item.on_front]
    best = f"the best of them {front[-1].name} with {front[-1].psnr:.2f} dB"
    print(f"{shown(paths[-1])}: {len(found.trials)} trials, {len(front)} in the Pareto set, {best}")
    if note:
        print(note)


def _described(study: str) -> tuple[str, str]:
    """The name and description of a study that the user names, by its file where there is one."""
    from sesr_lab.study.files import built_in, load_study

    if not study.endswith(".toml") and study not in built_in():
        return study, ""
    spec = load_study(study)
    return spec.name, spec.description


def _report_document(study: Study, report: Report, paths: list[Path], note: str) -> dict[str, object]:
    return {
        "study": study.name,
        "finished": study.finished,
        "trials": len(study.trials),
        "files": [str(path) for path in paths],
        "pareto": [_network(item) for item in report.placed if item.on_front],
        "tied": [_network(item) for item in report.placed if item.is_tied],
        "importances": study.importances,
        "note": note or None,
    }


def _network(item: Ranked) -> dict[str, object]:
    outcome = item.trial.outcome
    keys = ("label", "network", "psnr", "ssim", "params", "macs_720p", "latency_ms", "model", "run_id")
    return {"preset": item.preset, **{key: getattr(outcome, key) for key in keys}}


def _show_sweep(result: Sweep, *, as_json: bool) -> None:
    if as_json:
        document = asdict(result)
        document["trials"] = document.pop("outcomes")
        for each, found in zip(document["confirmed"], result.confirmed, strict=True):
            each |= {"mean": found.mean, "spread": found.spread}
        print_json(document | {"best": asdict(result.best) if result.best else None})
        return
    from sesr_lab.cli.outcomes import show_confirmed, show_outcomes

    if result.confirmed:
        show_confirmed(result.confirmed)
    next_lines = [
        f"{'sesr-lab ui':<31} # the study, its curves, pictures and models in MLflow",
        f"{f'sesr-lab report {result.study}':<31} # a page with its plots, its best networks' pictures and every trial",
    ]
    if result.best is not None:
        next_lines.append(f"sesr-lab evaluate {result.best.model} --benchmark FOLDER --scale {result.best.scale}")
    show_outcomes(result.outcomes, title=f"study {result.study}", pareto=result.pareto, next_lines=next_lines)
