"""Views of MLflow's UI, as far as can be said without a browser; tests/cli/test_browser.py looks at them."""

import json

import pytest

from sesr_lab.tracking import measures
from sesr_lab.tracking.views import page, run_page, views

LONGEST = 20_000
"""Characters that MLflow allows a tag of an experiment."""


def states(**options: bool) -> dict[str, dict[str, object]]:
    found = {}
    for tag, text in views(**options).items():
        assert tag.startswith("mlflow.sharedViewState.")
        view = json.loads(text)
        assert view.keys() == {"name", "createdAt", "updatedAt", "state"}
        found[view["name"]] = json.loads(view["state"])
    return found


@pytest.mark.parametrize("timed", [False, True])
def test_there_are_two_views_which_fit_into_tags(timed: bool) -> None:
    assert states(timed=timed).keys() == {"Pareto", "Table"}
    assert all(len(text) < LONGEST for text in views(timed=timed).values())


@pytest.mark.parametrize("name", ["Pareto", "Table"])
def test_runs_stand_best_first_with_scores_and_costs(name: str) -> None:
    state = states()[name]
    assert {"metrics.`best_psnr`", "metrics.`cost/gmacs_720p`", "params.`m`"} <= set(state["selectedColumns"])  # type: ignore[call-overload]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best_psnr`", False)


def test_time_on_a_target_has_a_column_and_a_plot_where_there_is_one() -> None:
    for timed in (False, True):
        text = json.dumps(states(timed=timed)["Pareto"]["selectedColumns"])
        charts = [chart for chart in charts_of(timed) if chart["type"] == "SCATTER"]
        assert ("latency_ms" in text) is timed
        assert len(charts) == 1 + timed


def charts_of(timed: bool = False) -> list[dict[str, object]]:
    found: list[dict[str, object]] = states(timed=timed)["Pareto"]["compareRunCharts"]  # type: ignore[assignment]
    return found


def test_every_chart_lies_in_a_section_and_has_a_name_of_its_own() -> None:
    sections = {section["uuid"] for section in states()["Pareto"]["compareRunSections"]}  # type: ignore[attr-defined]
    assert {chart["metricSectionId"] for chart in charts_of()} <= sections
    names = [chart["uuid"] for chart in charts_of()]
    assert len(set(names)) == len(names)


def test_curves_have_charts_and_constants_have_none() -> None:
    shown = {chart["metricKey"]: not chart.get("deleted") for chart in charts_of() if "metricKey" in chart}
    assert {key for key, is_shown in shown.items() if is_shown} == set(measures.CURVES)
    assert {key for key, is_shown in shown.items() if not is_shown} == set(measures.CONSTANTS)


def test_links_open_on_runs_of_training_in_the_view() -> None:
    assert page("7") == (
        "/#/experiments/7/runs?viewStateShareKey=sesr-pareto&compareRunsMode=CHART&workflowType=machine_learning"
    )
    assert run_page("7", "ab") == "/#/experiments/7/runs/ab?workflowType=machine_learning"


# Digits


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("val/psnr", 34.019999999999996, 34.02),
        ("best_psnr", 31.123456, 31.1235),
        ("cost/gmacs_720p", 3.115008, 3.115),
        ("train/loss", 0.01234567891, 0.0123457),
        ("train/learning_rate", 1.23456789e-05, 1.23457e-05),
        ("train/patches_per_second", 12345.678, 12345.7),
        ("cost/params", 13520, 13520),
        ("val/psnr", float("inf"), float("inf")),
    ],
)
def test_metrics_have_the_digits_that_mean_something(key: str, value: float, shown: float) -> None:
    assert measures.rounded({key: value}) == {key: shown}
