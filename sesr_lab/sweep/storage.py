"""Optuna's storage: opened once its schema is known to fit, its errors in one line, and its outages waited for."""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import optuna
import sqlalchemy as sa
from alembic.util.exc import CommandError
from sqlalchemy.exc import SQLAlchemyError

from sesr_lab.errors import ConfigError, StoreAwayError, StoreError
from sesr_lab.trials.database import failure, shown, sqlite_file
from sesr_lab.trials.locks import Locks

T = TypeVar("T")

PATIENCE_S = 600.0
"""How long a study database that was there before is waited for."""
PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
NOTE_AFTER_S = 2.0
VERSIONS = "alembic_version"
_NEEDED = {"studies", "trials", VERSIONS}
"""Tables of Optuna's; the last one is made last."""
_MLFLOW = {"experiments", "runs"}


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """Optuna's storage at that URL, its tables made if need be by one process alone; its chatter is turned off.

    Raises:
        StoreError: the database cannot be reached, is another program's, or has the schema of another Optuna.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    arguments = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    with storage_errors(url):
        tables = _tables(url)
        if tables >= _MLFLOW and not tables >= _NEEDED:
            raise StoreError(f"study database {shown(url)}: it is MLflow's; name a file of its own with --storage")
        try:
            with nullcontext() if tables >= _NEEDED else Locks(url).wait("schema"):
                backend = optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **arguments})
        except (RuntimeError, AssertionError, CommandError) as error:  # what Optuna says of a schema
            raise StoreError(_schema(url, str(error))) from error
    return optuna.storages.get_storage(backend)


def exists(url: str) -> bool:
    """Whether there may be studies at that URL: looking makes no SQLite file and no tables."""
    file = sqlite_file(url)
    if file is not None and not file.exists():
        return False
    with storage_errors(url):
        return _tables(url) >= _NEEDED


def studies_in(url: str, name: str | None = None) -> list[optuna.Study]:
    """The studies stored at that URL, or the one called `name`.

    Raises:
        ConfigError: there is no study of that name.
        StoreError: the database cannot be read.
    """
    known: list[str] = []
    if exists(url):
        backend = open_storage(url)
        known = optuna.get_all_study_names(backend)
    if name is not None and name not in known:
        raise ConfigError(f"study {name!r} is not in {shown(url)}; stored there: {', '.join(known) or 'none'}")
    return [optuna.load_study(study_name=each, storage=backend) for each in ([name] if name is not None else known)]


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns what the database, or Optuna about it, says into one line."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise failure(url, cause) from error
    except (SQLAlchemyError, ImportError) as error:
        raise failure(url, error) from error


class Patience:
    """Asks a database again where it was away; one that is refused, full of another schema or missing is not asked."""

    def __init__(self, url: str, note: Callable[[str], None], stop: Callable[[], None]) -> None:
        """Patience with the database at `url`; `stop` raises where the user asked to stop."""
        self.url, self.note, self.stop = url, note, stop

    def __call__(self, ask: Callable[[], T]) -> T:
        """What `ask` returns.

        Raises:
            StoreError: the database cannot do it, or was away for too long.
        """
        began, pauses, said = time.monotonic(), list(PAUSES_S), False
        while True:
            try:
                with storage_errors(self.url):
                    return ask()
            except StoreAwayError as error:
                waited = time.monotonic() - began
                if waited > PATIENCE_S:
                    raise
                if waited > NOTE_AFTER_S and not said:
                    self.note(f"waiting: {error}")
                    said = True
                self.stop()
                time.sleep(pauses.pop(0) if len(pauses) > 1 else pauses[0])


def _tables(url: str) -> set[str]:
    """The database's tables, that of the schema's version only once it says one."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = set(sa.inspect(connection).get_table_names())
        if VERSIONS in found and connection.execute(sa.text(f"select count(*) from {VERSIONS}")).scalar() == 0:
            found.remove(VERSIONS)
    return found


def _schema(url: str, said: str) -> str:
    """What is wrong with the schema, and what can be done about it."""
    maker = re.search(r"set up by optuna ([^)\s]+)\)", said)
    of = f"made by Optuna {maker[1]}" if maker else "made by another Optuna"
    mend = "optuna storage upgrade --storage URL" if "storage upgrade" in said else "pip install -U optuna"
    return (
        f"study database {shown(url)}: {of}, and Optuna {optuna.__version__} cannot read its tables; copy the file, "
        f"then run `{mend}`, or name another database with --storage"
    )
