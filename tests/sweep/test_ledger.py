"""What is asked of Optuna's storage and told to it, on real SQLite files; nothing is trained."""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from specs import ended, spec

from sesr_lab.errors import ConfigError, StoreError
from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep.ledger import Ledger, standing, stored
from sesr_lab.sweep.records import FINISHED, WANTED, counts_of, outcomes_of
from sesr_lab.sweep.search import Point, Search
from sesr_lab.sweep.storage import Patience, open_storage
from sesr_lab.trials.locks import Locks

pytestmark = pytest.mark.slow


@pytest.fixture
def fresh(tmp_path: Path) -> str:
    """Where there is no database yet."""
    return f"sqlite:///{tmp_path / 'optuna.db'}"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without studies: making its tables takes longer than most tests."""
    path = tmp_path_factory.mktemp("template") / "optuna.db"
    open_storage(f"sqlite:///{path}")
    return path


@pytest.fixture
def url(fresh: str, tmp_path: Path, template: Path) -> str:
    shutil.copy(template, tmp_path / "optuna.db")
    return fresh


def ledger(url: str, notes: list[str] | None = None, **changes: object) -> Ledger:
    return Ledger(spec(**changes), url, Patience(url, [].append if notes is None else notes.append, lambda: None))


def point(m: int = 1, f: int = 4, **changes: object) -> Point:
    return Search(spec(**changes)).point({"m": m, "f": f, "feature_size": 8})


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="tiny", storage=url).trials


# A trial, from its begin to its end


def test_a_trial_is_begun_with_its_settings_and_its_network_and_ends_with_its_outcome(url: str) -> None:
    book = ledger(url)
    entry = book.begin(point())
    (begun,) = trials(url)
    assert (begun.state.name, begun.params) == ("RUNNING", {"m": 1, "f": 4, "feature_size": 8})
    assert entry.fingerprint == begun.user_attrs["fingerprint"] == point().fingerprint
    book.settle(entry.number, ended(point(), 31.5))
    (told,) = trials(url)
    assert (told.state.name, told.values) == ("COMPLETE", [31.5, float(point().macs)])
    (outcome,) = outcomes_of(ledger(url).entries)
    assert outcome == ended(point(), 31.5)


def test_with_one_objective_one_number_is_told(url: str) -> None:
    book = ledger(url, objective="psnr")
    book.settle(book.begin(point()).number, ended(point(), 31.5))
    assert trials(url)[0].values == [31.5]


@pytest.mark.parametrize("result", ["failed", "diverged", "out of memory", "over budget"])
def test_a_trial_without_a_score_is_pruned_so_that_no_sampler_asks_for_it_again(url: str, result: str) -> None:
    book = ledger(url)
    book.settle(book.begin(point()).number, ended(point(), None, result=result))
    assert trials(url)[0].state.name == "PRUNED"
    assert point().fingerprint in book.history().fingerprints


def test_what_was_told_stays_told(url: str) -> None:
    book = ledger(url)
    entry = book.begin(point())
    book.settle(entry.number, ended(point(), 31.5))
    book.settle(entry.number, ended(point(), 99.0))
    ledger(url).settle(entry.number, ended(point(), 99.0))
    assert trials(url)[0].values[0] == 31.5


def test_an_outcome_that_was_stored_before_a_kill_is_the_one_that_is_told(url: str) -> None:
    book = ledger(url)
    entry = book.begin(point())
    book.note(entry.number, "outcome", {"result": "finished", "psnr": 31.5, "macs_720p": 7})
    again = ledger(url)
    (left,) = again.entries
    assert left.outcome is not None
    again.settle(left.number, left.outcome)
    assert trials(url)[0].values == [31.5, 7.0]


def test_a_known_network_is_told_what_was_told_before(url: str) -> None:
    book = ledger(url)
    first, second = book.begin(point()), book.begin(point())
    assert book.twin(first.number, point().fingerprint) is None, "a running one is none yet"
    book.settle(first.number, ended(point(), 31.5))
    twin = book.twin(second.number, point().fingerprint)
    assert twin is not None
    book.repeat(second.number, twin)
    assert [trial.values for trial in trials(url)] == [[31.5, float(point().macs)]] * 2
    assert len(list(outcomes_of(book.entries))) == 1
    assert counts_of(book.entries) == {"complete": 1, "known before": 1}


def test_running_networks_count_as_known(url: str) -> None:
    book = ledger(url)
    book.begin(point())
    assert book.history().fingerprints == {point().fingerprint}
    assert book.history().trials == 1


def test_a_trial_over_the_limit_breaks_a_constraint_of_optunas(url: str) -> None:
    book = ledger(url)
    entry = book.begin(point())
    book.exclude(entry.number, 5e6)
    book.settle(entry.number, ended(point(), None, result="over budget"))
    assert trials(url)[0].constraints == {"macs": 5e6}


# A database that is away


def fails(times: int, real: Callable[..., Any], error: str = "database is locked") -> Callable[..., Any]:
    """`real`, which fails so many times as SQLAlchemy does when another program holds the database."""
    left = iter(range(times))

    def call(*arguments: Any, **named: Any) -> Any:
        if next(left, None) is not None:
            raise optuna.exceptions.StorageInternalError("storage") from _locked(error)
        return real(*arguments, **named)

    return call


def _locked(error: str) -> Exception:
    from sqlalchemy.exc import OperationalError

    return OperationalError("insert", {}, sqlite3.OperationalError(error))


@pytest.mark.parametrize(
    "call",
    ["create_new_trial", "set_trial_user_attr", "set_trial_state_values", "get_all_trials", "set_study_user_attr"],
)
def test_a_database_that_another_program_holds_is_waited_for_whatever_is_asked(
    url: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = ledger(url)
    monkeypatch.setattr(book._storage, call, fails(3, getattr(book._storage, call)))
    entry = book.begin(point())
    book.set_attribute("a", 1)
    book.settle(entry.number, ended(point(), 31.5))
    assert [trial.state.name for trial in trials(url)] == ["COMPLETE"]


def test_a_trial_whose_begin_was_not_confirmed_is_begun_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    book = ledger(url)
    real = book._storage.create_new_trial
    lost = iter([True])

    def create(*arguments: Any, **named: Any) -> Any:
        made = real(*arguments, **named)
        if next(lost, False):
            raise optuna.exceptions.StorageInternalError("storage") from _locked("server closed the connection")
        return made

    monkeypatch.setattr(book._storage, "create_new_trial", create)
    book.begin(point())
    assert len(trials(url)) == 1


def test_a_database_that_stays_away_is_an_error_in_one_line_in_the_end(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    book = ledger(url, notes)
    monkeypatch.setattr("sesr_lab.sweep.storage.PATIENCE_S", 0.5)
    monkeypatch.setattr("sesr_lab.sweep.storage.NOTE_AFTER_S", 0.2)
    monkeypatch.setattr(book._storage, "create_new_trial", fails(99, book._storage.create_new_trial))
    with pytest.raises(StoreError, match=r"study database .*optuna\.db: database is locked"):
        book.begin(point())
    assert notes == [
        f"waiting: study database {url[10:]}: database is locked; check that it can be reached and "
        "written, or name another with --storage"
    ]


def test_a_database_that_cannot_be_written_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    book = ledger(url)
    broken = fails(99, book._storage.create_new_trial, "attempt to write a readonly database")
    monkeypatch.setattr(book._storage, "create_new_trial", broken)
    with pytest.raises(StoreError, match="readonly"):
        book.begin(point())


def test_a_user_who_asks_to_stop_while_a_database_is_waited_for_is_heard(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    book = Ledger(spec(), url, Patience(url, [].append, stop))
    monkeypatch.setattr(book._storage, "create_new_trial", fails(99, book._storage.create_new_trial))
    with pytest.raises(KeyboardInterrupt):
        book.begin(point())


# What a study is


def test_a_changed_study_is_refused_by_the_key_that_changed(url: str) -> None:
    ledger(url)
    for changes, key in (
        ({"space": {"m": [1, 3], "f": [2, 4], "feature_size": [8]}}, r"space\.m is \[1, 3\] .* has \[1, 2\]"),
        ({"space": {"m": [1, 2], "f": [2, 4]}}, r"space\.feature_size is None"),
        ({"train": {"steps": 2, "patch": 32}}, r"train\.steps is 2 but the stored study has 1"),
        ({"objective": "psnr"}, "objective is 'psnr'"),
        ({"seed": 5}, "seed is 5"),
        ({"sampler": "random"}, "sampler is 'random'"),
    ):
        with pytest.raises(ConfigError, match=f"study tiny: {key}.*another name"):
            ledger(url, **changes)
    ledger(url, train={"steps": 1, "patch": 32, "scale": 2, "recipe": "fast"}, trials=9, description="other")


def test_a_key_that_another_version_stored_and_this_one_does_not_know_is_passed_over(url: str) -> None:
    book = ledger(url)
    book.set_attribute("sesr:study", {**spec().identity, "train.novelty": 3, "version": 9})
    ledger(url)
    less = {key: value for key, value in spec().identity.items() if key != "train.warmup"}
    book.set_attribute("sesr:study", less)
    ledger(url)


def test_the_sampler_that_a_study_began_with_goes_on_with_its_arguments(url: str) -> None:
    book = ledger(url)
    stored_sampler = book.attribute("sesr:sampler")
    assert stored_sampler["class"] == "TPESampler"
    assert stored_sampler["arguments"]["n_startup_trials"] == 8
    book.set_attribute("sesr:sampler", {"class": "TPESampler", "arguments": {"n_startup_trials": 3}})
    assert ledger(url)._draws.sampler["arguments"]["n_startup_trials"] == 3
    book.set_attribute("sesr:sampler", {"class": "BestSampler", "arguments": {}})
    with pytest.raises(ConfigError, match="begun with the sampler BestSampler"):
        ledger(url)


def test_what_is_drawn_depends_on_what_was_tried_and_not_on_who_draws(url: str) -> None:
    space = {"m": list(range(1, 9)), "f": list(range(1, 9))}
    book = ledger(url, space=space)
    search = Search(spec(space=space))
    for number in range(12):
        chosen = search.next(book.history(), 40, book.draw)
        assert chosen is not None
        assert ledger(url, space=space).draw(0, {}) == book.draw(0, {})
        entry = book.begin(chosen)
        book.settle(entry.number, ended(chosen, 30.0 + number))
    assert len({entry.fingerprint for entry in book.entries}) == 12


# Trials that others have put there


def enqueue(url: str, **params: Any) -> None:
    optuna.load_study(study_name="tiny", storage=url).enqueue_trial(params)


def test_a_trial_that_was_enqueued_through_optuna_is_taken_with_its_settings(url: str) -> None:
    ledger(url)
    enqueue(url, m=2, f=2, feature_size=8)
    book = ledger(url)
    (waiting,) = book.entries
    assert (waiting.state, waiting.settings, waiting.ours) == ("waiting", {"m": 2, "f": 2, "feature_size": 8}, False)
    taken = book.claim(waiting, point(2, 2))
    assert taken is not None
    assert (taken.state, taken.fingerprint) == ("running", point(2, 2).fingerprint)
    (trial,) = trials(url)
    assert trial.params == {"m": 2, "f": 2, "feature_size": 8}


def test_a_trial_outside_the_study_is_told_pruned_with_its_reason(url: str) -> None:
    ledger(url)
    enqueue(url, m=77)
    book = ledger(url)
    book.refuse(0, "m = 77 is not in the study's space")
    (trial,) = trials(url)
    assert (trial.state.name, trial.user_attrs["reason"]) == ("PRUNED", "m = 77 is not in the study's space")


def test_a_trial_that_another_program_runs_is_not_ours(url: str) -> None:
    ledger(url)
    study = optuna.load_study(study_name="tiny", storage=url)
    study.ask()
    study.add_trial(optuna.trial.create_trial(params={}, distributions={}, values=[1.0, 2.0]))
    assert [entry.ours for entry in ledger(url).entries] == [False, False]
    assert ledger(url).draw(0, {}).keys() == {"m", "f", "feature_size"}


# Databases of other versions, of others, and in the making


@pytest.fixture
def old(tmp_path: Path, fresh: str) -> str:
    """The study database that version 0.1.0 has written: a finished study, and one that was killed."""
    with tarfile.open(Path(__file__).parents[1] / "stores_of_0_1_0.tar.gz") as archive:
        archive.extract("optuna.db.sql", tmp_path, filter="data")
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.executescript((tmp_path / "optuna.db.sql").read_text())
    return fresh


def _old(name: str, steps: int) -> StudySpec:
    return spec(
        name=name,
        trials=2,
        space={"m": [1, 2], "f": [4], "feature_size": [8]},
        train={"steps": steps, "patch": 32, "batch_size": 4},
    )


def test_a_study_of_version_0_1_0_goes_on_as_the_same_study(old: str) -> None:
    two, cut = _old("two", 20), _old("cut", 300)
    for each in (two, cut, two):
        book = Ledger(each, old, Patience(old, [].append, lambda: None))
    assert [outcome.network for outcome in outcomes_of(book.entries)] == ["m2-f4-p8-collapsed", "m1-f4-p8-collapsed"]
    assert {entry.fingerprint for entry in book.entries} == {
        Search(two).point({"m": m, "f": 4, "feature_size": 8}).fingerprint for m in (1, 2)
    }
    left = Ledger(cut, old, Patience(old, [].append, lambda: None)).entries[0]
    assert (left.state, left.ours, left.attributes["run_id"]) == ("running", True, "f0f2b9fbfefc4bd3b3d3234506343c31")
    with pytest.raises(ConfigError, match=r"study two: train\.steps is 21 but the stored study has 20"):
        Ledger(_old("two", 21), old, Patience(old, [].append, lambda: None))


def test_where_studies_of_version_0_1_0_stand_is_known(old: str) -> None:
    cut, two = sorted(standing(old), key=lambda found: found.study)
    assert (two.finished, two.done, two.wanted) == (True, 2, None)
    assert (cut.finished, cut.done, cut.counts["running"]) == (False, 0, 1)
    assert [outcome.psnr for outcome in stored("two", old)] == pytest.approx([22.4526, 24.8917], abs=1e-4)
    assert Locks(old).identity == "c3053413021748f2a5d54f1348890ce2"


def test_where_a_study_stands_is_told_with_how_much_it_was_to_train(url: str) -> None:
    book = ledger(url)
    book.set_attribute(WANTED, 8)
    book.set_attribute(FINISHED, True)
    for m in (1, 2):
        book.settle(book.begin(point(m)).number, ended(point(m), 30.0 + m))
    book.settle(book.begin(point(1, 2)).number, ended(point(1, 2), None, result="over budget"))
    (found,) = standing(url)
    assert (found.done, found.wanted, found.finished) == (2, 8, True)
    assert found.counts == {"complete": 2, "pruned": 1, "known before": 0}
    assert found.best is not None
    assert found.best.psnr == 32.0


def test_looking_makes_nothing(tmp_path: Path, fresh: str) -> None:
    assert standing(fresh) == []
    with pytest.raises(ConfigError, match=r"study 'x2' is not in .* run it first: sesr-lab sweep x2"):
        stored("x2", fresh)
    assert list(tmp_path.glob("optuna*")) == []
    sqlite3.connect(tmp_path / "optuna.db").execute("create table other (x)").connection.close()
    before = (tmp_path / "optuna.db").read_bytes()
    assert standing(fresh) == []
    assert (tmp_path / "optuna.db").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "update alembic_version set version_num = 'v3.0.0.d'",
            r"made by Optuna 3\.1\.0, .* run `optuna storage upgrade",
        ),
        ("update alembic_version set version_num = 'v9.9.9.z'", "made by Optuna .* run `pip install -U optuna"),
    ],
)
def test_a_database_of_another_optuna_is_told_in_one_line(tmp_path: Path, url: str, change: str, says: str) -> None:
    ledger(url)
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.execute(change)
        database.execute("update version_info set library_version = '3.1.0'")
    for ask in (lambda: ledger(url), lambda: standing(url), lambda: stored("tiny", url), lambda: open_storage(url)):
        with pytest.raises(StoreError, match=f"study database .*{says}") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_or_mlflows_is_told_in_one_line(tmp_path: Path, fresh: str) -> None:
    (tmp_path / "optuna.db").write_bytes(b"no database at all" * 99)
    for ask in (lambda: ledger(fresh), lambda: standing(fresh)):
        with pytest.raises(StoreError, match=r"study database .*optuna\.db: file is not a database"):
            ask()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.executescript("create table experiments (x); create table runs (x); create table alembic_version (x)")
    with pytest.raises(StoreError, match="it is MLflow's; name a file of its own"):
        ledger(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_of_many_that_come_first_to_a_new_database_all_find_it_whole(fresh: str) -> None:
    names = [f"study{index}" for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: ledger(fresh, name=name), names))
    assert sorted(found.study for found in standing(fresh)) == names
