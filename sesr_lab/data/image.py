"""Pictures as arrays: luma and chroma, MATLAB's bicubic, cropping, 8-bit rounding.

A picture is (H, W, 3) RGB or (H, W) grey. Luma and chroma are levels: 8-bit units, floating point.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Sample = TypeVar("Sample", np.uint8, np.float32, np.float64)
"""What a picture's samples may be; resizing gives back the kind that it was given."""

AnyArray = TypeVar("AnyArray", bound=np.generic)

# ITU-R BT.601, studio range, with the digits that MATLAB's rgb2ycbcr uses: one row each for Y, Cb, Cr.
_LUMA = np.array([65.481, 128.553, 24.966]) / 255
_CHROMA = np.array([[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_BLACK, _NEUTRAL = 16.0, 128.0

_CUBIC_WIDTH = 4.0


def luma(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Give the BT.601 studio luma, not rounded: (H, W) in [16, 235].

    A grey (H, W) picture is its own luma, in [0, 255], as in MATLAB scoring scripts.
    Source: ITU-R BT.601 as in MATLAB's rgb2ycbcr.
    """
    if picture.ndim == 2:
        return picture.astype(np.float64)
    _check_rgb(picture)
    return _BLACK + picture @ _LUMA


def ycbcr(
    picture: NDArray[np.uint8] | NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Give luma in [16, 235] and two chroma planes in [16, 240], each (H, W) and not rounded.

    `picture` is (H, W, 3) RGB in levels. Source: ITU-R BT.601 as in MATLAB's rgb2ycbcr.
    """
    _check_rgb(picture)
    y = _BLACK + picture @ _LUMA
    cb, cr = (_NEUTRAL + picture @ row for row in _CHROMA)
    return y, cb, cr


def rgb(y: NDArray[np.float64], cb: NDArray[np.float64], cr: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the (H, W, 3) RGB levels that `ycbcr` turns into these planes, neither rounded nor clipped."""
    planes = np.stack([y - _BLACK, cb - _NEUTRAL, cr - _NEUTRAL], axis=-1)
    to_rgb = np.linalg.inv(np.vstack([_LUMA, _CHROMA]))
    levels: NDArray[np.float64] = planes @ to_rgb.T
    return levels


def round_levels(levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Give the nearest 8-bit levels, halves up, values outside [0, 255] clipped: MATLAB's uint8()."""
    nearest: NDArray[np.floating] = np.floor(np.clip(levels, 0, 255) + 0.5)
    return nearest.astype(np.uint8)


def to_levels(luma01: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give a network's [0, 1] output as whole levels in [0, 255], the way an 8-bit file would hold it.

    They stay floating point so that a NaN from a diverged network reaches the score instead of turning black.
    """
    levels: NDArray[np.float64] = np.floor(np.clip(luma01.astype(np.float64), 0, 1) * 255 + 0.5)
    return levels


def modcrop(picture: NDArray[AnyArray], scale: int) -> NDArray[AnyArray]:
    """Give the largest top-left part whose height and width are multiples of `scale`, as a view."""
    height, width = picture.shape[:2]
    if min(height, width) < scale:
        raise ValueError(f"a {height}x{width} picture has no multiple of {scale}")
    return picture[: height - height % scale, : width - width % scale]


def shave(array: NDArray[AnyArray], border: int) -> NDArray[AnyArray]:
    """Give the array (H, W, ...) without `border` pixels on each side, as a view."""
    height, width = array.shape[:2]
    if min(height, width) <= 2 * border:
        raise ValueError(f"a {height}x{width} array has nothing inside a border of {border}")
    return array[border : height - border, border : width - border]


def downscale(picture: NDArray[Sample], scale: int) -> NDArray[Sample]:
    """Give the picture `scale` times smaller by MATLAB's antialiased bicubic; see `bicubic`.

    Raises ValueError where the size is not a multiple of `scale`: `modcrop` first.
    """
    height, width = picture.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"a {height}x{width} picture is not a multiple of {scale}")
    return bicubic(picture, height=height // scale, width=width // scale)


def upscale(picture: NDArray[Sample], scale: int) -> NDArray[Sample]:
    """Give the picture `scale` times larger by MATLAB's bicubic; see `bicubic`."""
    height, width = picture.shape[:2]
    return bicubic(picture, height=height * scale, width=width * scale)


def bicubic(picture: NDArray[Sample], *, height: int, width: int) -> NDArray[Sample]:
    """Give the picture as (height, width) or (height, width, 3), as MATLAB's imresize would.

    Cubic kernel with a = -0.5, stretched when shrinking, symmetric border. The axis with the smaller
    scale goes first, the height at a tie. An 8-bit picture is rounded after each axis; a floating-point
    one is neither rounded nor clipped. Source: MATLAB's imresize; kernel of Keys (1981), equation 15.
    """
    if height < 1 or width < 1 or 0 in picture.shape:
        raise ValueError(f"cannot resize {picture.shape} to {height}x{width}")
    if width * picture.shape[0] < height * picture.shape[1]:
        return _resize_rows(_resize_rows(picture.swapaxes(0, 1), width).swapaxes(0, 1), height)
    return _resize_rows(_resize_rows(picture, height).swapaxes(0, 1), width).swapaxes(0, 1)


def _resize_rows(picture: NDArray[Sample], length: int) -> NDArray[Sample]:
    """Give the picture with `length` rows: (H, W, ...) -> (length, W, ...)."""
    indices, weights = _taps(len(picture), length)
    rows = np.ascontiguousarray(picture).reshape(len(picture), -1)  # (H, W * channels)
    resized = np.empty((length, rows.shape[1]), dtype=picture.dtype)
    # Row by row: the few source rows of one output row stay in the cache.
    for row in range(length):
        levels = weights[row] @ rows[indices[row]].astype(np.float64)
        resized[row] = round_levels(levels) if picture.dtype == np.uint8 else levels
    return resized.reshape(length, *picture.shape[1:])


def _taps(length: int, resized_length: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Give the source index and the weight of each tap of each output sample: two (out, taps) tables.

    Weights sum to 1 for each output. Source: `contributions` in MATLAB's imresize.
    """
    scale = resized_length / length
    shrink = min(scale, 1.0)
    width = _CUBIC_WIDTH / shrink
    centres = (np.arange(resized_length) + 0.5) / scale - 0.5
    first = np.floor(centres - width / 2).astype(np.intp)
    indices = first[:, None] + np.arange(int(np.ceil(width)) + 2)  # (out, taps)
    weights = _cubic(shrink * (centres[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    used = weights.any(axis=0)
    return _reflect(indices[:, used], length), weights[:, used]


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the cubic convolution kernel with a = -0.5. Source: Keys (1981), equation 15."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _reflect(indices: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Give indices in [0, length), mirrored at the border with the edge sample repeated."""
    folded = indices % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


def _check_rgb(picture: NDArray[AnyArray]) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"an RGB picture is (H, W, 3), not {picture.shape}")
