"""A trial's run through kills, stops and stores that change: nothing mixed, nothing lost, nobody else's touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from labs import TINY, lab, photographs, storage, study
from mlflow_store import new_store

from sesr_lab.errors import ModelError, ParentError, StoreError
from sesr_lab.network.model import from_weights
from sesr_lab.registry.catalog import versions
from sesr_lab.registry.lookup import find
from sesr_lab.registry.weights import EXPANDED
from sesr_lab.scores.evaluate import Validator
from sesr_lab.study.config import TrialConfig
from sesr_lab.sweep.driver import sweep
from sesr_lab.sweep.ledger import Ledger
from sesr_lab.tracking.answers import Away
from sesr_lab.tracking.runs import open_store
from sesr_lab.trials import checkpoint, locks, trial
from sesr_lab.trials.lab import Interrupted, Task
from sesr_lab.trials.lifecycle import new_key, reap, resumable_run
from sesr_lab.trials.locks import Locks
from sesr_lab.trials.train import train

pytestmark = pytest.mark.slow  # whole trials and studies, several in each test


@pytest.fixture
def data(tmp_path: Path) -> str:
    return photographs(tmp_path / "pictures")


class Killed(BaseException):
    """What a test raises where a real process would have been killed: nobody catches it, nothing is cleaned up."""


def config(data: str, **changes: object) -> TrialConfig:
    return TrialConfig.model_validate({**TINY, "data": data, "steps": 10, "patch": 32, "batch_size": 4, **changes})


def stopped_after(polls: int) -> Any:
    calls = iter([False] * polls)
    return lambda: next(calls, True)


def test_a_stopped_run_goes_on_from_what_it_started_from_though_a_better_parent_has_come(
    tmp_path: Path, data: str
) -> None:
    here, _ = lab(tmp_path)
    first = train(config(data), here).model
    x4 = config(data, scale=4, steps=400)
    with pytest.raises(Interrupted):
        train(x4, replace(here, stop=stopped_after(2)))
    better = train(config(data, steps=300, learning_rate=2e-3), here).model
    assert "@champion" not in (better or "")
    (x2_first, x2_second) = versions(here.tracker)
    assert x2_second.psnr_db > x2_first.psnr_db, "the champion is another one now"
    outcome = train(x4, here)
    assert outcome.parent == first
    child = versions(here.tracker)[-1]
    assert child.tags["sesr.parent.version"] == "1"
    assert here.tracker.run(outcome.run_id).tags["sesr.parent.version"] == "1"


@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_the_last_checkpoint_in_mlflow_is_a_network_as_it_was_scored(tmp_path: Path, data: str, recipe: str) -> None:
    here, _ = lab(tmp_path)
    outcome = train(config(data, recipe=recipe), here)
    (file,) = tmp_path.glob("mlruns/**/checkpoints/last.safetensors")
    found = find(here.tracker, str(file))
    valid = trial.load_data(data, 2).valid
    score = Validator(valid, 2, torch.device("cpu"))(from_weights(found.weights))
    assert score.psnr == pytest.approx(outcome.final_psnr, abs=1e-6)


def test_a_parent_that_is_a_file_is_named_with_its_checksum(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    train(config(data), here)
    (file,) = tmp_path.glob(f"**/artifacts/{EXPANDED}")
    outcome = train(config(data, scale=4, parent=str(file)), here)
    child = versions(here.tracker)[-1]
    for tags in (child.tags, here.tracker.run(outcome.run_id).tags):
        assert tags["sesr.parent.file"] == str(file)
        assert len(tags["sesr.parent.sha256"]) == 64
    text = here.tracker.client.get_model_version(child.name, "1").description
    assert f"started from the file `{file}`" in text


def test_a_study_of_the_same_name_in_another_database_is_another_study(tmp_path: Path, data: str) -> None:
    mine, _ = lab(tmp_path)
    spec = study(data, trials=1)
    first = sweep(spec, mine, storage(tmp_path)).outcomes[0]
    (tmp_path / "elsewhere").mkdir()
    theirs = storage(tmp_path / "elsewhere")
    second = sweep(spec, replace(mine, locks=Locks(theirs)), theirs).outcomes[0]
    assert second.run_id != first.run_id
    assert mine.tracker.run(first.run_id).metrics["val/psnr"] == pytest.approx(first.final_psnr, abs=1e-4)


def test_reaping_ends_only_runs_whose_process_is_gone(tmp_path: Path) -> None:
    here, _ = lab(tmp_path)
    alive = here.tracker.begin(new_key(), experiment="train", name="alive")
    dead = here.tracker.begin(new_key(), experiment="train", name="dead")
    dead.log_metrics({"psnr": 30.0}, 1)
    dead.let_go()  # as the operating system does for a process that is killed
    theirs = here.tracker.client.create_run(here.tracker.experiment("train"))
    reap(here)
    here.tracker.flush()
    ids = [here.tracker.delivered(run.key).run_id for run in (dead, alive)]  # type: ignore[union-attr]
    runs = [here.tracker.run(run_id) for run_id in (*ids, theirs.info.run_id)]
    assert [run.status for run in runs] == ["KILLED", "RUNNING", "RUNNING"]
    assert runs[0].tags["sesr.end"] == "lost"
    alive.end("FINISHED")


def test_a_trial_killed_before_its_outcome_is_stored_is_not_trained_again(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, notebook = lab(tmp_path)
    spec = study(data, trials=1)
    note = Ledger.note

    def killed(book: Ledger, number: int, name: str, value: object) -> None:
        if name == "outcome":
            raise Killed
        note(book, number, name, value)

    monkeypatch.setattr(Ledger, "note", killed)
    with pytest.raises(Killed):
        sweep(spec, here, storage(tmp_path))
    here.tracker.close(patience_s=0.0)  # a kill gives back the locks on what is being sent
    monkeypatch.undo()
    monkeypatch.setenv("SESR_LAB_STATE", str(tmp_path / "state"))
    again, notebook = lab(tmp_path)
    (outcome,) = sweep(spec, again, storage(tmp_path)).outcomes
    steps = [event.step for event in notebook.events if isinstance(event, trial.Evaluation)]
    assert steps == [], "it went on from its end"
    assert outcome.final_psnr is not None
    assert [version.version for version in versions(again.tracker)] == [1], "published once"
    assert not list(checkpoint.folder().glob("*.safetensors")), "and then cleaned up"


def test_a_known_network_is_told_from_memory_though_the_driver_died_while_it_asked(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    spec = study(data, trials=2, space={"m": [1], "f": [2, 4], "feature_size": [8]})
    sweep(spec.model_copy(update={"trials": 1}), here, storage(tmp_path))
    kept = optuna.load_study(study_name="tiny", storage=storage(tmp_path))
    kept.enqueue_trial(kept.trials[0].params)
    twin = kept.ask()
    for key in ("m", "f", "feature_size"):
        twin.suggest_categorical(key, spec.space[key])  # type: ignore[arg-type]  # all three are lists
    twin.set_user_attr("fingerprint", kept.trials[0].user_attrs["fingerprint"])  # and here it was killed
    again, notebook = lab(tmp_path)
    result = sweep(spec, again, storage(tmp_path))
    assert result.counts["known before"] == 1
    assert len(notebook.begun) == 1


def test_numbers_of_a_life_by_the_clock_that_came_to_no_checkpoint_do_not_mix_with_the_next_ones(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = lab(tmp_path)
    by_clock = config(data, steps=None, max_seconds=2.0)
    real = trial.run

    def killed(*arguments: Any, **others: Any) -> Iterator[trial.Event]:
        for event in real(*arguments, **others):
            yield event
            if isinstance(event, trial.Evaluation):
                raise Killed

    monkeypatch.setattr(trial, "run", killed)
    with pytest.raises(Killed):
        train(by_clock, here)
    monkeypatch.setattr(trial, "run", real)
    (lost,) = here.tracker.runs(here.tracker.experiment("train"))
    outcome = train(by_clock, here)
    assert outcome.run_id != lost.run_id
    run = here.tracker.run(lost.run_id)
    assert run.tags["sesr.continued_by"] == outcome.key
    assert here.tracker.run(outcome.run_id).metrics["val/psnr"] == pytest.approx(outcome.final_psnr, abs=1e-4)


def test_a_registry_that_is_away_keeps_nothing_from_being_trained_and_stored(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, _ = lab(tmp_path)
    monkeypatch.setattr("sesr_lab.trials.train.END_PATIENCE_S", 0.5)

    def away(*arguments: object) -> None:
        raise Away("no answer")

    monkeypatch.setattr("sesr_lab.tracking.perform.publish", away)
    outcome = train(config(data), here)
    assert (outcome.result, outcome.model) == ("finished", None)
    assert not checkpoint.kept(), "the network is in the run's journal"
    monkeypatch.undo()
    here.tracker.close(patience_s=0.1)
    again = open_store(here.tracker.uri, state=tmp_path / "state")
    assert again.flush() == 0
    (version,) = versions(again)
    assert again.run(version.run_id).status == "FINISHED"
    assert version.psnr_db == pytest.approx(outcome.psnr, abs=5e-5)


def test_another_store_than_the_studys_gets_new_runs(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    spec = study(data, trials=1, train={"data": data, "steps": 400, "patch": 32, "batch_size": 4})
    with pytest.raises(Interrupted):
        sweep(spec, replace(here, stop=stopped_after(1)), storage(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    moved = replace(lab(tmp_path)[0], tracker=new_store(tmp_path / "elsewhere"))
    (outcome,) = sweep(spec, moved, storage(tmp_path)).outcomes
    assert outcome.result == "finished"
    assert moved.tracker.run(outcome.run_id).status == "FINISHED"


def test_a_driver_that_lost_its_lock_stops_before_it_tells(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, notebook = lab(tmp_path)

    def lose_the_lock(event: trial.Event, label: str) -> None:
        if isinstance(event, trial.Started):  # as after a restart of the database, when another process was quicker
            monkeypatch.setattr(locks._FileLock, "current", lambda self: False)

    notebook.event = lose_the_lock  # type: ignore[method-assign]
    with pytest.raises((StoreError, ModelError), match="taken"):
        sweep(study(data, trials=1), here, storage(tmp_path))
    assert versions(here.tracker) == []


def test_a_damaged_parent_fails_its_trial_and_the_study_goes_on(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    train(config(data, m=1, f=4), here)
    (file,) = tmp_path.glob(f"**/artifacts/{EXPANDED}")
    file.write_bytes(b"")
    spec = study(data, space={"m": [1], "f": [2, 4], "feature_size": [8]}, trials=2)
    spec = spec.model_copy(update={"train": {**spec.train, "scale": 4}})
    result = sweep(spec, here, storage(tmp_path))
    by_f = {outcome.settings["f"]: outcome for outcome in result.outcomes}
    assert by_f[2].result == "finished"
    assert by_f[2].parent == "models:/sesr-m1-f2-p8-collapsed-x2/1"
    assert by_f[4].result == "failed"
    assert "train it again" in by_f[4].reason
    assert here.tracker.run(by_f[4].run_id).status == "FAILED"


def test_a_study_that_requires_parents_stops_until_they_are_there(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    spec = study(data, space={"m": [1], "f": [4], "feature_size": [8]}, trials=1)
    spec = spec.model_copy(update={"train": {**spec.train, "scale": 4, "parent": "require"}})
    with pytest.raises(ParentError, match="no x2 parent"):
        sweep(spec, here, storage(tmp_path))
    train(config(data, m=1, f=4), here)
    (outcome,) = sweep(spec, lab(tmp_path)[0], storage(tmp_path)).outcomes
    assert outcome.result == "finished"


def test_a_run_that_another_process_has_is_nobodys_to_take(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    task = Task(config(data), "train", "r", tags={"sesr.kind": "train"})
    loaded = trial.load_data(data, 2)
    identity = {"sesr.config_fingerprint": task.config.fingerprint, "sesr.data_fingerprint": loaded.fingerprint}
    run = here.tracker.begin(new_key(), experiment="train", name="r", tags={**task.tags, **identity})
    assert resumable_run(here, task, loaded) is None
    run.end("KILLED", "interrupted")
    assert resumable_run(here, task, loaded) == run.key
