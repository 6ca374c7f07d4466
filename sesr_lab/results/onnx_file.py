"""A trained network as one ONNX file that does what the network does, and says what it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray

from sesr_lab import __version__
from sesr_lab.data.image import luma
from sesr_lab.data.pair import Sample
from sesr_lab.errors import ExportError
from sesr_lab.network.model import Collapsed, from_weights
from sesr_lab.registry.lookup import Named
from sesr_lab.results.onnx_session import PREFIX, Session, open_session
from sesr_lab.results.parity import parity, torch_output
from sesr_lab.scores.evaluate import Upscaler, score_set
from sesr_lab.targets.estimate import Size
from sesr_lab.targets.onnx_graph import float_graph, int8_graph
from sesr_lab.targets.onnx_tools import onnx_package
from sesr_lab.targets.quantize import calibrate, calibration_patches

if TYPE_CHECKING:
    from onnx import ModelProto

LARGEST_LOSS_DB: Final = 1.0
"""An int8 file that loses more is not written: its ranges do not fit the pictures."""
_INPUT = {
    1: "luma, ITU-R BT.601 studio range (16 to 235) / 255; grey pictures as they are / 255",
    3: "RGB, 0 to 255 / 255; chroma is enlarged by bicubic in the graph",
}


@dataclass(frozen=True)
class Loss:
    """Mean PSNR in dB on one benchmark set, as `evaluate` gives it."""

    set: str
    float_db: float
    """Of the network on unrounded luma, as the papers feed it."""
    float_8bit_db: float
    """Of the same on luma rounded to 8 bits, which is all that an int8 input can hold."""
    int8_db: float

    @property
    def loss_db(self) -> float:
        """Against the float network on unrounded luma."""
        return self.float_db - self.int8_db

    @property
    def loss_8bit_db(self) -> float:
        """Against the float network on the same 8-bit luma: what int8 arithmetic alone costs."""
        return self.float_8bit_db - self.int8_db


@dataclass(frozen=True)
class Exported:
    """A network as an ONNX file's content."""

    content: bytes
    scale: int
    colours: int
    """1: luma to luma. 3: RGB to RGB."""
    is_int8: bool
    max_error: float | None
    """By how much the float graph differs from PyTorch, outputs in [0, 1]; None for a form that has no float graph."""
    losses: tuple[Loss, ...]
    """What int8 costs; empty for a float file."""
    size: Size | None = None
    """The only low-resolution picture that a TFLite file takes; an ONNX file takes any."""


def float_file(named: Named, *, rgb: bool = False) -> Exported:
    """The collapsed network as a float ONNX file.

    Raises:
        ExportError: a package is missing, or the graph differs too much from PyTorch.
    """
    network = collapsed_of(named)
    model = float_graph(network, rgb=rgb)
    error = parity(_session(model), network, rgb=rgb)
    return _exported(named, model, error, (), rgb=rgb, is_int8=False)


def int8_file(
    named: Named,
    calibration: Sequence[NDArray[np.uint8]],
    benchmarks: Sequence[tuple[str, Sequence[Sample]]],
    *,
    rgb: bool = False,
) -> Exported:
    """The collapsed network as an int8 ONNX file.

    Args:
        calibration: LR pictures, RGB or grey, from which the ranges of activations are taken.
        benchmarks: names and samples of the sets on which the loss is measured.

    Raises:
        ExportError: a package is missing, the float graph differs from PyTorch, or int8 loses more than
            LARGEST_LOSS_DB on a benchmark.
    """
    network = collapsed_of(named)
    patches = calibration_patches([(luma(picture) / 255).astype(np.float32) for picture in calibration])
    ranges = calibrate(network, patches)
    error = parity(_session(float_graph(network)), network, rgb=False)
    int8 = _session(int8_graph(network, ranges))
    losses = tuple(
        loss_of(name, samples, network, lambda luma01: int8.run(luma01[None, None])[0, 0])
        for name, samples in benchmarks
    )
    check_losses(named, losses)
    return _exported(named, int8_graph(network, ranges, rgb=rgb), error, losses, rgb=rgb, is_int8=True)


def check_losses(named: Named, losses: Sequence[Loss]) -> None:
    """Nothing, if int8 is good enough to be handed over.

    Raises:
        ExportError: it loses more than LARGEST_LOSS_DB on a benchmark, against the float network on 8-bit luma.
    """
    for loss in losses:
        if not loss.loss_8bit_db <= LARGEST_LOSS_DB:
            raise ExportError(
                f"{named.name}: int8 loses {loss.loss_8bit_db:.2f} dB on {loss.set}; up to {LARGEST_LOSS_DB:.0f} dB is"
                " allowed; calibrate on pictures like yours (--calibrate SOURCE), or export it in float"
            )


@torch.no_grad()
def collapsed_of(named: Named) -> Collapsed:
    """The small network."""
    return from_weights(named.weights).collapse()


def _session(model: ModelProto) -> Session:
    """The graph in ONNX Runtime, after the checker has found nothing wrong with it."""
    onnx_package().checker.check_model(model, full_check=True)
    return open_session(model.SerializeToString())


def loss_of(name: str, samples: Sequence[Sample], network: Collapsed, int8: Upscaler) -> Loss:
    """What the network loses on a set where `int8` runs it."""
    scale = round(len(network.tail) ** 0.5)

    def run(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        made: NDArray[np.float32] = torch_output(network, planes[None, None])[0, 0]
        return made

    def run_on_levels(planes: NDArray[np.float32]) -> NDArray[np.float32]:
        levels = np.floor(planes * np.float32(255) + np.float32(0.5)) / np.float32(255)
        return run(levels)

    return Loss(name, *(score_set(name, samples, way, scale=scale).psnr for way in (run, run_on_levels, int8)))


def _exported(
    named: Named, model: ModelProto, error: float, losses: tuple[Loss, ...], *, rgb: bool, is_int8: bool
) -> Exported:
    colours, scale = 3 if rgb else 1, named.architecture.scale
    facts = _facts(named, colours, losses, is_int8=is_int8)
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = PREFIX + key, value
    model.doc_string = (
        f"SESR {facts['name']} x{scale} by sesr-lab. Input: float32 (N, {colours}, H, W), {facts['input']}"
    )
    onnx_package().checker.check_model(model, full_check=True)
    return Exported(model.SerializeToString(), scale, colours, is_int8, error, losses)


def _facts(named: Named, colours: int, losses: tuple[Loss, ...], *, is_int8: bool) -> dict[str, str]:
    """What the file says of itself."""
    shape, version = named.architecture, named.version
    facts = {
        "name": shape.name,
        "scale": str(shape.scale),
        "colours": str(colours),
        "colour_space": "YCbCr luma, ITU-R BT.601 studio range" if colours == 1 else "RGB",
        "input": f"{_INPUT[colours]}, in [0, 1]",
        "output": "the same, clipped to [0, 1]",
        "radius": str(shape.m + 4),
        "arithmetic": "int8; the input is rounded to steps of 1/255" if is_int8 else "float32",
        "made_by": f"sesr-lab {__version__}",
    }
    if version is not None:
        scores = {"psnr_db": round(version.psnr_db, 4), "ssim": round(version.ssim, 5), "data": version.data}
        facts |= {"model": version.uri, "run_id": version.run_id, "scores": json.dumps(scores)}
        facts |= {"parent": version.parent} if version.parent else {}
    if losses:
        facts["int8_psnr_db"] = json.dumps({loss.set: round(loss.int8_db, 4) for loss in losses})
    return facts
