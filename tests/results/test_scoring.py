"""What `evaluate` says of a benchmark that a network was trained on: real pictures, and a network in a real store."""

from __future__ import annotations

import logging
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from mlflow_store import new_store
from PIL import Image
from safetensors.torch import save_file
from skimage import data as skimage_data

from sesr_lab.data.dataset import Data, load
from sesr_lab.network.cost import costs
from sesr_lab.network.model import SESR
from sesr_lab.registry.publish import prepare, publish
from sesr_lab.registry.version import ModelFacts
from sesr_lab.results.scoring import score_models
from sesr_lab.scores.evaluate import ModelScore
from sesr_lab.study.config import Architecture
from sesr_lab.tracking.runs import Tracker

pytestmark = pytest.mark.slow

ARCHITECTURE = Architecture(m=1, f=4, feature_size=8, block="collapsed", scale=2)
CPU = torch.device("cpu")


def save(folder: Path, **pictures: Image.Image) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    return folder


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage_data, name)()).reduce(2)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setenv("SESR_LAB_CACHE", str(tmp_path / "cache"))
    save(tmp_path / "source" / "train", coffee=photograph("coffee"), chelsea=photograph("chelsea"))
    save(tmp_path / "source" / "valid", rocket=photograph("rocket"))
    return load(f"folder:{tmp_path / 'source'}", scale=2)


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    return save(tmp_path / "bench", brick=photograph("brick"), cup=photograph("coffee").crop((40, 20, 260, 180)))


def score(tracker: Tracker, fingerprint: str, bench: Path) -> ModelScore:
    """Of a network that says that it was trained on pictures with this fingerprint."""
    facts = ModelFacts(
        architecture=ARCHITECTURE,
        psnr_db=30.0,
        ssim=0.9,
        bicubic_psnr_db=29.0,
        bicubic_ssim=0.88,
        costs=costs(m=1, f=4, feature_size=8, scale=2),
        data="folder:source",
        data_fingerprint=fingerprint,
        recipe="fast",
        steps=1,
        config_fingerprint="c0ffee",
    )
    run = tracker.begin(uuid4().hex, experiment="trials", name="t0001")
    weights = dict(SESR(**ARCHITECTURE.model_dump()).state_dict())
    publish(run, prepare("sesr-m1-f4-p8-collapsed-x2", weights=weights, facts=facts, parent=None))
    run.end("FINISHED")
    found = tracker.wait_for(run.key, "model")
    assert found is not None
    return scores(found.model, bench, tracker)[0]


def scores(model: str, bench: Path, tracker: Tracker) -> list[ModelScore]:
    return score_models([model], [bench], scale=2, device=CPU, open_tracker=lambda: tracker, prefix="sesr")


def test_a_benchmark_picture_that_was_trained_on_is_named(
    data: Data, bench: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = score(new_store(tmp_path), data.fingerprint, bench)
    (leak,) = found.sets[0].trained_on or ()
    assert (leak.picture, leak.training) == ("cup.png", "coffee.png")
    said = "was trained on what 1 of the 2 pictures show, and scores too well there: cup.png ("
    assert said in caplog.text
    assert found.document()["sets"][0]["trained_on"][0]["training"] == "coffee.png"


def test_of_unseen_pictures_nothing_is_said(data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = save(tmp_path / "bench", brick=photograph("brick"), camera=photograph("camera"))
    found = score(new_store(tmp_path), data.fingerprint, bench)
    assert found.sets[0].trained_on == ()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_cannot_be_checked_is_null_and_no_warning(
    bench: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = new_store(tmp_path)
    elsewhere = score(tracker, "ab" * 32, bench)
    save_file(dict(SESR(**ARCHITECTURE.model_dump()).state_dict()), tmp_path / "x.safetensors")
    of_file = scores(str(tmp_path / "x.safetensors"), bench, tracker)[0]
    assert [found.document()["sets"][0]["trained_on"] for found in (elsewhere, of_file)] == [None, None]
    assert scores("bicubic", bench, tracker)[0].sets[0].trained_on == ()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
