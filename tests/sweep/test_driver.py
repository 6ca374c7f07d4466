"""A study from its first trial to its last, through stops, kills, changed files and known networks."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from labs import lab, photographs, spawn, storage, study, until
from PIL import Image
from scripted import Scripted

from sesr_lab.data.image import downscale
from sesr_lab.errors import ConfigError, DataError, StoreError
from sesr_lab.registry.catalog import resolve
from sesr_lab.study.config import TrialConfig
from sesr_lab.sweep import driver
from sesr_lab.sweep.driver import sweep
from sesr_lab.sweep.ledger import Ledger, standing, stored
from sesr_lab.sweep.repair import TRIES
from sesr_lab.trials import trial
from sesr_lab.trials.lab import Interrupted
from sesr_lab.trials.locks import Locks
from sesr_lab.trials.notes import GREY
from sesr_lab.trials.outcome import Outcome, pareto

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> str:
    return photographs(tmp_path / "pictures")


def optuna_trials(tmp_path: Path, name: str = "tiny") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=storage(tmp_path)).trials


def test_a_study_trains_as_many_networks_as_it_names_and_tells_optuna_their_scores(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    result = sweep(study(data), here, storage(tmp_path))
    assert len(result.outcomes) == 3
    assert {outcome.result for outcome in result.outcomes} == {"finished"}
    told = {tuple(trial.values) for trial in optuna_trials(tmp_path) if trial.state.name == "COMPLETE"}
    assert told == {(outcome.psnr, float(outcome.macs_720p)) for outcome in result.outcomes}


def test_each_trial_is_a_child_run_of_the_study_with_curves_costs_and_a_registered_network(
    tmp_path: Path, data: str
) -> None:
    here, _ = lab(tmp_path)
    result = sweep(study(data, trials=1), here, storage(tmp_path))
    (outcome,) = result.outcomes
    run = here.tracker.run(outcome.run_id)
    assert run.parent_run_id == result.run_id
    assert run.status == "FINISHED"
    assert run.metrics["val/psnr"] == pytest.approx(outcome.final_psnr, abs=1e-4)
    assert run.metrics["cost/gmacs_720p"] == pytest.approx(outcome.macs_720p / 1e9, abs=1e-4)
    assert run.params["m"] in "12"
    assert {"sesr.config_fingerprint", "sesr.data_fingerprint", "sesr.study", "sesr.device"} <= run.tags.keys()
    assert outcome.model == f"models:/sesr-{outcome.network}-x2/1"
    assert here.tracker.run(result.run_id).status == "FINISHED"


def test_the_ui_shows_what_a_study_came_to(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    result = sweep(study(data), here, storage(tmp_path))
    assert here.tracker.flush() == 0
    assert result.best is not None
    headline = f"**Best: {result.best.network}"
    experiment = here.tracker.client.get_experiment(result.experiment_id)
    for tags in (here.tracker.run(result.run_id).tags, experiment.tags):
        assert tags["mlflow.note.content"].startswith(headline)
    for outcome in result.outcomes:
        run = here.tracker.run(outcome.run_id)
        assert run.tags["mlflow.note.content"].startswith(f"**{outcome.psnr:.2f} dB**")
        assert (run.tags["mlflow.runColor"] == GREY) is (outcome.label not in result.pareto)
        assert run.tags["sesr.engine"] == "simple"
        names = [file.path for file in here.tracker.client.list_artifacts(outcome.run_id, "images")]
        steps = {int(name.split("+")[2]) for name in names}
        assert steps == {0, 25, 50, 75, 100}


def test_a_network_that_leaves_the_pareto_set_turns_grey(tmp_path: Path, data: str) -> None:
    here, _ = lab(tmp_path)
    sweep(study(data, trials=1), here, storage(tmp_path))
    again, _ = lab(tmp_path)
    result = sweep(study(data, trials=4), again, storage(tmp_path))
    assert again.tracker.flush() == 0
    for outcome in result.outcomes:
        colour = again.tracker.run(outcome.run_id).tags["mlflow.runColor"]
        assert (colour == GREY) is (outcome.label not in result.pareto)


def test_running_the_same_study_again_trains_nothing_and_gives_the_same_results(tmp_path: Path, data: str) -> None:
    first = sweep(study(data), lab(tmp_path)[0], storage(tmp_path))
    again, notebook = lab(tmp_path)
    second = sweep(study(data), again, storage(tmp_path))
    assert notebook.begun == []
    assert second.outcomes == first.outcomes


def test_more_trials_go_on_from_those_that_are_there(
    tmp_path: Path, data: str, caplog: pytest.LogCaptureFixture
) -> None:
    sweep(study(data, trials=1), lab(tmp_path)[0], storage(tmp_path))
    here, notebook = lab(tmp_path)
    result = sweep(study(data, trials=3), here, storage(tmp_path))
    assert len(notebook.begun) == 2
    assert len(result.outcomes) == 3
    assert here.tracker.flush() == 0
    study_run = here.tracker.run(result.run_id)
    assert study_run.metrics["trials"] == 3, "not what it was when it had ended before"
    assert study_run.tags["sesr.trials"] == "3"
    assert "does not take" not in caplog.text
    assert result.best is not None
    assert study_run.metrics["best_psnr"] == pytest.approx(result.best.psnr, abs=1e-4)


def test_no_network_is_trained_twice_and_a_small_space_ends(tmp_path: Path, data: str) -> None:
    here, notebook = lab(tmp_path)
    result = sweep(study(data, trials=50), here, storage(tmp_path))
    assert Counter(outcome.network for outcome in result.outcomes).most_common(1)[0][1] == 1
    assert len(notebook.begun) == 4, "the space has four networks"
    assert not [trial for trial in optuna_trials(tmp_path) if trial.state.name in ("RUNNING", "WAITING")]


def test_networks_over_the_budget_are_not_trained_and_break_a_constraint(tmp_path: Path, data: str) -> None:
    # 25f + 9mf² + 100f weights times 640x360: f = 2 costs 66 and 74 MMAC, f = 4 costs 148 and 181 MMAC.
    here, notebook = lab(tmp_path)
    spec = study(data, trials=4, objective="psnr", max_macs="100M", enqueue=[{"m": 1, "f": 4, "feature_size": 8}])
    result = sweep(spec, here, storage(tmp_path))
    trained = [outcome for outcome in result.outcomes if outcome.result == "finished"]
    assert {outcome.settings["f"] for outcome in trained} == {2}
    over = next(trial for trial in optuna_trials(tmp_path) if trial.params.get("f") == 4)
    assert over.state.name == "PRUNED"
    macs = (25 * 4 + 9 * over.params["m"] * 16 + 100 * 4) * 640 * 360
    assert over.constraints["macs"] == macs - 100e6
    assert len(notebook.begun) == 2


def test_a_study_for_a_target_weighs_milliseconds_and_every_record_has_them(tmp_path: Path, data: str) -> None:
    pytest.importorskip("ethosu.vela")
    here, _ = lab(tmp_path)
    spec = study(data, trials=4, target="ethos-u55-256", input="64x48", max_ms=0.55)
    result = sweep(spec, here, storage(tmp_path))
    trained = [outcome for outcome in result.outcomes if outcome.result == "finished"]
    assert trained
    for outcome in trained:
        assert outcome.latency_ms is not None
        assert outcome.latency_ms <= 0.55
        assert (outcome.target, outcome.target_input) == ("ethos-u55-256", "64x48")
        assert (outcome.target_tool or "").startswith("ethos-u-vela ")
        run = here.tracker.run(outcome.run_id)
        assert run.metrics["cost/latency_ms"] == pytest.approx(outcome.latency_ms, abs=1e-4)
        assert run.tags["sesr.target"] == "ethos-u55-256"
        assert (outcome.label in result.pareto) == (outcome.model is not None), "the best are registered"
        if outcome.model is not None:
            version = resolve(here.tracker, outcome.model)
            assert float(version.tags["sesr.latency_ms"]) == pytest.approx(outcome.latency_ms, abs=1e-4)
            assert version.tags["sesr.target_tool"] == outcome.target_tool
    told = {tuple(each.values) for each in optuna_trials(tmp_path) if each.state.name == "COMPLETE"}
    assert told == {(outcome.psnr, outcome.latency_ms) for outcome in trained}
    with pytest.raises(ConfigError, match="target is 'macs' but the stored study has 'ethos-u55-256'"):
        sweep(study(data, trials=4), here, storage(tmp_path))


def test_a_network_that_diverges_is_pruned_with_its_reason_and_the_study_goes_on(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial.run

    def run(config: TrialConfig, where: trial.Place, **others: Any) -> Iterator[trial.Event]:
        """What training does, but for the larger network, which falls over."""
        if config.f == 4:
            return iter([trial.Finished("diverged", "the loss became nan near step 3", 3, 1.0, None, None)])
        return real(config, where, **others)

    monkeypatch.setattr(trial, "run", run)
    here, _ = lab(tmp_path)
    result = sweep(study(data, space={"m": [1], "f": [2, 4], "feature_size": [8]}, trials=9), here, storage(tmp_path))
    states = {each.params["f"]: each.state.name for each in optuna_trials(tmp_path)}
    assert states == {2: "COMPLETE", 4: "PRUNED"}, "not FAIL: the sampler would ask for it again and again"
    (diverged,) = [outcome for outcome in result.outcomes if outcome.result == "diverged"]
    assert diverged.reason == "the loss became nan near step 3"
    assert diverged.model is None
    run_now = here.tracker.run(diverged.run_id)
    assert (run_now.status, run_now.tags["sesr.reason"]) == ("FAILED", diverged.reason)


def test_a_stopped_study_goes_on_with_the_same_trial_in_the_same_run(tmp_path: Path, data: str) -> None:
    calls = iter([False, False, True])
    stopped, _ = lab(tmp_path, stop=lambda: next(calls, True))
    spec = study(data, trials=1)
    spec = spec.model_copy(update={"train": {**spec.train, "steps": 400}})
    with pytest.raises(Interrupted):
        sweep(spec, stopped, storage(tmp_path))
    (trial,) = optuna_trials(tmp_path)
    stopped.tracker.flush()
    place = stopped.tracker.delivered(trial.user_attrs["key"])
    assert place is not None
    run_id = place.run_id
    assert stopped.tracker.run(run_id).status == "KILLED"

    here, notebook = lab(tmp_path)
    result = sweep(spec, here, storage(tmp_path))
    assert [outcome.run_id for outcome in result.outcomes] == [run_id]
    assert any("going on from step" in note for note in notebook.notes)
    assert here.tracker.run(run_id).status == "FINISHED"


def test_two_drivers_of_one_study_are_refused(tmp_path: Path, data: str) -> None:
    lock = Locks(storage(tmp_path)).take("study:tiny")
    assert lock is not None
    with lock, pytest.raises(StoreError, match=r"study tiny: .* is driving it now"):
        sweep(study(data), lab(tmp_path)[0], storage(tmp_path))


def test_a_changed_study_file_is_refused_by_the_key_that_changed(tmp_path: Path, data: str) -> None:
    sweep(study(data, trials=1), lab(tmp_path)[0], storage(tmp_path))
    other = study(data, trials=1, space={"m": [1, 3], "f": [2, 4], "feature_size": [8]})
    with pytest.raises(ConfigError, match=r"study tiny: space\.m is .* but the stored study has .* another name"):
        sweep(other, lab(tmp_path)[0], storage(tmp_path))
    assert len(optuna_trials(tmp_path)) == 1, "nothing was lost"


def test_changed_pictures_are_refused(tmp_path: Path, data: str) -> None:
    spec = study(data, trials=1)
    sweep(spec, lab(tmp_path)[0], storage(tmp_path))
    trial.forget_data()
    (tmp_path / "pictures" / "a0.png").unlink()
    with pytest.raises(ConfigError, match=r"pictures \(folder:.*\) have changed since it began"):
        sweep(spec, lab(tmp_path)[0], storage(tmp_path))


def test_changed_pictures_of_low_resolution_are_refused_too(tmp_path: Path) -> None:
    photographs(tmp_path / "set" / "HR")
    low = tmp_path / "set" / "LR_x2"
    low.mkdir()
    for path in (tmp_path / "set" / "HR").iterdir():
        Image.fromarray(downscale(np.asarray(Image.open(path)), 2)).save(low / path.name)
    spec = study(f"folder:{tmp_path / 'set'}", trials=1)
    sweep(spec, lab(tmp_path)[0], storage(tmp_path))
    trial.forget_data()
    Image.fromarray(np.asarray(Image.open(low / "a0.png")) // 2).save(low / "a0.png")
    with pytest.raises(ConfigError, match=r"its LR pictures \(folder:.*\) have changed since it began"):
        sweep(spec, lab(tmp_path)[0], storage(tmp_path))


@pytest.mark.parametrize(
    "changes", [{"enqueue": [{"m": 1, "patch": 512}]}, {"space": {"m": [1], "f": [4], "recipe": ["paper", "fast"]}}]
)
def test_a_patch_that_no_picture_has_is_refused_before_the_study_is_stored(
    tmp_path: Path, data: str, changes: dict[str, Any]
) -> None:
    """Wherever it comes from: a trial, or a recipe's own."""
    train = {"data": data, "steps": 10, "scale": 4, "parent": "none"}
    with pytest.raises(DataError, match="patch"):
        sweep(study(data, train=train, **changes), lab(tmp_path)[0], storage(tmp_path))
    assert standing(storage(tmp_path)) == []


def test_a_trial_that_cannot_be_begun_ends_and_the_study_goes_on(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = driver.Flight

    def begun(lab_: Any, start: Any, *others: Any, **named: Any) -> Any:
        if start.task.config.f == 4:
            raise DataError("a picture has gone")
        return real(lab_, start, *others, **named)

    monkeypatch.setattr(driver, "Flight", begun)
    spec = study(data, space={"m": [1], "f": [2, 4], "feature_size": [8]}, trials=9)
    result = sweep(spec, lab(tmp_path)[0], storage(tmp_path))
    by_f = {outcome.settings["f"]: outcome for outcome in result.outcomes}
    assert by_f[2].result == "finished"
    assert (by_f[4].result, by_f[4].reason) == ("failed", "a picture has gone")
    assert {each.state.name for each in optuna_trials(tmp_path)} == {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize("writes", range(7))
def test_a_kill_while_an_enqueued_trial_is_taken_loses_nothing(
    tmp_path: Path, data: str, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = study(data, trials=1, space={"m": [1], "f": [2, 4, 6], "feature_size": [8]})
    (first,) = sweep(spec, lab(tmp_path)[0], storage(tmp_path)).outcomes
    kept = optuna.load_study(study_name="tiny", storage=storage(tmp_path))
    wanted = next(f for f in (2, 4, 6) if f != first.settings["f"])
    kept.enqueue_trial({"m": 1, "f": wanted})
    two = spec.model_copy(update={"trials": 2})
    with monkeypatch.context() as patched:
        done = iter(range(100))

        def claimed(self: Ledger, *given: Any) -> Any:
            for name in ("set_trial_user_attr", "set_trial_state_values", "set_trial_param"):
                patched.setattr(self._storage, name, partial(dies, getattr(self._storage, name)), raising=False)
            return claim(self, *given)

        def dies(write: Any, *given: Any, **named: Any) -> Any:
            if next(done) >= writes:
                raise Killed
            return write(*given, **named)

        claim = Ledger.claim
        patched.setattr(Ledger, "claim", claimed)
        with pytest.raises(Killed):
            sweep(two, lab(tmp_path)[0], storage(tmp_path))
    result = sweep(two, lab(tmp_path)[0], storage(tmp_path))
    assert [outcome.result for outcome in result.outcomes] == ["finished"] * 2
    assert [outcome.settings["f"] for outcome in result.outcomes] == [first.settings["f"], wanted]
    assert all(outcome.key for outcome in result.outcomes)
    assert {each.state.name for each in optuna_trials(tmp_path)} == {"COMPLETE"}


class Killed(BaseException):
    """In place of SIGKILL: nothing is written after it."""


def test_the_pareto_set_of_a_finished_study_is_the_list_of_another(tmp_path: Path, data: str) -> None:
    found = sweep(study(data, trials=4), lab(tmp_path)[0], storage(tmp_path))
    spec = study(data, name="next", space={}, candidates="tiny", trials=9)
    spec = spec.model_copy(update={"train": {**spec.train, "scale": 4, "parent": "require"}})
    result = sweep(spec, lab(tmp_path)[0], storage(tmp_path))
    assert [outcome.settings for outcome in result.outcomes] == [o.settings for o in pareto(found.outcomes)]
    assert all(outcome.parent and "-x2/1" in outcome.parent for outcome in result.outcomes)


def test_an_unfinished_study_is_no_list_of_candidates(tmp_path: Path, data: str) -> None:
    with pytest.raises(ConfigError, match=r"study 'tiny' is not in .* sesr-lab sweep tiny"):
        stored("tiny", storage(tmp_path))


def test_candidates_that_are_not_there_are_missed_before_pictures_are_prepared(tmp_path: Path) -> None:
    here, _ = lab(tmp_path)
    spec = study("folder:nowhere", name="next", space={}, candidates="tiny", trials=9)
    with pytest.raises(ConfigError, match=r"study 'tiny' is not in .* run it first: sesr-lab sweep tiny"):
        sweep(spec, here, storage(tmp_path))
    with pytest.raises(ConfigError, match="max_macs: none of its networks fits"):
        sweep(study("folder:nowhere", max_macs="1M"), here, storage(tmp_path))
    assert standing(storage(tmp_path)) == []


def test_an_error_that_nobody_expected_is_tried_again_and_then_told_and_the_study_goes_on(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = trial.run, Counter[int]()

    def run(config: TrialConfig, where: trial.Place, **others: Any) -> Iterator[trial.Event]:
        tries[config.f] += 1
        if config.f == 4 or tries[2] == 1:
            raise ZeroDivisionError("a fault of ours")
        return real(config, where, **others)

    monkeypatch.setattr(trial, "run", run)
    here, notebook = lab(tmp_path)
    spec = study(data, space={"m": [1], "f": [2, 4], "feature_size": [8]}, trials=9)
    result = sweep(spec, here, storage(tmp_path))
    assert tries == {2: 2, 4: TRIES}
    by_f = {outcome.settings["f"]: outcome for outcome in result.outcomes}
    assert by_f[2].result == "finished", "it went well the second time"
    assert (by_f[4].result, by_f[4].reason) == (
        "failed",
        "the same happened 3 times: ZeroDivisionError: a fault of ours",
    )
    (told,) = [each for each in optuna_trials(tmp_path) if each.params["f"] == 4]
    assert told.state.name == "PRUNED"
    assert "a fault of ours" in told.user_attrs["errors"][-1]
    assert "Traceback" in told.user_attrs["errors"][-1]
    assert sum("(try" in note for note in notebook.notes) == TRIES + 1
    sweep(spec, lab(tmp_path)[0], storage(tmp_path))
    assert tries == {2: 2, 4: TRIES}, "nor is it tried again by the next start"


def test_a_user_who_asks_to_stop_is_heard_between_trials_too(tmp_path: Path, data: str) -> None:
    ended: list[Outcome] = []
    here, notebook = lab(tmp_path, stop=lambda: bool(ended))
    notebook.end = ended.append  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="study tiny: stopped"):
        sweep(study(data, trials=4), here, storage(tmp_path))
    assert [each.state.name for each in optuna_trials(tmp_path)] == ["COMPLETE"]
    assert len(ended) == 1


def test_what_others_enqueue_is_trained_if_it_belongs_to_the_study_and_told_pruned_if_not(
    tmp_path: Path, data: str
) -> None:
    spec = study(data, trials=1, space={"m": [1], "f": [2, 4], "feature_size": [8]})
    (first,) = sweep(spec, lab(tmp_path)[0], storage(tmp_path)).outcomes
    kept = optuna.load_study(study_name="tiny", storage=storage(tmp_path))
    strange: list[dict[str, Any]] = [{"m": 77, "f": 2, "feature_size": 8}, {"x": 1}, {"m": "one"}]
    for params in [*strange, {"m": 1, "f": first.settings["f"], "feature_size": 8}, {"m": 1}]:
        kept.enqueue_trial(params)
    here, notebook = lab(tmp_path)
    result = sweep(spec.model_copy(update={"trials": 2}), here, storage(tmp_path))
    states = [each.state.name for each in optuna_trials(tmp_path)]
    assert states[:5] == ["COMPLETE", *["PRUNED"] * 3, "COMPLETE"], states
    assert [each.user_attrs["reason"] for each in optuna_trials(tmp_path)[1:4]] == [
        "m = 77 is not in the study's space",
        "x is not searched by the study",
        "m = 'one' is not in the study's space",
    ]
    assert sum("is passed over" in note for note in notebook.notes) == 3
    assert len(result.outcomes) == 2
    assert result.counts["known before"] >= 1


def test_what_a_parent_takes_is_counted_in_device_hours(tmp_path: Path, data: str) -> None:
    train = {"data": data, "steps": 10, "patch": 32, "batch_size": 4, "scale": 4}
    (child,) = sweep(study(data, trials=1, train=train, device_hours=1.0), lab(tmp_path)[0], storage(tmp_path)).outcomes
    assert child.parent is not None
    spent = optuna.load_study(study_name="tiny", storage=storage(tmp_path)).user_attrs["sesr:spent"]
    assert spent["lost_s"] > 0


def test_a_budget_ends_a_study_and_a_larger_one_goes_on(tmp_path: Path, data: str) -> None:
    spec = study(data, trials=4)
    used = sweep(spec.model_copy(update={"device_hours": 1e-9}), lab(tmp_path)[0], storage(tmp_path))
    assert (len(used.outcomes), used.ended) == (1, "its 1e-09 device-hours are used")
    here, notebook = lab(tmp_path)
    result = sweep(spec.model_copy(update={"trials": 2}), here, storage(tmp_path))
    assert (len(notebook.begun), result.ended) == (1, "all 2 networks are trained")


def test_standing_names_what_is_stored(tmp_path: Path, data: str) -> None:
    sweep(study(data, trials=1), lab(tmp_path)[0], storage(tmp_path))
    (found,) = standing(storage(tmp_path))
    assert found.finished
    assert found.counts == {"complete": 1, "known before": 0}
    assert (found.done, found.wanted) == (1, 1)
    with pytest.raises(ConfigError, match="stored there: tiny"):
        standing(storage(tmp_path), "other")


@pytest.mark.long
@pytest.mark.parametrize("steps_seen", [0, 1, 2])
def test_a_study_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path: Path, data: str, steps_seen: int) -> None:
    (tmp_path / "tiny.toml").write_text(
        f"""
        trials = 3
        [space]
        m = [1, 2]
        f = [4, 8]
        feature_size = [8]
        [train]
        data = "{data}"
        steps = 300
        patch = 32
        """
    )
    process = spawn(tmp_path, "sweep", "tiny.toml", "--engine", "simple")
    until(lambda: _finished(tmp_path) >= steps_seen)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    again = spawn(tmp_path, "sweep", "tiny.toml", "--engine", "simple", "--json")
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    trials = json.loads(output)["trials"]
    assert len(trials) == len({trial["network"] for trial in trials}) == 3, "none lost, none repeated"
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("select count(*) from runs where status = 'RUNNING'").fetchone() == (0,)
        points = "select count(*) - count(distinct run_uuid || key || step) from metrics"
        assert store.execute(points).fetchone() == (0,), "no point of a curve twice"
        (versions,) = store.execute("select count(*) from model_versions").fetchone()
    assert versions == 3


def _finished(tmp_path: Path) -> int:
    """Trials that Optuna has been told of, read as another process would."""
    try:
        with sqlite3.connect(tmp_path / "optuna.db") as database:
            (count,) = database.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()
            (asked,) = database.execute("select count(*) from trials").fetchone()
            return int(count) if asked else -1
    except sqlite3.OperationalError:
        return -1


def test_nothing_is_waited_for_between_two_trials(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sesr_lab.sweep.driver.IDLE_S", 120.0)
    here, _ = lab(tmp_path)
    began = time.monotonic()
    sweep(study(data, trials=3), here, storage(tmp_path), start=Scripted(lambda config, part: 30.0 + part).start)
    assert time.monotonic() - began < 120.0


def test_how_far_a_trial_is_can_be_seen_from_elsewhere_while_it_runs(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sesr_lab.sweep.flight.SHOWN_EVERY_S", 0.0)
    seen = []

    def curve(config: TrialConfig, part: float) -> float:
        seen.extend(standing(storage(tmp_path), "tiny")[0].running)
        return 30.0 + part

    here, _ = lab(tmp_path)
    sweep(study(data, trials=1), here, storage(tmp_path), start=Scripted(curve).start)
    told = [each for each in seen if each.step is not None]
    assert [(each.step, each.steps, each.psnr) for each in told[:2]] == [(1, 10, 30.1), (2, 10, 30.2)]
    assert told[0].label.startswith("t0000-m")
    assert ":" in told[0].worker
    assert standing(storage(tmp_path), "tiny")[0].running == ()
