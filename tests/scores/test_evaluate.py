"""Oracles: scikit-image's PSNR and SSIM on the whole chain, and `metrics`."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data as skimage_data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sesr_lab.data.image import downscale, luma, modcrop, upscale
from sesr_lab.data.pair import Sample
from sesr_lab.errors import DataError
from sesr_lab.network.model import SESR
from sesr_lab.scores.evaluate import (
    ModelScore,
    PictureScore,
    SetScore,
    Validator,
    benchmark,
    network_upscaler,
    score_sample,
    score_set,
)

CPU = torch.device("cpu")


def nearest(scale: int):  # type: ignore[no-untyped-def]  # an Upscaler
    return lambda lr: np.kron(lr, np.ones((scale, scale), np.float32))


def network(scale: int = 2, *, seed: int = 0, block: str = "collapsed") -> SESR:
    torch.manual_seed(seed)
    return SESR(m=2, f=4, feature_size=8, scale=scale, block=block)  # type: ignore[arg-type]  # one of two names


def sample(name: str = "cat", scale: int = 2) -> Sample:
    hr = modcrop(skimage_data.chelsea()[:121, :163], scale)
    return Sample(name, hr, downscale(hr, scale))


def grey_sample(scale: int = 2) -> Sample:
    hr = modcrop(skimage_data.coins()[:96, :130], scale)
    return Sample("coins", hr, downscale(hr, scale))


def write(path: Path, picture: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def scikit_scores(levels: NDArray[np.float64], truth: NDArray[np.float64], border: int) -> tuple[float, float]:
    inside = slice(border, -border)
    levels, truth = levels[inside, inside], truth[inside, inside]
    _, full = structural_similarity(
        levels,
        truth,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return peak_signal_noise_ratio(truth, levels, data_range=255), float(full[5:-5, 5:-5].mean())


@pytest.mark.parametrize("scale", [2, 4])
def test_a_network_is_scored_on_rounded_luma_inside_the_border(scale: int) -> None:
    cat = sample(scale=scale)
    output = nearest(scale)((luma(cat.lr) / 255).astype(np.float32))
    levels = np.floor(np.clip(output.astype(float), 0, 1) * 255 + 0.5)
    expected = scikit_scores(levels, luma(cat.hr), scale)
    found = score_sample(cat, nearest(scale), scale=scale)
    assert (found.psnr, found.ssim) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_is_scored_on_the_luma_of_the_rounded_rgb_picture(scale: int) -> None:
    cat = sample(scale=scale)
    expected = scikit_scores(luma(upscale(cat.lr, scale)), luma(cat.hr), scale)
    found = score_sample(cat, "bicubic", scale=scale)
    assert (found.psnr, found.ssim) == pytest.approx(expected, abs=1e-9)


def test_grey_pictures_are_scored_on_their_values() -> None:
    coins = grey_sample()
    expected = scikit_scores(upscale(coins.lr, 2).astype(float), coins.hr.astype(float), 2)
    found = score_sample(coins, "bicubic", scale=2)
    assert (found.psnr, found.ssim) == pytest.approx(expected, abs=1e-9)


def test_a_perfect_picture_scores_without_bound() -> None:
    grey = grey_sample()
    found = score_sample(grey, lambda _: (grey.hr / 255).astype(np.float32), scale=2)
    assert (found.psnr, found.ssim) == (math.inf, pytest.approx(1))


def test_a_set_scores_the_mean_of_its_pictures() -> None:
    seen: list[tuple[int, int, str]] = []
    pictures = [sample("a"), grey_sample()]
    found = score_set("Two", pictures, "bicubic", scale=2, progress=lambda *at: seen.append(at))
    assert [picture.name for picture in found.pictures] == ["a", "coins"]
    assert found.psnr == pytest.approx(sum(picture.psnr for picture in found.pictures) / 2)
    assert found.ssim == pytest.approx(sum(picture.ssim for picture in found.pictures) / 2)
    assert seen == [(1, 2, "Two"), (2, 2, "Two")]


@pytest.mark.parametrize("block", ["collapsed", "expanded"])
def test_a_network_upscales_luma_as_its_forward_pass_does(block: str) -> None:
    luma01 = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    model = network(4, block=block)
    with torch.no_grad():
        expected = model(torch.from_numpy(luma01)[None, None])[0, 0].numpy()
    found = network_upscaler(model, CPU)(luma01)
    assert found.shape == (80, 120)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)  # float32 sums in another order


def test_a_network_runs_in_float32_where_autocast_is_on() -> None:
    luma01 = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    expected = network_upscaler(network(), CPU)(luma01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(network_upscaler(network(), CPU)(luma01), expected)


# benchmark folders


def test_a_folder_of_pictures_is_a_benchmark_called_after_it(tmp_path: Path) -> None:
    write(tmp_path / "Set1" / "b.png", sample().hr[:121, :121])
    found = benchmark(tmp_path / "Set1", 4)
    assert (found.name, found.lr_origin, len(found)) == ("Set1", "bicubic", 1)
    np.testing.assert_array_equal(found[0].hr, sample().hr[:120, :120])
    np.testing.assert_array_equal(found[0].lr, downscale(sample().hr[:120, :120], 4))


def test_a_folder_called_hr_gives_its_parents_name(tmp_path: Path) -> None:
    write(tmp_path / "Set1" / "HR" / "b.png", sample().hr)
    assert benchmark(tmp_path / "Set1" / "HR", 2).name == "Set1"


def test_lr_pictures_that_come_with_a_benchmark_are_used(tmp_path: Path) -> None:
    cat = sample()
    write(tmp_path / "Set1" / "HR" / "b.png", cat.hr)
    write(tmp_path / "Set1" / "LR_x2" / "bx2.png", cat.hr[::2, ::2])
    found = benchmark(tmp_path / "Set1", 2)
    assert (found.name, found.lr_origin) == ("Set1", "paired")
    np.testing.assert_array_equal(found[0].lr, cat.hr[::2, ::2])
    assert benchmark(tmp_path / "Set1", 4).lr_origin == "bicubic"


def refusal(folder: Path, scale: int = 2) -> str:
    with pytest.raises(DataError) as caught:
        list(benchmark(folder, scale))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_benchmark_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "Set1")


def test_an_empty_benchmark_is_refused(tmp_path: Path) -> None:
    assert "no pictures" in refusal(tmp_path)


def test_a_damaged_picture_of_a_benchmark_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png", sample().hr)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    assert "a.png: damaged" in refusal(tmp_path)


def test_a_picture_too_small_to_score_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png", sample().hr[:15, :15])
    assert "a.png: 15x15 pixels; 16x16 or more are needed" in refusal(tmp_path)


def test_the_smallest_picture_that_can_be_scored_is_scored(tmp_path: Path) -> None:
    write(tmp_path / "a.png", sample().hr[:16, :16])
    assert math.isfinite(score_set("a", benchmark(tmp_path, 2), "bicubic", scale=2).ssim)


def test_lr_that_does_not_match_is_named(tmp_path: Path) -> None:
    write(tmp_path / "HR" / "a.png", sample().hr[:40, :40])
    write(tmp_path / "LR_x2" / "a.png", sample().hr[:20, :21])
    assert "LR_x2/a.png: LR is 21x20 pixels; 40x40 at high resolution needs 20x20 at x2" in refusal(tmp_path)


def test_grey_lr_for_colour_hr_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "HR" / "a.png", sample().hr[:40, :40])
    write(tmp_path / "LR_x2" / "a.png", sample().hr[:20, :20, 0])
    assert "one of HR and LR is grey" in refusal(tmp_path)


def test_a_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "Set1" / "a.png", sample().hr)
    assert benchmark(Path("~/Set1"), 2).name == "Set1"


# pictures that are restored exactly


def flat(name: str = "blank", level: int = 255, shape: tuple[int, ...] = (96, 130, 3)) -> Sample:
    hr = np.full(shape, level, np.uint8)
    return Sample(name, hr, downscale(hr, 2))


def ramp() -> Sample:
    """Rises by two levels a pixel: not flat, and bicubic restores it but for its ends, which are left out."""
    hr = np.zeros((60, 60), np.uint8) + (2 * np.arange(60, dtype=np.uint8))
    return Sample("ramp", hr, hr[::2, ::2] + np.uint8(1))


@pytest.mark.parametrize("level", [0, 7, 128, 255])
@pytest.mark.parametrize("shape", [(96, 130, 3), (96, 130)])
def test_a_flat_picture_is_left_out_of_a_sets_mean_and_named(
    level: int, shape: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    found = score_set("Two", [flat("blank", level, shape), sample("cat")], "bicubic", scale=2)
    cat = found.pictures[1]
    assert (found.psnr, found.ssim) == (cat.psnr, cat.ssim)
    assert found.left_out == ("blank",)
    assert found.pictures[0].psnr == math.inf  # and not 300 dB, which is what rounding leaves of a colour's luma
    assert "Two: left out of the mean, since restored exactly: blank" in caplog.text


def test_a_set_of_flat_pictures_has_no_mean_and_is_valid_json() -> None:
    found = score_set("One", [flat()], "bicubic", scale=2)
    document = ModelScore("bicubic", None, None, (found,)).document()
    assert json.loads(json.dumps(document, allow_nan=False))["sets"][0]["psnr"] is None
    assert found.left_out == ("blank",)


def test_a_picture_that_a_network_turns_into_nan_is_not_left_out() -> None:
    def broken(lr: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full((2 * lr.shape[0], 2 * lr.shape[1]), np.nan, np.float32)

    found = score_set("One", [sample()], broken, scale=2)
    assert math.isnan(found.psnr)
    assert found.left_out == ()


@pytest.mark.parametrize("odd", [flat(), flat(level=0), flat(shape=(96, 130)), ramp()])
def test_a_validation_picture_that_bicubic_restores_is_left_out_and_named(
    odd: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    coins = grey_sample()
    validate, alone = Validator([odd, coins], 2, CPU), Validator([coins], 2, CPU)
    model = network()
    assert validate(model) == alone(model)
    assert validate.bicubic == alone.bicubic
    assert [kept.name for kept in validate.valid] == ["coins"]
    assert f"bicubic alone restores them exactly: {odd.name}" in caplog.text
    np.testing.assert_array_equal(validate.strip(model)[2], luma(coins.hr))


def test_a_validation_set_of_flat_pictures_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"^white, black: bicubic alone restores .*; score on pictures with detail$"):
        Validator([flat("white"), flat("black", 0)], 2, CPU)


def test_a_network_that_restores_a_picture_exactly_scores_100_db_there(monkeypatch: pytest.MonkeyPatch) -> None:
    coins = grey_sample()
    validate = Validator([coins, sample()], 2, CPU)
    exact = torch.from_numpy(luma(coins.hr))
    others = validate._levels(network(), 1)
    monkeypatch.setattr(validate, "_levels", lambda _, index: exact if index == 0 else others)
    found = validate(network())
    assert found.psnr == pytest.approx((100 + Validator([sample()], 2, CPU)(network()).psnr) / 2)


# the document


def test_a_models_scores_become_one_json_document() -> None:
    pictures = (PictureScore("a.png", 30.5, 0.9), PictureScore("b.png", math.inf, 1.0))
    found = ModelScore(
        "sesr-m5", 13520, 3_115_008_000, (SetScore("Set1", 30.5, 0.9, pictures, "paired", ("b.png",)),)
    ).document()
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "model": "sesr-m5",
        "params": 13520,
        "macs_720p": 3_115_008_000,
        "sets": [
            {
                "set": "Set1",
                "psnr": 30.5,
                "ssim": 0.9,
                "pictures": [
                    {"name": "a.png", "psnr": 30.5, "ssim": 0.9},
                    {"name": "b.png", "psnr": None, "ssim": 1.0},
                ],
                "lr_origin": "paired",
                "left_out": ["b.png"],
                "trained_on": None,
            }
        ],
    }


# scoring while training


@pytest.mark.parametrize("scale", [2, 4])
def test_validation_gives_the_scores_of_a_benchmark(scale: int) -> None:
    pictures = [sample(scale=scale), grey_sample(scale)]
    validate = Validator(pictures, scale, CPU)
    model = network(scale)
    expected = score_set("a", pictures, network_upscaler(model, CPU), scale=scale)
    found = validate(model)
    assert (found.psnr, found.ssim) == pytest.approx((expected.psnr, expected.ssim), abs=1e-9)
    by_bicubic = score_set("a", pictures, "bicubic", scale=scale)
    assert (validate.bicubic.psnr, validate.bicubic.ssim) == pytest.approx((by_bicubic.psnr, by_bicubic.ssim), abs=1e-9)


def test_validation_leaves_the_network_as_it_was() -> None:
    model = network()
    Validator([sample()], 2, CPU)(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training


def test_a_network_that_gives_nan_scores_nan() -> None:
    model = network()
    torch.nn.init.constant_(model.slopes, math.nan)
    found = Validator([sample()], 2, CPU)(model)
    assert math.isnan(found.psnr)
    assert math.isnan(found.ssim)


def test_the_strip_shows_bicubic_network_and_truth() -> None:
    cat = sample()
    bicubic, levels, truth = Validator([grey_sample(), cat], 2, CPU).strip(network(), 1)
    assert bicubic.shape == levels.shape == truth.shape == cat.hr.shape[:2]
    np.testing.assert_array_equal(bicubic, luma(upscale(cat.lr, 2)))
    np.testing.assert_array_equal(truth, luma(cat.hr))
    assert set(np.unique(levels)) <= set(range(256))
