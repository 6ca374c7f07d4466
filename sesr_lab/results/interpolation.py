"""Bicubic enlarging of a plane, by the same sums wherever the plane is cut.

`data.image.bicubic` gives the same numbers; its matrix products may round another way where the picture is wider.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sesr_lab.results.decoding import Samples

Plane = NDArray[np.float32]

REACH = 2
"""Neighbours on each side that bicubic interpolation looks at."""


def rows_around(samples: Samples | Plane, first: int, last: int) -> Samples | Plane:
    """Rows from first - REACH to last + REACH, mirrored at the picture's border with the edge repeated."""
    return samples[_mirrored(np.arange(first - REACH, last + REACH), len(samples))]


def enlarged(rows: Samples | Plane, scale: int) -> Plane:
    """MATLAB's bicubic of a plane that has REACH rows more on each side: (h + 4, W) to (scale·h, scale·W)."""
    tall = _stretched(rows.astype(np.float32, copy=False), scale)
    wide = np.ascontiguousarray(tall[:, _mirrored(np.arange(-REACH, rows.shape[1] + REACH), rows.shape[1])].T)
    return np.ascontiguousarray(_stretched(wide, scale).T)


def _mirrored(indices: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    folded = indices % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


def _stretched(rows: Plane, scale: int) -> Plane:
    """(h + 4, W) to (scale·h, W): each phase is a sum of four rows, always in the same order."""
    count = len(rows) - 2 * REACH
    stretched = np.empty((count, scale, rows.shape[1]), np.float32)
    for phase in range(scale):
        offset = (phase + 0.5) / scale - 0.5
        first = 0 if offset < 0 else 1
        taps = np.arange(first - REACH, first - REACH + 4)
        weights = _cubic(taps - offset).astype(np.float32)
        total = rows[first : first + count] * weights[0]
        for k in range(1, 4):
            total += rows[first + k : first + k + count] * weights[k]
        stretched[:, phase] = total
    return stretched.reshape(count * scale, -1)


def _cubic(distance: NDArray[np.floating]) -> NDArray[np.float64]:
    """The cubic convolution kernel with a = -0.5, normalised. Source: Keys (1981), equation 15."""
    x = np.abs(distance)
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights: NDArray[np.float64] = np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
    weights /= weights.sum()
    return weights
