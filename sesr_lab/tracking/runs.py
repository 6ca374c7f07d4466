"""MLflow runs: opening a store, starting, reopening, finding and reaping runs.

Everything names its experiment and run: MLflow's notion of an active run is never used.
"""

from __future__ import annotations

import getpass
import json
import platform
import re
import socket
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sesr_lab import __version__
from sesr_lab.errors import StoreError
from sesr_lab.tracking.delivery import perform
from sesr_lab.tracking.runlog import RunLog
from sesr_lab.tracking.spool import Outbox, Spool
from sesr_lab.tracking.store import connect, is_http, reporting, shown, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]

_PAGE = 500
# Without it the UI opens on its pages for language models.
_FOR_TRAINING = "workflowType=machine_learning"
# What the UI stores when one shares a view of an experiment's runs: ours has scores and costs as columns, best
# first, where the UI's own shows neither. A UI that does not know it shows its own.
_VIEW_TAG, _VIEW = "mlflow.sharedViewState.sesr", "viewStateShareKey=sesr"
_COLUMNS = {
    "attributes": ("Models",),
    "metrics": ("best_psnr", "best_ssim", "macs_720p", "params"),
    "params": ("m", "f", "feature_size", "block", "scale"),
}


@dataclass(frozen=True)
class RunInfo:
    """A run as the store has it."""

    run_id: str
    experiment_id: str
    name: str
    status: str
    started: datetime
    ended: datetime | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """The last value of each metric."""
    tags: Mapping[str, str]
    parent_run_id: str | None


class Tracker:
    """An open MLflow store. Its methods raise StoreError; the RunLogs that it gives out do not."""

    def __init__(self, uri: str, client: MlflowClient, spool: Spool) -> None:
        self.uri = uri
        self.client = client
        self._spool = spool
        self._outbox = Outbox(spool, partial(perform, client))

    def reporting(self, doing: str) -> AbstractContextManager[None]:
        """Turns what MLflow raises inside into a StoreError about `doing`."""
        return reporting(self.uri, doing)

    def experiment(self, name: str) -> str:
        """The id of the experiment called `name`, made if there is none."""
        with self.reporting(f"use the experiment {name}"):
            found = self.client.get_experiment_by_name(name) or self._create_experiment(name)
        if found.lifecycle_stage == "deleted":
            number = found.experiment_id
            raise StoreError(
                f"{shown(self.uri)}: the experiment {name} is deleted; bring it back with `mlflow experiments restore"
                f" --experiment-id {number}`, or free its name with `mlflow gc --backend-store-uri {shown(self.uri)}"
                f" --experiment-ids {number}`"
            )
        return str(found.experiment_id)

    def experiments(self) -> dict[str, str]:
        """The experiments' ids by name, the newest first; MLflow's own `Default` is left out while it has no runs."""
        with self.reporting("list the experiments"):
            found = self.client.search_experiments(max_results=_PAGE)
            used = [each for each in found if each.name != "Default" or self._has_runs(each.experiment_id)]
        return {each.name: str(each.experiment_id) for each in used}

    def _has_runs(self, experiment_id: str) -> bool:
        return bool(self.client.search_runs([experiment_id], max_results=1))

    def page(self, experiment_id: str) -> str:
        """Where in the UI the experiment's runs are, to be put behind the server's address."""
        return f"/#/experiments/{experiment_id}/runs?{_VIEW}&{_FOR_TRAINING}"

    def start_run(
        self,
        experiment_id: str,
        name: str,
        *,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_run_id: str | None = None,
    ) -> RunLog:
        """A new run in state RUNNING, tagged with the git commit, the versions and the host that made it."""
        lineage = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
        with self.reporting(f"start the run {name}"):
            run = self.client.create_run(experiment_id, run_name=name, tags={**_origin(), **lineage, **(tags or {})})
        log = self._log(run.info.run_id, experiment_id)
        log.log_params(params or {})
        return log

    def reopen_run(self, run_id: str) -> RunLog:
        """The run, RUNNING again; what it logs up to the last step that it has logged before is skipped."""
        self._outbox.flush()
        with self.reporting(f"reopen the run {run_id}"):
            run = self.client.get_run(run_id)
            if run.info.lifecycle_stage == "deleted":
                raise StoreError(f"{shown(self.uri)}: the run {run_id} is deleted; see `mlflow runs restore --help`")
            self.client.update_run(run_id, status="RUNNING")
            last = max(self._last_step(run), self._spool.last_step(run_id))
        return self._log(run_id, run.info.experiment_id, last)

    def log_to(self, run_id: str) -> RunLog:
        """What writes to a run whose state stays as it is."""
        self._outbox.flush()
        with self.reporting(f"read the run {run_id}"):
            run = self.client.get_run(run_id)
        return self._log(run_id, run.info.experiment_id)

    def runs(
        self,
        experiment_id: str | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        status: RunStatus | None = None,
    ) -> list[RunInfo]:
        """All runs that are not deleted and match, newest first; None looks in every experiment."""
        wanted = tags or {}
        with self.reporting("search for runs"):
            where = [experiment_id] if experiment_id else self._experiment_ids()
            found, token = [], None
            while where:
                page = self.client.search_runs(where, _filter(wanted, status), 1, _PAGE, None, token)
                found += [_run_info(run) for run in page]
                token = page.token
                if not token:
                    break
        return [run for run in found if wanted.items() <= run.tags.items()]

    def run(self, run_id: str) -> RunInfo:
        """The run with that id."""
        with self.reporting(f"read the run {run_id}"):
            return _run_info(self.client.get_run(run_id))

    def holds(self, run_id: str) -> bool:
        """Whether the store has that run, and it is not deleted."""
        from mlflow.exceptions import MlflowException

        with self.reporting(f"look for the run {run_id}"):
            try:
                return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise

    def reap_run(self, run: RunInfo) -> None:
        """Ends a run whose process is gone: KILLED, with `sesr.end=lost`."""
        self._log(run.run_id, run.experiment_id).end("KILLED", "lost")

    def flush(self, *, patience_s: float = 0.0) -> int:
        """Sends what waits for the store; how many writes still wait after `patience_s` seconds."""
        return self._outbox.flush(patience_s=patience_s)

    def _log(self, run_id: str, experiment_id: str, logged_until: int = -1) -> RunLog:
        url = f"{self.uri}/#/experiments/{experiment_id}/runs/{run_id}?{_FOR_TRAINING}" if is_http(self.uri) else ""
        return RunLog(self._outbox, run_id=run_id, experiment_id=experiment_id, url=url, logged_until=logged_until)

    def _create_experiment(self, name: str) -> Experiment:
        from mlflow.exceptions import MlflowException

        try:
            number = self.client.create_experiment(name, _artifacts(self.uri, name), {_VIEW_TAG: _view()})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        else:
            return self.client.get_experiment(number)
        winner = self.client.get_experiment_by_name(name)  # another process was first
        assert winner is not None
        return winner

    def _experiment_ids(self) -> list[str]:
        ids: list[str] = []
        token = None
        while True:
            page = self.client.search_experiments(max_results=_PAGE, page_token=token)
            ids += [experiment.experiment_id for experiment in page]
            token = page.token
            if not token:
                return ids

    def _last_step(self, run: Run) -> int:
        histories = (self.client.get_metric_history(run.info.run_id, key) for key in run.data.metrics)
        return max((point.step for history in histories for point in history), default=-1)


def open_store(uri: str | None = None, *, spool: Path | None = None) -> Tracker:
    """The store at `uri`, else at MLFLOW_TRACKING_URI, else the one that `mlflow ui` shows in this folder.

    What cannot be written to it later waits in `spool` (a folder; its leftovers are sent first), or, without
    one, in a temporary folder that the next process does not find.

    Raises:
        StoreError: it cannot be reached, read or written.
    """
    found, client = connect(uri)
    tracker = Tracker(found, client, Spool(spool, found))
    tracker.flush()
    return tracker


def _artifacts(uri: str, name: str) -> str | None:
    """Where a SQLite store's experiment keeps its files: beside the database, not in today's working folder."""
    path = sqlite_path(uri)
    if path is None:
        return None
    return (path.parent / "mlruns" / re.sub(r"[^\w.-]+", "-", name)).as_uri()


def _view() -> str:
    columns = [f"{kind}.`{name}`" for kind, names in _COLUMNS.items() for name in names]
    return json.dumps({"selectedColumns": columns, "orderByKey": "metrics.`best_psnr`", "orderByAsc": False})


def _filter(tags: Mapping[str, str], status: RunStatus | None) -> str:
    parts = [f"tags.`{key}` = '{value}'" for key, value in tags.items() if "'" not in value]
    return " and ".join([*parts, f"attributes.status = '{status}'"] if status else parts)


def _run_info(run: Run) -> RunInfo:
    return RunInfo(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        name=run.info.run_name or "",
        status=run.info.status,
        started=_datetime(run.info.start_time),
        ended=_datetime(run.info.end_time) if run.info.end_time else None,
        params=run.data.params,
        metrics=run.data.metrics,
        tags=run.data.tags,
        parent_run_id=run.data.tags.get("mlflow.parentRunId"),
    )


def _datetime(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


@cache
def _origin() -> dict[str, str]:
    """Tags that say what made a run: the git commit, versions, host, and what the UI shows as user and source."""
    commit = _git_commit(Path.cwd()) or _git_commit(Path(__file__).parent)
    return {
        "sesr.git": commit,
        "sesr.version": __version__,
        "sesr.torch": _version("torch"),
        "sesr.mlflow": _version("mlflow"),
        "sesr.python": platform.python_version(),
        "sesr.host": socket.gethostname(),
        "mlflow.user": _user(),
        "mlflow.source.name": "sesr-lab",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit,
    }


def _git_commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return ""
