"""Runs as a store has them: found and read. What is asked here waits for the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from sesr_lab.tracking.answers import reporting

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]

_PAGE = 500


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

    @property
    def key(self) -> str:
        """The run's key; for a run of version 0.1, which had none, its id."""
        return self.tags.get("sesr.key", self.run_id)


class Archive:
    """What a store has. Its methods raise StoreError."""

    def __init__(self, uri: str, client: MlflowClient) -> None:
        self.uri, self.client = uri, client

    def experiments(self) -> dict[str, str]:
        """The experiments' ids by name, the newest first; MLflow's own `Default` is left out while it has no runs."""
        with reporting(self.uri, "list the experiments"):
            found = self.client.search_experiments(max_results=_PAGE)
            used = [each for each in found if each.name != "Default" or self._has_runs(each.experiment_id)]
        return {each.name: str(each.experiment_id) for each in used}

    def _has_runs(self, experiment_id: str) -> bool:
        return bool(self.client.search_runs([experiment_id], max_results=1))

    def run(self, run_id: str) -> RunInfo:
        """The run with that id."""
        with reporting(self.uri, f"read the run {run_id}"):
            return _run_info(self.client.get_run(run_id))

    def holds(self, run_id: str) -> bool:
        """Whether the store has that run, and it is not deleted."""
        from mlflow.exceptions import MlflowException

        with reporting(self.uri, f"look for the run {run_id}"):
            try:
                return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise

    def runs(
        self,
        experiment_id: str | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        status: RunStatus | None = None,
    ) -> list[RunInfo]:
        """All runs that are not deleted and match, newest first; None looks in every experiment."""
        wanted = tags or {}
        with reporting(self.uri, "search for runs"):
            where = [experiment_id] if experiment_id else list(self._experiment_ids())
            found: list[RunInfo] = []
            token = None
            while where:
                page = self.client.search_runs(
                    where,
                    _filter(wanted, status),
                    max_results=_PAGE,
                    order_by=["attributes.start_time DESC"],
                    page_token=token,
                )
                found += [_run_info(run) for run in page]
                token = page.token
                if not token:
                    break
        return [run for run in found if wanted.items() <= run.tags.items()]

    def _experiment_ids(self) -> Iterator[str]:
        token = None
        while True:
            page = self.client.search_experiments(max_results=_PAGE, page_token=token)
            yield from (experiment.experiment_id for experiment in page)
            token = page.token
            if not token:
                return


def _filter(tags: Mapping[str, str], status: RunStatus | None) -> str:
    """What of it MLflow's language can say; the rest is looked at afterwards."""
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
