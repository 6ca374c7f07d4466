"""What MLflow's UI shows of a study, in a real browser on a real server."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import browser
import pytest
from labs import lab, photographs, spawn, storage, study
from mlflow_store import free_port
from registered import facts_of, network_weights, publish

from sesr_lab.registry.catalog import versions
from sesr_lab.registry.version import Version, lineage_of
from sesr_lab.sweep.chronicle import Sweep
from sesr_lab.sweep.driver import sweep
from sesr_lab.tracking.views import TABLE, page, run_page

pytestmark = [pytest.mark.browser, pytest.mark.slow, browser.needs_chromium]


@dataclass(frozen=True)
class Site:
    """A finished study, and the server that shows it."""

    result: Sweep
    child: Version
    said: str
    address: str
    folder: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    here, _ = lab(folder)
    result = sweep(study(photographs(folder / "pictures")), here, storage(folder))
    parent = versions(here.tracker)[-1]
    run = here.tracker.begin("a" * 32, experiment="train", name="x4")
    child = publish(
        here.tracker,
        run,
        name="sesr-m1-f4-p8-collapsed-x4",
        weights=network_weights(4),
        facts=facts_of(scale=4),
        parent=lineage_of(parent),
    )
    run.end("FINISHED")
    here.tracker.close()
    port = free_port()
    server = spawn(folder, "ui", "--port", str(port), MLFLOW_TRACKING_URI=here.tracker.uri)
    said: list[str] = []
    try:
        assert server.stdout is not None
        for line in server.stdout:
            said.append(line)
            if "Ctrl-C ends it" in line:
                break
        yield Site(result, child, "".join(said), f"http://127.0.0.1:{port}", folder)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


@pytest.fixture(scope="module")
def text_of(site: Site) -> Callable[[str], str]:
    """What a page shows, tags left out, once its scripts have run."""
    calls = iter(range(1000))

    def read(address: str) -> str:
        return browser.words(browser.page(site.address + address, site.folder / f"profile{next(calls)}"))

    return read


def test_the_link_that_is_printed_opens_on_the_study_s_charts(site: Site, text_of: Callable[[str], str]) -> None:
    address = re.search(rf"{site.result.study}: {re.escape(site.address)}(\S+)", site.said)
    assert address is not None
    shown = text_of(address[1])
    assert site.result.best is not None
    for part in (
        f"Best: {site.result.best.network}",
        "cost/gmacs_720p vs. best_psnr",
        "Parallel Coordinates",
        "val/psnr",
        "val/ssim",
        "val/picture",
        "train (3)",
        *(outcome.label for outcome in site.result.outcomes),
    ):
        assert part in shown
    assert "cost (" not in shown, "a chart of each constant tells nothing"
    assert "Model metrics" not in shown


def test_the_table_has_scores_and_costs_as_columns(site: Site, text_of: Callable[[str], str]) -> None:
    shown = text_of(page(site.result.experiment_id, TABLE))
    assert site.result.best is not None
    assert site.result.best.psnr is not None
    for part in ("best_psnr", "best_ssim", "cost/gmacs_720p", "cost/params", f"{round(site.result.best.psnr, 4)}"):
        assert part in shown


def test_a_trial_s_page_says_what_it_came_to_and_what_ran_it(site: Site, text_of: Callable[[str], str]) -> None:
    best = site.result.best
    assert best is not None
    shown = text_of(run_page(site.result.experiment_id, best.run_id))
    for part in (f"{best.psnr:.2f} dB", "GMACs to 720p", "cpu", "engine simple", f"{best.model}".split("/")[1]):
        assert part in shown


def test_a_trial_s_curves_and_pictures_lie_in_sections(site: Site, text_of: Callable[[str], str]) -> None:
    best = site.result.best
    assert best is not None
    address = run_page(site.result.experiment_id, best.run_id).replace("?", "/model-metrics?")
    shown = text_of(address)
    for part in ("val (3)", "train (4)", "cost (2)"):
        assert part in shown


def test_a_model_s_page_has_its_card_and_its_schema(site: Site, text_of: Callable[[str], str]) -> None:
    best = site.result.best
    assert best is not None
    name, _, number = str(best.model).removeprefix("models:/").rpartition("/")
    shown = text_of(f"/#/models/{name}/versions/{number}")
    for part in (f"SESR {best.network}", "over bicubic", "this run", "licence", "mlflow models serve", "Inputs (1)"):
        assert part in shown


def test_a_x4_network_s_page_names_its_x2_parent(site: Site, text_of: Callable[[str], str]) -> None:
    shown = text_of(f"/#/models/{site.child.name}/versions/1")
    parent = site.child.tags["sesr.parent.name"]
    assert f"{parent} version {site.child.tags['sesr.parent.version']}" in shown


def test_the_list_of_models_tells_scores_and_costs(site: Site, text_of: Callable[[str], str]) -> None:
    shown = text_of("/#/models")
    assert site.child.name in shown
    assert "psnr_db" in shown
    assert "gmacs_720p" in shown
