"""Oracles: the paper's table, the reference's README, and PyTorch's own counter of operations."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sesr_lab.network.cost import costs
from sesr_lab.network.model import SESR, Block
from sesr_lab.study.config import PRESETS

PAPER = {
    2: {"m3": (8.91, 2.05), "m5": (13.52, 3.12), "m7": (18.13, 4.18), "m11": (27.34, 6.30), "xl": (105.38, 24.28)},
    4: {"m3": (13.71, 0.79), "m5": (18.32, 1.06), "m7": (22.93, 1.32), "m11": (32.14, 1.85), "xl": (114.98, 6.62)},
}
"""arXiv 2103.09404, tables 1 and 2: thousands of parameters, and GMACs to 1280×720. All are rounded to 0.01."""

SHAPES = [(preset, scale) for scale in PAPER for preset in PRESETS]


def macs_of(network: SESR, *size: int) -> int:
    """MACs of a forward pass as PyTorch counts them from the shapes of its convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(size, device="meta"))
    return counter.get_total_flops() // 2


def on_meta(preset: str, scale: int, block: Block = "collapsed") -> SESR:
    """A network whose tensors have shapes and no values: counting costs nothing."""
    with torch.device("meta"):
        return SESR(**PRESETS[preset], scale=scale, block=block)


@pytest.mark.parametrize(("preset", "scale"), SHAPES)
def test_weights_and_macs_are_those_of_the_papers_tables(preset: str, scale: int) -> None:
    thousands, giga = PAPER[scale][preset]
    counted = costs(**PRESETS[preset], scale=scale)
    assert counted.params / 1e3 == pytest.approx(thousands, abs=0.0051)
    assert counted.macs_720p / 1e9 == pytest.approx(giga, abs=0.0051)


def test_m5_at_x2_costs_what_the_paper_and_the_references_readme_say() -> None:
    counted = costs(m=5, f=16, feature_size=256, scale=2)
    assert counted.params == 13_520
    assert counted.macs_720p == 3_115_008_000
    assert counted.macs_train_expanded == 41_775_267_840  # "41.77B", batch of 32 times 64x64
    assert counted.macs_train_paper == 1_843_216_640  # "1.84B"
    assert counted.macs_train == 1_775_554_560


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("m", "f"), [(1, 1), (2, 4), (3, 17), (16, 64)])
def test_weights_follow_the_papers_formula(m: int, f: int, scale: int) -> None:
    assert costs(m=m, f=f, feature_size=8, scale=scale).params == 25 * f + 9 * m * f**2 + 25 * f * scale**2


@pytest.mark.parametrize(("preset", "scale"), SHAPES)
def test_weights_are_those_of_the_torch_network(preset: str, scale: int) -> None:
    network = on_meta(preset, scale)
    counted = costs(**PRESETS[preset], scale=scale)
    small = network.collapse()
    assert counted.params == small.head.numel() + small.body.numel() + small.tail.numel()
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert counted.params_expanded == trained - network.slopes.numel()


@pytest.mark.parametrize(("preset", "scale"), SHAPES)
def test_macs_are_those_that_pytorch_counts(preset: str, scale: int) -> None:
    collapsed, expanded = on_meta(preset, scale), on_meta(preset, scale, "expanded")
    counted = costs(**PRESETS[preset], scale=scale, batch_size=8, patch=40)
    assert counted.macs_train == macs_of(collapsed, 8, 1, 40, 40)
    assert counted.macs_train_expanded == macs_of(expanded, 8, 1, 40, 40)
    once = macs_of(collapsed, 1, 1, 720 // scale, 1280 // scale)
    collapsing = macs_of(collapsed, 1, 1, 1, 1) - counted.params
    assert counted.macs_720p == once - collapsing


@pytest.mark.parametrize(("preset", "scale"), SHAPES)
def test_the_papers_way_of_collapsing_costs_what_it_costs_to_run_it(preset: str, scale: int) -> None:
    network = on_meta(preset, scale)
    counted = costs(**PRESETS[preset], scale=scale, batch_size=8, patch=40)
    with FlopCounterMode(display=False) as counter:
        for blocks in (network.head, network.body, network.tail):
            for expand, project in zip(blocks.expand, blocks.project, strict=True):
                inputs, side = expand.shape[1], 2 * blocks.kernel - 1
                impulses = torch.empty(inputs, inputs, side, side, device="meta")
                nn.functional.conv2d(nn.functional.conv2d(impulses, expand), project[:, :, None, None])
    collapsing = counter.get_total_flops() // 2
    assert counted.macs_train_paper == collapsing + counted.params * 8 * 40**2
