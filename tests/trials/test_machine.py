"""How hard a trial works its machine: really measured, not before it is worth it, and each number once."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from labs import TINY, lab, photographs, until
from mlflow import MlflowClient

from sesr_lab.study.config import TrialConfig
from sesr_lab.trials import trial
from sesr_lab.trials.lab import Interrupted
from sesr_lab.trials.machine import MachineUse, Meter, Sampling
from sesr_lab.trials.train import train

CPU = torch.device("cpu")
OFTEN = Sampling(after_s=0.0, every_s=0.05)


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


def looked(meter: Meter, step: int) -> MachineUse:
    while (found := meter.look(step, 1.0)) is None:
        work(0.01)
    return found


def test_a_process_that_works_is_seen_to_work_and_one_that_sleeps_to_sleep() -> None:
    meter = Meter(CPU, Sampling(after_s=0.0, every_s=0.4))
    assert looked(meter, 1).values["process_cpu_utilization_percentage"] > 20
    time.sleep(0.5)
    rested = meter.look(2, 2.0)
    assert rested is not None
    assert rested.values["process_cpu_utilization_percentage"] < 20


def test_memory_is_what_the_system_says_that_this_process_and_all_hold() -> None:
    values = looked(Meter(CPU, OFTEN), 1).values
    assert values["process_memory_usage_megabytes"] == pytest.approx(psutil.Process().memory_info().rss / 1e6, rel=0.05)
    whole = psutil.virtual_memory()
    assert values["system_memory_usage_megabytes"] == pytest.approx(whole.used / 1e6, rel=0.2)
    share = values["system_memory_usage_megabytes"] / (whole.total / 1e6)
    assert values["system_memory_usage_percentage"] == pytest.approx(100 * share, abs=0.1)
    assert 0 <= values["cpu_utilization_percentage"] <= 100


@pytest.mark.slow
def test_nothing_is_looked_at_in_the_first_minute_and_then_no_more_often_than_asked() -> None:
    meter = Meter(CPU, Sampling(after_s=60.0, every_s=30.0))
    assert all(meter.look(step, 59.9) is None for step in range(100))
    assert meter._machine is None, "a short run does not even load what it takes"
    assert meter.look(100, 60.0) is None
    time.sleep(1.05)
    assert meter.look(101, 61.0) is not None, "a run that is over soon after the minute has something to show"
    assert all(meter.look(step, 70.0) is None for step in range(102, 200))


def test_a_look_costs_no_step_its_time() -> None:
    meter = Meter(CPU, Sampling(after_s=0.0, every_s=0.0))
    meter.look(0, 1.0)
    began = time.process_time()
    for step in range(200):
        meter.look(step, 1.0)
    assert (time.process_time() - began) / 200 < 0.005, "of the 10 s between two looks"


def config(data: str, **changes: object) -> TrialConfig:
    return TrialConfig.model_validate({**TINY, "data": data, "patch": 32, "batch_size": 4, **changes})


@pytest.mark.slow
def test_a_trial_says_how_it_works_its_machine_at_steps_that_grow(tmp_path: Path) -> None:
    where = replace(trial.place("cpu", "simple"), sampling=OFTEN)
    events = [*trial.run(config(photographs(tmp_path / "p"), max_seconds=4.0), where)]
    steps = [event.step for event in events if isinstance(event, MachineUse)]
    assert len(steps) >= 3
    assert steps == sorted({*steps})
    spared = [*trial.run(config(photographs(tmp_path / "p"), steps=5), trial.place("cpu", "simple"))]
    assert not [event for event in spared if isinstance(event, MachineUse)]


@pytest.mark.slow
@pytest.mark.parametrize("budget", [{"steps": 1500}, {"max_seconds": 6.0}])
def test_a_run_has_each_number_once_though_it_was_stopped_in_between(tmp_path: Path, budget: dict[str, float]) -> None:
    here, notebook = lab(tmp_path)
    here = replace(here, where=replace(here.where, sampling=OFTEN))
    one = config(photographs(tmp_path / "p"), **budget)
    with pytest.raises(Interrupted):
        train(one, replace(here, stop=lambda: sum(isinstance(each, MachineUse) for each in notebook.events) > 3))
    outcome = train(one, here)
    here.tracker.close()
    client = MlflowClient(here.tracker.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("train").experiment_id])
    until(lambda: client.get_run(outcome.run_id).info.status == "FINISHED")
    names = [name for name in client.get_run(run.info.run_id).data.metrics if name.startswith("system/")]
    assert {"system/cpu_utilization_percentage", "system/process_memory_usage_megabytes"} <= {*names}
    for name in names:
        points = client.get_metric_history(run.info.run_id, name)
        assert max(Counter(point.step for point in points).values()) == 1
        times = [point.timestamp for point in sorted(points, key=lambda point: point.step)]
        assert len({*times}) > 3, "each has its own time, not that of the checkpoint it was written with"
        assert times == sorted(times)
