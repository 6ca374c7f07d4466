import numpy as np
import pytest
import torch
from skimage import data as skimage_data
from torch import Tensor, nn

from sesr_lab.data.image import downscale
from sesr_lab.network.model import SESR, Block, subpixels_of
from sesr_lab.training.transfer import HEADS, Head, start_from, unfit

EXACT = 1e-6
"""Absolute, for luma in [0, 1] that takes the same float32 operations on both sides."""


def network(
    scale: int, seed: int, *, m: int = 2, f: int = 6, feature_size: int = 12, block: Block = "collapsed"
) -> SESR:
    torch.manual_seed(seed)
    made = SESR(m=m, f=f, feature_size=feature_size, scale=scale, block=block)
    nn.init.uniform_(made.slopes, -0.2, 0.4)
    return made


def started(head: Head, batches: list[tuple[Tensor, Tensor]] | None = None, *, block: Block = "collapsed") -> SESR:
    child = network(4, 1, block=block)
    start_from(child, network(2, 0).state_dict(), batches or [], head=head)
    return child


def luma(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    """Four batches of one crop each, of a photograph and its bicubic LR."""
    picture = skimage_data.camera()
    pairs = []
    for top, left in ((96, 128), (160, 256), (224, 128), (64, 224)):
        crop = picture[top : top + 96, left : left + 96]
        hr = torch.from_numpy(crop / 255).float()[None, None]
        lr = torch.from_numpy(np.asarray(downscale(crop, 4)) / 255).float()[None, None]
        pairs.append((lr, subpixels_of(hr, 4)))
    return pairs


def mse(made: SESR, batches: list[tuple[Tensor, Tensor]]) -> float:
    with torch.no_grad():
        return float(np.mean([(made.subpixels(lr) - target).square().mean().item() for lr, target in batches]))


# What is copied


@pytest.mark.parametrize("head", HEADS)
def test_everything_but_the_output_block_is_the_parents_bit_for_bit(
    head: Head, batches: list[tuple[Tensor, Tensor]]
) -> None:
    parent, child = network(2, 0).state_dict(), started(head, batches).state_dict()
    for name, value in child.items():
        if not name.startswith("tail."):
            assert torch.equal(value, parent[name]), name


def test_a_random_output_block_is_left_as_it_was() -> None:
    own, child = network(4, 1), started("random")
    assert torch.equal(child.tail.expand, own.tail.expand)
    assert torch.equal(child.tail.project, own.tail.project)


def test_the_parent_and_its_weights_stay_as_they_were(batches: list[tuple[Tensor, Tensor]]) -> None:
    weights = network(2, 0).state_dict()
    child = network(4, 1)
    start_from(child, weights, batches)
    nn.init.zeros_(child.head.expand)
    nn.init.zeros_(child.tail.expand)
    for name, value in network(2, 0).state_dict().items():
        assert torch.equal(weights[name], value), name


# What the network then does


@pytest.mark.parametrize("block", ["collapsed", "expanded"])
def test_a_coarse_start_is_the_parents_picture_with_every_pixel_repeated(block: Block) -> None:
    lr = luma(2, 1, 9, 11)
    with torch.no_grad():
        expected = network(2, 0)(lr).repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(started("coarse", block=block)(lr), expected, rtol=0, atol=EXACT)


def test_a_nearest_start_is_nearest_neighbour_upscaling() -> None:
    lr = luma(2, 1, 9, 11)
    assert torch.equal(started("nearest")(lr), lr.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_a_nearest_start_can_learn() -> None:
    child = started("nearest")
    child(luma(1, 1, 9, 9)).square().mean().backward()
    assert child.tail.project.grad is not None
    assert child.tail.project.grad.abs().max() > 0


def test_a_fitted_start_is_better_on_its_own_batches_than_the_others(batches: list[tuple[Tensor, Tensor]]) -> None:
    fitted, coarse, nearest = (mse(started(head, batches), batches) for head in ("fitted", "coarse", "nearest"))
    assert fitted < coarse
    assert fitted < nearest


def test_a_fitted_start_is_nearly_the_best_that_numpys_least_squares_finds(
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    """Nearly: the penalty that keeps the fit near the parent's costs at most 1 % of the error on so few batches."""
    child = started("coarse")
    features, residuals = [], []
    with torch.no_grad():
        for lr, target in batches:
            wide = nn.functional.conv2d(_before_tail(child, lr), child.tail.expand[0], padding=2)
            features.append(wide.transpose(0, 1).flatten(1).numpy().T)
            residuals.append((target - lr).transpose(0, 1).flatten(1).numpy().T)
    x, y = np.concatenate(features).astype(np.float64), np.concatenate(residuals).astype(np.float64)
    solution, *_ = np.linalg.lstsq(x, y, rcond=None)
    best = float(np.square(x @ solution - y).mean())
    found = mse(started("fitted", batches), batches)
    assert best * (1 - 1e-4) <= found <= best * 1.01  # 1e-4: the network adds up in float32


def _before_tail(made: SESR, lr: Tensor) -> Tensor:
    """What goes into the output block, (N, f, H, W), run in the expanded space."""
    skip = features = made.head.forward_expanded(lr - 0.5, 0)
    for index in range(made.m):
        features = nn.functional.prelu(made.body.forward_expanded(features, index), made.slopes[index])
    return features + skip


# Parents that do not fit


@pytest.mark.parametrize(
    ("parent", "reason"),
    [
        (network(2, 0, m=3), "m is 3, not 2"),
        (network(2, 0, f=5), "f is 5, not 6"),
        (network(2, 0, feature_size=8), "feature_size is 8, not 12"),
        (network(4, 0), "its scale is 4, not 2"),
        (network(4, 0, m=1, f=5), "m is 1, not 2, f is 5, not 6, its scale is 4, not 2"),
    ],
)
def test_a_parent_that_does_not_fit_is_refused_with_what_differs(parent: SESR, reason: str) -> None:
    child = network(4, 1)
    assert unfit(parent.state_dict(), child) == reason
    with pytest.raises(ValueError, match=f"^{reason}$"):
        start_from(child, parent.state_dict(), [])
    for name, value in network(4, 1).state_dict().items():
        assert torch.equal(child.state_dict()[name], value), name


@pytest.mark.parametrize("block", ["collapsed", "expanded"])
def test_a_parent_of_either_block_type_fits(block: Block) -> None:
    assert unfit(network(2, 0, block=block).state_dict(), network(4, 1)) == ""


# Parents of another kind


def variant(scale: int, seed: int, **settings: object) -> SESR:
    torch.manual_seed(seed)
    made = SESR(m=2, f=6, feature_size=12, scale=scale, **settings)  # type: ignore[arg-type]
    if made.activation == "prelu":
        nn.init.uniform_(made.slopes, -0.2, 0.4)
    return made


@pytest.mark.parametrize(("parent", "child"), [("relu", "prelu"), ("prelu", "relu"), ("relu", "relu")])
def test_a_parent_of_another_activation_fits(parent: str, child: str, batches: list[tuple[Tensor, Tensor]]) -> None:
    starts, made = variant(2, 0, activation=parent), variant(4, 1, activation=child)
    slopes = made.slopes.detach().clone()
    assert unfit(starts.state_dict(), made) == ""
    start_from(made, starts.state_dict(), batches)
    assert torch.equal(made.body.expand, starts.body.expand)
    assert torch.equal(made.slopes, slopes)  # its own; from ReLUs there are none to take


def test_without_the_inputs_residual_the_fit_is_to_the_whole_picture(batches: list[tuple[Tensor, Tensor]]) -> None:
    parent = variant(2, 0, input_residual=False)
    errors = {}
    for head in ("random", "fitted"):
        made = variant(4, 1, input_residual=False)
        start_from(made, parent.state_dict(), batches, head=head)  # type: ignore[arg-type]
        errors[head] = mse(made, batches)
    assert errors["fitted"] < 0.5 * errors["random"]


def test_a_parent_with_and_one_without_the_inputs_residual_do_not_fit_each_other() -> None:
    assert "input_residual is False, not True" in unfit(variant(2, 0, input_residual=False).state_dict(), variant(4, 1))
    assert "input_residual is True, not False" in unfit(variant(2, 0).state_dict(), variant(4, 1, input_residual=False))
