"""Time of a training step, data included: plain eager float32 PyTorch against what `--engine auto` takes.

    python benchmarks/step.py [--presets m5 xl] [--batch 32] [--patch 64] [--rounds 7] [--expanded] [--cpu-time]

The sides take turns within one run; medians and their ratio are printed, with the data pipeline's share.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from common import interleaved, machine, network, random_pairs, table

from sesr_lab.data.patches import PatchPool
from sesr_lab.training.engine import Engine, make_engine
from sesr_lab.training.kernel import KernelEngine
from sesr_lab.training.recipe import Recipe, recipe

STEPS = {"simple": 2, "auto": 8}
"""Steps in each turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["m5", "xl"])
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--expanded", action="store_true", help="time the simple engine's expanded blocks too")
    parser.add_argument("--cpu-time", action="store_true", help="of all threads together: on a machine that is busy")
    options = parser.parse_args()
    print(f"{machine()}; batch {options.batch} of {options.patch}x{options.patch}, x{options.scale}, paper recipe")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pool = PatchPool(random_pairs(32, max(160, options.patch), options.scale), scale=options.scale, device=device)
    settings = recipe("paper", options.scale, batch_size=options.batch, patch=options.patch)
    rows = [_row(preset, pool, settings, options, device) for preset in options.presets]
    table(("network", "simple ms", "ours ms", "simple / ours", "data ms", "data share", "expanded ms"), rows)


def _row(
    preset: str, pool: PatchPool, settings: Recipe, options: argparse.Namespace, device: torch.device
) -> tuple[str, ...]:
    engines = {
        name: make_engine(name, network(preset, scale=options.scale).to(device), pool, settings, steps=10**6)  # type: ignore[arg-type]
        for name in STEPS
    }
    sides = {name: lambda name=name: _run(engines[name], pool, settings, STEPS[name]) for name in STEPS}
    interleaved(sides, 2)  # compiling, capturing, allocating
    taken = interleaved(sides, options.rounds, time.process_time if options.cpu_time else time.perf_counter)
    milliseconds = {name: 1e3 * statistics.median(taken[name]) / STEPS[name] for name in STEPS}
    data = _data_milliseconds(engines["auto"], pool, settings)
    return (
        preset,
        f"{milliseconds['simple']:.1f}",
        f"{milliseconds['auto']:.2f}",
        f"{milliseconds['simple'] / milliseconds['auto']:.2f}",
        f"{data:.2f}",
        f"{data / milliseconds['auto']:.1%}",
        _expanded(preset, pool, settings, options.scale, device) if options.expanded else "-",
    )


def _run(engine: Engine, pool: PatchPool, settings: Recipe, steps: int) -> None:
    plan = pool.plan(0, 0, steps, batch_size=settings.batch_size, patch=settings.patch)
    engine.run(plan, [settings.learning_rate] * steps).cpu()


def _data_milliseconds(engine: Engine, pool: PatchPool, settings: Recipe) -> float:
    """What laying out and cutting one step's patches takes by itself."""
    plan = pool.plan(0, 0, 256, batch_size=settings.batch_size, patch=settings.patch)

    def lay_out() -> None:
        pool.plan(0, 0, 256, batch_size=settings.batch_size, patch=settings.patch)

    def cut() -> None:
        if isinstance(engine, KernelEngine):
            engine.cut_only(plan[:64])
            return
        for where in plan[:64].to(pool.rows.device):
            pool.cut(where, settings.patch)
        if pool.rows.is_cuda:
            torch.cuda.synchronize()

    taken = interleaved({"plan": lay_out, "cut": cut}, 5)
    return 1e3 * (statistics.median(taken["plan"]) / 256 + statistics.median(taken["cut"]) / 64)


def _expanded(preset: str, pool: PatchPool, settings: Recipe, scale: int, device: torch.device) -> str:
    """The simple engine's step with expanded blocks, one step after one to warm up."""
    engine = make_engine("simple", network(preset, scale=scale, block="expanded").to(device), pool, settings)
    taken = interleaved({"step": lambda: _run(engine, pool, settings, 1)}, 3)["step"]
    return f"{1e3 * statistics.median(taken[1:]):.0f}"


if __name__ == "__main__":
    main()
