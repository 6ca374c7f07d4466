"""A TFLite file run as it is deployed, by LiteRT's interpreter on this CPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sesr_lab.errors import ModelError
from sesr_lab.network.model import Collapsed
from sesr_lab.targets.quantize import Ranges
from sesr_lab.targets.tflite import PACKAGE, write_tflite
from sesr_lab.targets.tflite_file import graph_of, resized
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
    interpreter = _interpreter(file)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.set_tensor(source["index"], (levels.astype(np.int16) - 128).astype(np.int8)[None, :, :, None])
    interpreter.invoke()
    found: NDArray[np.int8] = interpreter.get_tensor(result["index"])
    return (found[0, :, :, 0].astype(np.int16) + 128).astype(np.uint8)


class TfliteFile:
    """A TFLite file, int8, uint8 or float32, as a function of luma of any size that it can be run on exactly.

    A picture that is larger than the file's input is run in tiles of just that size, laid so that the picture's edges
    are edges of tiles: what comes out is what the network makes of the whole picture. For a smaller one, the file is
    given another size; where that cannot be done, it is refused.
    """

    def __init__(self, file: bytes, label: str) -> None:
        """Reads the file.

        Raises:
            ModelError: it is damaged, or no network that upscales luma.
            TargetError: ai-edge-litert is missing.
        """
        self._file, self._label = file, label
        self._seen = graph_of(file, label)
        self.radius = self._seen.radius
        try:
            interpreter = _interpreter(file)
            (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{label}: not a network that LiteRT can read ({reason}); export it again") from error
        shape, made = [int(n) for n in source["shape"]], [int(n) for n in result["shape"]]
        if len(shape) != 4 or len(made) != 4 or shape[3] != 1 or made[3] != 1 or shape[0] != 1:
            raise ModelError(
                f"{label}: from {shape} to {made}; (1, H, W, 1) to (1, s*H, s*W, 1) is allowed, luma alone"
            )
        if made[1] % shape[1] or made[1] * shape[2] != made[2] * shape[1]:
            raise ModelError(f"{label}: from {shape} to {made} is not by a whole scale; export it again")
        self.scale = made[1] // shape[1]
        signature = [int(n) for n in source["shape_signature"]]
        self.is_any_size = -1 in signature[1:3]
        self.height, self.width = shape[1:3]
        self._opened = lru_cache(maxsize=8)(self._open)
        for kind in (source, result):
            _check_steps(kind, label)

    def __call__(self, luma01: NDArray[np.float32]) -> NDArray[np.float32]:
        """Luma (h, w) in [0, 1] to luma (s·h, s·w) in [0, 1], rounded to 8 bits where the file is of whole numbers.

        Raises:
            ModelError: the picture is smaller than the file's input, which cannot be changed.
        """
        height, width = luma01.shape
        if self.is_any_size:
            return self._run(luma01)
        tall, wide = min(height, self.height), min(width, self.width)
        s, made = self.scale, np.empty((self.scale * height, self.scale * width), np.float32)
        for top, first, last in _spans(height, tall, self.radius):
            for left, start, end in _spans(width, wide, self.radius):
                tile = self._run(luma01[top : top + tall, left : left + wide])
                inner = tile[s * (first - top) : s * (last - top), s * (start - left) : s * (end - left)]
                made[s * first : s * last, s * start : s * end] = inner
        return made

    def _run(self, luma01: NDArray[np.float32]) -> NDArray[np.float32]:
        interpreter = self._opened(*luma01.shape)
        source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        interpreter.set_tensor(source["index"], _to(luma01, source["dtype"])[None, :, :, None])
        interpreter.invoke()
        return _from(interpreter.get_tensor(result["index"])[0, :, :, 0])

    def _open(self, height: int, width: int) -> Any:
        """An interpreter for pictures of exactly that size."""
        is_its_own = (height, width) == (self.height, self.width) and not self.is_any_size
        rewritten = self._seen.is_ours and not is_its_own
        interpreter = _interpreter(resized(self._file, width=width, height=height) if rewritten else self._file)
        try:
            if not is_its_own and not rewritten:
                interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], [1, height, width, 1])
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            own = f"{self.width}x{self.height}"
            raise ModelError(
                f"{self._label}: made for {own}, and cannot be run on {width}x{height}; give pictures of {own} or "
                "more, or export it for a smaller --input"
            ) from error
        return interpreter


def _interpreter(file: bytes) -> Any:
    litert = tool("ai_edge_litert.interpreter", PACKAGE)
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # the delegate announces itself on stderr
    return litert.Interpreter(model_content=file, num_threads=1, experimental_op_resolver_type=plain)


def _spans(length: int, tile: int, margin: int) -> Iterator[tuple[int, int, int]]:
    """Where tiles begin along a side, and from where to where each one's output is right, without a gap."""
    done = 0
    while done < length:
        begin = min(max(done - margin, 0), length - tile)
        end = length if begin + tile >= length else begin + tile - margin
        if end <= done:
            raise ModelError(
                f"an input of {tile} pixels a side is too small to be cut by {margin}; export a larger one"
            )
        yield begin, done, end
        done = end


def _check_steps(kind: Any, label: str) -> None:
    """Raises ModelError for whole numbers that are not levels of 255."""
    if kind["dtype"] in (np.int8, np.uint8):
        scale = float(kind["quantization"][0])
        if abs(scale * 255 - 1) > 0.01:
            raise ModelError(f"{label}: a step of {kind['name']} is {scale:.5f}; 1/255 is allowed; export it again")
    elif kind["dtype"] is not np.float32:
        raise ModelError(f"{label}: {kind['name']} is {np.dtype(kind['dtype'])}; int8, uint8 and float32 are allowed")


def _to(luma01: NDArray[np.float32], dtype: Any) -> NDArray[Any]:
    """Luma as the file takes it: itself, or levels, less 128 in int8."""
    if dtype is np.float32:
        return luma01
    levels = np.floor(np.clip(luma01, 0, 1) * 255 + 0.5).astype(np.int16)
    return np.asarray(levels + np.iinfo(dtype).min, dtype)


def _from(values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype == np.float32:
        return values
    levels = values.astype(np.float32) - np.iinfo(values.dtype).min
    return np.asarray(levels / np.float32(255), np.float32)
