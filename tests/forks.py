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
        """How the study's process ended: 0, 1 after a traceback, 2 after a line, or minus a signal's number."""
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
    import traceback

    import mlflow  # noqa: F401
    import optuna  # noqa: F401 (loaded once, for all)
    import scripted

    import sesr_lab.sweep.driver
    from sesr_lab.errors import SesrError
    from sesr_lab.registry import publish  # noqa: F401

    for line in sys.stdin:
        case = json.loads(line)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _study(case, scripted, sesr_lab.sweep.driver.sweep)
                status = 0
            except SesrError as error:
                status = 2
                os.write(1, f"error: {error}\n".encode())
            except BaseException:  # it is another process, which must end here
                traceback.print_exc()
            finally:
                os._exit(status)
        if (after_s := case.get("kill_after_s")) is not None:
            _kill_later(child, after_s)
        _, status = os.waitpid(child, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        assert code != -signal.SIGSEGV
        print(code, flush=True)


def _kill_later(child: int, after_s: float) -> None:
    import signal

    end = time.monotonic() + after_s
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)


def _study(case: dict[str, Any], scripted: Any, sweep: Any) -> None:
    import disk
    from labs import lab, storage, study

    from sesr_lab.trials.locks import Locks

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
        time.sleep(case.get("pause_s", 0.0) * chance.random())
        return 28.0 + 0.3 * config.m + 0.1 * config.f + part

    here, notebook = lab(folder)
    url = case.get("storage", storage(folder))
    here = replace(here, locks=Locks(url))
    executor = scripted.Scripted(curve, slots=case.get("slots", 1), keeps=True)
    sweep(study(case["data"], **case.get("study", {})), here, url, start=executor.start)
    here.tracker.close()
    with (folder / "notes.txt").open("a") as notes:
        notes.writelines(f"{note}\n" for note in notebook.notes)


if __name__ == "__main__":
    _serve()
