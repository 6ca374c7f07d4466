"""Claims: who is doing something that must be done once. They are kept in Optuna's storage database.

A claim has an owner, an attempt number and an expiry that its owner keeps pushing forward. It outlives its
owner's death and is then taken over: at once if the owner ran on this host, after the lease elsewhere. The
attempt number fences: an owner that comes back after a take-over finds that its attempt is no longer current.
MLflow's registry has no compare-and-set, which is why this is not kept there.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from sesr_lab.errors import StoreError
from sesr_lab.tracking.store import shown

LEASE_SECONDS = 30.0
POLL_SECONDS = 0.5

State = Literal["held", "done", "failed"]

_METADATA = sa.MetaData()
_CLAIMS = sa.Table(
    "sesr_claims",
    _METADATA,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("note", sa.String(2000), nullable=False),
)


@dataclass(frozen=True)
class Holder:
    """What the table says of a claim."""

    owner: str
    attempt: int
    expires_at: float
    state: State
    note: str

    @property
    def alive(self) -> bool:
        """Whether someone holds it and still renews it."""
        return self.state == "held" and not _dead_here(self.owner) and self.expires_at > time.time()


class Claims:
    """The claims in one database."""

    def __init__(self, storage_url: str, *, lease_s: float = LEASE_SECONDS) -> None:
        """Opens the database, and makes the table if need be.

        Raises:
            StoreError: it cannot be reached or written.
        """
        self.url, self.lease_s = storage_url, lease_s
        arguments = {"timeout": 60} if storage_url.startswith("sqlite") else {}
        with reported(storage_url):
            self._engine = sa.create_engine(storage_url, connect_args=arguments, pool_pre_ping=True)
            self._make_table()

    @cached_property
    def identity(self) -> str:
        """Names this database, whoever opens it and however: 32 hex digits drawn once."""
        drawn = {"owner": uuid4().hex, "attempt": 0, "expires_at": 0.0, "state": "done", "note": "this database's id"}
        self._insert("database", drawn)
        holder = self.look("database")
        assert holder is not None, "it was there, or was just put there"
        return holder.owner

    def look(self, key: str) -> Holder | None:
        """Who holds `key`, or held it last."""
        columns = [column for column in _CLAIMS.c if column.name != "key"]
        with reported(self.url), self._engine.connect() as connection:
            row = connection.execute(sa.select(*columns).where(_CLAIMS.c.key == key)).first()
        return Holder(*row) if row else None

    def take(self, key: str) -> Claim | None:
        """The claim on `key`, or None while another living owner holds it."""
        holder = self.look(key)
        if holder is not None and holder.alive:
            return None
        attempt = holder.attempt + 1 if holder else 1
        values = {
            "owner": _myself(),
            "attempt": attempt,
            "expires_at": time.time() + self.lease_s,
            "state": "held",
            "note": "",
        }
        taken = self._insert(key, values) if holder is None else self._steal(key, holder.attempt, values)
        return Claim(self, key, attempt) if taken else None

    def wait(self, key: str, *, waiting: Callable[[Holder], None]) -> Claim | Holder:
        """The claim once it is free; or, if it was held, how the one who held it ended: done or failed.

        Args:
            waiting: called about twice a second while another holds it; may raise to give up.
        """
        seen: Holder | None = None
        while True:
            holder = self.look(key)
            if seen is not None and holder is not None and holder.state != "held":
                if holder.attempt >= seen.attempt:
                    return holder
            elif (claim := self.take(key)) is not None:
                return claim
            elif holder is not None and holder.alive:
                seen = holder
                waiting(holder)
                time.sleep(POLL_SECONDS)

    def renew(self, key: str, attempt: int) -> bool:
        """Pushes the expiry forward; False if the claim is no longer this attempt's."""
        return self._update(key, attempt, expires_at=time.time() + self.lease_s)

    def settle(self, key: str, attempt: int, state: State, note: str = "") -> bool:
        """Ends a claim as done or failed; False if it was no longer this attempt's."""
        return self._update(key, attempt, state=state, note=note[:2000])

    def _make_table(self) -> None:
        """Of several processes that start at once, one makes the table; the others find it made."""
        try:
            _METADATA.create_all(self._engine, checkfirst=True)
        except SQLAlchemyError:
            if not sa.inspect(self._engine).has_table(_CLAIMS.name):
                raise

    def _insert(self, key: str, values: dict[str, object]) -> bool:
        try:
            with self._engine.begin() as connection:
                connection.execute(_CLAIMS.insert().values(key=key, **values))
        except IntegrityError:  # another was first
            return False
        except SQLAlchemyError as error:
            raise failure(self.url, error) from error
        return True

    def _steal(self, key: str, attempt: int, values: dict[str, object]) -> bool:
        with reported(self.url), self._engine.begin() as connection:
            mine = (_CLAIMS.c.key == key) & (_CLAIMS.c.attempt == attempt)
            return connection.execute(_CLAIMS.update().where(mine).values(**values)).rowcount == 1

    def _update(self, key: str, attempt: int, **values: object) -> bool:
        current = (_CLAIMS.c.key == key) & (_CLAIMS.c.attempt == attempt) & (_CLAIMS.c.state == "held")
        with reported(self.url), self._engine.begin() as connection:
            return connection.execute(_CLAIMS.update().where(current).values(**values)).rowcount == 1


class Claim:
    """A claim that this process holds; used as a context, it is renewed by a thread and settled at the end."""

    def __init__(self, claims: Claims, key: str, attempt: int) -> None:
        self.claims, self.key, self.attempt = claims, key, attempt
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"claim {key}", daemon=True)

    def current(self) -> bool:
        """Whether the claim is still ours, asked of the database: what must be true right before publishing."""
        return self.claims.renew(self.key, self.attempt)

    def settle(self, state: State, note: str = "") -> None:
        """Ends the claim; later calls change nothing."""
        self._stop.set()
        self.claims.settle(self.key, self.attempt, state, note)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settles as done, or as failed with the error's text; an interrupt leaves no verdict, only a free claim."""
        if isinstance(error, Exception):
            self.settle("failed", str(error))
        elif error is None:
            self.settle("done")
        else:
            self._stop.set()
            self.claims._update(self.key, self.attempt, expires_at=0.0)
        self._thread.join()

    def _keep(self) -> None:
        while not self._stop.wait(self.claims.lease_s / 3):
            try:
                if not self.claims.renew(self.key, self.attempt):
                    return
            except StoreError:
                continue  # the database is away for a moment; `current` decides before anything is published


@contextmanager
def reported(storage_url: str) -> Iterator[None]:
    """Turns what the database or its missing driver says into a one-line StoreError."""
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        raise failure(storage_url, error) from error


def failure(storage_url: str, error: Exception) -> StoreError:
    """The error in one line, without the URL's password, and what to do."""
    reason = str(getattr(error, "orig", None) or error).splitlines()[0]
    mend = "check that it can be reached and written"
    if isinstance(error, ImportError):
        mend = f"install {error.name or 'its driver'}"
    return StoreError(f"study database {shown(storage_url)}: {reason}; {mend}, or name another with --storage")


def _myself() -> str:
    """host/namespace:pid:start of this process; the start tells a later process with the same pid apart."""
    return f"{_host()}:{os.getpid()}:{_started(os.getpid())}"


def _host() -> str:
    """This host and, where the system tells, the space in which its process numbers mean something."""
    try:
        return f"{socket.gethostname()}/{str(Path('/proc/self/ns/pid').readlink())[5:-1]}"
    except OSError:
        return socket.gethostname()


def _dead_here(owner: str) -> bool:
    """Whether `owner` ran on this host and does not any more."""
    host, pid, started = owner.rsplit(":", 2)
    if host != _host():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return started != _started(int(pid))


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot, where /proc tells; "ended" if it only awaits its parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = stat.rsplit(")", 1)[1].split()
    return "ended" if fields[0] in ("Z", "X") else fields[19]
