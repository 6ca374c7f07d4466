"""Any order of studies begun, killed, stopped, cut off from their server and gone on with comes to the same end."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import optuna
import pytest
from checker import curves, faults_in, table
from forks import DONE, KILLED, REFUSED, STOPPED, Forks
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from labs import photographs
from mlflow_store import Server
from proxy import Proxy
from proxy import none as no_fault

from sesr_lab.faults import POINTS

pytestmark = [pytest.mark.slow, pytest.mark.faults]

SPACE = {"m": [1, 2, 3], "f": [2, 4], "feature_size": [8]}
numbers = count()


class Setting:
    """What all lives share: the process that forks, a server, and the proxy before it."""

    def __init__(self, folder: Path) -> None:
        self.data = photographs(folder / "pictures")
        self.forks = Forks()
        self.server = Server(folder)
        self.server.start()
        self.proxy = Proxy(self.server.port)

    def close(self) -> None:
        self.forks.close()
        self.proxy.close()
        self.server.kill()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    made = Setting(tmp_path_factory.mktemp("setting"))
    yield made
    made.close()


def trouble(kind: str, after: int, requests: int) -> no_fault:
    """What becomes of so many requests after the first ones; all later ones pass."""
    seen = count()

    def fault(method: str, path: str) -> int | str | None:
        if not after <= next(seen) < after + requests:
            return None
        if kind == "slow":
            time.sleep(0.2)
            return None
        return kind if kind == "lose" else int(kind)

    return fault


class Life(RuleBasedStateMachine):
    """A study on SQLite whose runs go to a server; its networks train by a formula, all else is real."""

    setting: Setting

    def __init__(self) -> None:
        super().__init__()
        self.study = f"s{next(numbers)}"
        self.folder = Path(tempfile.mkdtemp(prefix="sesr-life-"))
        self.setting.proxy.mend()
        self.trials, self.slots = 2, 1
        self.asked_for = 0

    @initialize(slots=st.sampled_from([1, 2]), trials=st.integers(2, 4))
    def begin(self, slots: int, trials: int) -> None:
        self.slots, self.trials = slots, trials

    @rule()
    def go_on_with_more(self) -> None:
        self.trials += 1
        self.go_on()

    @rule(m=st.sampled_from([*SPACE["m"], 7]), f=st.sampled_from(SPACE["f"]))
    def enqueue(self, m: int, f: int) -> None:
        """As somebody does with Optuna's own command; a network that is no point of the space is passed over."""
        storage = f"sqlite:///{self.folder / 'optuna.db'}"
        if self.study in (optuna.get_all_study_names(storage) if (self.folder / "optuna.db").exists() else ()):
            optuna.load_study(study_name=self.study, storage=storage).enqueue_trial({"m": m, "f": f, "feature_size": 8})
            self.asked_for += 1
        assert self.drive() in (DONE, REFUSED)

    @rule(point=st.sampled_from(POINTS), times=st.integers(1, 3))
    def kill_at_a_point(self, point: str, times: int) -> None:
        assert self.drive(fault=f"{point}:{times}") in (DONE, REFUSED, KILLED)

    @rule(scores=st.integers(1, 25))
    def kill_after_scores(self, scores: int) -> None:
        assert self.drive(fault=f"score heard:{scores}") in (DONE, REFUSED, KILLED)

    @rule(after_s=st.floats(0.05, 1.5))
    def kill_after_a_while(self, after_s: float) -> None:
        assert self.drive(kill_after_s=after_s) in (DONE, REFUSED, KILLED)

    @rule(scores=st.integers(1, 25))
    def stop(self, scores: int) -> None:
        assert self.drive(stop_at=scores) in (DONE, REFUSED, STOPPED)

    @rule(
        kind=st.sampled_from(["500", "401", "slow", "lose"]),
        after=st.sampled_from([0, 3, 6, 10, 15, 25, 40]),
        requests=st.integers(1, 12),
    )
    def trouble_the_server(self, kind: str, after: int, requests: int) -> None:
        """Maybe for longer than for this one."""
        self.setting.proxy.fault = trouble(kind, after, requests)
        assert self.drive() in (DONE, REFUSED)

    @rule()
    def go_on(self) -> None:
        """To the end; only a server in trouble at the very start, or a user who must do something, prevents that."""
        is_well = self.setting.proxy.fault is no_fault
        assert self.drive() in ((DONE,) if is_well else (DONE, REFUSED))

    def teardown(self) -> None:
        self.setting.proxy.mend()
        try:
            assert self.drive() == DONE
            self.check()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def drive(self, **how: object) -> int:
        study = {"name": self.study, "trials": self.trials, "space": SPACE}
        where = {"uri": self.setting.proxy.uri, "prefix": self.study, "impatient_s": 2.0}
        return self.setting.forks.run(
            self.folder, data=self.setting.data, study=study, slots=self.slots, **where, **how
        )

    def check(self) -> None:
        store, networks = self.setting.server.folder / "server.db", min(self.trials, 6)
        of = {"store": store, "study": self.study}
        enqueued = self.asked_for > 0
        found = faults_in(self.folder, networks=networks, prefix=self.study, may_wait=enqueued, **of)
        assert found == []
        scores = table(self.folder, **of)
        assert len(scores) == networks
        for name, psnr in scores:
            assert psnr == pytest.approx(best(name), abs=1e-3)
        for name, curve in curves(store, study=self.study).items():
            assert [step for step, _ in curve] == list(range(1, 11)), name
            assert curve[-1][1] == pytest.approx(best(name), abs=1e-3)
        assert list((self.folder / "state" / "checkpoints").glob("*")) == []


def best(name: str) -> float:
    """What a network comes to, by the formula that trains it."""
    _, m, f, _ = name.split("-")
    return 28.0 + 0.3 * int(m[1:]) + 0.1 * int(f[1:]) + 1.0


def live(setting: Setting, examples: int) -> None:
    Life.setting = setting
    profile = settings(
        max_examples=examples,
        stateful_step_count=5,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Life, settings=profile)


def test_a_few_lives_of_a_study_come_to_its_end(setting: Setting) -> None:
    live(setting, examples=1)


@pytest.mark.long
def test_many_lives_of_a_study_come_to_its_end(setting: Setting) -> None:
    live(setting, examples=int(os.environ.get("SESR_LAB_LIVES", "60")))
