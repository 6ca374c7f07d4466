"""`sesr-lab report`: what a user types, and what comes back."""

import json
from pathlib import Path

import pytest
from labs import lab, photographs, storage
from labs import study as tiny
from PIL import Image
from studied import stored, trial, trials
from typed import Typed

from sesr_lab.sweep.driver import sweep

pytestmark = pytest.mark.slow


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(capsys)


def test_a_report_is_a_folder_with_a_page(typed: Typed, tmp_path: Path) -> None:
    stored(tmp_path, trials(12))
    assert typed("report", "tiny") == 0
    (line,) = typed.out.splitlines()
    assert line.startswith("tiny-report/report.html: 12 trials, ")
    assert sorted(path.name for path in Path("tiny-report").iterdir()) == [
        "history.png", "importances.png", "pareto.png", "report.html", "trials.csv",
    ]  # fmt: skip
    assert not Path("mlflow.db").exists()  # no network is registered, so no store is needed
    found = typed.json("report", "tiny", "-o", "a/b")
    assert found["files"][-1] == "a/b/report.html"
    assert (found["study"], found["finished"], found["trials"]) == ("tiny", True, 12)
    assert found["pareto"][0]["preset"] in ("m3", None)
    assert sum(found["importances"].values()) == pytest.approx(1.0)


def test_a_study_with_its_pictures(typed: Typed, tmp_path: Path) -> None:
    there, _ = lab(tmp_path)
    sweep(tiny(photographs(tmp_path / "photos")), there, storage(tmp_path))
    found = typed.json("report", "tiny", "-o", "out")
    assert found["note"] is None
    with Image.open("out/pictures.png") as image:
        assert image.width > 4 * 256  # bicubic, networks and the original, side by side
    assert '<img alt="patches' in Path("out/report.html").read_text()
    for picture in (tmp_path / "photos").iterdir():
        picture.unlink()
    found = typed.json("report", "tiny", "-o", "out2")
    assert found["note"].startswith("No pictures: ")
    assert len(found["note"].splitlines()) == 1
    assert "No pictures: " in Path("out2/report.html").read_text()


def test_a_store_that_cannot_be_opened_takes_the_pictures_alone(typed: Typed, tmp_path: Path) -> None:
    stored(tmp_path, [trial(3, 16, 256, 36.0, model="models:/sesr-m3/1")])
    assert typed("report", "tiny", "--tracking-uri", "sqlite:////proc/none/mlflow.db") == 0
    assert typed.out.splitlines()[1].startswith("No pictures: ")
    assert typed("report", "tiny") == 0  # a store without that network
    assert typed.out.splitlines()[1].startswith("No pictures: ")


def test_wrong_studies_and_folders_are_one_line(typed: Typed, tmp_path: Path) -> None:
    assert typed.error("report", "tiny").startswith("study 'tiny' is not in ")
    assert typed.error("report", "none.toml").startswith("study none.toml: no such file; built-in studies: ")
    stored(tmp_path, [trial(3, 16, 256, None)])
    line = typed.error("report", "tiny")
    assert line == "study tiny: no trial has finished, so there is nothing to report; go on with it first"
    stored(tmp_path, trials(3), "good")
    Path("file").touch()
    for out in ("file", "file/below", "/proc/none"):
        assert typed.error("report", "good", "-o", out).startswith(f"{out}: cannot be written (")
    assert not Path("good-report").exists()


def test_the_file_of_a_study_names_it_and_describes_it(typed: Typed, tmp_path: Path) -> None:
    stored(tmp_path, trials(3))
    space = '[space]\nm = [3]\n[train]\ndata = "photos"\n'
    Path("other.toml").write_text(f'name = "tiny"\ndescription = "What it is for"\ntrials = 3\n{space}')
    assert typed("report", "other.toml") == 0
    assert "What it is for" in Path("tiny-report/report.html").read_text()
    assert json.loads(json.dumps(typed.json("report", "other.toml")))["study"] == "tiny"
