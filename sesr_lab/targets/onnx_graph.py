"""A collapsed network as an ONNX graph, written node by node: float, or int8 between shift and input's addition.

Operators that all runtimes know, at opset 17; height, width and batch are open. Depth-to-space is DCR, which Core ML
takes at any size (with one channel it is the same as CRD); Clip's bounds are initialisers, as TensorRT wants them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sesr_lab.network.model import MID_GREY, Collapsed
from sesr_lab.targets.onnx_tools import onnx_package
from sesr_lab.targets.quantize import INPUT, SHIFT, Range, Ranges, head_bias, on_cpu, quantize_weights

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET, IR_VERSION = 17, 8
INPUT_NAME, OUTPUT_NAME = "input", "output"

# ITU-R BT.601, studio range, as in data.image, for RGB and planes in [0, 1].
_TO_YCBCR = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_OFFSETS = np.array([16.0, 128.0, 128.0]) / 255


def float_graph(network: Collapsed, *, rgb: bool = False) -> ModelProto:
    """The network with float32 sums: luma (N, 1, H, W) in [0, 1] to (N, 1, s·H, s·W), clipped; or RGB to RGB.

    Raises:
        ExportError: the package onnx is missing.
    """
    return _Graph(on_cpu(network)).model(None, rgb=rgb)


def int8_graph(network: Collapsed, ranges: Ranges, *, rgb: bool = False) -> ModelProto:
    """The same with int8 convolutions between QuantizeLinear and DequantizeLinear.

    The shift, the input's addition, depth-to-space and the clip stay in float, and the input's scale is 1/255: so
    levels are rounded once, where a whole graph in int8 rounds them twice.

    Raises:
        ExportError: the package onnx is missing.
    """
    return _Graph(on_cpu(network)).model(ranges, rgb=rgb)


@dataclass
class _Graph:
    """A graph that is being written."""

    network: Collapsed
    onnx: Any = field(default_factory=onnx_package)
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def model(self, ranges: Ranges | None, *, rgb: bool) -> ModelProto:
        scale = round(len(self.network.tail) ** 0.5)
        if rgb:
            self._rgb(ranges, scale)
        else:
            self._luma(INPUT_NAME, OUTPUT_NAME, ranges, scale)
        colours, helper = 3 if rgb else 1, self.onnx.helper
        kind = self.onnx.TensorProto.FLOAT
        source = helper.make_tensor_value_info(INPUT_NAME, kind, ["batch", colours, "height", "width"])
        larger = ["batch", colours, f"{scale}*height", f"{scale}*width"]
        result = helper.make_tensor_value_info(OUTPUT_NAME, kind, larger)
        graph = helper.make_graph(self.nodes, "sesr", [source], [result], self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        made: ModelProto = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="sesr-lab"
        )
        return made

    def _luma(self, x: str, result: str, ranges: Ranges | None, scale: int) -> None:
        """Writes the network from the tensor `x` to the tensor `result`."""
        network = self.network
        residual = self._float_body(x) if ranges is None else self._int8_body(x, ranges)
        added = x if network.offset is None else self._constant("offset", network.offset.numpy().reshape(1, 1, 1, 1))
        subpixels = self._node("Add", [residual, added], "subpixels")
        larger = self._node("DepthToSpace", [subpixels], "larger", blocksize=scale, mode="DCR")
        self._clip(larger, result)

    def _float_body(self, x: str) -> str:
        network = self.network
        shift = self._constant("shift", np.array(MID_GREY, np.float32))
        features = skip = self._convolution("head", self._node("Sub", [x, shift], "shifted"), network.head)
        for index, (weight, slopes) in enumerate(zip(network.body, network.slopes, strict=True)):
            features = self._activation(f"block{index}", self._convolution(f"block{index}", features, weight), slopes)
        return self._convolution("tail", self._node("Add", [features, skip], "skip"), network.tail)

    def _int8_body(self, x: str, ranges: Ranges) -> str:
        network = self.network
        shift = self._constant("shift", np.array(SHIFT, np.float32))
        shifted = self._through_int8("shifted", self._node("Sub", [x, shift], "unrounded"), INPUT)
        bias = head_bias(network.head).double().numpy()
        head = self._int8_convolution("head", shifted, network.head, INPUT, bias)
        features = skip = self._through_int8("head", head, ranges.head)
        before = ranges.head
        for index, (weight, slopes) in enumerate(zip(network.body, network.slopes, strict=True)):
            name = f"block{index}"
            features = self._int8_convolution(name, features, weight, before)
            if bool(slopes.any()):  # else the ReLU becomes a part of the convolution
                features = self._through_int8(name, features, ranges.blocks[index])
            features = self._activation(name, features, slopes)
            features = self._through_int8(f"{name}/active", features, ranges.active[index])
            before = ranges.active[index]
        features = self._through_int8("skip", self._node("Add", [features, skip], "skip"), ranges.skip)
        tail = self._int8_convolution("tail", features, network.tail, ranges.skip)
        return tail if network.offset is not None else self._through_int8("tail", tail, ranges.tail)

    def _rgb(self, ranges: Ranges | None, scale: int) -> None:
        """Luma by the network, chroma by bicubic, both in the graph."""
        ycbcr = self._pointwise("ycbcr", INPUT_NAME, _TO_YCBCR, _OFFSETS)
        parts = self._constant("parts", np.array([1, 2], np.int64))
        luma, chroma = "luma", "chroma"
        self.nodes.append(self.onnx.helper.make_node("Split", [ycbcr, parts], [luma, chroma], name="split", axis=1))
        self._luma(luma, "luma/large", ranges, scale)
        scales = self._constant("scales", np.array([1, 1, scale, scale], np.float32))
        options = {"mode": "cubic", "cubic_coeff_a": -0.5, "coordinate_transformation_mode": "half_pixel"}
        large = self._node("Resize", [chroma, "", scales], "chroma/large", **options)
        joined = self._node("Concat", ["luma/large", large], "joined", axis=1)
        back = np.linalg.inv(_TO_YCBCR)
        self._clip(self._pointwise("rgb", joined, back, -back @ _OFFSETS), OUTPUT_NAME)

    def _pointwise(self, name: str, source: str, matrix: NDArray[np.floating], bias: NDArray[np.floating]) -> str:
        weight = self._constant(f"{name}/weight", matrix.astype(np.float32)[:, :, None, None])
        return self._node("Conv", [source, weight, self._constant(f"{name}/bias", bias.astype(np.float32))], name)

    def _convolution(self, name: str, source: str, weight: Tensor) -> str:
        return self._node("Conv", [source, self._constant(f"{name}/weight", weight.numpy())], name, **_same(weight))

    def _activation(self, name: str, source: str, slopes: Tensor) -> str:
        if not bool(slopes.any()):
            return self._node("Relu", [source], f"{name}/relu")
        values = self._constant(f"{name}/slopes", slopes.numpy()[:, None, None])
        return self._node("PRelu", [source, values], f"{name}/prelu")

    def _clip(self, source: str, result: str) -> None:
        bounds = [
            self._constant(f"{result}/{name}", np.array(value, np.float32)) for name, value in (("low", 0), ("high", 1))
        ]
        self.nodes.append(self.onnx.helper.make_node("Clip", [source, *bounds], [result], name=f"{result}/clip"))

    def _through_int8(self, name: str, source: str, range_: Range) -> str:
        """The tensor as int8 of that range holds it."""
        scale = self._constant(f"{name}/scale", np.array(range_.scale, np.float32))
        zero = self._constant(f"{name}/zero", np.array(range_.zero_point, np.int8))
        int8 = self._node("QuantizeLinear", [source, scale, zero], f"{name}/int8")
        return self._node("DequantizeLinear", [int8, scale, zero], f"{name}/real")

    def _int8_convolution(
        self, name: str, source: str, weight: Tensor, range_: Range, bias: NDArray[np.float64] | None = None
    ) -> str:
        """A convolution of a source of that range, its weights in int8, a scale for each output channel."""
        made = quantize_weights(weight)
        scales = made.scales.astype(np.float32)
        inputs = [source, self._stored(f"{name}/weight", made.values, scales)]
        if bias is not None:
            steps = scales.astype(np.float64) * range_.scale
            inputs.append(
                self._stored(f"{name}/bias", np.rint(bias / steps).astype(np.int32), steps.astype(np.float32))
            )
        return self._node("Conv", inputs, name, **_same(weight))

    def _stored(self, name: str, values: NDArray[Any], scales: NDArray[np.float32]) -> str:
        """Whole numbers times a scale for each output channel."""
        zeros = self._constant(f"{name}/zeros", np.zeros(len(scales), values.dtype))
        inputs = [self._constant(f"{name}/int", values), self._constant(f"{name}/scales", scales), zeros]
        return self._node("DequantizeLinear", inputs, name, axis=0)

    def _node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name=f"{name}/{kind}", **attributes))
        return name

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _same(weight: Tensor) -> dict[str, list[int]]:
    """Attributes of a convolution that keeps the size."""
    kernel = weight.shape[-1]
    return {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4}
