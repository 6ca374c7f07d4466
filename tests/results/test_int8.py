import math

import numpy as np
import pytest
import skimage.data
import torch
from networks import small

from sesr_lab.data.image import downscale, luma
from sesr_lab.data.pair import Sample
from sesr_lab.errors import ModelError
from sesr_lab.network.model import run_collapsed
from sesr_lab.results.int8 import Int8Loss, check_loss, measure_int8
from sesr_lab.targets.interpreter import TfliteUpscaler
from sesr_lab.targets.quantize import calibrate, calibration_patches

pytest.importorskip("ai_edge_litert")

NETWORK = small()


def samples() -> list[Sample]:
    picture = skimage.data.astronaut()
    crops = [picture[top : top + 64, 100:180] for top in (0, 100, 200)]
    return [Sample(name=str(i), hr=crop, lr=downscale(crop, 2)) for i, crop in enumerate(crops)]


def floating(luma01):
    with torch.no_grad():
        subpixels = run_collapsed(NETWORK, torch.from_numpy(luma01)[None, None])
    return torch.nn.functional.pixel_shuffle(subpixels, 2)[0, 0].numpy()


def ranges():
    pictures = [(luma(sample.lr) / 255).astype(np.float32) for sample in samples()]
    return calibrate(NETWORK, calibration_patches(pictures, side=32))


def test_the_loss_is_against_both_inputs_and_small():
    found = measure_int8(floating, TfliteUpscaler(NETWORK, ranges()), samples(), scale=2)
    assert found.pictures == 3
    assert found.loss_db - found.loss_8bit_db == pytest.approx(found.float_psnr - found.float_8bit_psnr)
    assert abs(found.loss_8bit_db) < 0.1  # the network's own error is far above a rounding error
    check_loss(found, name="m5")


def test_a_network_loses_nothing_against_itself():
    found = measure_int8(floating, floating, samples(), scale=2)
    assert found.loss_db == 0


def test_what_loses_more_than_is_allowed_is_refused():
    def darker(luma01):
        return floating(luma01) * 0.9

    found = measure_int8(floating, darker, samples(), scale=2)
    assert found.loss_8bit_db > 0.2
    with pytest.raises(ModelError, match=r"^m5: in int8 it loses .* on 3 pictures .*; at most 0.20 is allowed; ") as e:
        check_loss(found, name="m5")
    assert "\n" not in str(e.value)
    check_loss(found, name="m5", largest_db=found.loss_8bit_db)


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(ModelError):
        check_loss(Int8Loss(30.0, 30.0, math.nan, 1), name="m5")
