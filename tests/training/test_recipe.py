"""Recipes: the reference's is kept to the letter, ours is even over shapes."""

import math

import pytest
import torch

from sesr_lab.network.model import SESR
from sesr_lab.training.recipe import block_pace, block_paces, recipe


def test_paper_is_the_references_recipe() -> None:
    """ARM-software/sesr: train.py:26-28,100-121 and utils.py:30-32."""
    x2, x4 = recipe("paper", 2), recipe("paper", 4)
    assert (x2.patch, x4.patch) == (64, 50)
    assert (x2.batch_size, x2.learning_rate, x2.schedule, x2.crops_per_image) == (32, 2e-4, "constant", 64)
    assert (x2.amsgrad, x2.adam_eps, x2.adam_beta1, x2.adam_beta2, x2.clip_output) == (True, 1e-7, 0.9, 0.999, True)
    assert (x2.clip_norm, x2.ema_decay, x2.even_pace, x2.restarts) == (None, None, False, 0)
    assert x2.steps(epochs=300, images=800) == 480_000


def test_an_epoch_sees_as_many_pixels_in_both_recipes() -> None:
    for scale in (2, 4):
        paper, fast = recipe("paper", scale), recipe("fast", scale)
        seen = [r.steps(epochs=10, images=400) * r.batch_size * r.patch**2 for r in (paper, fast)]
        assert seen[1] == pytest.approx(seen[0], rel=0.03)


def test_one_cycle_rises_to_its_peak_and_falls_to_nearly_nothing() -> None:
    settings = recipe("fast", 2, warmup=0.1)
    rates = [settings.learning_rate_at(i / 1000) for i in range(1001)]
    assert max(rates) == pytest.approx(settings.learning_rate)
    assert rates.index(max(rates)) == 100
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert 0 < rates[-1] < 0.01 * settings.learning_rate


def test_a_change_that_is_none_changes_nothing() -> None:
    assert recipe("fast", 2, batch_size=None) == recipe("fast", 2)
    assert recipe("fast", 2, batch_size=7).batch_size == 7


@pytest.mark.parametrize("feature_size", [16, 64, 256])
@pytest.mark.parametrize("f", [8, 16, 32])
def test_at_an_even_pace_one_adam_step_moves_small_weights_equally_far(feature_size: int, f: int) -> None:
    """Every weight of W₁ and W₂ moves by one rate in the direction that raises W₂W₁ most: measured, not derived."""
    torch.manual_seed(0)
    blocks = SESR(m=1, f=f, feature_size=feature_size, scale=2).body
    rate = 1e-5 * block_pace(feature_size=feature_size, inputs=f, outputs=f, kernel=3)
    project, expand = blocks.project[0].detach(), blocks.expand[0].detach().flatten(1)
    furthest = rate * (expand.abs().sum(0)[None, :] + project.abs().sum(1)[:, None]).mean()
    assert float(furthest) == pytest.approx(25e-5, rel=0.05)


def test_paces_follow_the_reference_network() -> None:
    paces = block_paces(f=16, feature_size=256, scale=2)
    assert paces["slopes"] == 1.0
    assert all(math.isclose(paces[name], 1.0, rel_tol=0.12) for name in ("head", "body", "tail"))
    assert recipe("paper", 2).paces(f=16, feature_size=16, scale=2) == dict.fromkeys(paces, 1.0)
