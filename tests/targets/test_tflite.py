import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from networks import patches, small, upscaled

from sesr_lab.errors import TargetError
from sesr_lab.network.model import Collapsed
from sesr_lab.targets.interpreter import TfliteUpscaler, run_tflite
from sesr_lab.targets.quantize import calibrate, simulate
from sesr_lab.targets.tflite import write_tflite

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")


def operators(file: bytes) -> list[str]:
    """The kinds of operators in the file, in order."""
    model = schema.ModelT.InitFromPackedBuf(file, 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    return [names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators]


def made(network: Collapsed, lr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels that the interpreter and the simulator make of the one picture."""
    ranges = calibrate(network, lr)
    levels = np.floor(lr[0, 0].numpy() * 255 + 0.5).astype(np.uint8)
    height, width = levels.shape
    found = run_tflite(write_tflite(network, ranges, width=width, height=height), levels)
    return torch.from_numpy(found.astype(np.float32)), simulate(network, ranges, lr)[0, 0] * 255


@pytest.mark.parametrize("slope", [0.0, 0.25, -0.5, 1.5], ids=["relu", "maximum", "negative", "prelu"])
@pytest.mark.parametrize(("scale", "input_residual"), [(2, True), (4, True), (2, False)])
def test_the_interpreter_makes_what_the_simulator_says_but_for_single_levels(slope, scale, input_residual):
    found, expected = made(small(scale=scale, slope=slope, input_residual=input_residual), patches(1, 32))
    assert found.shape == (32 * scale, 32 * scale)
    off = (found - expected).abs()
    assert off.max() <= 3  # requantising rounds halves another way
    assert (off > 0.5).float().mean() < 0.25


def test_it_is_near_the_float_network_on_pictures_that_are_not_square():
    network, lr = small(), (patches(1, 40) * 255).round() / 255
    lr = lr[:, :, :24]
    upscale = TfliteUpscaler(network, calibrate(network, lr))
    off = np.abs(upscale(lr[0, 0].numpy()) - upscaled(network, lr)[0, 0].numpy()) * 255
    assert off.shape == (48, 80)
    assert off.mean() < 1.0


def test_depth_to_space_and_prelu_are_written_so_that_an_npu_runs_them():
    network, lr = small(m=1), patches()
    assert operators(write_tflite(network, calibrate(network, lr), width=16, height=16)) == [
        *("CONV_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "MAXIMUM", "ADD", "CONV_2D", "ADD"),
        *("RESHAPE", "TRANSPOSE", "RESHAPE", "TRANSPOSE", "RESHAPE"),
    ]


def test_a_relu_is_part_of_its_convolution():
    network, lr = small(m=1, slope=0.0), patches()
    kinds = operators(write_tflite(network, calibrate(network, lr), width=16, height=16))
    assert kinds[:6] == ["CONV_2D", "CONV_2D", "ADD", "CONV_2D", "ADD", "RESHAPE"]


def test_without_the_inputs_residual_the_tail_gives_the_output():
    network, lr = small(m=1, input_residual=False), patches()
    kinds = operators(write_tflite(network, calibrate(network, lr), width=16, height=16))
    assert kinds[5:7] == ["CONV_2D", "RESHAPE"]


def test_a_slope_above_one_is_written_as_a_prelu_and_warned_of(caplog):
    network, lr = small(m=2), patches()
    slopes = network.slopes.clone()
    slopes[1, 3] = 1.25
    with caplog.at_level(logging.WARNING):
        kinds = operators(write_tflite(network._replace(slopes=slopes), calibrate(network, lr), width=16, height=16))
    assert kinds.count("PRELU") == kinds.count("MAXIMUM") == 1
    assert "block1: a slope of 1.25 is above 1" in caplog.text


def test_input_and_output_are_int8_levels_less_128():
    file = write_tflite(small(), calibrate(small(), patches()), width=20, height=10)
    graph = schema.ModelT.InitFromPackedBuf(file, 0).subgraphs[0]
    for number, shape in ((graph.inputs[0], [1, 10, 20, 1]), (graph.outputs[0], [1, 20, 40, 1])):
        tensor = graph.tensors[number]
        assert list(tensor.shape) == shape
        assert tensor.type == schema.TensorType.INT8
        assert tensor.quantization.scale.tolist() == pytest.approx([1 / 255])
        assert tensor.quantization.zeroPoint.tolist() == [0]


def test_equal_networks_make_equal_files():
    assert len({write_tflite(small(), calibrate(small(), patches())) for _ in range(2)}) == 1


def test_a_missing_schema_is_one_line_with_the_extra():
    program = """
import sys
sys.modules["ai_edge_litert"] = None
from sesr_lab.errors import TargetError
from sesr_lab.targets.tool import tool
try:
    tool("ai_edge_litert.schema_py_generated", "ai-edge-litert")
except TargetError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "ai-edge-litert is not installed; pip install 'sesr-lab[targets]'"


def test_what_is_no_package_is_named():
    from sesr_lab.targets.tool import tool

    with pytest.raises(TargetError, match="no-such is not installed"):
        tool("no_such_module", "no-such")
