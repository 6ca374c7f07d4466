"""What a TFLite file does to a picture, read from its graph, and our own files for pictures of another size."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from sesr_lab.errors import ModelError
from sesr_lab.targets.tflite import OURS, PACKAGE
from sesr_lab.targets.tool import tool

IDENTIFIER = b"TFL3"
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_PIXELWISE = (
    *("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "PRELU", "RELU", "RELU6", "LEAKY_RELU", "CONCATENATION"),
    *("QUANTIZE", "DEQUANTIZE", "RESHAPE", "TRANSPOSE", "DEPTH_TO_SPACE"),
)
"""Operators by which a pixel depends on no other, as upscaling networks use them."""
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, struct.error)
"""What following a wrong offset ends in."""


@dataclass(frozen=True)
class Seen:
    """A file's graph, as far as it can be cut into tiles."""

    radius: int
    """Low-resolution pixels on each side that an output pixel depends on, at most."""
    is_ours: bool


def graph_of(file: bytes, label: str) -> Seen:
    """What is to be known of a file before it is run.

    Raises:
        ModelError: it is no TFLite file, or its operators are not those of such a network.
        TargetError: ai-edge-litert is missing.
    """
    if file[4:8] != IDENTIFIER:
        raise ModelError(f"{label}: not a TFLite file; export it again")
    schema = tool("ai_edge_litert.schema_py_generated", PACKAGE)
    try:
        model = schema.ModelT.InitFromPackedBuf(file)
        (graph,) = model.subgraphs
        names = {getattr(schema.BuiltinOperator, name): name for name in dir(schema.BuiltinOperator) if name.isupper()}
        kinds = [names[code.builtinCode] for code in model.operatorCodes]
        radius = sum(_reach(schema, graph, kinds[each.opcodeIndex], each, label) for each in graph.operators)
    except _DAMAGED as error:
        raise ModelError(f"{label}: damaged, or not a network of one graph ({error}); export it again") from error
    return Seen(radius, model.description in (OURS, OURS.encode()))


def _reach(schema: Any, graph: Any, kind: str, operator: Any, label: str) -> int:
    """How far an operator looks to each side."""
    if kind in _PIXELWISE:
        return 0
    options = operator.builtinOptions
    if (
        kind not in _CONVOLUTIONS
        or options.padding != schema.Padding.SAME
        or (options.strideH, options.strideW) != (1, 1)
    ):
        raise ModelError(
            f"{label}: {kind} of that kind is not known to be of an upscaling network; convolutions of stride 1 that "
            f"keep the size are, and {', '.join(_PIXELWISE)}"
        )
    _, height, width, _ = graph.tensors[operator.inputs[1]].shape
    return int(max(height // 2 * options.dilationHFactor, width // 2 * options.dilationWFactor))


def resized(file: bytes, *, width: int, height: int) -> bytes:
    """A file that `write_tflite` has made, for low-resolution pictures of that size; all else in it stays.

    Raises:
        TargetError: ai-edge-litert is missing.
    """
    schema, flatbuffers = tool("ai_edge_litert.schema_py_generated", PACKAGE), tool("flatbuffers", "flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(file)
    (graph,) = model.subgraphs
    by_name = {_text(tensor.name): tensor for tensor in graph.tensors}
    channels = int(by_name["pixels"].shape[2])
    s = round(channels**0.5)
    shapes = {
        "pixels": (height, width, channels),
        "rows": (height, channels, width),
        "halves": (height * s, s, width),
        "columns": (height * s, width, s),
        "hr": (1, height * s, width * s, 1),
    }
    for name, tensor in by_name.items():
        if name in shapes:
            tensor.shape = list(shapes[name])
        elif tensor.buffer == 0:  # an activation (1, H, W, C)
            tensor.shape = [1, height, width, int(tensor.shape[3])]
    for operator in graph.operators:
        shape = shapes.get(_text(graph.tensors[operator.outputs[0]].name), ())
        if isinstance(operator.builtinOptions, schema.ReshapeOptionsT):
            operator.builtinOptions.newShape = list(shape)
            wanted = model.buffers[graph.tensors[operator.inputs[1]].buffer]
            wanted.data = np.frombuffer(np.array(shape, np.int32).tobytes(), np.uint8)
    builder = flatbuffers.Builder(len(file))
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
