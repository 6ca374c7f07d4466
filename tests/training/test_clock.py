import signal
import subprocess
import sys
import time

import pytest

from sesr_lab.training.clock import AwakeClock

ASLEEP = """
import sys, time
from sesr_lab.training.clock import AwakeClock
clock, began = AwakeClock(), time.perf_counter()
print("started", flush=True)
while clock() < 1.5:
    time.sleep(0.01)
print(time.perf_counter() - began)
"""


def test_the_clock_goes_as_fast_as_time_while_the_process_runs() -> None:
    clock, began = AwakeClock(), time.perf_counter()
    time.sleep(0.35)
    counted, passed = clock(), time.perf_counter() - began
    clock.stop()
    assert abs(counted - passed) < 0.05
    assert clock() >= counted


@pytest.mark.slow
def test_time_for_which_the_process_was_stopped_does_not_count() -> None:
    process = subprocess.Popen([sys.executable, "-c", ASLEEP], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    passed = float(process.communicate(timeout=60)[0])
    assert passed > 3 + 0.4, "of 3 s asleep, at most one counts"
