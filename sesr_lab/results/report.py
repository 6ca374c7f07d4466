"""A study's report: one page that stands by itself, the plots as PNG, and every trial as CSV."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sesr_lab.data.refusal import shown
from sesr_lab.errors import ConfigError, SesrError
from sesr_lab.results.page import Content, Plot, page_of
from sesr_lab.results.plots import history_figure, importances_figure, pareto_figure, png_of, svg_of, titles_of
from sesr_lab.results.ranking import Ranked, Trial, costs_of, ranked, spread_of
from sesr_lab.results.trial_table import columns_of, csv_of
from sesr_lab.tracking.runlog import RunLog
from sesr_lab.tracking.runs import Tracker

if TYPE_CHECKING:
    from sesr_lab.data.pair import Sample

ARTIFACTS = "report"
"""Where a report lies among its study's run's artifacts."""
PAGE, TABLE, PICTURES = "report.html", "trials.csv", "pictures.png"


@dataclass(frozen=True)
class Study:
    """What a report is about."""

    name: str
    trials: Sequence[Trial]
    """Those that ended, in order."""
    finished: bool
    """Whether the study has come to its end; a report on one that was stopped says so."""
    description: str = ""
    importances: Mapping[str, float] = field(default_factory=dict)
    """How much each setting decides PSNR, parts of 1; empty where too few have ended to say."""


@dataclass(frozen=True)
class Report:
    """A report, not yet written."""

    files: Mapping[str, bytes] = field(repr=False)
    """By name; `report.html` needs none of the others."""
    placed: Sequence[Ranked]
    """The trained networks, cheapest first, by the study's own cost."""
    note: str = ""
    """Why it has no pictures, in one line."""


def make_report(study: Study, *, tracker: Tracker | None = None, samples: Sequence[Sample] | None = None) -> Report:
    """The report on a study; where its networks or pictures cannot be read, it has no pictures and says why.

    Args:
        tracker: the store that holds the study's networks; without it there are no pictures.
        samples: the validation pictures, where the caller has them already.

    Raises:
        ConfigError: no trial has finished.
    """
    costs, spread = costs_of(study.trials), spread_of(study.trials)
    rankings = [ranked(study.trials, cost, spread) for cost in costs]
    if not rankings[0]:
        raise ConfigError(
            f"study {study.name}: no trial has finished, so there is nothing to report; go on with it first"
        )
    pictures, note = _pictures(rankings[0], tracker, samples)
    outcomes = [trial.outcome for trial in study.trials]
    bicubic = next((outcome.bicubic_psnr for outcome in outcomes if outcome.bicubic_psnr is not None), None)
    figures = {
        name: (pareto_figure(placed, cost, bicubic), placed)
        for name, placed, cost in zip(("pareto", "pareto-macs"), rankings, costs, strict=False)
    }
    figures["history"] = history_figure(study.trials, rankings[0], bicubic), rankings[0]
    if study.importances:
        figures["importances"] = importances_figure(study.importances), []
    files = {f"{name}.png": png_of(figure) for name, (figure, _) in figures.items()}
    plots = {
        name: Plot(svg_of(figure, titles_of(placed), name), files[f"{name}.png"])
        for name, (figure, placed) in figures.items()
    }
    columns = columns_of(study.trials)
    files[TABLE] = csv_of(columns).encode()
    if pictures is not None:
        files[PICTURES] = _png(pictures)
    content = Content(
        name=study.name,
        description=study.description,
        trials=study.trials,
        finished=study.finished,
        placed=rankings[0],
        costs=costs,
        spread=spread,
        bicubic=bicubic,
        plots=plots,
        columns=columns,
        pictures=files.get(PICTURES),
        note=note,
    )
    files[PAGE] = page_of(content).encode()
    return Report(files, rankings[0], note)


def write_report(report: Report, folder: Path) -> list[Path]:
    """Leaves the report's files in a folder, which is made if need be; where they are.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(content, folder / name) for name, content in report.files.items()]
    except OSError as error:
        raise ConfigError(
            f"{shown(folder)}: cannot be written ({error.strerror or error}); choose another -o"
        ) from error


def log_report(report: Report, run: RunLog) -> None:
    """Keeps the report with a run, in place of an earlier one."""
    for name, content in report.files.items():
        run.log_file(content, f"{ARTIFACTS}/{name}")


def attach_report(
    study: Study,
    run: RunLog,
    say: Callable[[str], None],
    *,
    tracker: Tracker | None = None,
    samples: Sequence[Sample] | None = None,
) -> None:
    """Makes the report and keeps it with the study's run; never raises, since a study is worth more than its report.

    Args:
        say: told in one line why there is no report, unless it is that no trial has finished.
    """
    if not any(trial.outcome.psnr is not None for trial in study.trials):
        return
    try:
        log_report(make_report(study, tracker=tracker, samples=samples), run)
    except Exception as error:  # plots and fonts fail in ways that nobody lists, and hours of training are at stake
        reason = " ".join(str(error).split()) or type(error).__name__
        say(f"warning: study {study.name}: no report could be made: {reason}; sesr-lab report {study.name}")


def _pictures(
    placed: Sequence[Ranked], tracker: Tracker | None, samples: Sequence[Sample] | None
) -> tuple[NDArray[np.uint8] | None, str]:
    """The contact sheet, or why there is none."""
    if tracker is None:
        return None, ""
    from sesr_lab.results.hard_patches import hard_patches  # loads PyTorch, which a report without pictures needs not

    try:
        return hard_patches(placed, tracker, samples=samples), ""
    except SesrError as error:
        return None, f"No pictures: {error}"


def _write(content: bytes, path: Path) -> Path:
    """Leaves the whole file at `path`, or what was there before."""
    unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    image = io.BytesIO()
    Image.fromarray(picture).save(image, "PNG")
    return image.getvalue()
