"""A trained network as one int8 TFLite file, the one that an NPU's compiler takes, with what it loses measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sesr_lab.data.image import luma
from sesr_lab.data.pair import Sample
from sesr_lab.registry.lookup import Named
from sesr_lab.results.onnx_file import Exported, check_losses, collapsed_of, loss_of
from sesr_lab.targets.estimate import Size
from sesr_lab.targets.interpreter import TfliteUpscaler
from sesr_lab.targets.quantize import calibrate, calibration_patches
from sesr_lab.targets.tflite import write_tflite


def tflite_file(
    named: Named,
    calibration: Sequence[NDArray[np.uint8]],
    benchmarks: Sequence[tuple[str, Sequence[Sample]]],
    *,
    size: Size,
) -> Exported:
    """The collapsed network as an int8 TFLite file for low-resolution pictures of that size.

    Args:
        calibration: LR pictures, RGB or grey, from which the ranges of activations are taken.
        benchmarks: names and samples of the sets on which the loss is measured, with LiteRT's interpreter.

    Raises:
        TargetError: ai-edge-litert is missing.
        ExportError: int8 loses more than LARGEST_LOSS_DB on a benchmark.
    """
    network = collapsed_of(named)
    ranges = calibrate(network, calibration_patches([(luma(lr) / 255).astype(np.float32) for lr in calibration]))
    upscale = TfliteUpscaler(network, ranges)
    losses = tuple(loss_of(name, samples, network, upscale) for name, samples in benchmarks)
    check_losses(named, losses)
    content = write_tflite(network, ranges, width=size.width, height=size.height)
    return Exported(content, named.architecture.scale, 1, True, None, losses, size)
