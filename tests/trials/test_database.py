"""How the study database is named, whatever stands in the path to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from sesr_lab.errors import ConfigError
from sesr_lab.trials.database import failure, shown, sqlite_file, sqlite_url, storage_url


def test_the_default_is_a_file_in_the_current_folder(tmp_path: Path) -> None:
    assert sqlite_file(storage_url(None)) == tmp_path / "optuna.db"


@pytest.mark.parametrize(
    "folder", ["plain", "my project", "a#b", "50%20off", "what?", "{x}", "照片", "a&b=c;d", "'q'\""]
)
def test_a_folder_may_have_any_name(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / folder
    place.mkdir()
    monkeypatch.chdir(place)
    for given in (None, "optuna.db", "./optuna.db"):
        url = storage_url(given)
        assert storage_url(url) == url
        assert sqlite_file(url) == place / "optuna.db"
        assert shown(url) == str(place / "optuna.db")
    engine = sa.create_engine(storage_url(None))
    with engine.begin() as connection:
        connection.exec_driver_sql("create table made (here int)")
    engine.dispose()
    assert [path.name for path in place.iterdir()] == ["optuna.db"]
    assert [path.name for path in tmp_path.iterdir() if path.name != "state"] == [folder]


def test_a_path_is_as_good_as_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "data").write_bytes(b"")
    here = tmp_path / "optuna.db"
    wanted = {
        "optuna.db": here,
        "./optuna.db": here,
        str(here): here,
        "sqlite:///optuna.db": here,
        f"sqlite:///{here}": here,
        "data": tmp_path / "data",
        "~/x.sqlite": tmp_path / "home" / "x.sqlite",
        "sqlite:///~/x": tmp_path / "home" / "x",
    }
    assert {given: sqlite_file(storage_url(given)) for given in wanted} == wanted


def test_options_of_a_url_stay_options() -> None:
    url = storage_url("sqlite:///optuna.db?timeout=60")
    assert sqlite_file(url) == Path("optuna.db").absolute()
    assert url.endswith("optuna.db?timeout=60")


def test_postgresql_without_a_driver_uses_the_one_that_the_extra_installs() -> None:
    for given in ("postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"):
        assert storage_url(given) == "postgresql+psycopg://u:p@h/d"
    assert storage_url("postgresql+psycopg2://u@h/d") == "postgresql+psycopg2://u@h/d"


@pytest.mark.parametrize("given", ["optuna", "", "mysql", "sqlite://", "sqlite:///:memory:", "/no/such", "://", "a b"])
def test_what_names_no_database_is_refused_with_what_is_allowed(given: str) -> None:
    with pytest.raises(ConfigError, match=r"--storage: .* give a path \(optuna\.db\)") as caught:
        storage_url(given)
    assert "\n" not in str(caught.value)
    assert list(Path().glob("*.db")) == []


def test_a_password_is_never_shown() -> None:
    for url in (
        "postgresql://me:s3cr3t@h/d",
        "postgresql://me:s3cr%40t@h/d?sslmode=require",
        "postgresql://me@h/d?password=s3cr3t",
        "not a url:s3cr3t@h",
    ):
        assert "s3cr" not in shown(url)
    assert "s3cr" not in str(failure("postgresql://me:s3cr3t@h/d", ValueError("no postgresql://me:s3cr3t@h/d")))


def test_a_path_becomes_the_url_of_the_same_file(tmp_path: Path) -> None:
    assert sqlite_file(sqlite_url(tmp_path / "a?b#%.db")) == tmp_path / "a?b#%.db"
