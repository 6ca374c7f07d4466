"""Trials on Ray: real workers on this machine, one of them killed."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checker import faults_in
from labs import Notebook, lab, storage, study

from sesr_lab.errors import ConfigError
from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep import cluster
from sesr_lab.sweep.cluster import workers_of
from sesr_lab.sweep.driver import sweep
from sesr_lab.sweep.ledger import standing
from sesr_lab.training.trainer import Progress
from sesr_lab.trials import checkpoint, trial
from sesr_lab.trials.lab import Interrupted


def on_ray(data: str, steps: int = 10, **changes: object) -> StudySpec:
    train = {"data": data, "steps": steps, "patch": 32, "batch_size": 4}
    return study(data, trials=4, workers=2, train=train, **changes)


def test_without_ray_one_is_told_what_to_install(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'sesr-lab\[ray\]'"):
        workers_of(on_ray(data), None)


def test_a_study_without_workers_needs_no_ray(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert workers_of(study(data), None) is None


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:1", "head", "head:port", ""])
def test_what_is_no_address_of_a_cluster_is_refused(data: str, address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="auto or HOST:PORT"):
        workers_of(on_ray(data), address)


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_one_line_at_once(data: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    start = workers_of(on_ray(data), "127.0.0.1:1")
    assert start is not None
    with pytest.raises(ConfigError, match="is Ray running there"):
        start(lab(tmp_path)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"workers": 999}, "leave room for"),
        ({"cpus": 999.0}, "largest machine has"),
        ({"gpus": 1.0}, "a network needs 1 GPUs"),
    ],
)
def test_what_this_machine_cannot_hold_is_an_error_and_no_wait(
    data: str, tmp_path: Path, asked: dict[str, object], says: str
) -> None:
    pytest.importorskip("ray")
    spec = on_ray(data).changed(**asked)
    with pytest.raises(ConfigError, match=says):
        sweep(spec, lab(tmp_path)[0], storage(tmp_path), start=workers_of(spec, None))
    assert standing(storage(tmp_path)) == []  # what was not begun is not stored


@pytest.mark.parametrize(("gpus", "says"), [(0.0, True), (0.5, False)])
def test_workers_without_a_gpu_where_there_is_one_are_mentioned(
    data: str, tmp_path: Path, gpus: float, says: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "Workers", lambda *given, **named: None)
    here, notebook = lab(tmp_path)
    start = workers_of(on_ray(data).changed(gpus=gpus), None)
    assert start is not None
    start(replace(here, where=replace(here.where, device=torch.device("cuda"))))
    assert any("workers train on the CPU; --gpus 1" in note for note in notebook.notes) is says


@pytest.mark.slow
def test_what_sigterm_does_is_left_to_the_command(data: str, tmp_path: Path) -> None:
    """Ray would end the process there and then, in place of at a checkpoint."""
    pytest.importorskip("ray")
    start = workers_of(on_ray(data).changed(workers=1), None)
    assert start is not None
    before = signal.signal(signal.SIGTERM, asked := lambda *_: None)
    try:
        start(lab(tmp_path)[0]).close()
        assert signal.getsignal(signal.SIGTERM) is asked
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_workers_train_what_one_process_trains(data: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "alone").mkdir()
    (tmp_path / "ray").mkdir()
    spec = on_ray(data)
    alone = sweep(spec, lab(tmp_path / "alone")[0], storage(tmp_path / "alone"))
    here, notebook = lab(tmp_path / "ray")
    together = sweep(spec, here, storage(tmp_path / "ray"), start=workers_of(spec, None))
    scores = [{(o.network, o.psnr, o.ssim, o.steps) for o in result.outcomes} for result in (alone, together)]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 4
    assert here.tracker.flush() == 0
    assert faults_in(tmp_path / "ray", networks=4) == []
    assert len(notebook.begun) == 4


class _Killer(Notebook):
    """Kills a trial's worker once the trial has left a checkpoint, and notes where it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[str] = []
        self.went_on_at: list[int] = []

    def begin(self, label: str, worker: str = "") -> None:
        super().begin(label, worker)
        self.workers.append(worker)
        if len(self.workers) == 1:
            threading.Thread(target=self._kill, args=[int(worker.rpartition(":")[2])], daemon=True).start()

    def event(self, event: trial.Event, label: str) -> None:
        if len(self.workers) == 2 and isinstance(event, Progress):
            self.went_on_at.append(event.step)

    def _kill(self, pid: int) -> None:
        while not checkpoint.kept():
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.faults
def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint_elsewhere(data: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    spec = on_ray(data, steps=100_000_000).changed(trials=1)
    here, _ = lab(tmp_path)
    killer = _Killer()
    watched = replace(here, view=killer, stop=lambda: bool(killer.went_on_at))
    with pytest.raises(Interrupted):
        sweep(spec, watched, storage(tmp_path), start=workers_of(spec, None))
    assert len(set(killer.workers)) == 2
    assert killer.went_on_at[0] > 100
    assert any("its worker was lost" in note for note in killer.notes)
    assert len(checkpoint.kept()) == 1
    assert here.tracker.flush() == 0
    (run,) = here.tracker.runs(tags={"sesr.kind": "trial"})
    assert run.tags["sesr.end"] == "interrupted"


@pytest.mark.slow
@pytest.mark.long
def test_a_request_to_stop_reaches_every_worker(data: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    spec = on_ray(data, steps=1_000_000)
    here, notebook = lab(tmp_path)
    asked = replace(here, stop=lambda: len(checkpoint.kept()) >= 2)
    with pytest.raises(Interrupted):
        sweep(spec, asked, storage(tmp_path), start=workers_of(spec, None))
    assert len(checkpoint.kept()) == len(notebook.begun) == 2


class _NodeKiller(Notebook):
    """Kills a node once the trial on it has left a checkpoint, puts another in its place, and notes what goes on."""

    def __init__(self, cluster: Any, node: Any, key_of: Callable[[str], str]) -> None:
        super().__init__()
        self._cluster, self._node, self._key_of = cluster, node, key_of
        self.workers: dict[str, list[str]] = {}
        self.lost = ""
        """The label of the trial whose node was killed."""
        self.steps: dict[str, list[int]] = {}
        """Of each trial, since the kill."""

    def begin(self, label: str, worker: str = "") -> None:
        super().begin(label, worker)
        self.workers.setdefault(label, []).append(worker)

    def event(self, event: trial.Event, label: str) -> None:
        if not isinstance(event, Progress):
            return
        if self.lost:
            self.steps.setdefault(label, []).append(event.step)
        elif len(self.workers) == 2 and self._is_on_node(label) and self._key_of(label) in checkpoint.kept():
            self.lost = label
            self._cluster.remove_node(self._node, allow_graceful=False)
            self._cluster.add_node(num_cpus=1)

    def is_over(self) -> bool:
        """Whether the lost trial goes on, and the other one does still."""
        again = self.lost and len(self.workers[self.lost]) == 2 and len(self.begun) == 3
        return bool(again) and all(len(steps) > 3 for steps in self.steps.values()) and len(self.steps) == 2

    def _is_on_node(self, label: str) -> bool:
        raylet = self._node.all_processes["raylet"][0].process.pid
        status = Path(f"/proc/{self.workers[label][0].rpartition(':')[2]}/status").read_text()
        return f"PPid:\t{raylet}\n" in status


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.faults
def test_a_trial_whose_node_is_killed_goes_on_from_its_checkpoint_elsewhere_and_others_are_untouched(
    data: str, tmp_path: Path, clusters: Callable[[], Any]
) -> None:
    cluster = clusters()
    cluster.add_node(num_cpus=1)
    node = cluster.add_node(num_cpus=1)
    spec = on_ray(data, steps=100_000_000).changed(trials=2)
    here, _ = lab(tmp_path)

    def key_of(label: str) -> str:
        return next((trace.key for trace in here.tracker.trace() if trace.name == label), "")

    killer = _NodeKiller(cluster, node, key_of)
    watched = replace(here, view=killer, stop=killer.is_over)
    with pytest.raises(Interrupted):
        sweep(spec, watched, storage(tmp_path), start=workers_of(spec, cluster.address))
    (other,) = set(killer.workers) - {killer.lost}
    assert len(set(killer.workers[killer.lost])) == 2
    assert len(killer.workers[other]) == 1
    assert killer.steps[killer.lost][0] > 100, "not from its start"
    assert killer.steps[other] == sorted(killer.steps[other])
    assert len([note for note in killer.notes if "its worker was lost" in note]) == 1
    assert len(checkpoint.kept()) == 2
    assert here.tracker.flush() == 0
    runs = here.tracker.runs(tags={"sesr.kind": "trial"})
    assert [run.tags["sesr.end"] for run in runs] == ["interrupted"] * 2
