"""Views of an experiment in MLflow's UI: which columns and charts it shows, saved under names in its Views menu.

The UI keeps them as tags of the experiment, in a form that it does not document: all that is known of it is here. Seen
in MLflow 3.17; a UI that does not know it shows its own columns and charts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from sesr_lab.tracking import measures

PARETO, TABLE = "sesr-pareto", "sesr-table"
# Without it the UI opens on its pages for language models.
_FOR_TRAINING = "workflowType=machine_learning"
_TAG = "mlflow.sharedViewState."
_MADE_MS = 1_760_000_000_000
_PARAMS = ("m", "f", "feature_size", "block", "scale")
_NUMBERS = ("m", "f", "feature_size")


def views(*, timed: bool = False) -> dict[str, str]:
    """Tags of an experiment that make the views `Pareto` and `Table`; `timed` where networks have times on a target."""
    scored = [measures.BEST_PSNR, measures.BEST_SSIM, *([measures.LATENCY] if timed else []), measures.GMACS]
    columns = [*_columns("metrics", [*scored, measures.PARAMS]), *_columns("params", _PARAMS)]
    table = [*_columns("attributes", ["Models"]), *columns, *_columns("tags", ["sesr.end"])]
    return {
        f"{_TAG}{PARETO}": _view("Pareto", {**_runs(columns), **_charts(timed=timed)}),
        f"{_TAG}{TABLE}": _view("Table", _runs(table)),
    }


def page(experiment_id: str, view: str = PARETO) -> str:
    """The address of an experiment's runs in a view, to be put behind the server's."""
    charts = "&compareRunsMode=CHART" if view == PARETO else ""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={view}{charts}&{_FOR_TRAINING}"


def run_page(experiment_id: str, run_id: str) -> str:
    """The address of a run, to be put behind the server's."""
    return f"/#/experiments/{experiment_id}/runs/{run_id}?{_FOR_TRAINING}"


def _view(name: str, state: Mapping[str, object]) -> str:
    packed = json.dumps(state, separators=(",", ":"))
    view = {"name": name, "createdAt": _MADE_MS, "updatedAt": _MADE_MS, "state": packed}
    return json.dumps(view, separators=(",", ":"))


def _runs(columns: list[str]) -> dict[str, object]:
    """The table of runs, the best first."""
    return {
        "selectedColumns": columns,
        "orderByKey": _column("metrics", measures.BEST_PSNR),
        "orderByAsc": False,
        "runsHiddenMode": "SHOW_ALL",
    }


def _charts(*, timed: bool) -> dict[str, object]:
    """Quality against cost, curves, what was chosen, and pictures; without a chart of each constant."""
    costs = [*([measures.LATENCY] if timed else []), measures.GMACS]
    scatters = [
        {"type": "SCATTER", "runsCountToCompare": 500, "xaxis": _axis(cost), "yaxis": _axis(measures.BEST_PSNR)}
        for cost in costs
    ]
    parallel = {
        "type": "PARALLEL",
        "selectedParams": [*_NUMBERS],
        "selectedMetrics": [costs[0], measures.BEST_PSNR],
        "showAllRuns": True,
    }
    picture = {"type": "IMAGE", "imageKeys": [measures.PICTURE], "step": 100, "showRunParams": False}
    by_section = {
        "Pareto": [*scatters, parallel],
        "val": [_curve(key) for key in measures.CURVES if key.startswith("val/")] + [picture],
        "train": [_curve(key) for key in measures.CURVES if key.startswith("train/")],
    }
    charts = [
        {"uuid": f"{name}-{number}", "metricSectionId": name, **chart}
        for name, charts in by_section.items()
        for number, chart in enumerate(charts)
    ]
    # The UI adds a chart of each metric that has none yet, and none of one whose chart was deleted.
    hidden = [
        {"uuid": f"no-{key}", "type": "BAR", "metricKey": key, "metricSectionId": "train"} for key in measures.CONSTANTS
    ]
    return {
        "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True, "columns": columns, "cardHeight": 400}
            for name, columns in (("Pareto", 2), ("val", 3), ("train", 3))
        ],
        "compareRunCharts": charts + [{**chart, "isGenerated": True, "deleted": True} for chart in hidden],
    }


def _curve(key: str) -> dict[str, object]:
    named = {"metricKey": key, "selectedMetricKeys": [key], "displayName": key.rpartition("/")[2]}
    as_usual = {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "xAxisKey": "step", "scaleType": "linear"}
    return {"type": "LINE", "xAxisScaleType": "linear", "lineSmoothness": 0, "range": {}, **named, **as_usual}


def _axis(key: str) -> dict[str, str]:
    return {"key": key, "type": "METRIC"}


def _columns(kind: str, names: Iterable[str]) -> list[str]:
    return [_column(kind, name) for name in names]


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
