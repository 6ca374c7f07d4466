"""CPU time of a picture's upscaling: our own network and, where at hand OpenVINO against ONNX Runtime, in turns.

    python benchmarks/upscale.py [--preset m5] [--width 1920] [--height 1080] [--rounds 7] [--threads 2]

Three things are timed: each network alone as it is fastest, both in the tiles of `sesr-lab upscale`, and with colour.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `sesr-lab upscale` does; read when torch is loaded

import numpy as np
import torch
from common import interleaved, machine, network, table

from sesr_lab.registry.lookup import Named, lineage_of_file
from sesr_lab.results import upscaling
from sesr_lab.results.decoding import Picture
from sesr_lab.results.inference import Network, of_named
from sesr_lab.results.onnx_file import float_file
from sesr_lab.results.onnx_session import open_session
from sesr_lab.results.openvino_engine import openvino_network
from sesr_lab.study.config import Architecture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="m5")
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    made = network(options.preset)
    shape = {key: getattr(made, key) for key in ("m", "f", "feature_size", "scale")}
    weights = made.state_dict()
    named = Named(options.preset, Architecture.model_validate(shape), weights, None, lineage_of_file("noise", "0"))
    ours = of_named(named)
    session = open_session(float_file(named).content, threads=options.threads)
    theirs = Network("ONNX Runtime", ours.scale, ours.radius, 1, lambda planes: session.run(planes[None])[0])
    networks = {"ours": ours, "ONNX Runtime": theirs}
    if importlib.util.find_spec("openvino"):
        networks["OpenVINO"] = openvino_network(named, threads=options.threads)
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (options.height, options.width, 3), dtype=np.uint8)
    luma = upscaling.luma01(samples)[None]
    error = np.abs(ours.run(luma[:, :64, :64]).clip(0, 1) - theirs.run(luma[:, :64, :64])).max()
    print(f"{machine()}; {options.width}x{options.height} x{ours.scale}, {options.preset}, error {error:.0e}")
    picture = Picture(samples)
    alone = {name: lambda used=used: _network_alone(picture, used) for name, used in networks.items()}
    colour = {name: lambda used=used: _all(picture, used) for name, used in networks.items()}
    rows = [
        _row(title, sides, options.rounds)
        for title, sides in (
            ("network: in tiles, ONNX Runtime whole", alone | {"ONNX Runtime": lambda: theirs.run(luma)}),
            ("network, all in tiles", alone),
            ("sesr-lab upscale, but for files", colour),
        )
    ]
    others = [name for name in networks if name != "ONNX Runtime"]
    head = [f"{name} s" for name in networks] + [f"{name} / ONNX Runtime" for name in others]
    table(("1080p to 4K" if options.width == 1920 else "picture", *head), rows)


def _network_alone(picture: Picture, used: Network) -> None:
    height = len(picture.samples)
    for top in range(0, height, upscaling.TILE):
        upscaling._run(picture, used, top, min(top + upscaling.TILE, height), used.wide or upscaling.TILE)


def _all(picture: Picture, used: Network) -> None:
    for _ in upscaling.upscaled(picture, used):
        pass


def _row(title: str, sides: dict[str, Callable[[], object]], rounds: int) -> tuple[str, ...]:
    interleaved(sides, 1)
    taken = interleaved(sides, rounds, time.process_time)
    base = taken["ONNX Runtime"]
    ratios = [[a / b for a, b in zip(taken[name], base, strict=True)] for name in sides if name != "ONNX Runtime"]
    found = [statistics.median(each) for each in (*taken.values(), *ratios)]
    return title, *(f"{value:.2f}" for value in found)


if __name__ == "__main__":
    main()
