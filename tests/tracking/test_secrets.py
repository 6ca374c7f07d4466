"""Passwords and tokens: hidden wherever a URI, an environment or an error may show them."""

from pathlib import Path
from uuid import uuid4

import pytest
from mlflow_store import new_store

from sesr_lab.tracking.secrets import hide, shown, without_credentials


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:hunter22@host/x", "http://me:***@host/x"),
        ("postgresql+psycopg://me:hunter22@host/db", "postgresql+psycopg://me:***@host/db"),
        ("https://token12@host", "https://***@host"),
        ("postgresql://host/db?password=hunter22&x=1", "postgresql://host/db?password=***&x=1"),
        ("s3://bucket?X-Amz-Signature=abcdef", "s3://bucket?X-Amz-Signature=***"),
        ("(http://me:hunter22@host): no answer", "(http://me:***@host): no answer"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
    ],
)
def test_what_is_secret_in_a_uri_is_hidden(text: str, expected: str) -> None:
    assert hide(text) == expected


def test_a_password_is_hidden_by_itself_once_its_uri_was_seen() -> None:
    shown("postgresql://me:p%40ss-w0rd@host/db")
    assert hide('password authentication failed: "p@ss-w0rd", p%40ss-w0rd') == (
        'password authentication failed: "***", ***'
    )


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD"])
def test_the_environment_s_passwords_are_hidden(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "correct-horse")
    assert hide("it was correct-horse") == "it was ***"


def test_one_store_is_the_same_place_for_every_user() -> None:
    mine, theirs = "http://me:hunter22@Host:5000/x", "http://you:other@host:5000/x"
    assert without_credentials(mine) == without_credentials(theirs) == "http://host:5000/x"


def test_no_secret_reaches_a_run_or_this_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct-horse")
    tracker = new_store(tmp_path)
    run = tracker.begin(uuid4().hex, experiment="trials", name="t0001", tags={"source": "http://me:hunter22@host"})
    run.log_params({"data": "https://host/x?token=correct-horse"})
    run.log_dataset("d", "https://me:hunter22@host/d.zip", digest="0", profile={}, context="training")
    run.set_tags({"sesr.reason": "cannot reach http://me:hunter22@host"})
    run.end("FAILED", "failed")
    assert tracker.flush() == 0
    for path in tmp_path.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert b"hunter22" not in content, path
        assert b"correct-horse" not in content, path
