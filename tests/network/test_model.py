"""Oracles: the other form of the same network, an impulse through both layers, and torch's own modules."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that all PyTorch code uses)
from torch import Tensor, nn

from sesr_lab.network.model import (
    SESR,
    Activation,
    Block,
    LinearBlocks,
    from_weights,
    run_collapsed,
    shape_of,
    subpixels_of,
)
from sesr_lab.study.config import PRESETS

TOLERANCE = 1e-5
"""Of a tensor's range: the two forms sum the same float32 products in another order (1e-7 each, 11 blocks deep)."""
EXACT = 1e-6
"""Absolute, for values about 1 that take a handful of float32 operations."""


def network(*, m: int = 2, f: int = 6, feature_size: int = 10, scale: int = 2, block: Block = "collapsed") -> SESR:
    """A network with slopes of both signs, so that no part of it is switched off."""
    torch.manual_seed(0)
    made = SESR(m=m, f=f, feature_size=feature_size, scale=scale, block=block)
    nn.init.uniform_(made.slopes, -0.3, 0.6)
    return made


def luma(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def assert_same(found: Tensor, expected: Tensor) -> None:
    extent = (expected.max() - expected.min()).item()
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE * extent)


# Variants for hardware

VARIANTS = [("prelu", True), ("relu", True), ("prelu", False), ("relu", False)]


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("activation", "input_residual"), VARIANTS)
def test_every_variant_is_the_same_function_in_both_forms(
    activation: Activation, input_residual: bool, scale: int
) -> None:
    made = SESR(m=2, f=6, feature_size=10, scale=scale, activation=activation, input_residual=input_residual)
    lr = luma(2, 1, 12, 10)
    collapsed = made(lr)
    made.block = "expanded"
    assert_same(collapsed, made(lr))


def test_relu_is_prelu_without_slopes() -> None:
    prelu = network()
    nn.init.zeros_(prelu.slopes)
    weights = {**prelu.state_dict(), "slopes": torch.zeros(2, 0)}
    lr = luma(1, 1, 12, 10)
    assert torch.equal(from_weights(weights)(lr), prelu(lr))


def test_without_the_inputs_residual_mid_grey_takes_its_place() -> None:
    made = network()
    weights = {**made.state_dict(), "offset": torch.tensor([0.5])}
    lr = luma(1, 1, 12, 10)
    torch.testing.assert_close(from_weights(weights).subpixels(lr) - 0.5, made.subpixels(lr) - lr, rtol=0, atol=EXACT)


def test_a_constant_input_of_mid_grey_comes_back_from_every_variant() -> None:
    for activation, input_residual in VARIANTS:
        made = SESR(m=2, f=6, feature_size=10, scale=2, activation=activation, input_residual=input_residual)
        grey = torch.full((1, 1, 9, 9), 0.5)
        torch.testing.assert_close(made(grey), torch.full((1, 1, 18, 18), 0.5), rtol=0, atol=EXACT)


# One network, two forms


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("preset", PRESETS)
def test_collapsed_and_expanded_are_the_same_function_with_the_same_gradients(preset: str, scale: int) -> None:
    lr, target = luma(2, 1, 16, 14), luma(2, scale**2, 16, 14)
    outputs, gradients = [], []
    for block in ("collapsed", "expanded"):
        made = network(**PRESETS[preset], scale=scale, block=block)
        output = made.subpixels(lr)
        (output - target).square().mean().backward()
        outputs.append(output.detach())
        gradients.append({name: value.grad for name, value in made.named_parameters()})
    assert_same(outputs[0], outputs[1])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, name
        assert_same(gradient, gradients[1][name])


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kernel", [3, 5])
def test_collapsing_gives_the_response_of_both_layers_to_an_impulse(kernel: int, residual: bool) -> None:
    torch.manual_seed(0)
    channels = (4, 4) if residual else (3, 5)
    blocks = LinearBlocks(2, channels, kernel=kernel, feature_size=7, residual=residual)
    size, centre = 2 * kernel - 1, kernel - 1
    for index, weight in enumerate(blocks.collapse()):
        for channel in range(channels[0]):
            impulse = torch.zeros(1, channels[0], size, size)
            impulse[0, channel, centre, centre] = 1
            response = F.conv2d(F.conv2d(impulse, blocks.expand[index]), blocks.project[index, :, :, None, None])
            if residual:
                response[0, channel, kernel // 2, kernel // 2] += 1
            # Convolution layers correlate, so the response to an impulse is the kernel turned by 180 degrees.
            torch.testing.assert_close(weight[:, channel], response[0].flip(1, 2), rtol=0, atol=EXACT)


@pytest.mark.parametrize("scale", [2, 4])
def test_the_network_is_the_papers_built_from_torchs_own_layers(scale: int) -> None:
    made = network(m=3, f=5, scale=scale)
    weights = made.collapse()

    def convolution(weight: Tensor) -> nn.Conv2d:
        outputs, inputs, kernel, _ = weight.shape
        layer = nn.Conv2d(inputs, outputs, kernel, padding="same", bias=False)
        layer.weight = nn.Parameter(weight)
        return layer

    def prelu(slopes: Tensor) -> nn.PReLU:
        layer = nn.PReLU(len(slopes))
        layer.weight = nn.Parameter(slopes)
        return layer

    lr = luma(2, 1, 11, 13)
    first = convolution(weights.head)(lr - 0.5)
    body = [nn.Sequential(convolution(w), prelu(s)) for w, s in zip(weights.body, weights.slopes, strict=True)]
    last = convolution(weights.tail)(nn.Sequential(*body)(first) + first)
    expected = nn.PixelShuffle(scale)(last + lr.expand_as(last))
    assert expected.shape == (2, 1, 11 * scale, 13 * scale)
    torch.testing.assert_close(made(lr), expected, rtol=0, atol=EXACT)


def test_weights_move_between_the_two_block_types() -> None:
    collapsed, expanded = network(block="collapsed"), network(block="expanded")
    nn.init.uniform_(collapsed.tail.project)
    expanded.load_state_dict(collapsed.state_dict())
    back = from_weights(expanded.state_dict(), block="collapsed")
    lr = luma(1, 1, 9, 9)
    assert_same(expanded(lr), collapsed(lr))
    assert torch.equal(back(lr), collapsed(lr))


def test_the_small_network_alone_gives_what_the_whole_one_gives() -> None:
    made = network()
    lr = luma(1, 1, 9, 9)
    assert torch.equal(run_collapsed(made.collapse(), lr), made.subpixels(lr))


# What the reference gets wrong, or fixes by convention


@pytest.mark.parametrize("block", ["collapsed", "expanded"])
def test_the_output_block_has_no_residual_though_in_and_out_are_both_16_at_x4(block: Block) -> None:
    made = network(m=1, f=16, scale=4, block=block)
    nn.init.zeros_(made.tail.project)
    lr = luma(1, 1, 8, 8)
    assert made.collapse().tail.abs().max() == 0
    assert torch.equal(made.subpixels(lr), lr.expand(-1, 16, -1, -1))


def test_the_input_block_has_no_residual_though_in_and_out_are_both_1_with_one_channel() -> None:
    made = network(m=1, f=1)
    nn.init.zeros_(made.head.project)
    assert made.collapse().head.abs().max() == 0


def test_a_short_residual_block_with_zero_weights_changes_nothing() -> None:
    made = network(m=3, f=4)
    nn.init.zeros_(made.body.project)
    weights = made.collapse()
    picture = torch.randn(1, 4, 7, 7)
    for weight in weights.body:
        assert torch.equal(F.conv2d(picture, weight, padding=1), picture)


def test_prelus_start_as_relus() -> None:
    assert torch.equal(SESR(m=3, f=4, feature_size=8, scale=2).slopes, torch.zeros(3, 4))


@pytest.mark.parametrize("block", ["collapsed", "expanded"])
def test_mid_grey_stays_mid_grey_up_to_the_border_whatever_the_weights(block: Block) -> None:
    grey = torch.full((1, 1, 9, 9), 0.5)
    assert torch.equal(network(block=block)(grey), torch.full((1, 1, 18, 18), 0.5))


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("block", ["collapsed", "expanded"])
def test_a_network_with_a_zero_output_block_is_nearest_neighbour_upscaling(block: Block, scale: int) -> None:
    made = network(scale=scale, block=block)
    nn.init.zeros_(made.tail.project)
    lr = luma(2, 1, 6, 7)
    assert torch.equal(made(lr), lr.repeat_interleave(scale, 2).repeat_interleave(scale, 3))


def test_the_output_is_not_clipped() -> None:
    made = network()
    nn.init.constant_(made.tail.project, 3.0)
    output = made(luma(1, 1, 16, 16))
    assert output.min() < 0
    assert output.max() > 1


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(1, 16, 5), (16, 16, 3), (16, 4, 5), (32, 16, 5)])
def test_first_weights_are_as_torchs_own_glorot_uniform_draws_them(inputs: int, outputs: int, kernel: int) -> None:
    torch.manual_seed(0)
    blocks = LinearBlocks(4, (inputs, outputs), kernel=kernel, feature_size=256, residual=False)
    for index in range(4):
        for found, shape in (
            (blocks.expand[index], (256, inputs, kernel, kernel)),
            (blocks.project[index], (outputs, 256, 1, 1)),
        ):
            drawn = nn.init.xavier_uniform_(torch.empty(shape))
            # The largest of 1024 or more uniform draws is within 1 % of the bound, but for one time in 30,000;
            # their standard deviation is known to 2 % (one sigma of the smallest tensor: 1.4 %).
            assert found.abs().max().item() == pytest.approx(drawn.abs().max().item(), rel=0.01)
            assert found.std().item() == pytest.approx(drawn.std().item(), rel=0.06)
            assert abs(found.mean().item()) < 0.1 * found.std().item()


# The layout of the loss


@pytest.mark.parametrize("scale", [2, 4])
def test_a_targets_subpixels_go_back_to_the_target_by_the_networks_own_depth_to_space(scale: int) -> None:
    hr = luma(2, 1, 3 * scale, 5 * scale)
    assert torch.equal(F.pixel_shuffle(subpixels_of(hr, scale), scale), hr)
    assert torch.equal(subpixels_of(hr, scale)[:, 1], hr[:, 0, ::scale, 1::scale])


# Reading a network off its weights


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_networks_shape_is_read_off_its_weights(preset: str, scale: int) -> None:
    shape = {**PRESETS[preset], "scale": scale}
    assert shape_of(SESR(**shape).state_dict()) == {**shape, "activation": "prelu", "input_residual": True}


@pytest.mark.parametrize(("activation", "input_residual"), VARIANTS)
def test_weights_tell_their_activation_and_whether_the_input_is_added(
    activation: Activation, input_residual: bool
) -> None:
    made = SESR(m=2, f=6, feature_size=10, scale=2, activation=activation, input_residual=input_residual)
    shape = shape_of(made.state_dict())
    assert (shape["activation"], shape["input_residual"]) == (activation, input_residual)
    lr = luma(1, 1, 9, 7)
    assert torch.equal(from_weights(made.state_dict())(lr), made(lr))


def test_weights_in_half_precision_come_back_in_float32() -> None:
    made = network()
    half = {name: value.half() for name, value in made.state_dict().items()}
    loaded = from_weights(half)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.head.expand, made.head.expand.half().float())


def _without(name: str) -> dict[str, Tensor]:
    weights = dict(network().state_dict())
    del weights[name]
    return weights


def _with(**changes: Tensor) -> dict[str, Tensor]:
    return dict(network().state_dict()) | {name.replace("_", "."): value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        ({}, ["body.expand"]),
        (_without("body.expand"), ["body.expand"]),
        (_without("tail.project"), ["tail.project"]),
        (_without("slopes"), ["slopes"]),
        (_with(extra=torch.zeros(1)), ["extra"]),
        (_with(head_expand=torch.zeros(1, 10, 1, 3, 3)), ["head.expand"]),
        (_with(slopes=torch.zeros(3, 6), body_project=torch.zeros(2, 6, 9)), ["body.project", "slopes"]),
        (_with(body_expand=torch.zeros(6, 6, 3, 3)), ["body.expand"]),  # one block's, not stacked
        (_with(tail_project=torch.zeros(1, 5, 10)), ["tail.project"]),  # 5 is no square
        (_with(tail_project=torch.zeros(1, 9, 10)), ["scale 3", "2 or 4"]),
        (network().collapse()._asdict(), ["body.expand"]),
    ],
)
def test_other_weights_are_refused_by_the_names_that_do_not_fit(weights: dict[str, Tensor], names: list[str]) -> None:
    for read in (shape_of, from_weights):
        with pytest.raises(ValueError, match="not the weights of a SESR network: ") as caught:
            read(weights)
        assert [name for name in names if name not in str(caught.value)] == []
        assert "\n" not in str(caught.value)
