"""Oracles: scikit-image, hand calculations, identities."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sesr_lab.data.image import luma
from sesr_lab.scores.metrics import psnr, ssim


def skimage_ssim(a: NDArray[np.float64], b: NDArray[np.float64], *, peak: float = 255) -> float:
    """The mean over full windows only: scikit-image reflects at the border, 5 samples on each side."""
    full = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=peak, full=True
    )[1]
    return float(full[5:-5, 5:-5].mean())


def noisy(picture: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    return picture + np.random.default_rng(0).normal(0, sigma, picture.shape)


def test_identical_pictures_have_infinite_psnr_and_an_ssim_of_1() -> None:
    photo = data.camera()
    assert psnr(photo, photo) == math.inf
    assert ssim(photo, photo) == pytest.approx(1, abs=1e-12)


def test_one_level_everywhere_is_48_13_db() -> None:
    plane = np.zeros((4, 4))
    assert psnr(plane, plane + 1) == pytest.approx(20 * math.log10(255), abs=1e-12)
    assert psnr(plane, plane + 1) == pytest.approx(48.1308, abs=1e-4)


def test_8_bit_arrays_do_not_wrap_around() -> None:
    black, white = np.zeros((12, 12), dtype=np.uint8), np.full((12, 12), 255, dtype=np.uint8)
    assert psnr(black, white) == 0
    # The variances vanish and leave c1 / (255² + c1), with c1 = (0.01 * 255)².
    assert ssim(black, white) == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-9)


@pytest.mark.parametrize("sigma", [0.5, 8, 60])
def test_psnr_is_that_of_scikit_image(sigma: float) -> None:
    plane = luma(data.astronaut())
    other = noisy(plane, sigma)
    assert psnr(plane, other) == pytest.approx(peak_signal_noise_ratio(plane, other, data_range=255), abs=1e-9)


@pytest.mark.parametrize("shape", [(11, 11), (11, 90), (73, 12), (74, 75), (75, 74), (138, 139), (300, 451)])
@pytest.mark.parametrize("sigma", [2, 30])
def test_ssim_is_that_of_scikit_image_at_any_size(shape: tuple[int, int], sigma: float) -> None:
    plane = luma(data.coffee())[: shape[0], : shape[1]]
    other = noisy(plane, sigma)
    assert ssim(plane, other) == pytest.approx(skimage_ssim(plane, other), abs=1e-9)


def test_the_peak_is_the_unit() -> None:
    plane = luma(data.astronaut())[:64, :64]
    other = noisy(plane, 5)
    assert psnr(plane / 255, other / 255, peak=1) == pytest.approx(psnr(plane, other), abs=1e-9)
    assert ssim(plane / 255, other / 255, peak=1) == pytest.approx(ssim(plane, other), abs=1e-9)


def test_both_scores_are_symmetric() -> None:
    plane = luma(data.astronaut())[:64, :64]
    other = noisy(plane, 5)
    assert psnr(plane, other) == psnr(other, plane)
    assert ssim(plane, other) == pytest.approx(ssim(other, plane), abs=1e-12)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_different_shapes_are_a_bug_and_not_broadcast(score) -> None:  # type: ignore[no-untyped-def] # two functions
    with pytest.raises(ValueError, match=r"\(20, 20\) and \(1, 20\)"):
        score(np.zeros((20, 20)), np.zeros((1, 20)))


def test_empty_pictures_have_no_psnr() -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        psnr(np.zeros((0, 4)), np.zeros((0, 4)))


@pytest.mark.parametrize("shape", [(10, 40), (40, 10), (20, 20, 3)])
def test_ssim_refuses_what_no_window_fits_into(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="SSIM needs an array of 11x11 or more"):
        ssim(np.zeros(shape), np.zeros(shape))


def test_a_nan_shows_in_both_scores() -> None:
    broken = np.full((16, 16), np.nan)
    assert math.isnan(psnr(broken, np.zeros((16, 16))))
    assert math.isnan(ssim(broken, np.zeros((16, 16))))
