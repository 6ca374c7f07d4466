"""Parameters and multiply-accumulates by arithmetic, counted as the paper counts them.

Weights only (no PReLU slopes, no biases). Source: arXiv 2103.09404, sections 3 and 5; the training counts
reproduce the figures in the README of ARM-software/sesr.
"""

from __future__ import annotations

from dataclasses import dataclass

OUTPUT_720P = (1280, 720)


@dataclass(frozen=True)
class Costs:
    """What a network costs: weights when collapsed, and MACs (multiply-accumulates, not FLOPs)."""

    params: int
    macs_720p: int
    """MACs of one collapsed forward pass to a 1280×720 picture."""
    params_expanded: int
    """Weights that are trained."""
    macs_train_expanded: int
    """MACs of one training forward pass of a batch in the expanded space."""
    macs_train_paper: int
    """The same, collapsed by the paper's algorithm: each block run over a padded identity."""
    macs_train: int
    """The same, collapsed as sesr-lab does it: one matrix product W₂W₁ for each block."""


@dataclass(frozen=True)
class _Layer:
    inputs: int
    outputs: int
    kernel: int


def costs(*, m: int, f: int, feature_size: int, scale: int, batch_size: int = 32, patch: int = 64) -> Costs:
    """Costs of a SESR network; `patch` is the LR patch's side in pixels, `batch_size` in patches."""
    layers = [_Layer(1, f, 5), *[_Layer(f, f, 3)] * m, _Layer(f, scale**2, 5)]
    width, height = OUTPUT_720P
    weights = sum(_weights(layer) for layer in layers)
    expanded = sum(_weights_expanded(layer, feature_size) for layer in layers)
    pixels = batch_size * patch**2
    return Costs(
        params=weights,
        macs_720p=weights * (width // scale) * (height // scale),
        params_expanded=expanded,
        macs_train_expanded=expanded * pixels,
        macs_train_paper=weights * pixels + sum(_collapse_by_convolution(x, feature_size) for x in layers),
        macs_train=weights * pixels + sum(feature_size * _weights(layer) for layer in layers),
    )


def _weights(layer: _Layer) -> int:
    return layer.inputs * layer.outputs * layer.kernel**2


def _weights_expanded(layer: _Layer, feature_size: int) -> int:
    return feature_size * (layer.inputs * layer.kernel**2 + layer.outputs)


def _collapse_by_convolution(layer: _Layer, feature_size: int) -> int:
    """MACs of running a block over `inputs` delta pictures, padded so that k×k responses come out."""
    return layer.inputs * layer.kernel**2 * _weights_expanded(layer, feature_size)
