"""The MLflow store that runs go to: which one it is, and opening it."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from sesr_lab.errors import StoreError
from sesr_lab.tracking.answers import reporting
from sesr_lab.tracking.secrets import remember, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["absolute", "artifact_root", "connect", "is_http", "shown", "sqlite_path"]

INSTALL = "pip install 'mlflow>=3.17'"
SCHEMES = "sqlite:///FILE, http(s)://HOST, postgresql://… or mysql://…"
ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"
"""The variable in which MLflow's own commands look for where a database's runs keep their files."""
_BOUNDED_DRIVERS = {"psycopg2", "psycopg", "pymysql", "mysqldb"}
"""Database drivers whose `connect` takes `connect_timeout`, in seconds."""
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?):///(?P<path>[^?]*)(?P<options>\?.*)?", re.IGNORECASE | re.DOTALL)
_LOCKED_S = 20.0
"""How long a database that another program writes to is waited for."""

# MLflow's own patience is 7 retries of 120 s each: about four minutes for a server that is down.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
# Both write to standard output or error in the middle of ours.
_SILENCE = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# MLflow reports how it is used to its makers unless it is told not to; whoever wants that sets it to false.
_PRIVACY = {"MLFLOW_DISABLE_TELEMETRY": "true"}


def connect(uri: str | None = None) -> tuple[str, MlflowClient]:
    """The absolute URI of the store, and a client of it that has answered once.

    The store is `uri`, else MLFLOW_TRACKING_URI, else the one that `mlflow ui` shows in this folder. A SQLite
    file is made if there is none. Settings of MLflow that the user has put into the environment stay.

    Raises:
        StoreError: MLflow is missing, or the store cannot be reached, read or written.
    """
    mlflow = _mlflow()
    _prepare()
    found = _named(mlflow, uri)
    remember(found)
    with _no_stray_folder(found):
        with reporting(found, "open it"):
            _check(found)
            client = mlflow.MlflowClient(tracking_uri=found, registry_uri=found)
            client.search_experiments(max_results=1)
        return found, _with_registry(mlflow, found, client)


def absolute(uri: str) -> str:
    """The same store or database, in a form that does not depend on the working folder.

    Raises:
        StoreError: it names no place where something could be kept.
    """
    if uri.lower().startswith("sqlite"):
        return _sqlite(uri)
    if len(urlsplit(uri).scheme) < 2 and uri not in ("databricks", "databricks-uc", "uc"):  # one letter is a drive
        if uri.endswith((".db", ".sqlite", ".sqlite3")):
            raise StoreError(f"{uri}: is this a SQLite file? write sqlite:///{uri}")
        return Path(uri).expanduser().absolute().as_uri()
    return uri.rstrip("/")


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite store; None for any other."""
    from sqlalchemy import make_url

    if not uri.lower().startswith("sqlite"):
        return None
    database = make_url(uri).database
    return Path(database) if database else None


def is_http(uri: str) -> bool:
    """Whether the store is an MLflow server."""
    return urlsplit(uri).scheme in {"http", "https"}


def artifact_root(uri: str) -> str | None:
    """Where a database to which this process writes itself keeps its runs' files; None for any other store.

    Raises:
        StoreError: nobody has said where, or not from every folder the same.
    """
    if urlsplit(uri).scheme.split("+")[0] not in {"postgresql", "mysql", "mssql"}:
        return None
    root = os.environ.get(ROOT, "")
    if not root:
        raise StoreError(
            f"{shown(uri)}: written to without a server, a database keeps files in whatever folder a command runs in; "
            f"name its MLflow server (http://HOST:PORT), or set {ROOT} to a folder or s3:// URI that all machines reach"
        )
    if len(urlsplit(root).scheme) > 1:  # one letter is a drive
        return root.rstrip("/")
    if not Path(root).expanduser().is_absolute():
        raise StoreError(f"{ROOT}: {root!r} is another folder for each command; give a whole path, or a URI")
    return Path(root).expanduser().as_uri()


def _sqlite(uri: str) -> str:
    """The URI of a SQLite file by its absolute path, options kept; `~` is the home, as in a shell."""
    from sqlalchemy import make_url

    match = _SQLITE.fullmatch(uri)
    if match is None:
        raise StoreError(f"{uri}: not a SQLite URI; write sqlite:///FILE, or sqlite:////FOLDER/FILE for a whole path")
    name = make_url(f"sqlite:///{match['path']}").database or ":memory:"
    if name == ":memory:" or name.startswith("file:"):
        raise StoreError(f"{uri}: name a file, as in sqlite:///mlflow.db: what is kept in memory ends with the command")
    path = Path(name).expanduser().absolute()
    if path.is_dir():
        raise StoreError(f"{uri}: {path} is a folder; name a file in it, as in sqlite:///{path}/mlflow.db")
    return f"{match[1].lower()}:///{_as_database(path)}{match['options'] or ''}"


def _as_database(path: Path) -> str:
    """The path as SQLAlchemy takes it in a URL; from version 2.1 on it decodes what is percent-encoded there."""
    from sqlalchemy import make_url

    for text in (str(path), quote(str(path), safe="/ ")):
        if "?" not in text and make_url(f"sqlite:///{text}").database == str(path):
            return text
    raise StoreError(f"{path}: a database's path cannot have a question mark here; name another with --tracking-uri")


def _named(mlflow: ModuleType, uri: str | None) -> str:
    """The store that the caller, the environment or the folder names."""
    given = (
        uri
        or os.environ.get("MLFLOW_TRACKING_URI")
        or (mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None)
    )
    if given is None:
        default = str(mlflow.get_tracking_uri())
        # MLflow percent-encodes the folder's name in a URI in which nothing is decoded again.
        return _sqlite("sqlite:///mlflow.db") if default.startswith("sqlite:") else default
    found = absolute(given)
    scheme = urlsplit(found).scheme or found
    if scheme.split("+")[0] not in _kinds():
        raise StoreError(f"{shown(given)}: MLflow knows no store of this kind ({scheme}); use {SCHEMES}")
    artifact_root(found)
    if is_http(found) and not urlsplit(found).hostname:
        raise StoreError(f"{shown(given)}: there is no host in it; write http://HOST:PORT")
    return found


def _kinds() -> set[str]:
    """The schemes of stores that MLflow, or a plugin of it, knows."""
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    return set(_tracking_store_registry._registry)


def _with_registry(mlflow: ModuleType, uri: str, client: MlflowClient) -> MlflowClient:
    """A client that also has the registry that MLFLOW_REGISTRY_URI names, if it names one, checked.

    Raises:
        StoreError: networks cannot be registered there.
    """
    named = os.environ.get("MLFLOW_REGISTRY_URI", "")
    if not named:
        return client
    try:
        registry = absolute(named)
        if registry == uri:
            return client
        if is_http(registry) or urlsplit(registry).scheme.split("+")[0] not in {"sqlite", "postgresql", "mysql"}:
            raise StoreError(f"{shown(named)}: what runs at {shown(uri)} have trained cannot be registered there")
        with reporting(registry, "open it"):
            _check(registry)
            both = mlflow.MlflowClient(tracking_uri=uri, registry_uri=registry)
            both.search_registered_models(max_results=1)
    except StoreError as error:
        raise StoreError(f"MLFLOW_REGISTRY_URI: {error}; unset it, or set it to the tracking store") from error
    return both  # type: ignore[no-any-return]  # MLflow is a bare module here


def _mlflow() -> ModuleType:
    for name, value in (_PATIENCE | _SILENCE | _PRIVACY).items():  # before MLflow is first imported, which looks
        os.environ.setdefault(name, value)
    import mlflow

    if not hasattr(mlflow, "__version__"):  # a folder called mlflow/ imports as an empty package
        raise StoreError(f"mlflow is not installed: what was imported is {list(mlflow.__path__)}; {INSTALL}")
    return mlflow


def _prepare() -> None:
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
        if not is_http(uri) and urlsplit(uri).scheme not in ("", "file", "databricks", "databricks-uc", "uc"):
            _check_database(uri)
    elif path.exists():
        with closing(sqlite3.connect(path, timeout=_LOCKED_S)) as database:
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
        made = f"sqlite:///{_as_database(fresh)}"
        with _no_stray_folder(made):
            _mlflow().MlflowClient(tracking_uri=made)
        try:
            os.link(fresh, path)  # fails if another process was first
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            fresh.rename(path)


@contextmanager
def _no_stray_folder(uri: str) -> Iterator[None]:
    """Takes away the empty folders that MLflow makes where it takes a URI with percent signs for a path."""
    match, path = _SQLITE.fullmatch(uri), sqlite_path(uri)
    if match is None or path is None or match["path"] == str(path):
        yield
        return
    taken = Path(match["path"]).parent
    absent = [folder for folder in (taken, *taken.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in absent:
            with suppress(OSError):  # it is not there, or somebody has put something into it
                folder.rmdir()
