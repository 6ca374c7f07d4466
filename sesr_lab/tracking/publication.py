"""A registered model's version: written whole, once, and its aliases moved to the best.

A version is complete before it has a number, and has a number before an alias points to it: a process that dies
on the way leaves something that the next one goes on with, never half a model and never a second one.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sesr_lab import faults
from sesr_lab.tracking.champions import CHECKSUM, crown, label
from sesr_lab.tracking.outgoing import Place
from sesr_lab.tracking.store import is_http

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

_DATA = "sesr.data_fingerprint"
_default_store = threading.Lock()


@dataclass(frozen=True)
class Publication:
    """What becomes a version of a registered model."""

    name: str
    tags: Mapping[str, str]
    """Of the version; `sesr.sha256` tells whether it is there already."""
    description: str
    """Markdown; `{uri}` stands for the version's, `{run}` for the link to its run."""
    scores: Mapping[str, float]
    step: int
    data: tuple[str, str]
    """Name and digest of the data on which it was scored."""
    time_ms: int
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """Files of the version by name, each a path among the artifacts of the run that publishes it."""
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further files of the version, by name."""

    def content(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return dict(vars(self))


def publish(
    client: MlflowClient, uri: str, place: Place, content: Mapping[str, Any], files: Mapping[str, bytes]
) -> tuple[str, str]:
    """URI and model id of the version that the run at `place` has published with that content, made if need be."""
    name, checksum = content["name"], content["tags"][CHECKSUM]
    version = _version_of_run(client, place.run_id, name, checksum)
    if version is None:
        model_id = _logged_model(client, place, content, files)
        faults.point("model logged")
        _register(client, name)
        version = _create_version(client, uri, place.run_id, model_id, content)
        faults.point("version made")
    model_id = str(version.source).removeprefix("models:/")
    where = f"models:/{name}/{version.version}"
    description = content["description"].replace("{uri}", where).replace("{run}", _ui_path(place))
    client.update_model_version(name, str(version.version), description)
    crown(client, name, content["tags"].get(_DATA, ""))
    label(client, name)
    return where, model_id


def _version_of_run(client: MlflowClient, run_id: str, name: str, checksum: str) -> ModelVersion | None:
    """The version that the run has published already; what is there was whole before it had a number."""
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        if version.name == name and version.tags.get(CHECKSUM) == checksum:
            return version
    return None


def _logged_model(client: MlflowClient, place: Place, content: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """The id of the READY LoggedModel with those files, scored, as an output of the run."""
    model = _begun(client, place, content) or client.create_logged_model(
        place.experiment_id,
        content["name"],
        place.run_id,
        tags={CHECKSUM: content["tags"][CHECKSUM]},
        params={key.removeprefix("sesr."): value for key, value in content["tags"].items()},
        model_type="sesr",
    )
    model_id = str(model.model_id)
    if str(model.status) != "READY":
        with tempfile.TemporaryDirectory() as folder:
            for name, text in content["texts"].items():
                (Path(folder) / name).write_text(text.replace("{run}", _ui_path(place)), encoding="utf-8")
            for name, blob in files.items():
                (Path(folder) / name).write_bytes(blob)
            client.log_model_artifacts(model_id, folder)
    _log_scores(client, place.run_id, model_id, content)
    if str(model.status) != "READY":
        client.finalize_logged_model(model_id, "READY")
    return model_id


def _begun(client: MlflowClient, place: Place, content: Mapping[str, Any]) -> LoggedModel | None:
    """The LoggedModel that an attempt before this one has made for the same weights of the same run."""
    same = f"source_run_id = '{place.run_id}' AND tags.`{CHECKSUM}` = '{content['tags'][CHECKSUM]}'"
    found = client.search_logged_models([place.experiment_id], same)
    return next((model for model in found if str(model.status) in ("PENDING", "READY")), None)


def _log_scores(client: MlflowClient, run_id: str, model_id: str, content: Mapping[str, Any]) -> None:
    from mlflow.entities import LoggedModelOutput, Metric

    name, digest = content["data"]
    data = {"dataset_name": name, "dataset_digest": digest[:36]}
    points = [
        Metric(key, value, content["time_ms"], content["step"], model_id, **data)
        for key, value in content["scores"].items()
    ]
    client.log_batch(run_id, metrics=points, synchronous=True)
    outputs = client.get_run(run_id).outputs
    if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, content["step"])])


def _create_version(
    client: MlflowClient, uri: str, run_id: str, model_id: str, content: Mapping[str, Any]
) -> ModelVersion:
    name = content["name"]
    with _as_default_store(uri):
        made = client.create_model_version(
            name, f"models:/{model_id}", run_id, dict(content["tags"]), model_id=model_id, await_creation_for=0
        )
    if not is_http(uri):  # a server does this itself; the UI's Models tab reads it
        link = json.dumps([{"name": name, "version": int(made.version)}])
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
    return made


def _ui_path(place: Place) -> str:
    return f"#/experiments/{place.experiment_id}/runs/{place.run_id}"


def _register(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
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
