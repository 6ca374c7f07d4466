"""x4 networks and their x2 parents: found, made once, named for ever after, and never half there."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path

import pytest
import torch
from labs import TINY, lab, photographs, spawn, until

from sesr_lab.errors import ModelError, ParentError, StoreAwayError, StoreError
from sesr_lab.registry.catalog import load, versions
from sesr_lab.study.config import TrialConfig
from sesr_lab.trials import trial
from sesr_lab.trials.lab import Lab, Task, untrained
from sesr_lab.trials.locks import Lock, Locks
from sesr_lab.trials.parent import Missing, Parents
from sesr_lab.trials.train import train

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> str:
    return photographs(tmp_path / "pictures")


def config(data: str, **changes: object) -> TrialConfig:
    settings = {**TINY, "data": data, "steps": 10, "patch": 32, "batch_size": 4, **changes}
    return TrialConfig.model_validate(settings)


def trained_x2(here: Lab, data: str, **changes: object) -> str:
    return train(config(data, **changes), here).model or ""


def test_a_x4_network_without_a_parent_has_one_trained_announced_and_registered_first(
    tmp_path: Path, data: str
) -> None:
    here, notebook = lab(tmp_path)
    outcome = train(config(data, scale=4), here)
    names = [f"{version.name}/{version.version}" for version in versions(here.tracker)]
    assert names == ["sesr-m1-f4-p8-collapsed-x2/1", "sesr-m1-f4-p8-collapsed-x4/1"]
    assert outcome.parent == "models:/sesr-m1-f4-p8-collapsed-x2/1"
    assert notebook.begun == ["parent-m1-f4-p8-x2", "m1-f4-p8-x4"]
    assert any("no x2 parent" in note for note in notebook.notes)


def test_the_lineage_is_in_the_run_the_version_and_the_model_inputs(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    parent = trained_x2(here, data)
    outcome = train(config(data, scale=4), here)
    (x2, x4) = versions(here.tracker)
    assert parent == x2.uri
    for tags in (here.tracker.run(outcome.run_id).tags, x4.tags):
        assert tags["sesr.parent.name"] == x2.name
        assert tags["sesr.parent.version"] == "1", "the number, not an alias"
        assert tags["sesr.parent.run_id"] == x2.run_id
        assert tags["sesr.parent.sha256"] == x2.sha256
    inputs = here.tracker.client.get_run(outcome.run_id).inputs.model_inputs
    assert [each.model_id for each in inputs] == [x2.model_id]


def test_a_x4_network_starts_from_its_parents_expanded_weights(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    trained_x2(here, data)
    outcome = train(config(data, scale=4, learning_rate=1e-12), here)
    x2, x4 = (load(here.tracker, version).weights for version in versions(here.tracker))
    assert outcome.parent is not None
    for name in ("head.expand", "head.project", "body.expand", "body.project", "slopes"):
        torch.testing.assert_close(x4[name], x2[name], atol=1e-6, rtol=0)


def test_a_parent_of_the_other_block_type_is_accepted_unless_ruled_out(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    expanded = trained_x2(here, data, block="expanded")
    assert train(config(data, scale=4, steps=11), here).parent == expanded
    own = train(config(data, scale=4, parent_block="same"), here).parent
    assert own == "models:/sesr-m1-f4-p8-collapsed-x2/1"


def test_require_lists_what_was_searched_and_the_command_that_makes_one(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    trained_x2(here, data, feature_size=4)
    with pytest.raises(ParentError) as error:
        train(config(data, scale=4, parent="require"), here)
    message = str(error.value)
    assert "\n" not in message
    assert "no x2 parent for m1-f4-p8-collapsed" in message
    assert "sesr-m1-f4-p8-collapsed-x2 (0 versions)" in message
    assert "sesr-lab train --m 1 --f 4 --feature-size 8 --scale 2 --data folder:" in message


def test_require_names_parents_that_were_trained_on_other_pictures(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    trained_x2(here, data)
    other = photographs(tmp_path / "more")
    (tmp_path / "more" / "a0.png").unlink()
    with pytest.raises(ParentError, match=r"version 1 on folder:.*pictures \(\w{8}\)"):
        train(config(other, scale=4, parent="require"), here)


def test_a_named_parent_on_other_pictures_is_a_warning_that_names_both(tmp_path: Path, data: str) -> None:
    here, notebook = lab(tmp_path)
    parent = trained_x2(here, data)
    other = photographs(tmp_path / "more")
    (tmp_path / "more" / "a0.png").unlink()
    assert train(config(other, scale=4, parent=parent), here).parent == parent
    (warning,) = [note for note in notebook.notes if note.startswith("warning: the parent")]
    assert data in warning
    assert other in warning


def test_a_named_parent_of_another_activation_is_a_warning_that_names_both(tmp_path: Path, data: str) -> None:
    here, notebook = lab(tmp_path)
    parent = trained_x2(here, data)
    assert train(config(data, scale=4, parent=parent, activation="relu"), here).parent == parent
    (warning,) = [note for note in notebook.notes if note.startswith("warning: the parent")]
    assert "has prelu activations, this network relu" in warning


def test_a_network_for_hardware_has_one_like_itself_trained_as_its_parent(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    outcome = train(config(data, scale=4, activation="relu", input_residual=False), here)
    assert outcome.parent == "models:/sesr-m1-f4-p8-collapsed-relu-noskip-x2/1"
    assert outcome.settings["activation"] == "relu"


def test_none_starts_from_scratch_because_it_was_asked_for(tmp_path: Path, data: str) -> None:
    here, notebook = lab(tmp_path)
    outcome = train(config(data, scale=4, parent="none"), here)
    assert outcome.parent is None
    assert notebook.begun == ["m1-f4-p8-x4"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"m": 2}, "m is 1, not 2"),
        ({"f": 2}, "f is 4, not 2"),
        ({"feature_size": 4}, "feature_size is 8, not 4"),
        ({"input_residual": False}, "input_residual is True, not False"),
    ],
)
def test_a_named_parent_of_another_shape_is_refused(
    tmp_path: Path, data: str, changes: dict[str, int | bool], reason: str
) -> None:
    here, _ = lab(tmp_path)
    parent = trained_x2(here, data)
    with pytest.raises(ParentError, match=reason):
        train(config(data, scale=4, parent=parent, **changes), here)


def test_a_x4_network_is_no_parent(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    child = train(config(data, scale=4, parent="none"), here).model
    with pytest.raises(ParentError, match="its scale is 4, not 2"):
        train(config(data, scale=4, parent=child or ""), here)


@pytest.mark.parametrize("parent", ["models:/nothing/1", "models:/nothing@champion", "f" * 32, "no.safetensors"])
def test_a_named_parent_that_does_not_exist_is_refused(tmp_path: Path, data: str, parent: str) -> None:
    with pytest.raises((ParentError, StoreError)) as error:
        train(config(data, scale=4, parent=parent), lab(tmp_path)[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_a_damaged_parent_is_never_used_and_never_passed_over(tmp_path: Path, data: str, damage: str) -> None:
    here, _ = lab(tmp_path)
    trained_x2(here, data)
    (file,) = tmp_path.glob("**/artifacts/**/weights.safetensors")
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-40] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"sesr-m1-f4-p8-collapsed-x2/1: .*train it again"):
        train(config(data, scale=4), here)
    assert [version.name[-2:] for version in versions(here.tracker)] == ["x2"], "nothing was made from scratch"


def test_an_alias_that_points_nowhere_is_an_error(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    trained_x2(here, data)
    (version,) = versions(here.tracker)
    here.tracker.client.set_registered_model_alias(version.name, f"champion-{version.data_fingerprint[:8]}", "1")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:  # as a hand in the database would
        store.execute("update registered_model_aliases set version = 9")
    with pytest.raises(ParentError, match=rf"{version.name}.*points to version 9.*sesr-lab promote"):
        train(config(data, scale=4), here)


def test_a_parent_that_fails_fails_its_children_without_a_second_attempt(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, notebook = lab(tmp_path)
    ending = trial.Finished("diverged", "the loss became nan", 3, 1.0, None, None)
    monkeypatch.setattr(trial, "run", lambda *args, **kwargs: iter([ending]))
    parents = Parents(here)
    task = task_of(here, config(data, scale=4))
    for _ in range(2):
        with pytest.raises(ParentError, match="failed to train: diverged: the loss became nan"):
            parents.ensure(task)
    assert notebook.begun == ["parent-m1-f4-p8-x2"]


def test_a_parent_that_fails_at_one_rate_may_be_made_at_another(tmp_path: Path, data: str) -> None:
    parents = Parents(lab(tmp_path)[0])
    hot, mild = (Task(config(data, scale=4, learning_rate=rate), "x", "t0001", {}) for rate in (1.0, 1e-3))
    missing = parents.look(hot)
    assert isinstance(missing, Missing)
    parents.fail(missing, untrained(missing.task, "diverged", "the loss is NaN"))
    with pytest.raises(ParentError, match="failed to train: diverged"):
        parents.look(hot)
    assert isinstance(parents.look(mild), Missing)


def test_a_registry_that_comes_back_is_waited_for_and_one_that_needs_its_user_is_an_error(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, notebook = lab(tmp_path)
    trained_x2(here, data)
    monkeypatch.setattr("sesr_lab.trials.lab.RETRY_S", 0.01)
    answers: list[StoreError] = [StoreAwayError("no answer"), StoreAwayError("no answer")]

    def champion_with_outage(*arguments: object) -> object:
        if answers:
            raise answers.pop()
        return real(*arguments)

    from sesr_lab.trials import parent

    real = parent.champion
    monkeypatch.setattr(parent, "champion", champion_with_outage)
    assert Parents(here).ensure(task_of(here, config(data, scale=4))) is not None
    assert sum("waiting: " in note for note in notebook.notes) == 1, "said once"
    answers = [StoreError("your token has expired")]
    with pytest.raises(StoreError, match="has expired"):
        Parents(here).ensure(task_of(here, config(data, scale=4)))


class _Lost:
    """A lock on PostgreSQL whose server was restarted, and that another process got before us."""

    def __init__(self, lock: Lock) -> None:
        self.key, self.lock = lock.key, lock

    def current(self) -> bool:
        return False

    def release(self) -> None:
        self.lock.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def test_a_trainer_that_has_lost_its_lock_publishes_nothing_and_takes_the_others_parent(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, notebook = lab(tmp_path)
    wait, other = Locks.wait, iter([lab(tmp_path)[0]])

    def lose(event: trial.Event, label: str) -> None:
        if isinstance(event, trial.Finished) and (another := next(other, None)):
            train(config(data), another)

    def lost_the_first_time(locks: Locks, key: str, waiting: object) -> Lock:
        monkeypatch.setattr(Locks, "wait", wait)
        return _Lost(locks.wait(key))

    notebook.event = lose  # type: ignore[method-assign]
    monkeypatch.setattr(Locks, "wait", lost_the_first_time)
    parent = Parents(here).ensure(task_of(here, config(data, scale=4)))
    assert parent is not None
    assert parent.version is not None
    (version,) = versions(here.tracker)
    assert parent.version.uri == version.uri
    assert any("taken over" in note for note in notebook.notes)


def task_of(here: Lab, what: TrialConfig) -> Task:
    return Task(what, "train", "child")


def test_two_processes_that_need_the_same_parent_train_it_once(tmp_path: Path, data: str) -> None:
    both = [spawn(tmp_path, *_train_x4(data)) for _ in range(2)]
    ended = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    found = [json.loads(output) for output, _ in ended]
    assert {each["parent"] for each in found} == {"models:/sesr-m1-f4-p8-collapsed-x2/1"}
    assert {each["version"] for each in found} == {1, 2}
    assert _registered(tmp_path) == ["x2/1", "x4/1", "x4/2"]
    assert any("waiting for the x2 parent" in errors for _, errors in ended)


def test_when_the_process_that_trains_the_parent_is_killed_the_other_takes_over(tmp_path: Path, data: str) -> None:
    first = spawn(tmp_path, *_train_x4(data, steps=3000))
    until(lambda: _training(tmp_path))
    second = spawn(tmp_path, *_train_x4(data, steps=3000))
    until(lambda: _holder(tmp_path))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert _registered(tmp_path) == [], "no half parent is there"
    output, errors = second.communicate(timeout=180)
    assert second.returncode == 0, errors
    assert json.loads(output)["parent"] == "models:/sesr-m1-f4-p8-collapsed-x2/1"
    assert _registered(tmp_path) == ["x2/1", "x4/1"]


def _train_x4(data: str, *, steps: int = 50) -> list[str]:
    network = ["--m", "1", "--f", "4", "--feature-size", "8", "--scale", "4", "--data", data]
    return ["train", *network, "--steps", str(steps), "--patch", "32", "--engine", "simple", "--json"]


def _query(path: Path, statement: str) -> list[tuple[object, ...]]:
    try:
        with sqlite3.connect(path) as database:
            return database.execute(statement).fetchall()
    except sqlite3.OperationalError:
        return []


def _registered(tmp_path: Path) -> list[str]:
    rows = _query(tmp_path / "mlflow.db", "select name, version from model_versions")
    return sorted(f"{str(name)[-2:]}/{version}" for name, version in rows)


def _holder(tmp_path: Path) -> bool:
    """Whether a process has the lock under which a parent is trained."""
    return any((tmp_path / "optuna.db.locks").glob("parent-*.holder"))


def _training(tmp_path: Path) -> bool:
    return bool(_query(tmp_path / "mlflow.db", "select 1 from metrics where key = 'val/psnr' limit 1"))
