"""An int8 TFLite file run as it is deployed, by LiteRT's interpreter on this CPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sesr_lab.network.model import Collapsed
from sesr_lab.targets.quantize import Ranges
from sesr_lab.targets.tflite import PACKAGE, write_tflite
from sesr_lab.targets.tool import tool


class TfliteUpscaler:
    """The int8 network as a function of one picture's luma, as the interpreter runs it; a file for each size.

    Raises, when it is called, `TargetError` where ai-edge-litert is missing.
    """

    def __init__(self, network: Collapsed, ranges: Ranges) -> None:
        self.network, self.ranges = network, ranges

    def __call__(self, luma01: NDArray[np.float32]) -> NDArray[np.float32]:
        """Luma (h, w) in [0, 1], rounded to 8 bits first, to luma (s·h, s·w): whole levels / 255."""
        height, width = luma01.shape
        levels = np.floor(np.clip(luma01, 0, 1) * 255 + 0.5).astype(np.uint8)
        made = run_tflite(write_tflite(self.network, self.ranges, width=width, height=height), levels)
        return made.astype(np.float32) / np.float32(255)


def run_tflite(file: bytes, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The upscaled luma levels (s·H, s·W) of `levels` (H, W), which has the size that the file was written for.

    Raises:
        TargetError: ai-edge-litert is missing.
        ValueError: the picture has another size, or the file is no such network.
    """
    litert = tool("ai_edge_litert.interpreter", PACKAGE)
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # the delegate announces itself on stderr
    interpreter = litert.Interpreter(model_content=file, num_threads=1, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.set_tensor(source["index"], (levels.astype(np.int16) - 128).astype(np.int8)[None, :, :, None])
    interpreter.invoke()
    found: NDArray[np.int8] = interpreter.get_tensor(result["index"])
    return (found[0, :, :, 0].astype(np.int16) + 128).astype(np.uint8)
