"""Which patches of the validation pictures a report shows, and that a network's patch is that of the whole picture."""

import numpy as np
import pytest
import torch

from sesr_lab.data.image import downscale, luma, to_levels
from sesr_lab.data.pair import Sample
from sesr_lab.network.model import SESR
from sesr_lab.results import hard_patches
from sesr_lab.results.hard_patches import PATCHES, SIDE, Patch, hardest
from sesr_lab.results.inference import Network, radius_of, runner


def sample(height: int, width: int, *busy: tuple[int, int], scale: int = 2, name: str = "a") -> Sample:
    """A flat picture with noise in squares of a patch's size at these places."""
    hr = np.full((height, width, 3), 128, np.uint8)
    for strength, (top, left) in enumerate(busy, start=1):
        noise = np.random.default_rng(0).integers(-20, 20, (SIDE, SIDE, 1)) * strength
        hr[top : top + SIDE, left : left + SIDE] += noise.astype(np.uint8)
    return Sample(name, hr, downscale(hr, scale))


def test_the_patches_with_the_largest_errors_are_shown_the_hardest_first() -> None:
    places = [(0, 200), (100, 100), (204, 4)]
    (one, two, three) = hardest([sample(300, 400, *places)], 2)
    found = [(patch.top, patch.left) for patch in (one, two, three)]
    assert np.abs(np.array(found) - places[::-1]).max() <= 4  # the noise grows with the place in the list


def test_patches_come_from_as_many_pictures_as_there_are() -> None:
    pictures = [sample(200, 200, (40, 60), (100, 100), name=name) for name in "abcde"]
    found = hardest(pictures, 2)
    assert len({patch.sample.name for patch in found}) == PATCHES


@pytest.mark.parametrize("size", [(SIDE, SIDE), (40, 44)])
def test_a_small_picture_is_shown_whole(size: tuple[int, int]) -> None:
    (found,) = hardest([sample(*size, scale=4)], 4)
    assert (found.top, found.left) == (0, 0)


def test_many_pictures_are_looked_through_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hard_patches, "SEARCHED_PIXELS", 5 * 120 * 120)
    asked: list[str] = []
    whole = hard_patches.bicubic_levels
    monkeypatch.setattr(hard_patches, "bicubic_levels", lambda s, scale: (asked.append(s.name), whole(s, scale))[1])
    hardest([sample(120, 120, name=str(number)) for number in range(50)], 2)
    assert asked == [str(number) for number in range(0, 50, 10)]


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("place", [(0, 0), (48, 100), (104, 204)])
def test_a_patch_by_a_network_is_that_of_the_whole_picture(scale: int, place: tuple[int, int]) -> None:
    torch.manual_seed(0)
    made = SESR(m=3, f=8, feature_size=16, scale=scale)
    network = Network("tiny", scale, radius_of(made), 1, runner(made))
    picture = sample(200, 300, (50, 60), (100, 200), scale=scale)
    whole = to_levels(network.run((luma(picture.lr) / 255).astype(np.float32)[None])[0])
    found = hard_patches._window(Patch(picture, *place), network)
    top, left = place
    assert np.array_equal(found, whole[top : top + SIDE, left : left + SIDE])
