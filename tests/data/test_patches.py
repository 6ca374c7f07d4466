"""Patches: where they lie, and that LR and HR stay together under every symmetry."""

import numpy as np
import pytest
import torch

from sesr_lab.data.patches import LEVELS, SYMMETRIES, Pair, PatchPool, symmetry_corners
from sesr_lab.network.model import subpixels_of

CPU = torch.device("cpu")


def numbered_pool(scale: int) -> tuple[PatchPool, list[Pair]]:
    """Two pictures of unlike sizes with random luma on the grid that the pool stores."""
    rng = np.random.default_rng(0)

    def plane(h: int, w: int) -> np.ndarray:
        return (rng.integers(0, LEVELS, (h, w)) / LEVELS).astype(np.float32)

    pairs = [Pair(plane(h, w), plane(h * scale, w * scale)) for h, w in ((9, 14), (12, 8))]
    return PatchPool(pairs, scale=scale, device=CPU), pairs


@pytest.mark.parametrize("scale", [2, 4])
def test_cut_gives_what_slicing_and_turning_the_pictures_gives(scale: int) -> None:
    pool, pairs = numbered_pool(scale)
    plan = pool.plan(0, 0, 12, batch_size=16, patch=6).flatten(0, 1)
    lr, target = pool.cut(plan, 6)
    for i, (start, width, symmetry, image) in enumerate(plan.tolist()):
        y, x = divmod(start - int(pool.starts[image]), width)
        slices = [
            plane[k * y : k * (y + 6), k * x : k * (x + 6)] for plane, k in zip(pairs[image], (1, scale), strict=True)
        ]
        turned = [np.rot90(s.T if symmetry >= 4 else s, symmetry % 4).copy() for s in slices]
        np.testing.assert_allclose(lr[i, 0], turned[0], atol=1e-6)
        hr = torch.from_numpy(turned[1])[None, None]
        np.testing.assert_allclose(target[i], subpixels_of(hr, scale)[0], atol=1e-6)


def test_a_plan_is_the_same_however_its_steps_are_grouped() -> None:
    pool, _ = numbered_pool(2)
    whole = pool.plan(3, 250, 20, batch_size=4, patch=6)
    parts = [pool.plan(3, step, count, batch_size=4, patch=6) for step, count in ((250, 3), (253, 7), (260, 10))]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, pool.plan(4, 250, 20, batch_size=4, patch=6))


def test_every_position_symmetry_and_picture_is_drawn() -> None:
    pool, pairs = numbered_pool(2)
    plan = pool.plan(0, 0, 256, batch_size=32, patch=6).flatten(0, 1)
    assert set(plan[:, 2].tolist()) == set(range(SYMMETRIES))
    for image, pair in enumerate(pairs):
        h, w = pair.lr.shape
        starts = set((plan[plan[:, 3] == image, 0] - pool.starts[image]).tolist())
        assert starts == {y * w + x for y in range(h - 5) for x in range(w - 5)}  # the last row and column too


def test_corners_say_where_all_pixels_come_from() -> None:
    """A symmetry is linear: start + y·down + x·right, which is how the kernel walks through a patch."""
    place = torch.arange(25).view(5, 5)
    for k, (start, right, down) in enumerate(symmetry_corners(5)):
        turned = torch.rot90(place.T if k >= 4 else place, k % 4)
        y, x = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
        came = start + y[..., None] * (down - start) + x[..., None] * (right - start)
        assert torch.equal(came[..., 0] * 5 + came[..., 1], turned)


def test_luma_is_stored_finer_than_a_hundredth_of_a_level() -> None:
    luma = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    pool = PatchPool([Pair(luma[:5, :5], luma)], scale=2, device=CPU)
    lr, _ = pool.cut(torch.tensor([[0, 5, 0, 0]]), 5)
    assert np.abs(lr[0, 0].numpy() - luma[:5, :5]).max() * 255 < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_data_lives_on_the_device() -> None:
    _, pairs = numbered_pool(2)
    assert PatchPool(pairs, scale=2, device=torch.device("cuda")).rows.is_cuda
