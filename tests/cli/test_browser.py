"""What MLflow's UI shows of a study, in a real browser on a real server."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import urlopen

import browser
import pytest
from labs import TINY, lab, photographs, spawn, storage, study
from mlflow_store import free_port
from registered import facts_of, network_weights, publish

from sesr_lab.registry.catalog import versions
from sesr_lab.registry.version import Version, lineage_of
from sesr_lab.study.config import TrialConfig
from sesr_lab.sweep.chronicle import Sweep
from sesr_lab.sweep.driver import sweep
from sesr_lab.tracking.views import TABLE, page, run_page
from sesr_lab.trials.machine import Sampling
from sesr_lab.trials.outcome import Outcome
from sesr_lab.trials.train import EXPERIMENT, train

pytestmark = [pytest.mark.browser, pytest.mark.slow, browser.needs_chromium]


@dataclass(frozen=True)
class Site:
    """A finished study, and the server that shows it."""

    result: Sweep
    child: Version
    long: Outcome
    """A run that was long enough to look at its machine."""
    experiments: dict[str, str]
    said: str
    address: str
    folder: Path

    def tab(self, experiment_id: str, run_id: str, name: str) -> str:
        """The address of a page of a run."""
        return self.address + run_page(experiment_id, run_id).replace("?", f"/{name}?")

    def pictures(self, run_id: str) -> list[str]:
        """The paths of a run's pictures among its artifacts, as the server lists them."""
        with urlopen(f"{self.address}/ajax-api/2.0/mlflow/artifacts/list?run_id={run_id}&path=images") as answer:
            return [each["path"] for each in json.load(answer)["files"] if each["path"].endswith(".png")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    here, _ = lab(folder)
    data = photographs(folder / "pictures")
    result = sweep(study(data), here, storage(folder))
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
    often = replace(here, where=replace(here.where, sampling=Sampling(after_s=0.0, every_s=0.05)))
    long = train(TrialConfig.model_validate({**TINY, "data": data, "steps": 500, "patch": 32, "batch_size": 4}), often)
    experiments = here.tracker.experiments()
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
        yield Site(result, child, long, experiments, "".join(said), f"http://127.0.0.1:{port}", folder)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


@pytest.fixture(scope="module")
def window(site: Site) -> Iterator[browser.Browser]:
    with browser.opened(site.folder / "profile") as opened:
        yield opened


def test_the_link_that_is_printed_opens_on_the_study_s_charts(site: Site, window: browser.Browser) -> None:
    address = re.search(rf"{site.result.study}: ({re.escape(site.address)}\S+)", site.said)
    assert address is not None
    assert site.result.best is not None
    window.visit(address[1])
    shown = window.see(
        f"Best: {site.result.best.network}",
        "cost/gmacs_720p vs. best_psnr",
        "Parallel Coordinates",
        "val/psnr",
        "val/ssim",
        "val/picture",
        "train (3)",
        *(outcome.label for outcome in site.result.outcomes),
    )
    assert "cost (" not in shown, "a chart of each constant tells nothing"
    assert "Model metrics" not in shown


def test_the_table_has_scores_and_costs_as_columns(site: Site, window: browser.Browser) -> None:
    assert site.result.best is not None
    assert site.result.best.psnr is not None
    window.visit(site.address + page(site.result.experiment_id, TABLE))
    window.see("best_psnr", "best_ssim", "cost/gmacs_720p", "cost/params", f"{round(site.result.best.psnr, 4)}")


def test_a_trial_s_page_says_what_it_came_to_and_what_ran_it(site: Site, window: browser.Browser) -> None:
    best = site.result.best
    assert best is not None
    window.visit(site.address + run_page(site.result.experiment_id, best.run_id))
    window.see(f"{best.psnr:.2f} dB", "GMACs to 720p", "cpu", "engine simple", f"{best.model}".split("/")[1])


def test_a_trial_s_curves_and_pictures_lie_in_sections(site: Site, window: browser.Browser) -> None:
    best = site.result.best
    assert best is not None
    window.visit(site.tab(site.result.experiment_id, best.run_id, "model-metrics"), height=3600)
    window.see("val (3)", "train (4)", "cost (2)", f"{best.label} (val/psnr)", "val/picture")
    shown = "[...document.querySelectorAll('img')].find((e) => e.src.includes('val~picture') && e.naturalWidth)"
    width, height = window.until(f"(({shown}) || 0) && [({shown}).naturalWidth, ({shown}).naturalHeight]")
    assert width > 2.5 * height, "bicubic, network and original, side by side"


def test_a_trial_s_pictures_open_among_its_artifacts(site: Site, window: browser.Browser) -> None:
    best = site.result.best
    assert best is not None
    path = next(each for each in site.pictures(best.run_id) if "+step+100+" in each)
    window.visit(site.tab(site.result.experiment_id, best.run_id, f"artifacts/{path}"))
    window.see(path.rpartition("/")[2])
    assert window.until("[...document.querySelectorAll('img')].some((e) => e.naturalWidth > 2.5 * e.naturalHeight)")


def test_what_a_long_run_does_to_its_machine_has_a_page(site: Site, window: browser.Browser) -> None:
    window.visit(site.tab(site.experiments[EXPERIMENT], site.long.run_id, "system-metrics"))
    window.see("System metrics (5)", "cpu_utilization_percentage", "process_memory_usage_megabytes")


def test_a_model_s_page_has_its_card_and_its_schema(site: Site, window: browser.Browser) -> None:
    best = site.result.best
    assert best is not None
    name, _, number = str(best.model).removeprefix("models:/").rpartition("/")
    window.visit(f"{site.address}/#/models/{name}/versions/{number}")
    window.see(f"SESR {best.network}", "over bicubic", "this run", "licence", "mlflow models serve", "Inputs (1)")


def test_a_x4_network_s_page_leads_to_its_x2_parent(site: Site, window: browser.Browser) -> None:
    window.visit(f"{site.address}/#/models/{site.child.name}/versions/1")
    name, number = (site.child.tags[f"sesr.parent.{key}"] for key in ("name", "version"))
    link = f"[...document.querySelectorAll('a')].find((e) => e.textContent === '{name} version {number}')"
    window.visit(window.until(f"({link})?.href"))
    window.see(f"SESR {name.removeprefix('sesr-').removesuffix('-x2')} ×2")


def test_the_list_of_models_tells_scores_and_costs(site: Site, window: browser.Browser) -> None:
    window.visit(f"{site.address}/#/models")
    window.see(site.child.name, "psnr_db", "gmacs_720p")
