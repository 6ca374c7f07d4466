"""A TFLite file as it is handed over: its losses are those of the interpreter on the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sesr_lab.data.dataset import load
from sesr_lab.data.pair import Sample
from sesr_lab.errors import ConfigError, ExportError
from sesr_lab.network.model import SESR
from sesr_lab.registry.lookup import Named, lineage_of_file
from sesr_lab.results import onnx_file
from sesr_lab.results.export import Form, export
from sesr_lab.results.onnx_file import Loss, check_losses
from sesr_lab.results.tflite_file import tflite_file
from sesr_lab.study.config import Architecture
from sesr_lab.targets.estimate import Size
from sesr_lab.targets.interpreter import run_tflite

pytest.importorskip("ai_edge_litert")


def named() -> Named:
    torch.manual_seed(0)
    made = SESR(m=2, f=8, feature_size=16, scale=2)
    with torch.no_grad():
        made.tail.project.mul_(0.1)
    return Named("tiny", Architecture(m=2, f=8, feature_size=16), made.state_dict(), None, lineage_of_file("tiny", "0"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Sample]:
    return load("photos", scale=2, cache=tmp_path_factory.mktemp("cache")).valid


@pytest.mark.slow
def test_a_tflite_file_is_for_one_size_and_loses_little(photos: Sequence[Sample]) -> None:
    made = tflite_file(named(), [sample.lr for sample in photos], [("photos", photos)], size=Size(48, 32))
    assert run_tflite(made.content, np.full((32, 48), 128, np.uint8)).shape == (64, 96)
    assert (made.is_int8, made.size, made.max_error) == (True, Size(48, 32), None)
    (loss,) = made.losses
    assert loss.set == "photos"
    assert abs(loss.loss_8bit_db) < 0.15
    assert loss.loss_db - loss.loss_8bit_db == pytest.approx(loss.float_db - loss.float_8bit_db)


@pytest.mark.parametrize("int8_db", [28.9, float("nan")])
def test_a_network_that_loses_more_than_is_allowed_is_refused(int8_db: float) -> None:
    with pytest.raises(ExportError, match=r"^tiny: int8 loses .* dB on photos; up to 1 dB is allowed; ") as caught:
        check_losses(named(), [Loss("photos", 30.05, 30.0, int8_db)])
    assert "\n" not in str(caught.value)
    assert onnx_file.LARGEST_LOSS_DB == 1.0


@pytest.mark.parametrize(
    ("name", "form", "says"),
    [
        ("a.tflite", Form(), "a TFLite file is written in int8 alone; add --int8"),
        ("a.tflite", Form(int8=True, rgb=True), "a TFLite file takes and gives luma alone; leave --rgb out"),
        ("a.onnx", Form(int8=True, size=Size(4, 4)), "an ONNX file takes pictures of any size; leave --input out"),
        ("a.bin", Form(), "found the suffix '.bin'; .onnx or .tflite is allowed"),
    ],
)
def test_a_form_that_does_not_go_with_the_file_is_refused_before_anything_is_read(
    name: str, form: Form, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        export("no.safetensors", Path(name), form, scale=None, open_tracker=lambda: pytest.fail("opened"))
    assert str(caught.value) == f"{name}: {says}"
