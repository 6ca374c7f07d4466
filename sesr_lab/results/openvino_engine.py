"""OpenVINO as the engine of `upscale`: the same network, in the same float32 sums, for less CPU time."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from sesr_lab.errors import ConfigError
from sesr_lab.registry.lookup import Named
from sesr_lab.results.inference import Network, Planes, of_named
from sesr_lab.results.onnx_file import float_file
from sesr_lab.training import cores

EXTRA: Final = "pip install 'sesr-lab[openvino]'"
WIDEST: Final = 4096
"""Columns of a strip: it is fastest on long rows, and a strip's activations are to fit into memory."""


def openvino_network(named: Named, *, threads: int = 0) -> Network:
    """A registered network, or one of a weights file, run by OpenVINO on the CPU.

    Args:
        threads: that OpenVINO takes; 0 stands for as many as this process may use.

    Raises:
        ConfigError: OpenVINO is missing.
        ExportError: onnx, from which it reads the network, is missing.
    """
    openvino = _openvino()
    file, core = float_file(named).content, openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads or cores.allowed(),
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16, its choice where there is AMX, would be seen
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # other processes' cores are not known to it
    }

    @lru_cache(maxsize=4)  # the strips of a picture have three heights
    def request_for(height: int, width: int) -> Any:
        model = _unclipped(openvino, core.read_model(model=file, weights=b""))
        model.reshape([1, 1, height, width])
        return core.compile_model(model, "CPU", settings).create_infer_request()

    def run(planes: Planes) -> Planes:
        request = request_for(*planes.shape[1:])
        made: Planes = request.infer({0: planes[None]}, share_inputs=True)[0][0]
        return made

    return replace(of_named(named), run=run, wide=WIDEST)


def _unclipped(openvino: Any, model: Any) -> Any:
    """The model up to the clip at its end: colour is added to luma first, as with PyTorch."""
    end = model.get_results()[0].input_value(0)
    while end.get_node().get_type_name() in ("Clamp", "Minimum", "Maximum"):
        end = next(
            source for source in end.get_node().input_values() if source.get_node().get_type_name() != "Constant"
        )
    return openvino.Model([end], model.get_parameters())


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(f"upscale: --engine openvino: it cannot be imported ({error}); {EXTRA}") from None
    return openvino
