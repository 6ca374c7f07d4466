"""The study database's address: from what the user typed to a URL, and from a URL to words that can be shown."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, exc, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from sesr_lab.errors import ConfigError, StoreAwayError, StoreError
from sesr_lab.tracking.secrets import remember

SUFFIXES = (".db", ".sqlite", ".sqlite3")
"""How a path to a SQLite file ends; another one is taken for a file only if it is there."""
ALLOWED = "give a path (optuna.db), sqlite:///PATH, or postgresql://USER@HOST/NAME"
SECRETS = ("password", "passfile", "sslpassword")

LASTING = (
    "unable to open",
    "readonly",
    "read-only",
    "not a database",
    "no such table",
    "password",
    "does not exist",
    "disk is full",
    "disk i/o error",
)
"""Of what a database says when it does not do what it is asked: these do not pass, whoever waits."""


def storage_url(given: str | None) -> str:
    """The study database's URL, the same from every working folder: `given`, or optuna.db in the current one.

    A path is a SQLite file; `~` is the home folder. PostgreSQL without a driver's name uses psycopg, as installed.

    Raises:
        ConfigError: it names no database that can be shared between processes.
    """
    if given is None:
        return sqlite_url(Path("optuna.db"))
    if _is_path(given):
        return sqlite_url(Path(given))
    try:
        url = make_url(re.sub(r"^postgres(?=[:+])", "postgresql", given))
    except (ArgumentError, ValueError):
        raise ConfigError(f"--storage: {hidden(given)!r} is not the address of a database; {ALLOWED}") from None
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigError(f"--storage: {given!r} is lost when this process ends; {ALLOWED}")
        return sqlite_url(Path(url.database), url)
    if url.drivername == "postgresql" and importlib.util.find_spec("psycopg") is not None:
        url = url.set(drivername="postgresql+psycopg")
    remember(given)
    return url.render_as_string(hide_password=False)


def sqlite_url(path: Path, like: URL | None = None) -> str:
    """The URL of a SQLite file, with the options of `like`; its characters are escaped where a URL needs that."""
    absolute = str(path if str(path).startswith("file:") else path.expanduser().absolute())
    url = (like or URL.create("sqlite")).set(database=absolute)
    return url.render_as_string(hide_password=False)


def sqlite_file(storage_url: str) -> Path | None:
    """The file of a SQLite database; None for another kind."""
    url = make_url(storage_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    return Path(url.database.removeprefix("file:"))


def shown(storage_url: str) -> str:
    """The database in words for messages: a SQLite file's path, or the URL without anything secret."""
    try:
        path = sqlite_file(storage_url)
    except (ArgumentError, ValueError):
        return hidden(storage_url)
    if path is not None:
        return str(path)
    url = make_url(storage_url)
    return url.difference_update_query([name for name in SECRETS if name in url.query]).render_as_string()


def hidden(text: str) -> str:
    """`text` with what may be a password in it left out."""
    return re.sub(r"(?<=:)[^:/@\s]+(?=@)|(?<=password=)[^&\s]+", "***", text)


@contextmanager
def reported(storage_url: str) -> Iterator[None]:
    """Turns what the database, its file or its missing driver says into a one-line StoreError."""
    try:
        yield
    except (SQLAlchemyError, ImportError, OSError) as error:
        raise failure(storage_url, error) from error


def failure(storage_url: str, error: Exception) -> StoreError:
    """The error in one line, without the URL's password, and what to do."""
    reason = hidden(str(getattr(error, "orig", None) or error).strip().splitlines()[0])
    mend = "check that it can be reached and written"
    if isinstance(error, ImportError):
        mend = f"install {error.name or 'its driver'} (PostgreSQL: pip install 'sesr-lab[postgres]')"
    elif "disk is full" in reason:
        mend = "free some space"
    passes = isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError | exc.PendingRollbackError)
    kind = StoreAwayError if passes and not any(word in str(error).lower() for word in LASTING) else StoreError
    return kind(f"study database {shown(storage_url)}: {reason}; {mend}, or name another with --storage")


def _is_path(text: str) -> bool:
    """Whether the text names a file: `optuna.db`, `./x`, `C:/x.db`, or anything that is there."""
    return "://" not in text and (text.endswith(SUFFIXES) or (bool(text) and Path(text).expanduser().is_file()))
