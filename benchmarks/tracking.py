"""What tracking takes of one training: CPU time of what writes a run down and delivers it, against all of it.

Whole `sesr-lab train`, in a folder of its own: the journal, its delivery to MLflow on SQLite, the registry. Counted as
tracking are the recorder, in the thread that trains, and the threads that deliver; opening MLflow is shown apart.

    python benchmarks/tracking.py [--preset m5] [--steps 2000]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from common import machine, table

from sesr_lab.cli.app import run
from sesr_lab.tracking import runs
from sesr_lab.tracking.delivery import Delivery
from sesr_lab.trials.recorder import Recorder

_spent: dict[str, float] = {}
_lock = threading.Lock()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="m5")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    counted(Recorder, "feed", "written down, where it trains")
    counted(Delivery, "_loop", "delivered, by threads")
    counted(runs, "open_store", "MLflow opened")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        began = time.process_time()
        status = run(["train", "--preset", options.preset, "--steps", str(options.steps), "--device", "cpu"])
        spent = time.process_time() - began
        os.chdir("/")
    if status != 0:
        raise SystemExit(status)
    print(f"{machine()}; {options.preset}, {options.steps} steps: {spent:.1f} s of CPU time")
    table(("", "CPU s", "of all"), [(what, f"{each:.2f}", f"{each / spent:.2%}") for what, each in _spent.items()])


def counted(owner: Any, name: str, what: str) -> None:
    """Adds up the CPU time that calls of `name` take in their thread."""
    function: Callable[..., Any] = getattr(owner, name)

    def measured(*arguments: Any, **options: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            with _lock:
                _spent[what] = _spent.get(what, 0.0) + time.thread_time() - began

    setattr(owner, name, measured)


if __name__ == "__main__":
    main()
