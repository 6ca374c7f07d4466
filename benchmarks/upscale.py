"""CPU time of a picture's upscaling: our own network against ONNX Runtime's of the same file, taking turns.

    python benchmarks/upscale.py [--preset m5] [--width 1920] [--height 1080] [--rounds 7] [--threads 2]

Three things are timed: each network alone as it is fastest, both in the tiles of `sesr-lab upscale`, and with colour.
"""

from __future__ import annotations

import argparse
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
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (options.height, options.width, 3), dtype=np.uint8)
    luma = upscaling.luma01(samples)[None]
    error = np.abs(ours.run(luma[:, :64, :64]).clip(0, 1) - theirs.run(luma[:, :64, :64])).max()
    print(f"{machine()}; {options.width}x{options.height} x{ours.scale}, {options.preset}, error {error:.0e}")
    picture = Picture(samples)
    best = {"ours": lambda: _network_alone(picture, ours), "theirs": lambda: theirs.run(luma)}
    tiled = {name: lambda used=used: _network_alone(picture, used) for name, used in _sides(ours, theirs)}
    colour = {name: lambda used=used: _all(picture, used) for name, used in _sides(ours, theirs)}
    rows = [
        _row(title, sides, options.rounds)
        for title, sides in (
            ("network: ours in tiles, theirs whole", best),
            ("network, both in tiles", tiled),
            ("sesr-lab upscale, but for files", colour),
        )
    ]
    table(("1080p to 4K" if options.width == 1920 else "picture", "ours s", "ONNX Runtime s", "ours / theirs"), rows)


def _sides(ours: Network, theirs: Network) -> tuple[tuple[str, Network], ...]:
    return ("ours", ours), ("theirs", theirs)


def _network_alone(picture: Picture, used: Network) -> None:
    height = len(picture.samples)
    for top in range(0, height, upscaling.TILE):
        upscaling._run(picture, used, top, min(top + upscaling.TILE, height), upscaling.TILE)


def _all(picture: Picture, used: Network) -> None:
    for _ in upscaling.upscaled(picture, used):
        pass


def _row(title: str, sides: dict[str, Callable[[], object]], rounds: int) -> tuple[str, ...]:
    interleaved(sides, 1)
    taken = interleaved(sides, rounds, time.process_time)
    ours, theirs = (statistics.median(taken[name]) for name in ("ours", "theirs"))
    ratio = statistics.median(a / b for a, b in zip(taken["ours"], taken["theirs"], strict=True))
    return title, f"{ours:.2f}", f"{theirs:.2f}", f"{ratio:.2f}"


if __name__ == "__main__":
    main()
