"""Experiments: found or made, where they keep their files, and what the UI shows of them."""

from __future__ import annotations

import logging
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sesr_lab.tracking.answers import NeedsUser
from sesr_lab.tracking.secrets import shown
from sesr_lab.tracking.store import artifact_root, sqlite_path
from sesr_lab.tracking.views import views

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

logger = logging.getLogger(__name__)

_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
"""Where MLflow keeps whole paths to files."""


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The id of the experiment called `name`, made if there is none.

    Raises:
        NeedsUser: it is deleted; the message says how to bring it back.
    """
    found = client.get_experiment_by_name(name) or _create(client, uri, name)
    if found.lifecycle_stage == "deleted":
        number = found.experiment_id
        raise NeedsUser(
            f"the experiment {name} is deleted; bring it back with `mlflow experiments restore"
            f" --experiment-id {number}`, or free its name with `mlflow gc --backend-store-uri {shown(uri)}"
            f" --experiment-ids {number}`"
        )
    for tag, view in views().items():
        if tag not in found.tags:  # an earlier version has made it
            client.set_experiment_tag(found.experiment_id, tag, view)
    return str(found.experiment_id)


def put_right(uri: str) -> None:
    """Finds the files of a SQLite store again whose folder was moved, or copied, since: MLflow keeps whole paths."""
    database = sqlite_path(uri)
    if database is None:
        return
    with closing(sqlite3.connect(database, timeout=20)) as store, store:
        known = store.execute("SELECT name, artifact_location FROM experiments").fetchall()
        moved = {old for name, location in known if (old := _old_home(database, name, location)) is not None}
        for old in moved:
            for table, column in _LOCATIONS:
                store.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    [_runs_in(database.parent), len(_runs_in(old)) + 1, len(_runs_in(old)), _runs_in(old)],
                )
            logger.warning("%s was moved here from %s; what it says of files was put right", database, old)


def _old_home(database: Path, name: str, location: str | None) -> Path | None:
    """The folder in which a store was when it made that experiment, if that is over and its files are here now."""
    path = _local(location or "")
    if path is None or path.parent.name != "mlruns" or path.name != _folder_of(name):
        return None
    old = path.parent.parent
    if old == database.parent:
        return None
    is_here = (database.parent / "mlruns" / path.name).is_dir()
    return old if is_here or not old.exists() else None


def _create(client: MlflowClient, uri: str, name: str) -> Experiment:
    from mlflow.exceptions import MlflowException

    try:
        number = client.create_experiment(name, _artifacts(uri, name), views())
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    else:
        return client.get_experiment(number)
    winner = client.get_experiment_by_name(name)  # another process was first
    assert winner is not None
    return winner


def _artifacts(uri: str, name: str) -> str | None:
    """Where an experiment of a database keeps its files: beside a SQLite file, not in today's working folder."""
    path = sqlite_path(uri)
    if path is None:
        root = artifact_root(uri)
        return None if root is None else f"{root}/{_folder_in_uri(name)}"
    return _runs_in(path.parent) + _folder_in_uri(name)


def _folder_in_uri(name: str) -> str:
    return (Path("/") / _folder_of(name)).as_uri()[len("file:///") :]


def _runs_in(folder: Path) -> str:
    return (folder / "mlruns").as_uri() + "/"


def _folder_of(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _local(location: str) -> Path | None:
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None
