import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)

from sesr_lab.network.model import SESR, Collapsed, run_collapsed
from sesr_lab.targets.quantize import (
    INPUT,
    SHIFT,
    Range,
    block_range,
    calibrate,
    form_of,
    head_bias,
    quantize_weights,
    simulate,
)


@torch.no_grad()
def small(*, m: int = 2, f: int = 8, scale: int = 2, slope: float = 0.25) -> Collapsed:
    torch.manual_seed(0)
    network = SESR(m=m, f=f, feature_size=16, scale=scale)
    network.slopes.fill_(slope)
    network.tail.project.mul_(0.1)  # a residual as small as a trained one's
    return network.collapse()


def patches(count: int = 4, side: int = 24) -> torch.Tensor:
    """Smooth pictures: noise of a quarter of the size, enlarged."""
    coarse = torch.rand(count, 1, side // 4, side // 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)


def upscaled(network: Collapsed, lr: torch.Tensor) -> torch.Tensor:
    subpixels = run_collapsed(network, lr)
    return F.pixel_shuffle(subpixels, round(subpixels.shape[1] ** 0.5)).clamp(0, 1)


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
@pytest.mark.parametrize("scale", [2, 4])
def test_the_int8_network_stays_within_levels_of_the_float_one(slope, scale):
    network, lr = small(scale=scale, slope=slope), patches()
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
