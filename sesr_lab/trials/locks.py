"""Locks: who is doing something that must be done once. The operating system or the database holds them.

On SQLite a lock is a locked file beside the database, on PostgreSQL an advisory lock of a connection that is held
open. Either ends with its owner, however the owner ends: there is no lease, and no clock, process number or host name
decides. MLflow's registry has no compare-and-set, which is why this is not kept there.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from uuid import uuid4

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from sesr_lab.errors import StoreError
from sesr_lab.trials.database import failure, reported, shown, sqlite_file

POLL_SECONDS = 0.5

_METADATA = sa.MetaData()
_DATABASE = sa.Table("sesr_database", _METADATA, sa.Column("id", sa.String(32), primary_key=True))
_OLD_CLAIMS = "sesr_claims"
"""Where version 0.1.0 kept the database's name, among its claims."""


class Lock(Protocol):
    """Something that this process alone does now; used as a context, it is given back at the end."""

    key: str

    def current(self) -> bool:
        """Whether it is still ours: what must be true right before something is published."""
        ...

    def release(self) -> None:
        """Gives it back; a second time changes nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Context(ABC):
    """The part that both kinds of lock share: they are contexts."""

    @abstractmethod
    def release(self) -> None:
        """Gives it back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Locks:
    """The locks that go with one database."""

    def __init__(self, storage_url: str) -> None:
        """Locks for the database at `storage_url`, which need not be there yet."""
        self.url = storage_url
        file = sqlite_file(storage_url)
        self._folder = None if file is None else file.with_name(f"{file.name}.locks")

    @property
    def shared(self) -> bool:
        """Whether several hosts may work on the database at once: PostgreSQL, but not a SQLite file."""
        return self._folder is None

    @cached_property
    def identity(self) -> str:
        """Names this database, whoever opens it and however: 32 hex digits drawn once.

        Raises:
            StoreError: the database cannot be reached or written.
        """
        with self.wait("database"), reported(self.url), self._engine.begin() as connection:
            _METADATA.create_all(connection)
            known = connection.execute(sa.select(_DATABASE.c.id)).scalar() or self._drawn_before(connection)
            if known is None:
                known = uuid4().hex
            if connection.execute(sa.select(_DATABASE.c.id)).first() is None:
                connection.execute(_DATABASE.insert().values(id=known))
            return str(known)

    def take(self, key: str) -> Lock | None:
        """The lock called `key`, or None while another process, or another part of this one, has it.

        Raises:
            StoreError: the database, or the folder beside it, cannot be reached or written.
        """
        if self._folder is None:
            return _DatabaseLock.take(self, key)
        return _FileLock.take(self._folder, key, self.url)

    def wait(self, key: str, waiting: Callable[[str], None] = lambda holder: None) -> Lock:
        """The lock called `key`, once it is free.

        Args:
            waiting: called about twice a second with who has it; may raise to give up.
        """
        pause = 0.02
        while (lock := self.take(key)) is None:
            waiting(self.holder(key))
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS)
        return lock

    def holder(self, key: str) -> str:
        """Who has the lock, in words for a message."""
        if self._folder is not None:
            return _FileLock.holder(self._folder, key)
        asked = sa.text(
            "select a.application_name from pg_locks l join pg_stat_activity a on a.pid = l.pid"
            " where l.locktype = 'advisory' and l.database = (select oid from pg_database where datname ="
            " current_database()) and ((l.classid::bigint << 32) | l.objid::bigint) = :key and l.granted"
        )
        with reported(self.url), self._engine.connect() as connection:
            return str(connection.execute(asked, {"key": _number(key)}).scalar() or "another process")

    def held(self, keys: Iterable[str]) -> set[str]:
        """Which of the locks somebody has, of a database that is shared."""
        asked = sa.text(
            "select (classid::bigint << 32) | objid::bigint from pg_locks where locktype = 'advisory' and granted"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        with reported(self.url), self._engine.connect() as connection:
            numbers = set(connection.execute(asked).scalars())
        return {key for key in keys if _number(key) in numbers}

    def up_s(self) -> float:
        """For how many seconds a shared database has kept its connections, and with them the locks, by its own clock.

        After the crash of one of its processes PostgreSQL closes them all, though its first process goes on: the
        checkpointer's age tells that to whoever may see it.
        """
        asked = sa.text(
            "select extract(epoch from clock_timestamp() - greatest(pg_postmaster_start_time(),"
            " (select max(backend_start) from pg_stat_activity where backend_type = 'checkpointer')))"
        )
        with reported(self.url), self._engine.connect() as connection:
            return float(connection.execute(asked).scalar_one())

    @cached_property
    def _engine(self) -> sa.Engine:
        """Makes connections that are closed when they are given back, so that a lock ends with its own."""
        sqlite = self.url.startswith("sqlite")
        with reported(self.url):
            return sa.create_engine(
                self.url, poolclass=sa.NullPool, connect_args={"timeout": 60} if sqlite else {"connect_timeout": 10}
            )

    def _drawn_before(self, connection: sa.Connection) -> str | None:
        """The name that version 0.1.0 gave to this database."""
        if not sa.inspect(connection).has_table(_OLD_CLAIMS):
            return None
        asked = sa.text(f"select owner from {_OLD_CLAIMS} where key = 'database'")
        return connection.execute(asked).scalar()


class _FileLock(_Context):
    """A locked file beside a SQLite database."""

    def __init__(self, key: str, lock: FileLock, holder: Path) -> None:
        self.key, self._lock, self._holder = key, lock, holder

    @classmethod
    def take(cls, folder: Path, key: str, url: str) -> _FileLock | None:
        path = _path(folder, key)
        lock = FileLock(path, thread_local=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            return None
        except OSError as error:
            reason = f"{error.strerror or error} ({folder})"
            raise StoreError(
                f"study database {shown(url)}: its locks cannot be made: {reason}; see to the folder"
            ) from error
        holder = path.with_suffix(".holder")
        with suppress(OSError):  # for messages only
            holder.write_text(_myself(), encoding="utf-8")
        return cls(key, lock, holder)

    @staticmethod
    def holder(folder: Path, key: str) -> str:
        try:
            return _path(folder, key).with_suffix(".holder").read_text(encoding="utf-8") or "another process"
        except OSError:
            return "another process"

    def current(self) -> bool:
        return bool(self._lock.is_locked)

    def release(self) -> None:
        if self._lock.is_locked:
            with suppress(OSError):
                self._holder.unlink()
            self._lock.release()


class _DatabaseLock(_Context):
    """An advisory lock of PostgreSQL, held by a connection of its own."""

    def __init__(self, locks: Locks, key: str, connection: sa.Connection) -> None:
        self._locks, self.key, self._connection = locks, key, connection

    @classmethod
    def take(cls, locks: Locks, key: str) -> _DatabaseLock | None:
        connection = _locked(locks, key)
        return None if connection is None else cls(locks, key, connection)

    def current(self) -> bool:
        """As long as its connection lives it is ours; after a restart of the server it is taken again if it is free."""
        try:
            self._connection.execute(sa.text("select 1"))
        except SQLAlchemyError:
            self.release()
            again = _locked(self._locks, self.key)
            if again is None:
                return False
            self._connection = again
        return True

    def release(self) -> None:
        with suppress(SQLAlchemyError):  # a connection that is gone has released it
            self._connection.close()


def _locked(locks: Locks, key: str) -> sa.Connection | None:
    """A connection that holds the advisory lock, or None if another has it."""
    with reported(locks.url):
        connection = locks._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        # A host that lost its power closes no connection: the server finds out in a minute, not in two hours.
        for setting, seconds in (("idle", 30), ("interval", 10), ("count", 3)):
            connection.execute(sa.text(f"set tcp_keepalives_{setting} = {seconds}"))
        connection.execute(sa.text("select set_config('application_name', :name, false)"), {"name": _myself()[:63]})
        if connection.execute(sa.text("select pg_try_advisory_lock(:key)"), {"key": _number(key)}).scalar():
            return connection
    except SQLAlchemyError as error:
        connection.close()
        raise failure(locks.url, error) from error
    connection.close()
    return None


def _path(folder: Path, key: str) -> Path:
    """A readable file name that no other key has."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", key)[:80]
    return folder / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.lock"


def _number(key: str) -> int:
    """The key as the signed 64-bit number by which PostgreSQL knows a lock."""
    return int.from_bytes(hashlib.sha256(f"sesr-lab:{key}".encode()).digest()[:8], "big", signed=True)


def _myself() -> str:
    """This process in words for a message; nothing is decided by them."""
    return f"sesr-lab process {os.getpid()} on {socket.gethostname()}"
