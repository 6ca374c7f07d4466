"""On a real SQLite database, with real processes and real kills."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from sesr_lab.errors import StoreError
from sesr_lab.trials import claims as claims_module
from sesr_lab.trials.claims import Claim, Claims, Holder

KEY = "parent:sesr-m5-f16-p256-collapsed-x2@abc"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'optuna.db'}"


@pytest.fixture
def claims(url: str) -> Claims:
    return Claims(url)


def taken(claims: Claims, key: str = KEY) -> Claim:
    claim = claims.take(key)
    assert claim is not None
    return claim


def holder_of(claims: Claims, key: str = KEY) -> Holder:
    holder = claims.look(key)
    assert holder is not None
    return holder


def rewrite(url: str, **values: object) -> None:
    """Puts values into the row of KEY, as another host would have."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        assignments = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(sa.text(f"UPDATE sesr_claims SET {assignments} WHERE key = :key"), {**values, "key": KEY})
    engine.dispose()


OWNER = """
import sys, time
from sesr_lab.trials.claims import Claims
claim = Claims(sys.argv[1]).take(sys.argv[2])
print("none" if claim is None else claim.attempt, flush=True)
if claim is not None:
    with claim:
        time.sleep(600)
"""


@contextmanager
def owner_elsewhere(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the claim and keeps it."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, url, KEY], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def unheard(holder: Holder) -> None:
    raise AssertionError(f"waited for {holder}")


# One owner at a time


def test_a_second_owner_gets_nothing_while_the_first_one_lives(url: str) -> None:
    first, second = Claims(url), Claims(url)
    claim = taken(first)
    assert second.take(KEY) is None
    assert claim.attempt == 1
    assert holder_of(second).alive


def test_claims_on_other_keys_are_free(claims: Claims) -> None:
    taken(claims)
    assert taken(claims, "another").attempt == 1
    assert claims.look("a third") is None


def test_a_claim_that_has_ended_can_be_taken_again_as_another_attempt(claims: Claims) -> None:
    with taken(claims):
        pass
    assert holder_of(claims).state == "done"
    assert taken(claims).attempt == 2
    assert holder_of(claims).state == "held"


def test_of_many_threads_exactly_one_wins(url: str) -> None:
    for round_ in range(5):
        key, start = f"key {round_}", threading.Barrier(8)

        def compete(_: int, key: str = key, start: threading.Barrier = start) -> Claim | None:
            mine = Claims(url)
            start.wait()
            return mine.take(key)

        with ThreadPoolExecutor(8) as pool:
            won = [claim for claim in pool.map(compete, range(8)) if claim is not None]
        assert [claim.attempt for claim in won] == [1]


def test_of_many_threads_exactly_one_takes_over_what_has_lapsed(url: str) -> None:
    for attempt in range(2, 7):
        taken(Claims(url, lease_s=-1.0)) if attempt == 2 else rewrite(url, expires_at=0.0)
        start = threading.Barrier(8)

        def compete(_: int, start: threading.Barrier = start) -> Claim | None:
            mine = Claims(url)
            start.wait()
            return mine.take(KEY)

        with ThreadPoolExecutor(8) as pool:
            won = [claim for claim in pool.map(compete, range(8)) if claim is not None]
        assert [claim.attempt for claim in won] == [attempt]


RACER = """
import sys, time
from pathlib import Path
from sesr_lab.trials.claims import Claims
print("ready", flush=True)
for round_ in sys.stdin:
    url, key, at = round_.split()
    time.sleep(max(0.0, float(at) - time.time()))
    print("lost" if Claims(url).take(key) is None else "won", flush=True)
"""


@pytest.mark.slow
def test_of_many_processes_on_a_new_database_exactly_one_wins(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    try:
        said = [racer.stdout.readline() for racer in racers if racer.stdout]
        assert said == ["ready\n"] * 6
        for round_ in range(10):
            line = f"sqlite:///{tmp_path}/{round_}.db {KEY} {time.time() + 0.05}\n"
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write(line)
                racer.stdin.flush()
            said = sorted(racer.stdout.readline() for racer in racers if racer.stdout)
            assert said == ["lost\n"] * 5 + ["won\n"], round_
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def test_a_new_database_can_be_opened_by_many_at_once(tmp_path: Path) -> None:
    for round_ in range(5):
        start = threading.Barrier(6)

        def open_it(_: int, round_: int = round_, start: threading.Barrier = start) -> Claim | None:
            start.wait()
            return Claims(f"sqlite:///{tmp_path}/{round_}.db").take(KEY)

        with ThreadPoolExecutor(6) as pool:
            won = [claim for claim in pool.map(open_it, range(6)) if claim is not None]
        assert len(won) == 1


# Take-over


def test_a_killed_owners_claim_is_taken_over_at_once(url: str, claims: Claims) -> None:
    with owner_elsewhere(url) as owner:
        assert claims.take(KEY) is None
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        assert not holder_of(claims).alive
        assert holder_of(claims).expires_at > time.time() + 15  # the lease would have lasted
        assert taken(claims).attempt == 2


def test_a_killed_owner_is_dead_before_its_parent_process_takes_notice(url: str, claims: Claims) -> None:
    with owner_elsewhere(url) as owner:
        os.kill(owner.pid, signal.SIGKILL)
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        assert taken(claims).attempt == 2


def test_a_stopped_owner_is_not_dead(url: str, claims: Claims) -> None:
    with owner_elsewhere(url) as owner:
        os.kill(owner.pid, signal.SIGSTOP)
        assert claims.take(KEY) is None


def test_another_process_with_a_dead_owners_number_does_not_pass_for_it(url: str, claims: Claims) -> None:
    taken(claims)
    host, pid, started = holder_of(claims).owner.rsplit(":", 2)
    assert started
    rewrite(url, owner=f"{host}:{pid}:{int(started) - 1}")
    assert taken(claims).attempt == 2


def test_another_hosts_claim_is_taken_over_when_its_lease_has_lapsed_and_not_before(url: str, claims: Claims) -> None:
    taken(claims)
    _, pid, _ = holder_of(claims).owner.rsplit(":", 2)
    rewrite(url, owner=f"another.host:{pid}:1", expires_at=time.time() + 60)
    assert claims.take(KEY) is None
    rewrite(url, expires_at=time.time() - 0.001)
    assert taken(claims).attempt == 2


def test_a_claim_in_use_is_renewed_beyond_its_lease(url: str) -> None:
    claims = Claims(url, lease_s=0.3)
    with taken(claims):
        first = holder_of(claims).expires_at
        deadline = time.monotonic() + 10
        while holder_of(claims).expires_at < first + 0.3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert holder_of(claims).expires_at > first + 0.29
        assert Claims(url).take(KEY) is None


# Fencing


def test_an_owner_that_comes_back_after_a_take_over_can_change_nothing(url: str, claims: Claims) -> None:
    old = taken(claims)
    rewrite(url, expires_at=0.0)
    new = taken(Claims(url))
    held = holder_of(claims)
    assert not old.current()
    assert not claims.renew(KEY, old.attempt)
    assert not claims.settle(KEY, old.attempt, "failed", "too late")
    assert holder_of(claims) == held
    assert new.current()


def test_the_old_owners_context_ends_without_a_verdict_on_the_new_owners_claim(url: str, claims: Claims) -> None:
    with taken(claims):
        rewrite(url, expires_at=0.0)
        new = taken(Claims(url))
    assert holder_of(claims).state == "held"
    assert new.current()


def test_a_settled_claim_is_nobodys(claims: Claims) -> None:
    claim = taken(claims)
    assert claim.current()
    claim.settle("done")
    assert not claim.current()
    claim.settle("failed", "later")
    assert (holder_of(claims).state, holder_of(claims).note) == ("done", "")


# How a claim ends


def test_an_error_settles_the_claim_as_failed_with_its_text(claims: Claims) -> None:
    with pytest.raises(ValueError, match="no such luck"), taken(claims):
        raise ValueError("no such luck")
    assert (holder_of(claims).state, holder_of(claims).note) == ("failed", "no such luck")


def test_a_very_long_error_is_cut_to_what_the_table_holds(claims: Claims) -> None:
    with pytest.raises(ValueError, match="xxx"), taken(claims):
        raise ValueError("x" * 5000)
    assert holder_of(claims).note == "x" * 2000


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_leaves_the_claim_free_and_without_a_verdict(
    claims: Claims, interrupt: type[BaseException]
) -> None:
    with pytest.raises(interrupt), taken(claims):
        raise interrupt
    assert holder_of(claims).state == "held"
    assert not holder_of(claims).alive
    assert taken(claims).attempt == 2


def test_a_verdict_given_inside_the_context_stays(claims: Claims) -> None:
    with taken(claims) as claim:
        claim.settle("failed", "diverged: the loss became 0.3")
    assert (holder_of(claims).state, holder_of(claims).note) == ("failed", "diverged: the loss became 0.3")


def test_no_thread_is_left_when_a_claim_has_ended(claims: Claims) -> None:
    before = threading.active_count()
    with taken(claims):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


# Waiting


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "POLL_SECONDS", 0.01)


def test_waiting_for_what_is_free_gives_the_claim(claims: Claims) -> None:
    claim = claims.wait(KEY, waiting=unheard)
    assert isinstance(claim, Claim)
    assert claim.attempt == 1


@pytest.mark.parametrize("state", ["done", "failed"])
def test_what_ended_before_anyone_waited_is_free(claims: Claims, state: claims_module.State) -> None:
    taken(claims).settle(state)
    claim = claims.wait(KEY, waiting=unheard)
    assert isinstance(claim, Claim)
    assert claim.attempt == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("state", "note"), [("done", ""), ("failed", "diverged")])
def test_who_waits_learns_how_the_one_who_held_it_ended(url: str, state: claims_module.State, note: str) -> None:
    claim = taken(Claims(url))
    heard: list[Holder] = []

    def settle(holder: Holder) -> None:
        heard.append(holder)
        if len(heard) == 3:
            claim.settle(state, note)

    ended = Claims(url).wait(KEY, waiting=settle)
    assert isinstance(ended, Holder)
    assert (ended.state, ended.note, ended.attempt) == (state, note, 1)
    assert len(heard) == 3


@pytest.mark.usefixtures("impatient")
def test_who_waits_takes_over_from_an_owner_that_dies(url: str, claims: Claims) -> None:
    with owner_elsewhere(url) as owner:

        def kill(_: Holder) -> None:
            owner.kill()
            owner.wait()

        claim = claims.wait(KEY, waiting=kill)
    assert isinstance(claim, Claim)
    assert claim.attempt == 2


@pytest.mark.usefixtures("impatient")
def test_who_waits_takes_over_from_an_owner_that_was_interrupted(url: str) -> None:
    claim = taken(Claims(url))

    def interrupt(_: Holder) -> None:
        with pytest.raises(KeyboardInterrupt), claim:
            raise KeyboardInterrupt

    found = Claims(url).wait(KEY, waiting=interrupt)
    assert isinstance(found, Claim)
    assert found.attempt == 2


def test_who_waits_may_give_up(url: str, claims: Claims) -> None:
    taken(Claims(url))

    def give_up(_: Holder) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        claims.wait(KEY, waiting=give_up)


# Databases that cannot be used


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:////proc/nope/x.db", "unable to open database file"),
        ("nonsense", "Could not parse"),
        ("nosuch://host/db", "nosuch"),
        ("postgresql://user:secret@127.0.0.1:9/db", ""),  # no server, or no driver
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_its_password(url: str, says: str) -> None:
    with pytest.raises(StoreError) as caught:
        Claims(url)
    line = str(caught.value)
    assert line.startswith("study database ")
    assert says in line
    assert "--storage" in line
    assert "\n" not in line
    assert "secret" not in line


def test_a_file_that_is_no_database_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_text("this is no database" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        Claims(f"sqlite:///{tmp_path / 'optuna.db'}")


def test_renewing_goes_on_when_a_database_that_went_away_comes_back(url: str) -> None:
    claims = Claims(url, lease_s=0.15)
    with taken(claims), sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text("ALTER TABLE sesr_claims RENAME TO away"))
        with pytest.raises(StoreError, match="no such table"):
            claims.look(KEY)
        time.sleep(0.2)  # renewing has failed at least once
        connection.execute(sa.text("ALTER TABLE away RENAME TO sesr_claims"))
        lapsed = holder_of(claims).expires_at
        deadline = time.monotonic() + 10
        while holder_of(claims).expires_at == lapsed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert holder_of(claims).expires_at > lapsed
    assert holder_of(claims).state == "done"
