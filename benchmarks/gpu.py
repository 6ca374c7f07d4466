"""What one GPU does in ten minutes: steps of all engines, many trials at once, the paper's recipe, memory, tests.

    python benchmarks/gpu.py [--device cuda:0] [--pictures FOLDER] [--out FOLDER] [--quick]

Needs torch and numpy alone (and Pillow where pictures are given; noise is as good for timing). Writes gpu.md, a
table, and gpu.json. With `--device cpu --quick` it runs from end to end without a GPU: graphs are then not captured,
the work is done again each time, and the numbers mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from common import PRESETS, network, pairs_of, random_pairs

from sesr_lab.data.patches import PatchPool
from sesr_lab.training.engine import CompiledEngine, Engine, SimpleEngine
from sesr_lab.training.graph import GraphEngine
from sesr_lab.training.recipe import Recipe, recipe

PAPER_STEPS = 480_000
ENGINES: dict[str, Callable[..., Engine]] = {
    "simple": SimpleEngine,
    "compiled": CompiledEngine,
    "graph": lambda *given: GraphEngine(*given, graphs=_graphs(given[0])),
    "graph, compiled": lambda *given: GraphEngine(*given, graphs=_graphs(given[0]), compiles=True),
}


class Again:
    """In place of CUDA graphs where there are none: the work is done anew."""

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return work


def _graphs(net: torch.nn.Module) -> Again | None:
    return None if next(net.parameters()).is_cuda else Again()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", type=torch.device)
    parser.add_argument("--pictures", type=Path, help="a folder to train on instead of noise")
    parser.add_argument("--out", type=Path, default=Path(), help="where gpu.md and gpu.json are written")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: does it run at all?")
    options = parser.parse_args()
    if options.device.type == "cuda":
        torch.cuda.set_device(options.device)
    found: dict[str, Any] = {"machine": _machine(options.device), "torch": torch.__version__, "quick": options.quick}
    pools = {scale: _pool(options, scale) for scale in (2, 4)}
    found["steps"] = [
        _steps(preset, pools[scale], scale, options)
        for scale in (2, 4)
        for preset in (["m3"] if options.quick else PRESETS)
    ]
    found["trials"] = [_trials(count, pools[2], options) for count in ((1, 2) if options.quick else (1, 2, 4, 8))]
    found["host"] = _host(options)
    found["paper"] = _paper(pools[2], options)
    found["tests"] = _tests(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = _markdown(found)
    (options.out / "gpu.md").write_text(text, encoding="utf-8")
    print(text)


def _pool(options: argparse.Namespace, scale: int, limit: float | None = None) -> PatchPool:
    pairs = pairs_of(options.pictures, scale) if options.pictures else random_pairs(8, 160, scale)
    return PatchPool(pairs, scale=scale, device=options.device, limit=limit)


def _steps(preset: str, pool: PatchPool, scale: int, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a step of each engine, by the paper's recipe; what an engine cannot do is said in its place."""
    settings = _settings("paper", scale, quick=options.quick)
    row: dict[str, Any] = {"network": preset, "scale": scale, "launches": _launches(preset, scale, pool, settings)}
    for name in ENGINES:
        if options.quick and name in ("compiled", "graph, compiled"):
            continue  # compiling takes a minute each
        try:
            row[name] = _milliseconds(name, preset, scale, pool, settings, seconds=0.1 if options.quick else 3.0)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            row[name] = str(error).splitlines()[0]
    if options.device.type == "cuda":
        row["memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
        torch.cuda.reset_peak_memory_stats()
    return row


def _milliseconds(name: str, preset: str, scale: int, pool: PatchPool, settings: Recipe, *, seconds: float) -> float:
    engine = ENGINES[name](network(preset, scale=scale).to(pool.device), pool, settings)
    count = 8
    _run(engine, pool, settings, 3 * count)  # compiling, choosing, capturing
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or not taken:
        started = time.perf_counter()
        _run(engine, pool, settings, count)
        taken.append((time.perf_counter() - started) / count)
        count = min(256, 2 * count) if taken[-1] * count < 0.2 else count
    return 1e3 * statistics.median(taken[len(taken) // 2 :])


def _run(engine: Engine, pool: PatchPool, settings: Recipe, count: int) -> None:
    plan = pool.plan(0, 0, count, batch_size=settings.batch_size, patch=settings.patch)
    engine.run(plan, [settings.learning_rate] * count).cpu()


def _trials(count: int, pool: PatchPool, options: argparse.Namespace) -> dict[str, Any]:
    """Steps a second of `count` m5 trials on one device together, each with a graph and a stream of its own."""
    settings, chunk = _settings("fast", 2, quick=options.quick), 16 if options.quick else 256
    made = [ENGINES["graph"](network("m5", seed=seed).to(options.device), pool, settings) for seed in range(count)]
    for engine in made:
        _run(engine, pool, settings, chunk)
    plan = pool.plan(0, 0, chunk, batch_size=settings.batch_size, patch=settings.patch)
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() < started + (0.1 if options.quick else 10.0) or not rounds:
        losses = [engine.run(plan, [settings.learning_rate] * chunk) for engine in made]  # none waits for another
        for each in losses:
            each.cpu()
        rounds += 1
    return {"trials": count, "steps_per_second": rounds * chunk * count / (time.perf_counter() - started)}


def _host(options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a step of m5 by both recipes with pictures that stay in the host's memory."""
    pool, seconds = _pool(options, 2, limit=0), 0.1 if options.quick else 3.0
    both = {name: _settings(name, 2, quick=options.quick) for name in ("paper", "fast")}
    return {name: _milliseconds("graph", "m5", 2, pool, each, seconds=seconds) for name, each in both.items()}


def _paper(pool: PatchPool, options: argparse.Namespace) -> dict[str, Any]:
    """The paper's recipe for m5: the first steps for real, all of them by their pace."""
    settings, steps = _settings("paper", 2, quick=options.quick), 8 if options.quick else 10_000
    engine = ENGINES["graph"](network("m5").to(options.device), pool, settings)
    started, losses = time.perf_counter(), []
    for first in range(0, steps, 256):
        count = min(256, steps - first)
        plan = pool.plan(0, first, count, batch_size=settings.batch_size, patch=settings.patch)
        losses.append(engine.run(plan, [settings.learning_rate] * count).cpu())
    seconds = time.perf_counter() - started
    last = float(torch.cat(losses)[-100:].mean())
    return {"steps": steps, "seconds": seconds, "loss": last, "all_steps_minutes": seconds / steps * PAPER_STEPS / 60}


def _settings(name: str, scale: int, *, quick: bool) -> Recipe:
    small = {"batch_size": 2, "patch": 16} if quick else {}
    return recipe(name, scale, **small)  # type: ignore[arg-type]


def _launches(preset: str, scale: int, pool: PatchPool, settings: Recipe) -> int:
    """Operators of one step that do work, nothing fused: at least as many kernels are launched without compiling."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += not func.is_view
            return func(*args, **(kwargs or {}))

    engine = GraphEngine(network(preset, scale=scale).to(pool.rows.device), pool, settings, graphs=Again())
    engine.steps(1)
    with Counter() as counter:
        engine.steps(1)
    return counter.count


def _tests(device: torch.device) -> str:
    """How the tests end that need a GPU."""
    if device.type != "cuda":
        return "not run: no GPU"
    if importlib.util.find_spec("pytest") is None:
        return "not run: no pytest"
    tests = Path(__file__).parents[1] / "tests" / "training"
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", tests], check=False, capture_output=True)
    return done.stdout.decode().strip().splitlines()[-1]


def _machine(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _markdown(found: dict[str, Any]) -> str:
    """The document as tables."""
    lines = [f"{found['machine']}, torch {found['torch']}{'; quick: these numbers mean nothing' * found['quick']}", ""]
    columns = ["network", "scale", *ENGINES, "launches", "memory_mb"]
    lines += _table(columns, [[_cell(row.get(column, "-")) for column in columns] for row in found["steps"]])
    lines += ["", "Milliseconds a step, paper recipe; launches without compiling.", ""]
    rows = [[str(row["trials"]), _cell(row["steps_per_second"])] for row in found["trials"]]
    lines += [*_table(["m5 trials on one device", "steps a second, all together"], rows), ""]
    paper, host = found["paper"], found["host"]
    lines += [
        "With the pictures in the host's memory, m5 x2, graph: "
        + ", ".join(f"{value:.3g} ms a step ({name})" for name, value in host.items())
        + ".",
        "",
        f"Paper recipe, m5 x2: {paper['steps']:,} steps in {paper['seconds']:.1f} s (loss {paper['loss']:.4f}); "
        f"{PAPER_STEPS:,} steps would take {paper['all_steps_minutes']:.1f} minutes.",
        "",
        f"Tests that need a GPU: {found['tests']}",
        "",
    ]
    return "\n".join(lines)


def _table(heading: list[str], rows: list[list[str]]) -> list[str]:
    cells = [heading, ["---"] * len(heading), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
