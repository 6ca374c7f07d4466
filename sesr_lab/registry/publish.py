"""Publishing a network as a registered model; what is there is found through `catalog`, and through here.

A version is complete before it has a number, and has a number before an alias points to it: a process that
dies on the way leaves something unused, never half a model.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from sesr_lab.errors import ModelError
from sesr_lab.registry.catalog import (
    CHAMPION,
    aliases_of,
    by_number,
    champion,
    champion_alias,
    load,
    promote,
    resolve,
    version_of_run,
    versions,
    versions_of,
)
from sesr_lab.registry.version import TAG, Lineage, Loaded, ModelFacts, Version, describe, facts_tags, lineage_of
from sesr_lab.registry.weights import load_file, write_files
from sesr_lab.tracking.runlog import RunLog
from sesr_lab.tracking.runs import Tracker
from sesr_lab.tracking.store import is_http

__all__ = [
    "CHAMPION",
    "ClaimLostError",
    "Loaded",
    "ModelFacts",
    "Version",
    "champion",
    "champion_alias",
    "lineage_of",
    "load",
    "load_file",
    "promote",
    "publish",
    "resolve",
    "version_of_run",
    "versions",
]

_default_store = threading.Lock()


class ClaimLostError(ModelError):
    """Another process has taken over what was to be published here."""


def publish(
    tracker: Tracker,
    run: RunLog,
    *,
    name: str,
    weights: Mapping[str, Tensor],
    facts: ModelFacts,
    parent: Lineage | None = None,
    may_publish: Callable[[], bool] = lambda: True,
) -> Version:
    """The network as a new version of `name`, its aliases set; the one there is, if this run has published it.

    Raises:
        ClaimLostError: `may_publish` has said no; no alias points to what was written.
        StoreError: the store cannot be written; publishing again goes on from there.
        ValueError: `weights` are not of the architecture in `facts`.
    """
    with tempfile.TemporaryDirectory() as temporary, tracker.reporting(f"publish {name}"):
        folder = Path(temporary)
        sha256 = write_files(folder, weights, facts.architecture)
        (folder / "README.md").write_text(describe(facts, uri=f"models:/{name}", parent=parent), encoding="utf-8")
        version = version_of_run(tracker, run.run_id)
        if version is None or (version.name, version.sha256) != (name, sha256):
            tags = facts_tags(facts) | {TAG + "sha256": sha256} | (dict(parent.tags) if parent else {})
            model_id = _log_model(tracker, run, name=name, folder=folder, tags=tags, facts=facts)
            _check_claim(may_publish, name)
            version = _create_version(tracker, name, run_id=run.run_id, model_id=model_id, tags=tags)
        text = describe(facts, uri=version.uri, parent=parent)
        tracker.client.update_model_version(name, str(version.version), text)
        _check_claim(may_publish, name)
        _crown(tracker, name, facts.data_fingerprint)
    return by_number(tracker, name, version.version)


def _log_model(
    tracker: Tracker, run: RunLog, *, name: str, folder: Path, tags: Mapping[str, str], facts: ModelFacts
) -> str:
    """The id of a READY LoggedModel with the files in `folder`, scored, as an output of the run."""
    client = tracker.client
    params = {key.removeprefix(TAG): value for key, value in tags.items()}
    model = client.create_logged_model(run.experiment_id, name, run.run_id, params=params, model_type="sesr")
    model_id = str(model.model_id)
    try:
        client.log_model_artifacts(model_id, str(folder))
        _log_scores(tracker, run, model_id, facts)
    except BaseException:
        client.finalize_logged_model(model_id, "FAILED")
        raise
    client.finalize_logged_model(model_id, "READY")
    return model_id


def _log_scores(tracker: Tracker, run: RunLog, model_id: str, facts: ModelFacts) -> None:
    from mlflow.entities import LoggedModelOutput, Metric

    now = time.time_ns() // 1_000_000
    data = {"dataset_name": facts.data, "dataset_digest": facts.data_fingerprint[:36]}
    scores = {"best_psnr": facts.psnr_db, "best_ssim": facts.ssim}
    points = [Metric(key, value, now, facts.steps, model_id, **data) for key, value in scores.items()]
    tracker.client.log_batch(run.run_id, metrics=points, synchronous=True)
    tracker.client.log_outputs(run.run_id, [LoggedModelOutput(model_id, facts.steps)])


def _create_version(tracker: Tracker, name: str, *, run_id: str, model_id: str, tags: Mapping[str, str]) -> Version:
    _register(tracker, name)
    client = tracker.client
    source = f"models:/{model_id}"
    with _as_default_store(tracker.uri):
        made = client.create_model_version(name, source, run_id, dict(tags), model_id=model_id, await_creation_for=0)
    if not is_http(tracker.uri):  # a server does this itself; the UI's Models tab reads it
        link = json.dumps([{"name": name, "version": int(made.version)}])
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
    return by_number(tracker, name, int(made.version))


def _register(tracker: Tracker, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        tracker.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@contextmanager
def _as_default_store(uri: str) -> Iterator[None]:
    """MLflow's SQL registry looks a model up in the process's default store, whichever store its client is of."""
    import mlflow

    if is_http(uri):  # there the server looks it up
        yield
        return
    with _default_store:
        before = os.environ.pop("MLFLOW_TRACKING_URI", None)
        is_set = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]  # MLflow leaves it unannotated
        explicit = mlflow.get_tracking_uri() if is_set else None
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(explicit)  # type: ignore[arg-type]  # None takes the setting back
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before


def _crown(tracker: Tracker, name: str, data_fingerprint: str) -> None:
    """Points the champions' aliases to the best, and looks again after a move: another may have published meanwhile."""
    while moves := _moves(versions_of(tracker, name), aliases_of(tracker, name), data_fingerprint):
        for alias, number in moves.items():
            tracker.client.set_registered_model_alias(name, alias, str(number))


def _moves(known: list[Version], aliases: Mapping[str, int], data_fingerprint: str) -> dict[str, int]:
    """The aliases that should point elsewhere, and where to.

    Scores on different data do not compare, so the plain champion is replaced by one of its own data only.
    """
    rivals = [version for version in known if version.data_fingerprint == data_fingerprint]
    if not rivals:
        return {}
    best = max(rivals, key=lambda version: (version.psnr_db, -version.version))
    wanted = {champion_alias(data_fingerprint): best.version}
    present = next((version for version in known if version.version == aliases.get(CHAMPION)), None)
    if present is None or (present.data_fingerprint == data_fingerprint and present.psnr_db < best.psnr_db):
        wanted[CHAMPION] = best.version
    return {alias: number for alias, number in wanted.items() if aliases.get(alias) != number}


def _check_claim(may_publish: Callable[[], bool], name: str) -> None:
    if not may_publish():
        raise ClaimLostError(f"{name}: another process has taken over this training; its version counts, not this one")
