"""What one GPU does in ten minutes: steps of all engines, many trials at once, the paper's recipe, memory, tests.

    python benchmarks/gpu.py [--device cuda:0] [--pictures FOLDER] [--out FOLDER] [--minutes 9] [--quick]

Needs torch and numpy alone, and Pillow where pictures are given; noise is as good for timing. gpu.md, a table, and
gpu.json are written after each part, so that nothing measured is lost: a part that fails says why in its place, and
one that there is no time for says so. What matters most comes first, what torch.compile takes its time for last: a
minute for each of twenty, of which ten minutes hold a few. With more --minutes there is time for all.

With `--device cpu --quick` it runs from end to end without a GPU: graphs are then not captured, the work is done again
each time, nothing is compiled, and the numbers mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # in a checkout, nothing has to be installed

from common import PRESETS, network, pairs_of, random_pairs  # noqa: E402

from sesr_lab.data.patches import PatchPool  # noqa: E402
from sesr_lab.errors import SesrError  # noqa: E402
from sesr_lab.training.engine import CompiledEngine, Engine, SimpleEngine  # noqa: E402
from sesr_lab.training.graph import GraphEngine  # noqa: E402
from sesr_lab.training.recipe import Recipe, recipe  # noqa: E402

PAPER_STEPS = 480_000
COMPILING_S, TESTING_S = 60.0, 120.0
"""What a part that compiles and the tests take, by guess: none is begun that would not end in time."""
GPU_TESTS = ("training/test_engine.py", "training/test_feed.py", "data/test_patches.py", "trials/test_together.py")
ENGINES: dict[str, Callable[..., Engine]] = {
    "simple": SimpleEngine,
    "graph": lambda *given: GraphEngine(*given, graphs=_graphs(given[0])),
    "compiled": CompiledEngine,
    "graph, compiled": lambda *given: GraphEngine(*given, graphs=_graphs(given[0]), compiles=True),
}
PLAIN, COMPILING = ("simple", "graph"), ("graph, compiled", "compiled")


class Again:
    """In place of CUDA graphs where there are none: the work is done anew."""

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return work


def _graphs(net: torch.nn.Module) -> Again | None:
    return None if next(net.parameters()).is_cuda else Again()


def main() -> None:
    options = _options()
    if options.device.type == "cuda":
        if not torch.cuda.is_available():
            sys.exit("--device: there is no CUDA device here; --device cpu --quick shows whether this runs at all")
        torch.cuda.set_device(options.device)
    elif options.quick:
        torch._dynamo.config.disable = True  # the compiling engines' code runs, and no compiler
    run = Run(options)
    pools = {scale: _pool(options, scale) for scale in (2, 4)}
    shapes = [(preset, scale) for scale in (2, 4) for preset in (["m3"] if options.quick else PRESETS)]
    shapes.sort(key=lambda shape: shape[0] != "m5")  # if there is time for one only
    for preset, scale in shapes:
        row = run.row(preset, scale)
        run.part(row, "launches", lambda p=preset, s=scale: _launches(p, s, pools[s], options))
        for name in PLAIN:
            run.part(row, name, lambda n=name, p=preset, s=scale: _step(n, p, s, pools[s], options))
    for count in (1, 2) if options.quick else (1, 2, 4, 8):
        run.part(run.found["trials"], str(count), lambda c=count: _trials(c, pools[2], options))
    for name in ("paper", "fast"):
        run.part(run.found["host"], name, lambda n=name: _host(n, options))
    run.part(run.found, "paper", lambda: _paper(pools[2], options))
    run.part(run.found, "tests", lambda: _tests(options.device), takes_s=0.0 if options.quick else TESTING_S)
    for preset, scale in shapes:
        for name in COMPILING:
            takes_s = 0.0 if options.quick else COMPILING_S
            work = lambda n=name, p=preset, s=scale: _step(n, p, s, pools[s], options)  # noqa: E731
            run.part(run.row(preset, scale), name, work, takes_s=takes_s)
    print(_markdown(run.found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", type=_device, help="cuda:0 unless told otherwise")
    parser.add_argument("--pictures", type=Path, help="a folder to train on instead of noise")
    parser.add_argument("--out", type=Path, default=Path(), help="where gpu.md and gpu.json are written")
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing long is begun that would end later")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: does it run at all?")
    return parser.parse_args()


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"found {name!r}; cpu, cuda, cuda:1 and the like are allowed") from None


class Run:
    """The parts that are done, on the disk after each."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out, self.device = options.out, options.device
        self.end = time.monotonic() + 60 * options.minutes
        machine = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        self.found: dict[str, Any] = {"machine": machine, "torch": torch.__version__, "quick": options.quick}
        self.found |= {"steps": [], "trials": {}, "host": {}, "paper": "-", "tests": "-"}
        self.lost = ""
        """Why the GPU can no longer be used by this process."""

    def row(self, preset: str, scale: int) -> dict[str, Any]:
        """The row of a network, made when it is first asked for."""
        for row in self.found["steps"]:
            if (row["network"], row["scale"]) == (preset, scale):
                return row  # type: ignore[no-any-return]
        self.found["steps"].append({"network": preset, "scale": scale})
        return self.found["steps"][-1]  # type: ignore[no-any-return]

    def part(self, into: dict[str, Any], name: str, work: Callable[[], Any], *, takes_s: float = 0.0) -> None:
        """Measures one thing, or says in its place why not; whatever happens, the rest goes on."""
        started = time.monotonic()
        if self.lost and name != "tests":  # these run in a process of their own
            into[name] = f"not run: {self.lost}"
        elif started + takes_s > self.end:
            into[name] = "not run: no time"
        else:
            try:
                into[name] = work()
            except Exception as error:
                into[name] = f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
            self._look()
            what = f"{into['network']} x{into['scale']} {name}" if "network" in into else name
            print(f"{what}: {_cell(into[name])} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)
        self._write()

    def _look(self) -> None:
        """Whether the GPU still works."""
        gc.collect()
        if self.device.type == "cuda":
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as error:
                self.lost = f"the GPU is lost: {str(error).splitlines()[0]}"

    def _write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.json").write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")
        (self.out / "gpu.md").write_text(_markdown(self.found) + "\n", encoding="utf-8")


def _pool(options: argparse.Namespace, scale: int, limit: float | None = None) -> PatchPool:
    try:
        pairs = pairs_of(options.pictures, scale) if options.pictures else random_pairs(8, 160, scale)
    except SesrError as error:
        sys.exit(f"--pictures {error}")
    pool = PatchPool(pairs, scale=scale, device=options.device, limit=limit)
    needed = _settings("paper", scale, options).patch
    if pool.smallest_side < needed:
        sys.exit(f"--pictures {options.pictures}: a picture has {pool.smallest_side} pixels at x{scale}, not {needed}")
    return pool


def _step(name: str, preset: str, scale: int, pool: PatchPool, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a step, by the paper's recipe, and the memory that this engine takes at most, in MB."""
    gc.collect()
    if options.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    taken = {"ms": _milliseconds(name, preset, scale, pool, _settings("paper", scale, options), options)}
    if options.device.type == "cuda":
        taken["memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return taken


def _milliseconds(
    name: str, preset: str, scale: int, pool: PatchPool, settings: Recipe, options: argparse.Namespace
) -> float:
    engine = ENGINES[name](network(preset, scale=scale).to(pool.device), pool, settings)
    count = 8
    _run(engine, pool, settings, 3 * count)  # compiling, choosing, capturing
    taken, end = [], time.perf_counter() + (0.1 if options.quick else 2.0)
    while time.perf_counter() < end or not taken:
        started = time.perf_counter()
        _run(engine, pool, settings, count)
        taken.append((time.perf_counter() - started) / count)
        count = min(256, 2 * count) if taken[-1] * count < 0.2 else count
    return 1e3 * statistics.median(taken[len(taken) // 2 :])


def _run(engine: Engine, pool: PatchPool, settings: Recipe, count: int) -> None:
    plan = pool.plan(0, 0, count, batch_size=settings.batch_size, patch=settings.patch)
    engine.run(plan, [settings.learning_rate] * count).cpu()


def _trials(count: int, pool: PatchPool, options: argparse.Namespace) -> float:
    """Steps a second of `count` m5 trials together, each with a stream and graphs of its own, as a study's have."""
    settings, chunk = _settings("fast", 2, options), 16 if options.quick else 256
    made = [ENGINES["graph"](network("m5", seed=seed).to(options.device), pool, settings) for seed in range(count)]
    on_gpu = options.device.type == "cuda"
    streams = [torch.cuda.Stream() if on_gpu else None for _ in made]
    for engine in made:
        _run(engine, pool, settings, chunk)
    if on_gpu:
        torch.cuda.synchronize()
    plan = pool.plan(0, 0, chunk, batch_size=settings.batch_size, patch=settings.patch)
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() < started + (0.1 if options.quick else 6.0) or not rounds:
        losses = []
        for engine, stream in zip(made, streams, strict=True):  # none waits for another
            with torch.cuda.stream(stream) if stream is not None else nullcontext():
                losses.append(engine.run(plan, [settings.learning_rate] * chunk))
        for each, stream in zip(losses, streams, strict=True):
            with torch.cuda.stream(stream) if stream is not None else nullcontext():
                each.cpu()
        rounds += 1
    return rounds * chunk * count / (time.perf_counter() - started)


def _host(name: str, options: argparse.Namespace) -> float:
    """Milliseconds a step of m5 by a recipe with pictures that stay in the host's memory."""
    return _milliseconds("graph", "m5", 2, _pool(options, 2, limit=0), _settings(name, 2, options), options)


def _paper(pool: PatchPool, options: argparse.Namespace) -> dict[str, Any]:
    """The paper's recipe for m5: the first steps for real, all of them by their pace."""
    settings, steps = _settings("paper", 2, options), 8 if options.quick else 10_000
    engine = ENGINES["graph"](network("m5").to(options.device), pool, settings)
    started, losses = time.perf_counter(), []
    for first in range(0, steps, 256):
        count = min(256, steps - first)
        plan = pool.plan(0, first, count, batch_size=settings.batch_size, patch=settings.patch)
        losses.append(engine.run(plan, [settings.learning_rate] * count).cpu())
    seconds = time.perf_counter() - started
    last = float(torch.cat(losses)[-100:].mean())
    return {"steps": steps, "seconds": seconds, "loss": last, "all_steps_minutes": seconds / steps * PAPER_STEPS / 60}


def _settings(name: str, scale: int, options: argparse.Namespace) -> Recipe:
    small = {"batch_size": 2, "patch": 16} if options.quick else {}
    return recipe(name, scale, **small)  # type: ignore[arg-type]


def _launches(preset: str, scale: int, pool: PatchPool, options: argparse.Namespace) -> int:
    """Operators of one step that do work, nothing fused: at least as many kernels are launched without compiling."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += not func.is_view
            return func(*args, **(kwargs or {}))

    net = network(preset, scale=scale).to(pool.rows.device)
    engine = GraphEngine(net, pool, _settings("paper", scale, options), graphs=Again())
    engine.steps(1)
    with Counter() as counter:
        engine.steps(1)
    return counter.count


def _tests(device: torch.device) -> str:
    """How the tests end that need a GPU; those whose packages are missing are not collected, and counted as errors."""
    if device.type != "cuda":
        return "not run: no GPU"
    if importlib.util.find_spec("pytest") is None:
        return "not run: no pytest"
    files = [str(ROOT / "tests" / name) for name in GPU_TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--continue-on-collection-errors", *files]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=2 * TESTING_S
    )
    print(done.stdout[-4000:] + done.stderr[-4000:], file=sys.stderr)
    return (done.stdout.strip() or "pytest said nothing").splitlines()[-1]


def _markdown(found: dict[str, Any]) -> str:
    """The document as tables."""
    lines = [f"{found['machine']}, torch {found['torch']}{'; quick: these numbers mean nothing' * found['quick']}", ""]
    engines = [*PLAIN, *COMPILING]
    columns = ["network", "scale", "launches", *engines, "memory, MB"]
    rows = [[*(_cell(row.get(column, "-")) for column in columns[:-1]), _memory(row)] for row in found["steps"]]
    lines += [*_table(columns, rows), ""]
    lines += ["Milliseconds a step, paper recipe; launches without compiling; memory of the graph engine.", ""]
    rows = [[count, _cell(pace)] for count, pace in found["trials"].items()]
    lines += [*_table(["m5 trials on one device", "steps a second, all together"], rows), ""]
    host = ", ".join(f"{name} {_cell(value)}" for name, value in found["host"].items())
    lines += [f"With the pictures in the host's memory, m5 x2, graph, milliseconds a step: {host or '-'}.", ""]
    lines += [f"Paper recipe, m5 x2, graph: {_cell(found['paper'])}.", "", f"Tests that need a GPU: {found['tests']}"]
    return "\n".join(lines)


def _memory(row: dict[str, Any]) -> str:
    taken = row.get("graph")
    return f"{taken['memory_mb']:.0f}" if isinstance(taken, dict) and "memory_mb" in taken else "-"


def _table(heading: list[str], rows: list[list[str]]) -> list[str]:
    cells = [heading, ["---"] * len(heading), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]


def _cell(value: object) -> str:
    if isinstance(value, dict) and "ms" in value:
        return _cell(value["ms"])
    if isinstance(value, dict):
        return (
            f"{value['steps']:,} steps in {value['seconds']:.1f} s (loss {value['loss']:.4f}); {PAPER_STEPS:,} steps "
            f"would take {value['all_steps_minutes']:.1f} minutes"
        )
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")


if __name__ == "__main__":
    main()
