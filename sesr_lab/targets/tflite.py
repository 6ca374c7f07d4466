"""A collapsed network as an int8 TFLite file, written straight with the schema that ships with ai-edge-litert.

Nothing in it falls to the CPU of an NPU: depth-to-space is written as reshapes and transposes, and a PReLU whose slopes
are at most 1 as a depthwise 1×1 convolution and a maximum. Input and output are int8: level - 128.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sesr_lab.network.model import Collapsed
from sesr_lab.targets.quantize import (
    INPUT,
    LARGEST_WEIGHT,
    Int8Weights,
    Range,
    Ranges,
    block_range,
    form_of,
    head_bias,
    on_cpu,
    quantize_weights,
    tail_bias,
)
from sesr_lab.targets.tool import tool

PACKAGE = "ai-edge-litert"
OURS = "sesr-lab"
"""How a file of ours describes itself."""
SCHEMA_VERSION = 3
VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "ADD": 2, "MAXIMUM": 2, "TRANSPOSE": 2, "PRELU": 1, "RESHAPE": 1}
"""The least version of each operator that takes int8, as the format's own converter writes it."""


@dataclass(frozen=True)
class _At:
    """A tensor of activations in the file: its number, its shape ((1, H, W, C) but for reshaped ones), its range."""

    number: int
    shape: tuple[int, ...]
    range: Range


@dataclass
class _File:
    """A TFLite file that is being written: tensors, their contents, and operators, in the schema's own objects."""

    schema: Any
    tensors: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=list)
    operators: list[Any] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)

    def activation(self, name: str, shape: tuple[int, ...], range_: Range) -> _At:
        """A new tensor that an operator is to fill."""
        return _At(self._tensor(name, shape, "INT8", scales=[range_.scale], zero=range_.zero_point), shape, range_)

    def constant(
        self, name: str, values: NDArray[Any], scales: Sequence[float] | NDArray[np.float64] = (), *, axis: int = 0
    ) -> int:
        """A new tensor that holds `values`; with several scales, each is of one index along `axis`."""
        kind = {"int8": "INT8", "int32": "INT32"}[values.dtype.name]
        number = self._tensor(name, values.shape, kind, scales=list(scales), axis=axis)
        self.tensors[number].buffer = self._buffer(values)
        return number

    def operator(self, kind: str, inputs: Sequence[int], output: _At, options: tuple[str, object] | None = None) -> _At:
        """`output`, which an operator of that kind now makes of `inputs`."""
        schema = self.schema
        made = schema.OperatorT()
        made.opcodeIndex = self.codes.setdefault(kind, len(self.codes))
        made.inputs, made.outputs = list(inputs), [output.number]
        if options is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options[0])
            made.builtinOptions = options[1]
        self.operators.append(made)
        return output

    def bytes(self, source: _At, result: _At) -> bytes:
        """The whole file, of a network from `source` to `result`."""
        flatbuffers = tool("flatbuffers", "flatbuffers")
        schema = self.schema
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs, graph.name = [source.number], [result.number], "main"
        model = schema.ModelT()
        model.version, model.description = SCHEMA_VERSION, OURS
        model.operatorCodes = [self._code(kind) for kind in self.codes]
        model.subgraphs = [graph]
        model.buffers = [schema.BufferT(), *self.buffers]  # the first one is empty, and stands for "no contents"
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _tensor(
        self, name: str, shape: Sequence[int], kind: str, *, scales: list[float], zero: int = 0, axis: int = 0
    ) -> int:
        schema = self.schema
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.hasRank = (
            name,
            list(shape),
            getattr(schema.TensorType, kind),
            True,
        )
        if scales:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = [zero] * len(scales)
            tensor.quantization.quantizedDimension = axis
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _buffer(self, values: NDArray[Any]) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.buffers.append(buffer)
        return len(self.buffers)

    def _code(self, kind: str) -> object:
        code = self.schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, kind)
        code.version = VERSIONS[kind]
        return code


def write_tflite(network: Collapsed, ranges: Ranges, *, width: int = 640, height: int = 360) -> bytes:
    """The network as an int8 TFLite file that takes (1, height, width, 1) and gives (1, s·height, s·width, 1).

    Both are int8, level - 128 (scale 1/255, zero point 0); the size is that of the low-resolution picture, in pixels.

    Raises:
        TargetError: ai-edge-litert, which holds the format's schema, is missing.
    """
    file, network = _File(tool("ai_edge_litert.schema_py_generated", PACKAGE)), on_cpu(network)
    source = file.activation("lr", (1, height, width, 1), INPUT)
    shift = head_bias(network.head).double().numpy()
    skip = features = _convolution(file, "head", source, network.head, ranges.head, bias=shift)
    for index, (weight, slopes) in enumerate(zip(network.body, network.slopes, strict=True)):
        features = _block(file, index, features, weight, slopes, ranges)
    features = _add(file, "skip", features, skip, ranges.skip)
    bias = tail_bias(network)
    if bias is not None:
        subpixels = _convolution(file, "tail", features, network.tail, INPUT, bias=bias.double().numpy())
    else:
        residual = _convolution(file, "tail", features, network.tail, ranges.tail)
        subpixels = _add(file, "subpixels", residual, source, INPUT)
    return file.bytes(source, _depth_to_space(file, subpixels))


def _block(file: _File, index: int, features: _At, weight: Tensor, slopes: Tensor, ranges: Ranges) -> _At:
    """A 3×3 convolution and its activation."""
    name, form = f"block{index}", form_of(slopes)
    if form == "relu":
        return _convolution(file, name, features, weight, ranges.active[index], relu=True)
    before = _convolution(file, name, features, weight, block_range(ranges, index, form))
    if form == "maximum":
        return _maximum(file, name, before, slopes)
    logging.getLogger(__name__).warning(
        f"{name}: a slope of {float(slopes.max()):.2f} is above 1, so that its PReLU is written as one; NPUs are slower"
    )
    return _prelu(file, name, before, slopes, ranges.active[index])


def _convolution(
    file: _File,
    name: str,
    source: _At,
    weight: Tensor,
    range_: Range,
    *,
    bias: NDArray[np.float64] | None = None,
    relu: bool = False,
) -> _At:
    """A convolution with `weight` (out, in, k, k), `SAME` padding, an int8 scale for each output channel."""
    schema = file.schema
    made: Int8Weights = quantize_weights(weight)
    values = file.constant(f"{name}/weight", made.values.transpose(0, 2, 3, 1), made.scales)  # (out, k, k, in)
    steps = made.scales * source.range.scale
    zeros = np.zeros(len(steps)) if bias is None else bias
    biases = file.constant(f"{name}/bias", np.rint(zeros / steps).astype(np.int32), steps)
    options = schema.Conv2DOptionsT()
    options.padding, options.strideW, options.strideH = schema.Padding.SAME, 1, 1
    if relu:
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    output = file.activation(name, (*source.shape[:3], len(weight)), range_)
    return file.operator("CONV_2D", [source.number, values, biases], output, ("Conv2DOptions", options))


def _maximum(file: _File, name: str, source: _At, slopes: Tensor) -> _At:
    """max(x, slope·x); a depthwise convolution has a scale for each channel, so that the slopes are not rounded."""
    schema = file.schema
    real = slopes.double().numpy()
    scales = np.where(real != 0, np.abs(real), 1.0) / LARGEST_WEIGHT
    weight = (np.sign(real) * LARGEST_WEIGHT).astype(np.int8).reshape(1, 1, 1, -1)
    values = file.constant(f"{name}/slopes", weight, scales, axis=3)
    steps = scales * source.range.scale
    biases = file.constant(f"{name}/slopes/bias", np.zeros(len(real), np.int32), steps)
    options = schema.DepthwiseConv2DOptionsT()
    options.padding, options.strideW, options.strideH = schema.Padding.SAME, 1, 1
    options.depthMultiplier = 1
    sloped = file.activation(f"{name}/sloped", source.shape, source.range)
    file.operator("DEPTHWISE_CONV_2D", [source.number, values, biases], sloped, ("DepthwiseConv2DOptions", options))
    output = file.activation(f"{name}/active", source.shape, source.range)
    larger = ("MaximumMinimumOptions", schema.MaximumMinimumOptionsT())
    return file.operator("MAXIMUM", [source.number, sloped.number], output, larger)


def _prelu(file: _File, name: str, source: _At, slopes: Tensor, range_: Range) -> _At:
    real = slopes.double().numpy()
    scale = float(np.abs(real).max()) / LARGEST_WEIGHT
    values = file.constant(f"{name}/slopes", np.rint(real / scale).astype(np.int8).reshape(1, 1, -1), [scale])
    return file.operator("PRELU", [source.number, values], file.activation(f"{name}/active", source.shape, range_))


def _add(file: _File, name: str, a: _At, b: _At, range_: Range) -> _At:
    """a + b, where b may have one channel for all of a's."""
    options = ("AddOptions", file.schema.AddOptionsT())
    return file.operator("ADD", [a.number, b.number], file.activation(name, a.shape, range_), options)


def _depth_to_space(file: _File, source: _At) -> _At:
    """(1, H, W, s²) as (1, s·H, s·W, 1), by two transposes of three axes.

    One transpose of four axes does it too, but Arm's compiler runs that on the CPU from 65,536 pixels on, and on the
    NPU it takes longer.
    """
    _, height, width, channels = source.shape
    s = round(channels**0.5)
    rows = _transposed(file, "rows", _reshape(file, "pixels", source, (height, width, channels)))  # (H, s·s, W)
    columns = _transposed(file, "columns", _reshape(file, "halves", rows, (height * s, s, width)))  # (s·H, W, s)
    return _reshape(file, "hr", columns, (1, height * s, width * s, 1))


def _transposed(file: _File, name: str, source: _At) -> _At:
    """(A, B, C) as (A, C, B)."""
    order = file.constant(f"{name}/order", np.array([0, 2, 1], np.int32))
    a, b, c = source.shape
    output = file.activation(name, (a, c, b), source.range)
    options = ("TransposeOptions", file.schema.TransposeOptionsT())
    return file.operator("TRANSPOSE", [source.number, order], output, options)


def _reshape(file: _File, name: str, source: _At, shape: tuple[int, ...]) -> _At:
    options = file.schema.ReshapeOptionsT()
    options.newShape = list(shape)
    wanted = file.constant(f"{name}/shape", np.array(shape, np.int32))
    return file.operator(
        "RESHAPE", [source.number, wanted], file.activation(name, shape, source.range), ("ReshapeOptions", options)
    )
