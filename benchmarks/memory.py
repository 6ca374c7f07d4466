"""Peak memory of a process that trains a few steps, over that of one that has only loaded the data.

python benchmarks/memory.py [--presets m5 xl] [--batch 32] [--patch 64]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import torch
from common import machine, network, random_pairs, table

from sesr_lab.data.patches import PatchPool
from sesr_lab.training.engine import make_engine
from sesr_lab.training.recipe import recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["m5", "xl"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(_peak_megabytes(options.inside, options.presets[0], options.batch, options.patch))
        return
    print(f"{machine()}; batch {options.batch} of {options.patch}x{options.patch}, x2")
    rows = [_row(preset, options) for preset in options.presets]
    table(("network", "data loaded MB", "simple adds MB", "ours adds MB", "simple / ours"), rows)


def _row(preset: str, options: argparse.Namespace) -> tuple[str, ...]:
    loaded, simple, ours = (_in_process(name, preset, options) for name in ("none", "simple", "auto"))
    added = (simple - loaded, ours - loaded)
    return (preset, f"{loaded:.0f}", *(f"{value:.0f}" for value in added), f"{added[0] / max(added[1], 1.0):.1f}")


def _in_process(name: str, preset: str, options: argparse.Namespace) -> float:
    settings = ["--presets", preset, "--batch", str(options.batch), "--patch", str(options.patch)]
    command = [sys.executable, __file__, *settings, "--inside", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _peak_megabytes(name: str, preset: str, batch: int, patch: int) -> float:
    pool = PatchPool(random_pairs(8, max(160, patch), 2), scale=2, device=torch.device("cpu"))
    if name != "none":
        engine = make_engine(name, network(preset), pool, recipe("paper", 2, batch_size=batch, patch=patch))  # type: ignore[arg-type]
        engine.run(pool.plan(0, 0, 3, batch_size=batch, patch=patch), [1e-4] * 3)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
