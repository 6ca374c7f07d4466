import numpy as np
import pytest
import torch
from networks import patches, small, upscaled

from sesr_lab.targets.onnx import write_onnx

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
TOLERANCE = 1e-5
"""Absolute, for luma in [0, 1]: runtimes sum the same float32 products in other orders (a few 1e-7 each)."""


@pytest.mark.parametrize("slope", [0.0, 0.25, 1.5])
@pytest.mark.parametrize(("scale", "input_residual"), [(2, True), (4, True), (2, False)])
def test_onnxruntime_makes_the_same_picture_at_any_size(slope, scale, input_residual):
    network = small(scale=scale, slope=slope, input_residual=input_residual)
    session = runtime.InferenceSession(write_onnx(network))
    for lr in (patches(2, 24), patches(1, 40)[:, :, :13]):
        (hr,) = session.run(None, {"lr": lr.numpy()})
        torch.testing.assert_close(torch.from_numpy(hr), upscaled(network, lr), atol=TOLERANCE, rtol=0)


def test_sizes_are_free_and_named():
    graph = onnx.load_from_string(write_onnx(small(scale=4))).graph
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (graph.input[0], graph.output[0])
    ]
    assert shapes == [["n", 1, "height", "width"], ["n", 1, "4*height", "4*width"]]
    assert {node.op_type for node in graph.node} == {"Sub", "Conv", "PRelu", "Add", "DepthToSpace", "Clip"}


def test_a_relu_network_has_no_prelu():
    nodes = onnx.load_from_string(write_onnx(small(slope=0.0))).graph.node
    assert sum(node.op_type == "Relu" for node in nodes) == 2


def test_equal_networks_make_equal_files():
    assert write_onnx(small()) == write_onnx(small())


def test_the_output_is_clipped():
    network = small()
    session = runtime.InferenceSession(write_onnx(network._replace(tail=network.tail * 100)))
    (hr,) = session.run(None, {"lr": patches().numpy()})
    assert (hr.min(), hr.max()) == (0.0, 1.0)
    assert hr.dtype == np.float32
