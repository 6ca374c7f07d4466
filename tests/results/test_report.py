"""A study's report: what is in it, that it stands by itself, and that it never stops a study."""

import csv
import io
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
from PIL import Image
from studied import study, trial

from sesr_lab.errors import ConfigError
from sesr_lab.results import report as module
from sesr_lab.results.report import PAGE, TABLE, Report, Study, attach_report, make_report, write_report

pytestmark = pytest.mark.slow


class Seen(HTMLParser):
    """Tags in order, and what they load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


class Kept:
    """A run that remembers the files that were logged."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def log_file(self, content: Path | bytes, path: str) -> None:
        assert isinstance(content, bytes)
        self.files[path] = content


def page(report: Report) -> str:
    return report.files[PAGE].decode()


@pytest.fixture(scope="module")
def large() -> Report:
    return make_report(study(60, timed=True, finished=False))


def test_the_page_loads_nothing_and_has_every_trial(large: Report) -> None:
    seen = Seen(page(large))
    assert all(place.startswith(("data:", "#")) for place in seen.loaded)
    assert "url(http" not in page(large)
    assert seen.tags.count("svg") == 4  # by time, by MACs, importances, history
    body = page(large)[page(large).index('<table class="sortable">') :]
    assert body.count("<tr") == 61
    assert all(f"t{number:04d}-" in body for number in range(60))


def test_ids_of_the_plots_on_one_page_are_apart(large: Report) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page(large))
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page(large)))
    assert used <= set(ids)


def test_every_trained_network_says_what_it_is_when_pointed_at(large: Report) -> None:
    titles = re.findall(r"<title>(t\d{4}[^<]*)</title>", page(large))
    assert len(titles) == 3 * len(large.placed)
    assert all("GMACs" in title and " ms\n" in title and "weights" in title for title in titles)


def test_what_users_wrote_is_text(large: Report) -> None:
    assert "PSNR &lt;against&gt; MACs" in page(large)
    assert "loss &lt;is&gt; &amp; stays NaN" in page(large)
    assert "<against>" not in page(large)


def test_a_study_that_was_stopped_says_so(large: Report) -> None:
    assert "The study has not finished" in page(large)
    assert "has not finished" not in page(make_report(study(8)))


def test_the_plots_lie_beside_it_as_png(large: Report) -> None:
    pictures = [name for name in large.files if name.endswith(".png")]
    assert sorted(pictures) == ["history.png", "importances.png", "pareto-macs.png", "pareto.png"]
    for name in pictures:
        with Image.open(io.BytesIO(large.files[name])) as image:
            assert image.width > 600
    assert sorted(make_report(study(8)).files) == ["history.png", "pareto.png", PAGE, TABLE]  # too few for importances


def test_the_csv_has_every_digit() -> None:
    made = study(20)
    rows = list(csv.DictReader(io.StringIO(make_report(made).files[TABLE].decode())))
    assert [row["trial"] for row in rows] == [each.outcome.label for each in made.trials]
    for row, each in zip(rows, made.trials, strict=True):
        assert (float(row["PSNR"]) if row["PSNR"] else None) == each.outcome.psnr
        assert float(row["GMACs"]) * 1e9 == pytest.approx(each.outcome.macs_720p, abs=1)
        assert (int(row["m"]), row["block"], row["reason"]) == (
            each.outcome.settings["m"], "collapsed", each.outcome.reason,
        )  # fmt: skip


@pytest.mark.parametrize("psnr", [36.0, 20.0])
def test_one_network_is_enough_and_may_be_below_bicubic(psnr: float) -> None:
    made = page(make_report(Study("one", [trial(3, 16, 256, psnr)], True)))
    assert f"{psnr:.2f} dB ({psnr - 33.68:+.2f} over bicubic)" in made
    without = trial(3, 16, 256, psnr, bicubic_psnr=None)
    assert "over bicubic" not in page(make_report(Study("one", [without], True)))


def test_a_study_without_a_network_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^study tiny: no trial has finished, so there is nothing to report"):
        make_report(Study("tiny", [trial(3, 16, 256, None)], False))
    with pytest.raises(ConfigError, match="no trial has finished"):
        make_report(Study("tiny", [], False))


def test_it_is_written_over_an_earlier_one(tmp_path: Path) -> None:
    made = make_report(study(8))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / PAGE).write_text("earlier")
    paths = write_report(made, tmp_path / "new")
    assert {path.name: path.read_bytes() for path in paths} == made.files
    assert len(list((tmp_path / "new").iterdir())) == len(made.files)


def test_a_report_is_kept_with_the_run() -> None:
    run, said = Kept(), []
    attach_report(study(8), run, said.append)  # type: ignore[arg-type]
    assert {path.partition("/")[0] for path in run.files} == {"report"}
    assert run.files[f"report/{PAGE}"].startswith(b"<!DOCTYPE html>")
    assert not said


def test_a_report_that_cannot_be_made_is_a_line_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no font\nat all")

    monkeypatch.setattr(module, "pareto_figure", broken)
    run, said = Kept(), []
    attach_report(study(8), run, said.append)  # type: ignore[arg-type]
    assert said == ["warning: study tiny: no report could be made: no font at all; sesr-lab report tiny"]
    attach_report(Study("tiny", [trial(3, 16, 256, None)], False), run, said.append)  # type: ignore[arg-type]
    assert len(said) == 1
    assert not run.files


def test_two_hundred_trials_take_no_ten_seconds() -> None:
    made = study(200)
    began = time.process_time()
    make_report(made)
    assert time.process_time() - began < 10.0


@pytest.mark.browser
@browser.needs_chromium
def test_a_click_on_a_columns_head_sorts_by_it(tmp_path: Path) -> None:
    made = study(20)
    (tmp_path / "a.html").write_text(page(make_report(made)))
    with browser.opened(tmp_path / "profile") as window:
        window.visit((tmp_path / "a.html").as_uri())
        window.see("All 20 trials")
        head = "[...document.querySelectorAll('.sortable th')].find((e) => e.textContent === 'GMACs')"
        window.until(f"(({head}) || 0) && (({head}).click(), true)")
        window.until(f"({head}).click(), true")
        rows = "[...document.querySelectorAll('.sortable tbody tr')].map((r) => r.cells[0].textContent)"
        shown = window.run(rows)
    cheapest_first = sorted(made.trials, key=lambda each: each.outcome.macs_720p)
    assert [made.trials[int(label[1:5])].outcome.macs_720p for label in shown] == [
        each.outcome.macs_720p for each in cheapest_first
    ]
