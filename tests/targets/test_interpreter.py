"""A TFLite file as MODEL. Oracles: the same network written for the whole picture, and PyTorch for a float file."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray

from sesr_lab.errors import ModelError, TargetError
from sesr_lab.network.model import SESR
from sesr_lab.targets.interpreter import TfliteFile, run_tflite
from sesr_lab.targets.quantize import Ranges, calibrate
from sesr_lab.targets.tflite import write_tflite
from sesr_lab.targets.tflite_file import graph_of, resized

pytest.importorskip("ai_edge_litert")


@torch.no_grad()
def network(scale: int = 2) -> tuple[SESR, Ranges]:
    torch.manual_seed(0)
    made = SESR(m=2, f=8, feature_size=16, scale=scale)
    made.slopes.uniform_(-0.2, 0.5)
    made.tail.project.mul_(0.1)
    return made, calibrate(made.collapse(), torch.from_numpy(luma(64, 64))[None, None])


def luma(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Soft noise, in whole levels of 255."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, height // 4 + 2, width // 4 + 2, generator=generator)
    soft = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)[0, 0].numpy()
    return (np.round(soft * 255) / 255).astype(np.float32)


def whole(scale: int, picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    made, ranges = network(scale)
    height, width = picture.shape
    file = write_tflite(made.collapse(), ranges, width=width, height=height)
    return run_tflite(file, np.round(picture * 255).astype(np.uint8))


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", [(48, 64), (97, 131), (48, 200), (20, 30), (5, 300), (1, 1)])
def test_a_file_of_one_size_makes_of_any_picture_what_one_of_the_pictures_size_makes(
    scale: int, size: tuple[int, int]
) -> None:
    made, ranges = network(scale)
    opened = TfliteFile(write_tflite(made.collapse(), ranges, width=64, height=48), "a.tflite")
    picture = luma(*size)
    assert (opened.scale, opened.radius) == (scale, 2 + 4)
    np.testing.assert_array_equal(np.round(opened(picture) * 255), whole(scale, picture))


def test_a_file_of_ours_is_the_same_file_but_for_its_size() -> None:
    made, ranges = network()
    collapsed = made.collapse()
    other = resized(write_tflite(collapsed, ranges, width=64, height=48), width=40, height=24)
    levels = np.round(luma(24, 40) * 255).astype(np.uint8)
    np.testing.assert_array_equal(
        run_tflite(other, levels), run_tflite(write_tflite(collapsed, ranges, width=40, height=24), levels)
    )


def float_file(weight: NDArray[np.float32], height: int, width: int) -> bytes:
    """A convolution (4, k, k, 1) and depth-to-space in float32, as a converter writes them."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    constants = [None, weight, np.zeros(4, np.float32), None, None]
    shapes = [(1, height, width, 1), weight.shape, (4,), (1, height, width, 4), (1, 2 * height, 2 * width, 1)]
    model.buffers, graph.tensors = [schema.BufferT()], []
    for shape, values in zip(shapes, constants, strict=True):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = "t", list(shape), schema.TensorType.FLOAT32
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(tensor)
    convolution, space = schema.OperatorT(), schema.OperatorT()
    options, blocks = schema.Conv2DOptionsT(), schema.DepthToSpaceOptionsT()
    options.strideW = options.strideH = options.dilationWFactor = options.dilationHFactor = 1
    blocks.blockSize = 2
    convolution.opcodeIndex, convolution.inputs, convolution.outputs = 0, [0, 1, 2], [3]
    convolution.builtinOptionsType, convolution.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
    space.opcodeIndex, space.inputs, space.outputs = 1, [3], [4]
    space.builtinOptionsType, space.builtinOptions = schema.BuiltinOptions.DepthToSpaceOptions, blocks
    graph.operators, graph.inputs, graph.outputs = [convolution, space], [0], [4]
    model.operatorCodes = []
    for name in ("CONV_2D", "DEPTH_TO_SPACE"):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 1
        model.operatorCodes.append(code)
    model.version, model.subgraphs = 3, [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("size", [(16, 24), (40, 61), (9, 50), (3, 4)])
def test_a_float_file_is_run_on_any_picture_without_rounding(size: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).normal(0, 0.2, (4, 5, 5, 1)).astype(np.float32)
    opened = TfliteFile(float_file(weight, 16, 24), "theirs.tflite")
    picture = luma(*size)
    with torch.no_grad():
        filtered = F.conv2d(
            torch.from_numpy(picture)[None, None], torch.from_numpy(weight.transpose(0, 3, 1, 2)), padding=2
        )
    expected = F.pixel_shuffle(filtered, 2)[0, 0].numpy()
    assert (opened.scale, opened.radius) == (2, 2)
    np.testing.assert_allclose(opened(picture), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda file: b"not at all", "not a TFLite file; export it again"),
        (lambda file: file[:200], "damaged|cannot be read|not a network"),
        (lambda file: file[: len(file) // 2], "damaged|not a network"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(change: object, says: str) -> None:
    made, ranges = network()
    file = write_tflite(made.collapse(), ranges, width=16, height=16)
    with pytest.raises(ModelError, match=f"^bad.tflite: .*({says})") as caught:
        TfliteFile(change(file), "bad.tflite")  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_an_input_too_small_to_be_cut_is_refused_and_says_so() -> None:
    weight = np.zeros((4, 5, 5, 1), np.float32)
    with pytest.raises(ModelError, match="too small to be cut"):
        TfliteFile(float_file(weight, 4, 4), "small.tflite")(luma(30, 30))


def test_without_the_interpreter_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made, ranges = network()
    file = write_tflite(made.collapse(), ranges, width=16, height=16)
    for name in [name for name in sys.modules if name.startswith("ai_edge_litert")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(TargetError, match=r"ai-edge-litert .*pip install 'sesr-lab\[targets\]'"):
        graph_of(file, "a.tflite")
