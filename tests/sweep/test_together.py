"""Jobs that run in turns in this process: real small trainings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from checker import faults_in
from labs import TINY, lab, photographs, storage, study

from sesr_lab.errors import ConfigError, DataError
from sesr_lab.study.config import TrialConfig
from sesr_lab.sweep.cluster import workers_of
from sesr_lab.sweep.driver import sweep
from sesr_lab.sweep.executor import Broken, Happening, Job
from sesr_lab.sweep.together import Together, turns_of
from sesr_lab.training.trainer import Checkpoint
from sesr_lab.trials import trial

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> str:
    return photographs(tmp_path / "pictures")


def job(key: str, data: str, **changes: object) -> Job:
    given = {**TINY, "data": data, "patch": 32, "batch_size": 4, "steps": 30, "seed": ord(key)}
    return Job(key, TrialConfig.model_validate(given | changes))


def happenings(executor: Together) -> Iterator[Happening]:
    while found := list(executor.poll()):
        yield from found


def executor(count: int) -> Together:
    return Together(trial.place("cpu", "simple"), count)


def test_as_many_jobs_run_as_there_are_slots_and_each_ends_once(data: str) -> None:
    together = executor(2)
    assert together.free() == 2
    for key in "ab":
        assert together.submit(job(key, data)) == ""
    assert together.free() == 0
    ends: list[str] = []
    order: list[str] = []
    for key, event in happenings(together):
        order.append(key)
        if isinstance(event, trial.Finished):
            assert event.status == "finished"
            ends.append(key)
            if key == "a":
                free = together.free()
                together.submit(job("c", data))
                assert together.free() == free - 1
    assert sorted(ends) == ["a", "b", "c"]
    assert order.index("b") < len(order) - 1 - order[::-1].index("a")  # b began before a ended
    assert together.free() == 2
    assert list(together.poll()) == []


def test_one_job_is_stopped_at_a_checkpoint_and_goes_on_from_there(data: str) -> None:
    together = executor(2)
    for key in "ab":
        together.submit(job(key, data, steps=2000))
    state, ended = None, {}
    for key, event in happenings(together):
        together.stop("a")
        if key == "a" and isinstance(event, Checkpoint):
            state = event.state
        if isinstance(event, trial.Finished):
            ended[key] = event
            together.cancel("b")
    assert ended.keys() == {"a"}
    assert ended["a"].status == "stopped"
    assert state is not None
    together.submit(Job("a", job("a", data, steps=ended["a"].step + 20).config, state=state))
    last = [event for _, event in happenings(together)][-1]
    assert isinstance(last, trial.Finished)
    assert (last.status, last.step) == ("finished", ended["a"].step + 20)


def test_a_cancelled_job_is_not_heard_of_and_its_key_can_be_used_again(data: str) -> None:
    together = executor(1)
    together.submit(job("a", data))
    next(happenings(together))
    together.stop("a")
    together.cancel("a")
    assert together.free() == 1
    assert list(together.poll()) == []
    together.submit(job("a", data))
    last = [event for _, event in happenings(together)][-1]
    assert isinstance(last, trial.Finished)
    assert last.status == "finished"  # what was asked of the first one is forgotten
    together.submit(job("a", data))
    together.close()
    assert together.free() == 1


def test_what_breaks_a_job_breaks_it_alone(data: str, tmp_path: Path) -> None:
    together = executor(2)
    together.submit(job("a", data))
    together.submit(job("b", f"folder:{tmp_path / 'nowhere'}"))
    found = list(happenings(together))
    broken = [event for key, event in found if key == "b"]
    assert len(broken) == 1
    assert isinstance(broken[0], Broken)
    assert isinstance(broken[0].error, DataError)
    assert not broken[0].lost
    assert isinstance(found[-1][1], trial.Finished)


def test_a_study_whose_trials_take_turns_comes_to_what_it_comes_to_one_by_one(data: str, tmp_path: Path) -> None:
    found = []
    for name, limits in (("alone", {}), ("turns", {"trials_per_device": 3})):
        (tmp_path / name).mkdir()
        spec = study(data, trials=4).changed(**limits)
        here, _ = lab(tmp_path / name)
        result = sweep(spec, here, storage(tmp_path / name), start=turns_of(spec))
        found.append({(outcome.network, outcome.psnr, outcome.steps) for outcome in result.outcomes})
        assert here.tracker.flush() == 0
        assert faults_in(tmp_path / name, networks=4) == []
    assert found[0] == found[1]


def test_turns_and_workers_are_not_asked_for_together(data: str) -> None:
    with pytest.raises(ConfigError, match="leave workers out"):
        study(data).changed(trials_per_device=2, workers=2)
    with pytest.raises(ConfigError, match="leave --workers and --address out"):
        workers_of(study(data).changed(trials_per_device=2), "auto")
