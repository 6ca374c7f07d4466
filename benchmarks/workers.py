"""Pace of workers side by side, each with one thread, against that of one worker alone.

    python benchmarks/workers.py [--workers 2] [--seconds 8] [--rounds 5] [--preset m5]

One alone and all together take turns; medians are printed. Needs a machine that does nothing else: by what the workers'
threads got of their cores (`on a core`), a busy one can be told. Takes a minute and a half.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import torch
from common import machine, network, random_pairs, table

from sesr_lab.data.patches import PatchPool
from sesr_lab.training.engine import make_engine
from sesr_lab.training.recipe import recipe

CHUNK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--preset", default="m5")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()} a worker; {options.preset} x2, fast recipe, {options.rounds} rounds of {options.seconds:g} s")
    workers = [_start(options.preset) for _ in range(options.workers)]
    sides = {"one alone": workers[:1], f"{options.workers} together": workers}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, taking_part in sides.items():
            found[name].append(_round(taking_part, options.seconds))
    for worker in workers:
        worker.send(0.0)
    paces = {name: statistics.median(pace for pace, _ in rounds) for name, rounds in found.items()}
    shares = {name: statistics.median(share for _, share in rounds) for name, rounds in found.items()}
    table(("", "steps a second", "on a core"), [(n, f"{paces[n]:.1f}", f"{shares[n]:.0%}") for n in sides])
    alone, together = paces.values()
    print(f"together / alone: {together / alone:.2f} of {options.workers}")


def _start(preset: str) -> Connection:
    """A worker that is ready; it trains for as many seconds as it is sent, and ends at 0."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_work, args=(theirs, preset), daemon=True).start()
    ours.recv()
    return ours


def _round(workers: list[Connection], seconds: float) -> tuple[float, float]:
    """Steps a second of all workers together, and the mean part of the time that each was on a core."""
    for worker in workers:
        worker.send(seconds)
    found = [worker.recv() for worker in workers]
    return sum(pace for pace, _ in found), statistics.mean(share for _, share in found)


def _work(orders: Connection, preset: str) -> None:
    torch.set_num_threads(1)
    settings = recipe("fast", 2)
    pool = PatchPool(random_pairs(32, 160, 2), scale=2, device=torch.device("cpu"))
    engine = make_engine("auto", network(preset), pool, settings)
    plan = pool.plan(0, 0, CHUNK, batch_size=settings.batch_size, patch=settings.patch)
    engine.run(plan, [settings.learning_rate] * CHUNK)
    orders.send("ready")
    while seconds := orders.recv():
        started, busy, steps = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() < started + seconds:
            engine.run(plan, [settings.learning_rate] * CHUNK)
            steps += CHUNK
        taken = time.perf_counter() - started
        orders.send((steps / taken, (time.process_time() - busy) / taken))


if __name__ == "__main__":
    main()
