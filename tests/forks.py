"""Studies in processes that can be killed: one process loads everything once, and forks for each of them.

forks = Forks(); forks.run(folder, fault="trial told") -> -9
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__)
DONE, REFUSED, STOPPED, KILLED = 0, 2, 3, -9
"""How a driver ends."""


class Forks:
    """The process that forks; a study trains by a formula, everything else about it is real."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=pipe, stdout=pipe, env=environment, text=True
        )
        self.said = ""
        """The line with which the last study's process was refused something."""

    def run(self, folder: Path, **case: Any) -> int:
        """How the study's process ended: 0, minus a signal's number, or

        1 after a traceback, 2 after an error in a line (`said`), 3 where it was asked to stop.
        """
        self.begin(folder, **case)
        return self.end()

    def begin(self, folder: Path, **case: Any) -> None:
        """Starts a study's process; another one waits until this one has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"folder": str(folder), **case}) + "\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """How the process ended that was begun; waits for it."""
        assert self.process.stdout is not None
        self.said = ""
        while (line := self.process.stdout.readline()).startswith("error: "):
            self.said += line
        return int(line)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def _serve() -> None:
    import signal

    import mlflow  # noqa: F401
    import optuna  # noqa: F401 (loaded once, for all)
    import scripted  # noqa: F401

    from sesr_lab.registry import publish  # noqa: F401

    for line in sys.stdin:
        case = json.loads(line)
        sys.stdout.flush()
        children = []
        for number in range(case.get("copies", 1)):
            children.append(os.fork())
            if children[-1] == 0:
                os._exit(_end_of(case | {"copy": number}))
        if (after_s := case.get("kill_after_s")) is not None:
            _kill_later(children[0], after_s)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert -signal.SIGSEGV not in codes
        print(max(codes, key=abs), flush=True)


def _end_of(case: dict[str, Any]) -> int:
    import traceback

    from sesr_lab.errors import SesrError
    from sesr_lab.trials.lab import Interrupted

    try:
        _study(case)
    except Interrupted:
        return 3
    except SesrError as error:
        os.write(1, f"error: {error}\n".encode())
        return 2
    except BaseException:  # it is another process, which must end here
        traceback.print_exc()
        return 1
    return 0


def _kill_later(child: int, after_s: float) -> None:
    import signal

    end = time.monotonic() + after_s
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)


def _study(case: dict[str, Any]) -> None:
    import disk
    import scripted
    from labs import TINY, lab, storage, study

    from sesr_lab.study.config import TrialConfig
    from sesr_lab.sweep.cluster import workers_of
    from sesr_lab.sweep.driver import sweep
    from sesr_lab.trials.locks import Locks
    from sesr_lab.trials.train import train

    folder = Path(case["folder"])
    os.environ["SESR_LAB_STATE"] = str(folder / "state")
    if "fault" in case:
        os.environ["SESR_LAB_FAULT"] = case["fault"]
    chance = random.Random(f"{folder} {case.get('driver', '')}")
    scored = 0

    def curve(config: Any, part: float) -> float:
        nonlocal scored
        scored += 1
        if scored == case.get("disk_breaks_at"):
            disk.breaks()
        if scored == case.get("clock_set_back_at"):
            _set_clock(-3600.0)
        time.sleep(case.get("pause_s", 0.0) * chance.random())
        return 28.0 + 0.3 * config.m + 0.1 * config.f + part

    if "impatient_s" in case:
        _hurry(case["impatient_s"])
    _set_clock(case.get("clock_s", 0.0))
    own = str(case["copy"]) if "copies" in case else ""
    stop_at = case.get("stop_at")
    here, notebook = lab(folder, stop=lambda: stop_at is not None and scored >= stop_at, uri=case.get("uri", ""))
    url = case.get("storage", storage(folder))
    here = replace(here, locks=Locks(url), prefix=case.get("prefix", "sesr" + own))
    if case["copy"] in case.get("trains", ()):
        config = TrialConfig.model_validate(
            TINY | {"scale": 2, "data": case["data"], "seed": case["copy"], "steps": 10}
        )
        train(config, here)
    else:
        start = scripted.Scripted(curve, slots=case.get("slots", 1), keeps=True).start
        spec = study(case["data"], **{"name": f"tiny{own}", **case.get("study", {})})
        if "address" in case:
            start = workers_of(spec.changed(workers=2), case["address"])
        sweep(spec, here, url, start=start)
    here.tracker.close()
    with (folder / "notes.txt").open("a") as notes:
        notes.writelines(f"{note}\n" for note in notebook.notes)


def _set_clock(by_s: float) -> None:
    """Puts the clock of this process forward or back, as against the machine's."""
    now, now_ns = time.clock_gettime, time.clock_gettime_ns
    time.time = lambda: now(time.CLOCK_REALTIME) + by_s
    time.time_ns = lambda: now_ns(time.CLOCK_REALTIME) + int(by_s * 1e9)


def _hurry(patience_s: float) -> None:
    """Has a server that is away given up at the study's end after so long, and asked again within moments."""
    from sesr_lab.tracking import delivery, pauses
    from sesr_lab.tracking.runs import Tracker

    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    delivery.PACE_S, pauses.FIRST_PAUSE_S, pauses.LONGEST_PAUSE_S = 0.1, 0.02, 0.2
    for waits in (Tracker.flush, Tracker.close):
        waits.__kwdefaults__["patience_s"] = patience_s


if __name__ == "__main__":
    _serve()
