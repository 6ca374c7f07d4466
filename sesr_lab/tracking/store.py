"""The MLflow store that runs go to: which one it is, opening it, and saying what is wrong with it in one line."""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sesr_lab.errors import StoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient

INSTALL = "pip install 'mlflow>=3.17'"
_SQLITE = "sqlite:///"
_BOUNDED_DRIVERS = {"psycopg2", "psycopg", "pymysql", "mysqldb"}
"""Database drivers whose `connect` takes `connect_timeout`, in seconds."""

# MLflow's own patience is 7 retries of 120 s each: about four minutes for a server that is down.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
# Both write to standard output or error in the middle of ours.
_SILENCE = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def connect(uri: str | None = None) -> tuple[str, MlflowClient]:
    """The absolute URI of the store, and a client of it that has answered once.

    The store is `uri`, else MLFLOW_TRACKING_URI, else the one that `mlflow ui` shows in this folder. A SQLite
    file is made if there is none. Settings of MLflow that the user has put into the environment stay.

    Raises:
        StoreError: MLflow is missing, or the store cannot be reached, read or written.
    """
    mlflow = _mlflow()
    _prepare()
    found = absolute(uri or mlflow.get_tracking_uri())
    with reporting(found, "open it"):
        _check(found)
        client = mlflow.MlflowClient(tracking_uri=found)
        client.search_experiments(max_results=1)
    return found, client


def absolute(uri: str) -> str:
    """The same store, in a form that does not depend on the working folder."""
    if uri.startswith(_SQLITE):
        return _SQLITE + str(Path(uri.removeprefix(_SQLITE)).absolute())
    if len(urlsplit(uri).scheme) < 2:  # a path; one letter is a Windows drive
        return Path(uri).absolute().as_uri()
    return uri.rstrip("/")


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite store; None for any other."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None


def is_http(uri: str) -> bool:
    """Whether the store is an MLflow server."""
    return urlsplit(uri).scheme in {"http", "https"}


def shown(uri: str) -> str:
    """The URI without its password, for messages."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    return uri.replace(f":{parts.password}@", ":***@", 1)


@contextmanager
def reporting(uri: str, doing: str) -> Iterator[None]:
    """Turns what MLflow raises into a one-line StoreError: "URI: cannot DOING: why; what to do"."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        raise StoreError(f"{shown(uri)}: cannot {doing}: {_reason(error)}; {_advice(uri, error)}") from error


def _mlflow() -> ModuleType:
    import mlflow

    if not hasattr(mlflow, "__version__"):  # a folder called mlflow/ imports as an empty package
        raise StoreError(f"mlflow is not installed: what was imported is {list(mlflow.__path__)}; {INSTALL}")
    return mlflow


def _prepare() -> None:
    for name, value in (_PATIENCE | _SILENCE).items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # A locked database is logged there with its traceback, although the caller gets the exception too.
        logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)


def _check(uri: str) -> None:
    """Raises at once where MLflow would try again for minutes."""
    path = sqlite_path(uri)
    if path is None:
        if not is_http(uri) and not uri.startswith("file:"):
            _check_database(uri)
    elif path.exists():
        with closing(sqlite3.connect(path, timeout=20)) as database:
            database.execute("BEGIN IMMEDIATE")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(path)


def _check_database(uri: str) -> None:
    from sqlalchemy import create_engine, make_url

    bounded = make_url(uri).get_driver_name() in _BOUNDED_DRIVERS
    engine = create_engine(uri, connect_args={"connect_timeout": 5} if bounded else {})
    engine.connect().close()
    engine.dispose()


def _create(path: Path) -> None:
    """Makes the database aside and puts it in place whole: first users that meet do not mix their migrations."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mlflow-") as folder:
        fresh = Path(folder) / "new.db"
        _mlflow().MlflowClient(tracking_uri=f"{_SQLITE}{fresh}")
        try:
            os.link(fresh, path)  # fails if another process was first
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            fresh.rename(path)


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if "Max retries exceeded" in text or "Connection refused" in text:
        return "no answer"
    return text.splitlines()[0].rstrip(".")[:200]


def _advice(uri: str, error: Exception) -> str:
    text = str(error)
    if isinstance(error, ImportError):
        return "install the database's driver, for PostgreSQL: pip install psycopg2-binary"
    if "out-of-date database schema" in text:
        return f"back it up, then: mlflow db upgrade {shown(uri)}"
    if uri.startswith("file:"):
        return (
            "MLflow no longer keeps runs in folders; convert it with `mlflow migrate-filestore`, or set"
            " MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
        )
    if is_http(uri):
        return "is the MLflow server running? start it, or set MLFLOW_TRACKING_URI"
    if "locked" in text:
        return "another program holds the database: close it and try again"
    return "check the path and its permissions, or set MLFLOW_TRACKING_URI"
