"""Oracles: PyTorch on the same input, ONNX's checker, ONNX Runtime, and the scores that `evaluate` gives."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from numpy.typing import NDArray

from sesr_lab.data.dataset import load
from sesr_lab.data.image import luma
from sesr_lab.data.pair import Sample
from sesr_lab.errors import ExportError
from sesr_lab.network.model import SESR, run_collapsed
from sesr_lab.registry.lookup import Named, lineage_of_file
from sesr_lab.results import onnx_file
from sesr_lab.results.inference import onnx_network
from sesr_lab.results.onnx_file import Exported, float_file, int8_file
from sesr_lab.scores.evaluate import network_upscaler, score_set
from sesr_lab.study.config import Architecture
from sesr_lab.targets import onnx_graph, onnx_tools

TOLERANCE = 1e-5
"""Other runtimes add in another order; errors of 1e-6 were measured with networks of eleven blocks."""
SHAPES = [
    {"m": 5, "f": 16, "scale": 2},
    {"m": 3, "f": 12, "scale": 4},
    {"m": 1, "f": 1, "scale": 2},
    {"m": 2, "f": 8, "scale": 4, "activation": "relu"},
    {"m": 2, "f": 8, "scale": 2, "activation": "relu", "input_residual": False},
]


@torch.no_grad()
def network(**shape: object) -> SESR:
    """A network that changes pictures as a trained one does: a little."""
    torch.manual_seed(0)
    made = SESR(feature_size=16, **shape)  # type: ignore[arg-type]
    made.slopes.uniform_(-0.2, 0.5)
    made.tail.project.mul_(0.1)
    return made


def named(made: SESR) -> Named:
    weights = made.state_dict()
    settings = {
        "m": made.m,
        "f": made.f,
        "feature_size": made.feature_size,
        "scale": made.scale,
        "activation": made.activation,
        "input_residual": made.input_residual,
    }
    return Named("tiny", Architecture.model_validate(settings), weights, None, lineage_of_file("tiny", "0"))


def run(exported: Exported, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return onnxruntime.InferenceSession(exported.content).run(None, {"input": batch})[0]


@torch.no_grad()
def expected(made: SESR, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return F.pixel_shuffle(run_collapsed(made.collapse(), torch.from_numpy(batch)), made.scale).clamp(0, 1).numpy()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Sample]:
    return load("photos", scale=2, cache=tmp_path_factory.mktemp("cache")).valid


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [(1, 40, 56), (3, 5, 3), (2, 1, 77)])
def test_a_float_file_does_what_pytorch_does_at_any_size(shape: dict[str, object], size: tuple[int, int, int]) -> None:
    made = network(**shape)
    batch = np.random.default_rng(0).random((size[0], 1, *size[1:]), np.float32)
    found = run(float_file(named(made)), batch)
    np.testing.assert_allclose(found, expected(made, batch), atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rgb", [False, True])
def test_files_are_clean_open_in_size_and_standard(
    shape: dict[str, object], rgb: bool, photos: Sequence[Sample]
) -> None:
    made = named(network(**shape))
    small = [sample.lr[:64, :64] for sample in photos]
    sets = [("photos", load("photos", scale=int(str(shape["scale"]))).valid[:1])]
    for exported in (float_file(made, rgb=rgb), int8_file(made, small, sets, rgb=rgb)):
        model = onnx.load_from_string(exported.content)
        onnx.checker.check_model(model, full_check=True)
        assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
        assert not model.functions
        dims = [
            [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in (*model.graph.input, *model.graph.output)
        ]
        colours, scale = 3 if rgb else 1, shape["scale"]
        assert dims == [["batch", colours, "height", "width"], ["batch", colours, f"{scale}*height", f"{scale}*width"]]


def test_m5_is_small_collapsed_and_says_what_it_is() -> None:
    exported = float_file(named(network(m=5, f=16, scale=2)))
    assert len(exported.content) < 80_000
    assert exported.max_error < TOLERANCE
    model = onnx.load_from_string(exported.content)
    weights = [initial for initial in model.graph.initializer if initial.name.endswith("/weight")]
    assert sum(int(np.prod(initial.dims)) for initial in weights) == 13_520  # the paper's count of SESR-M5
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["sesr.name"] == "m5-f16-p16-collapsed"
    assert (facts["sesr.scale"], facts["sesr.colours"], facts["sesr.radius"]) == ("2", "1", "9")
    assert "BT.601" in facts["sesr.input"]


def test_a_graph_that_does_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "MID_GREY", 0.4)
    with pytest.raises(ExportError, match=r"differs from the network by .*; up to 1e-04 is allowed"):
        float_file(named(network(m=1, f=4, scale=2)))


def test_a_network_of_nan_is_refused() -> None:
    made = network(m=1, f=4, scale=2)
    with torch.no_grad():
        made.slopes[0, 0] = float("nan")
        made.head.project[0, 0, 0] = float("nan")
    with pytest.raises(ExportError, match="differs from the network by nan"):
        float_file(named(made))


@pytest.mark.slow
def test_int8_loses_little_and_its_losses_are_evaluates(photos: Sequence[Sample]) -> None:
    made = network(m=3, f=8, scale=2)
    exported = int8_file(named(made), [sample.lr for sample in photos], [("photos", photos)])
    (loss,) = exported.losses
    unrounded = network_upscaler(made, torch.device("cpu"))
    assert loss.float_db == pytest.approx(score_set("x", photos, unrounded, scale=2).psnr, abs=1e-3)
    rounded = score_set("x", photos, lambda y: unrounded((np.floor(y * 255 + 0.5) / 255).astype(np.float32)), scale=2)
    assert loss.float_8bit_db == pytest.approx(rounded.psnr, abs=1e-3)
    int8 = score_set("x", photos, lambda y: run(exported, y[None, None])[0, 0], scale=2)
    assert loss.int8_db == pytest.approx(int8.psnr, abs=1e-9)
    assert loss.loss_db == loss.float_db - loss.int8_db < 0.15
    assert loss.loss_8bit_db == loss.float_8bit_db - loss.int8_db
    facts = {entry.key: entry.value for entry in onnx.load_from_string(exported.content).metadata_props}
    assert json.loads(facts["sesr.int8_psnr_db"])["photos"] == pytest.approx(loss.int8_db, abs=1e-4)


def test_the_int8_input_is_rounded_to_whole_levels(photos: Sequence[Sample]) -> None:
    """Its scale is 1/255 and its zero 128: what lies between two levels makes no difference to the features."""
    made = network(m=1, f=4, scale=2)
    exported = int8_file(named(made), [sample.lr for sample in photos], [("photos", photos[:1])])
    levels = np.random.default_rng(0).integers(0, 256, (1, 1, 20, 20)).astype(np.float32)
    off = (levels + np.random.default_rng(1).uniform(-0.4, 0.4, levels.shape).astype(np.float32)).clip(0, 255)
    # The input itself is added in float, so the difference of the outputs is that of the inputs.
    difference = run(exported, off / 255) - run(exported, levels / 255)
    added = np.repeat(np.repeat((off - levels) / 255, 2, axis=2), 2, axis=3)
    inside = (run(exported, off / 255) > 0) & (run(exported, off / 255) < 1) & (run(exported, levels / 255) > 0)
    inside &= run(exported, levels / 255) < 1
    np.testing.assert_allclose(difference[inside], added[inside], atol=1e-6)


def test_an_int8_file_that_loses_too_much_is_refused(photos: Sequence[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST_LOSS_DB", -5.0)  # so that any network loses too much
    with pytest.raises(ExportError, match=r"int8 loses -?\d\.\d\d dB on photos; up to -5 dB is allowed; calibrate on"):
        int8_file(named(network(m=1, f=4, scale=2)), [photos[1].lr], [("photos", photos[1:2])])


@pytest.mark.parametrize("scale", [2, 4])
def test_an_rgb_file_gives_the_luma_of_the_network(scale: int) -> None:
    made = network(m=2, f=8, scale=scale)
    exported = float_file(named(made), rgb=True)
    rgb = np.random.default_rng(0).integers(60, 200, (24, 31, 3), dtype=np.uint8)
    found = run(exported, (rgb.transpose(2, 0, 1)[None] / 255).astype(np.float32))[0].transpose(1, 2, 0) * 255
    y = expected(made, (luma(rgb) / 255).astype(np.float32)[None, None])[0, 0] * 255
    inside = ((found > 0.5) & (found < 254.5)).all(axis=2)  # what is clipped in RGB has another luma
    weights = np.array([65.481, 128.553, 24.966]) / 255
    np.testing.assert_allclose((16 + found @ weights)[inside], y[inside], atol=0.01)


@pytest.mark.parametrize("kind", ["float", "int8", "rgb"])
def test_files_run_in_tiles_as_in_one_piece(tmp_path: Path, kind: str, photos: Sequence[Sample]) -> None:
    from sesr_lab.results.decoding import Picture
    from sesr_lab.results.upscaling import upscaled

    made = named(network(m=2, f=8, scale=2))
    sets = [("photos", photos[:1])]
    exported = int8_file(made, [s.lr for s in photos], sets) if kind == "int8" else float_file(made, rgb=kind == "rgb")
    (tmp_path / "a.onnx").write_bytes(exported.content)
    ready = onnx_network(str(tmp_path / "a.onnx"))
    assert (ready.scale, ready.radius, ready.colours) == (2, 6, exported.colours)
    picture = Picture(np.ascontiguousarray(photos[1].hr[:101, :77]))
    whole = np.concatenate(list(upscaled(picture, ready, tile=0)))
    for tile in (16, 33, 64):
        np.testing.assert_array_equal(np.concatenate(list(upscaled(picture, ready, tile=tile))), whole)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_line(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ExportError, match=f"^{package} "):
        onnx_tools._import(package)
