import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from networks import patches, small, upscaled

from sesr_lab.targets.quantize import (
    INPUT,
    SHIFT,
    Range,
    block_range,
    calibrate,
    calibration_patches,
    form_of,
    head_bias,
    quantize_weights,
    simulate,
)


def test_the_input_is_the_level_less_128_with_scale_one_255th():
    assert pytest.approx(1 / 255) == INPUT.scale
    assert INPUT.zero_point == 0
    assert INPUT.low + SHIFT == pytest.approx(0)
    assert INPUT.high + SHIFT == pytest.approx(1)


def test_zero_is_held_exactly_and_the_ends_within_half_a_step():
    range_ = Range(-0.3, 1.7)
    for real in (0.0, -0.3, 1.7):
        q = round(real / range_.scale) + range_.zero_point
        assert -129 <= q <= 128
        assert (q - range_.zero_point) * range_.scale == pytest.approx(real, abs=range_.scale / 2)


def test_each_output_channel_has_its_own_scale_and_is_off_by_half_a_step_at_most():
    weights = (
        torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 0.01, 0])[:, None, None, None]
    )
    made = quantize_weights(weights)
    assert made.values.dtype == np.int8
    assert np.abs(made.values[:2]).max((1, 2, 3)).tolist() == [127, 127]
    off = (made.real - weights).abs().amax((1, 2, 3)).numpy()
    assert (off <= made.scales / 2 * 1.0001).all()
    assert off[2] == 0


def test_the_heads_bias_makes_up_for_the_inputs_shift():
    head = small().head
    x = patches()
    shifted = F.conv2d(x - SHIFT, head, head_bias(head))
    torch.testing.assert_close(shifted, F.conv2d(x - 0.5, head), atol=1e-6, rtol=0)  # float rounding


@pytest.mark.parametrize(("slopes", "form"), [((0, 0), "relu"), ((-0.5, 1), "maximum"), ((0, 1.01), "prelu")])
def test_an_activation_is_a_relu_or_a_maximum_where_that_is_the_same_function(slopes, form):
    assert form_of(torch.tensor(slopes)) == form


def test_ranges_leave_out_the_rarest_values_and_hold_zero():
    network, lr = small(), patches()
    features = F.conv2d(lr - 0.5, network.head, padding=2)
    ranges = calibrate(network, lr, quantile=0.01)
    assert features.min() < ranges.head.low <= 0 <= ranges.head.high < features.max()
    outside = (features < ranges.head.low) | (features > ranges.head.high)
    assert outside.float().mean() == pytest.approx(0.02, abs=0.004)  # 1% at either end; patches are rounded


def test_every_activation_has_a_range():
    ranges = calibrate(small(m=3), patches())
    assert len(ranges.blocks) == len(ranges.active) == 3


def test_a_maximum_has_one_range_for_what_it_takes_and_gives():
    ranges = calibrate(small(slope=-1.0), patches())
    shared = block_range(ranges, 0, "maximum")
    assert shared.low <= ranges.blocks[0].low
    assert shared.high >= max(ranges.blocks[0].high, ranges.active[0].high)


@pytest.mark.parametrize("slope", [0.0, 0.25, -0.5, 1.5], ids=["relu", "maximum", "negative", "prelu"])
@pytest.mark.parametrize(("scale", "input_residual"), [(2, True), (4, True), (2, False)])
def test_the_int8_network_stays_within_levels_of_the_float_one(slope, scale, input_residual):
    network, lr = small(scale=scale, slope=slope, input_residual=input_residual), patches()
    lr = (lr * 255).round() / 255
    off = (simulate(network, calibrate(network, lr), lr) - upscaled(network, lr)).abs() * 255
    assert off.mean() < 1.0  # rounding to whole levels alone is 0.25 on average
    assert off.max() < 8


def test_its_result_is_whole_levels():
    network, lr = small(), patches()
    levels = simulate(network, calibrate(network, lr), lr) * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert levels.min() >= -1e-4
    assert levels.max() <= 255.0001


def test_a_network_without_a_residual_of_its_own_repeats_each_pixel():
    network = small()._replace(tail=torch.zeros(4, 8, 5, 5))
    lr = patches(side=16)
    levels = (lr * 255 + 0.5).floor() / 255
    out = simulate(network, calibrate(network, lr), lr)
    torch.testing.assert_close(out, levels.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-6, rtol=0)


def test_constant_patches_make_ranges_that_can_be_used():
    network = small()._replace(head=torch.zeros(8, 1, 5, 5))
    flat = torch.full((1, 1, 16, 16), 0.5)
    out = simulate(network, calibrate(network, flat), flat)
    assert out.isfinite().all()


def test_calibration_patches_are_the_same_each_time_and_come_from_all_pictures():
    pictures = [np.full((30 + i, 40), i, np.float32) for i in range(5)]
    made = calibration_patches(pictures, count=10, side=16)
    assert made.shape == (10, 1, 16, 16)
    assert sorted(set(made[:, 0, 0, 0].tolist())) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(made, calibration_patches(pictures, count=10, side=16), atol=0, rtol=0)


def test_more_pictures_than_patches_are_taken_evenly():
    pictures = [np.full((20, 20), i, np.float32) for i in range(100)]
    assert calibration_patches(pictures, count=4, side=16)[:, 0, 0, 0].tolist() == [0, 25, 50, 75]


def test_small_pictures_make_small_patches():
    pictures = [np.zeros((200, 200), np.float32), np.zeros((40, 12), np.float32)]
    assert calibration_patches(pictures, count=3).shape == (3, 1, 12, 12)


def test_nothing_to_calibrate_on_is_refused():
    with pytest.raises(ValueError, match="at least one picture"):
        calibration_patches([])
