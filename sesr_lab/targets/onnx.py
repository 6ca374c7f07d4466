"""A collapsed network as an ONNX file in float32, for pictures of any size.

Input `lr` (N, 1, height, width) and output `hr` (N, 1, s·height, s·width) are luma in [0, 1]. Depth-to-space is in
the DCR order, which every runtime takes with sizes that are not known beforehand; for one channel it is CRD's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sesr_lab.network.model import MID_GREY, Collapsed
from sesr_lab.targets.quantize import form_of, on_cpu
from sesr_lab.targets.tool import tool

PACKAGE = "onnx"
OPSET, IR_VERSION = 17, 8
"""What runtimes of 2022 and later read."""


class _Graph:
    """An ONNX graph that is being written: constants, and nodes that each give one tensor."""

    def __init__(self) -> None:
        self.onnx = tool("onnx", PACKAGE)
        self.helper = tool("onnx.helper", PACKAGE)
        self.constants: list[Any] = []
        self.nodes: list[Any] = []

    def constant(self, name: str, values: Tensor | float) -> str:
        array: NDArray[np.float32] = np.asarray(values, np.float32)
        self.constants.append(tool("onnx.numpy_helper", PACKAGE).from_array(array, name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(self.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def convolution(self, source: str, weight: Tensor, name: str) -> str:
        pad = weight.shape[-1] // 2
        return self.node("Conv", [source, self.constant(f"{name}.weight", weight)], name, pads=[pad] * 4)

    def bytes(self, scale: int) -> bytes:
        float32 = self.onnx.TensorProto.FLOAT
        shapes = {
            "lr": ["n", 1, "height", "width"],
            "hr": ["n", 1, f"{scale}*height", f"{scale}*width"],
        }
        lr, hr = (self.helper.make_tensor_value_info(name, float32, shape) for name, shape in shapes.items())
        graph = self.helper.make_graph(self.nodes, "sesr", [lr], [hr], self.constants)
        opset = [self.helper.make_opsetid("", OPSET)]
        model = self.helper.make_model(graph, opset_imports=opset, producer_name="sesr-lab", ir_version=IR_VERSION)
        self.onnx.checker.check_model(model, full_check=True)
        serialized: bytes = model.SerializeToString()
        return serialized


def write_onnx(network: Collapsed) -> bytes:
    """The network as an ONNX file in float32; its output is clipped to [0, 1].

    Raises:
        TargetError: onnx is missing.
    """
    network, graph = on_cpu(network), _Graph()
    scale = round(len(network.tail) ** 0.5)
    centred = graph.node("Sub", ["lr", graph.constant("mid_grey", MID_GREY)], "centred")
    skip = features = graph.convolution(centred, network.head, "head")
    for index, (weight, slopes) in enumerate(zip(network.body, network.slopes, strict=True)):
        name = f"block{index}"
        features = graph.convolution(features, weight, name)
        if form_of(slopes) == "relu":
            features = graph.node("Relu", [features], f"{name}.active")
        else:
            slope = graph.constant(f"{name}.slopes", slopes[:, None, None])
            features = graph.node("PRelu", [features, slope], f"{name}.active")
    residual = graph.convolution(graph.node("Add", [features, skip], "skip"), network.tail, "tail")
    base = "lr" if network.offset is None else graph.constant("offset", network.offset[:, None, None])
    subpixels = graph.node("Add", [residual, base], "subpixels")
    luma = graph.node("DepthToSpace", [subpixels], "luma", blocksize=scale, mode="DCR")
    graph.node("Clip", [luma, graph.constant("black", 0.0), graph.constant("white", 1.0)], "hr")
    return graph.bytes(scale)
