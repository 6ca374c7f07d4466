"""On a real SQLite file and a real PostgreSQL, with real processes and real kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import postgres
import pytest
import sqlalchemy as sa
from labs import until

from sesr_lab.errors import StoreError
from sesr_lab.trials.locks import Lock, Locks

KEY = "parent:sesr-m5-f16-p256-collapsed-x2@abc"

OWNER = """
import sys, time
from sesr_lab.trials.locks import Locks
lock = Locks(sys.argv[1]).take(sys.argv[2])
print("none" if lock is None else "held", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    server = postgres.Server()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'optuna.db'}"
    return request.getfixturevalue("server").database()


def taken(url: str, key: str = KEY) -> Lock:
    lock = Locks(url).take(key)
    assert lock is not None
    return lock


@contextmanager
def owner(url: str, key: str = KEY) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, url, key], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_lock_has_one_owner_until_it_is_given_back(url: str) -> None:
    lock = taken(url)
    assert lock.current()
    assert Locks(url).take(KEY) is None, "not even to another part of the same process"
    lock.release()
    lock.release()
    with taken(url):
        assert Locks(url).take(KEY) is None
    assert taken(url).current()


def test_locks_of_other_names_and_of_other_databases_are_free(url: str, tmp_path: Path) -> None:
    with taken(url):
        taken(url, KEY + ".")
        taken(url, "study:照片")
        assert Locks(url).take("study:图片") is not None, "whatever letters its name is written in"
        taken(f"sqlite:///{tmp_path / 'another.db'}")


def test_an_error_or_an_interrupt_gives_the_lock_back(url: str) -> None:
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), taken(url):
            raise error
    assert taken(url).current()


def test_a_killed_owners_lock_is_free_at_once_before_its_parent_takes_notice(url: str) -> None:
    with owner(url) as process:
        assert Locks(url).take(KEY) is None
        process.send_signal(signal.SIGKILL)
        until(lambda: Locks(url).take(KEY) is not None, timeout_s=5)
        # `process` has not been waited for: it is a zombie


def test_a_stopped_owner_keeps_its_lock_for_as_long_as_it_sleeps(url: str) -> None:
    with owner(url) as process:
        process.send_signal(signal.SIGSTOP)
        assert Locks(url).take(KEY) is None


def test_the_owner_is_named_for_messages(url: str) -> None:
    with owner(url) as process:
        assert f"process {process.pid} on " in Locks(url).holder(KEY)
    assert Locks(url).holder("free") == "another process"


def test_who_waits_gets_the_lock_when_it_is_given_back_and_may_give_up(url: str) -> None:
    lock = taken(url)
    threading.Timer(0.3, lock.release).start()
    seen: list[str] = []
    with Locks(url).wait(KEY, seen.append) as mine:
        assert mine.current()
        assert seen

        def give_up(holder: str) -> None:
            raise TimeoutError(holder)

        with pytest.raises(TimeoutError, match=f"process {os.getpid()} on"):
            Locks(url).wait(KEY, give_up)


@pytest.mark.slow
def test_of_eight_processes_that_want_a_lock_at_once_one_gets_it(url: str) -> None:
    run = [sys.executable, "-c", OWNER, url, KEY]
    processes = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    try:
        said = sorted(process.stdout.readline() for process in processes if process.stdout)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert said == ["held\n"] + ["none\n"] * 7


def test_a_database_has_one_name_for_everybody_who_opens_it(url: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: Locks(url).identity, range(8)))
    assert len(names) == 1
    assert Locks(f"sqlite:///{tmp_path / 'another.db'}").identity not in names


def test_a_database_of_version_0_1_0_keeps_its_name(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table sesr_claims (key varchar(255) primary key, owner varchar(255))")
        connection.exec_driver_sql("insert into sesr_claims values ('database', 'abc'), ('study:x', 'host:1:2')")
    engine.dispose()
    assert Locks(url).identity == "abc"


def test_a_folder_that_cannot_hold_locks_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "optuna.db.locks").write_text("a file in the way")
    with pytest.raises(StoreError, match=r"study database .*optuna\.db: its locks cannot be made") as caught:
        Locks(f"sqlite:///{tmp_path / 'optuna.db'}").take(KEY)
    assert "\n" not in str(caught.value)


def test_a_server_that_does_not_answer_is_an_error_in_one_line_without_its_password() -> None:
    with pytest.raises(StoreError, match="study database postgresql") as caught:
        Locks("postgresql+psycopg://me:s3cr3t@127.0.0.1:1/x?connect_timeout=1").take(KEY)
    assert "\n" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.slow
def test_after_a_restart_of_the_server_a_lock_is_taken_again_unless_another_was_faster() -> None:
    server = postgres.Server()
    try:
        url = server.database()
        mine, lost = taken(url, "mine"), taken(url, "lost")
        server.kill()
        server.start()
        with owner(url, "lost"):
            assert mine.current()
            assert not lost.current()
        assert Locks(url).take("mine") is None
    finally:
        server.remove()
