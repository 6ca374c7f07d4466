"""The best networks of a study on the patches that are hardest for bicubic, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sesr_lab.data.dataset import load
from sesr_lab.data.image import luma, round_levels, to_levels
from sesr_lab.data.pair import Sample
from sesr_lab.errors import ModelError
from sesr_lab.registry.lookup import Named, find
from sesr_lab.results.inference import Network, of_named
from sesr_lab.results.ranking import Ranked, best
from sesr_lab.results.sheet import Cell, contact_sheet
from sesr_lab.scores.evaluate import bicubic_levels
from sesr_lab.scores.metrics import psnr
from sesr_lab.tracking.runs import Tracker

SIDE = 96
"""High-resolution pixels of a patch's side."""
PATCHES, NETWORKS = 3, 3
SEARCHED_PIXELS = 6_000_000
"""High-resolution pixels in which hard patches are looked for, so that a report is made in seconds."""

Levels = NDArray[np.float64]


@dataclass(frozen=True)
class Patch:
    """A part of a picture, in high-resolution pixels from the top left, at a multiple of the scale."""

    sample: Sample
    top: int
    left: int


def hard_patches(
    placed: Sequence[Ranked], tracker: Tracker, *, samples: Sequence[Sample] | None = None
) -> NDArray[np.uint8]:
    """Patches of the validation pictures by bicubic, by up to NETWORKS of the Pareto set, and as they are: (h, w, 3).

    Args:
        samples: the validation pictures; loaded from where the networks were trained if they are not given.

    Raises:
        SesrError: no network is registered, or one, or the pictures, cannot be read.
    """
    chosen = _chosen(placed)
    found = [find(tracker, str(item.trial.outcome.model), scale=item.trial.outcome.scale) for item in chosen]
    scale = found[0].architecture.scale
    networks = [of_named(named) for named in found]
    patches = hardest(_samples(found[0]) if samples is None else samples, scale)
    return patch_sheet(patches, [item.name for item in chosen], networks)


def patch_sheet(patches: Sequence[Patch], names: Sequence[str], networks: Sequence[Network]) -> NDArray[np.uint8]:
    """The patches by bicubic, by networks of one scale, and as they are, a row for each patch: (h, w, 3)."""
    return contact_sheet([_row(patch, names, networks) for patch in patches])


def hardest(samples: Sequence[Sample], scale: int) -> list[Patch]:
    """The PATCHES with the largest errors by bicubic, from as many pictures as there are; none overlaps another."""
    looked_at = _within_reach(samples)
    of_each = -(-PATCHES // len(looked_at))
    found = [item for sample in looked_at for item in _hardest_of(sample, scale, of_each)]
    found.sort(key=lambda item: -item[0])
    return [patch for _, patch in found[:PATCHES]]


def _hardest_of(sample: Sample, scale: int, count: int) -> list[tuple[float, Patch]]:
    """Up to `count` patches of one picture, each with its squared error."""
    error = (bicubic_levels(sample, scale) - luma(sample.hr)) ** 2
    sums = np.zeros((error.shape[0] + 1, error.shape[1] + 1))
    sums[1:, 1:] = error.cumsum(axis=0).cumsum(axis=1)
    height, width = (min(SIDE, length) for length in error.shape)
    boxes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    boxes = boxes[::scale, ::scale]  # so that it begins with a whole low-resolution pixel
    found: list[tuple[float, Patch]] = []
    while len(found) < count and boxes.max() >= 0:
        top, left = (int(place) for place in np.unravel_index(int(boxes.argmax()), boxes.shape))
        found.append((float(boxes[top, left]), Patch(sample, scale * top, scale * left)))
        above, before = max(top - height // scale + 1, 0), max(left - width // scale + 1, 0)
        boxes[above : top + height // scale, before : left + width // scale] = -1
    return found


def _samples(named: Named) -> Sequence[Sample]:
    assert named.version is not None  # trials name registered versions
    return load(named.version.data, scale=named.architecture.scale).valid


def _chosen(placed: Sequence[Ranked]) -> list[Ranked]:
    """Networks from the cheapest of the Pareto set to the best, evenly spread along it."""
    front = [item for item in placed if item.on_front and item.trial.outcome.model]
    if not front:
        top = best([item for item in placed if item.trial.outcome.model])
        if top is None:
            raise ModelError("none of its networks is registered")
        front = [top]
    places = np.linspace(0, len(front) - 1, min(NETWORKS, len(front)))
    return [front[round(float(place))] for place in places]


def _within_reach(samples: Sequence[Sample]) -> list[Sample]:
    """As many of the pictures, spread over all of them, as are looked at in a few seconds; at least PATCHES."""
    pixels = sum(sample.hr.shape[0] * sample.hr.shape[1] for sample in samples)
    every = max(1, min(-(-pixels // SEARCHED_PIXELS), len(samples) // PATCHES))
    return list(samples[::every])


def _row(patch: Patch, names: Sequence[str], networks: Sequence[Network]) -> list[Cell]:
    truth = _cut(luma(patch.sample.hr), patch)
    made = [("bicubic", _cut(bicubic_levels(patch.sample, networks[0].scale), patch))]
    made += [(name, _window(patch, network)) for name, network in zip(names, networks, strict=True)]
    cells = [Cell(_rgb(levels), name, f"{psnr(levels, truth):.2f} dB") for name, levels in made]
    return [*cells, Cell(_rgb(truth), "original", patch.sample.name)]


def _window(patch: Patch, network: Network) -> Levels:
    """The patch by the network, which is given what the patch depends on alone."""
    scale, margin = network.scale, network.radius
    height, width = (min(SIDE, length) for length in patch.sample.hr.shape[:2])
    top, left = patch.top // scale, patch.left // scale
    above, before = max(top - margin, 0), max(left - margin, 0)
    below, after = top + height // scale + margin, left + width // scale + margin
    lr = patch.sample.lr[above:below, before:after]
    made = to_levels(network.run((luma(lr) / 255).astype(np.float32)[None])[0])
    return made[scale * (top - above) :, scale * (left - before) :][:height, :width]


def _cut(levels: Levels, patch: Patch) -> Levels:
    return levels[patch.top : patch.top + SIDE, patch.left : patch.left + SIDE]


def _rgb(levels: Levels) -> NDArray[np.uint8]:
    """A grey patch as RGB."""
    return round_levels(levels)[..., None].repeat(3, axis=2)
