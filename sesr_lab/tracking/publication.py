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
from sesr_lab.tracking.outgoing import Place
from sesr_lab.tracking.store import is_http

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHECKSUM = "sesr.sha256"
WEIGHTS = "weights.safetensors"
"""The file that a version is of no use without."""
_SCORE, _FLOOR, _DATA = "sesr.psnr_db", "sesr.bicubic_psnr_db", "sesr.data_fingerprint"
_PAGE = 200
_default_store = threading.Lock()


@dataclass(frozen=True)
class Publication:
    """What becomes a version of a registered model."""

    name: str
    tags: Mapping[str, str]
    """Of the version; `sesr.sha256` tells whether it is there already."""
    description: str
    """Markdown; `{uri}` stands for the version's."""
    scores: Mapping[str, float]
    step: int
    data: tuple[str, str]
    """Name and digest of the data on which it was scored."""
    time_ms: int
    model_tags: Mapping[str, str] = field(default_factory=dict)
    """Of the registered model as a whole, when this version is its champion."""
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
    client.update_model_version(name, str(version.version), content["description"].replace("{uri}", where))
    crown(client, name, content["tags"].get(_DATA, ""))
    if aliases_of(client, name).get(CHAMPION) == int(version.version):
        for key, value in content["model_tags"].items():
            client.set_registered_model_tag(name, key, value)
    return where, model_id


def crown(client: MlflowClient, name: str, data_fingerprint: str) -> None:
    """Points the champions' aliases to the best, and looks again after a move: another may have published meanwhile."""
    for _ in range(10):
        known = versions_of(client, name)
        moves = _moves(client, known, aliases_of(client, name), data_fingerprint)
        for alias, number in moves.items():
            if number is None:
                client.delete_registered_model_alias(name, alias)
            else:
                client.set_registered_model_alias(name, alias, str(number))
        if not moves:
            return


def _moves(
    client: MlflowClient, known: list[ModelVersion], aliases: Mapping[str, int], data_fingerprint: str
) -> dict[str, int | None]:
    """The aliases that should point elsewhere, and where to; None takes one away.

    Scores on different data do not compare, so the plain champion is replaced by one of its own data only. Nothing
    below bicubic is a champion, nor one whose files are gone; a version that is not ours is left alone.
    """
    by_number = {int(version.version): version for version in known}
    best = _best(client, [version for version in known if version.tags.get(_DATA) == data_fingerprint])
    wanted: dict[str, int | None] = {champion_alias(data_fingerprint): None if best is None else int(best.version)}
    crowned = aliases.get(CHAMPION)
    present = by_number.get(crowned) if crowned is not None else None
    if present is None or present.tags.get(_DATA) == data_fingerprint or _is_unfit(client, present):
        wanted[CHAMPION] = None if best is None else int(best.version)
    return {alias: number for alias, number in wanted.items() if aliases.get(alias) != number}


def _best(client: MlflowClient, rivals: list[ModelVersion]) -> ModelVersion | None:
    """The first of those with the highest score, if it is above bicubic and its files are there."""
    scored = [version for version in rivals if score_of(version) is not None]
    ranked = sorted(scored, key=lambda version: (-(score_of(version) or 0.0), int(version.version)))
    return next((version for version in ranked if _may_be_champion(client, version)), None)


def _may_be_champion(client: MlflowClient, version: ModelVersion) -> bool:
    score, floor = score_of(version), _number(version.tags.get(_FLOOR))
    return score is not None and (floor is None or score >= floor) and has_files(client, version)


def _is_unfit(client: MlflowClient, version: ModelVersion) -> bool:
    return CHECKSUM in version.tags and not _may_be_champion(client, version)


def score_of(version: ModelVersion) -> float | None:
    """The version's PSNR in dB; None where its tags have none."""
    return _number(version.tags.get(_SCORE)) if CHECKSUM in version.tags else None


def has_files(client: MlflowClient, version: ModelVersion) -> bool:
    """Whether the logged model that the version stands for is there, with its weights."""
    from mlflow.exceptions import MlflowException

    model_id = str(version.source).removeprefix("models:/")
    try:
        client.get_logged_model(model_id)  # one that was deleted still has its files for a while
        there = client.list_logged_model_artifacts(model_id)
        return any(file.path == WEIGHTS for file in there)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"}:
            return False
        raise


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """The versions of that model, by number."""
    quote = '"' if "'" in name else "'"
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = {quote}{name}{quote}", _PAGE, ["version_number ASC"], token)
        found += [version for version in page if version.name == name]
        token = page.token
        if not token:
            return found


def aliases_of(client: MlflowClient, name: str) -> dict[str, int]:
    """The version that each of the model's aliases points to."""
    return {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()}


def champion_alias(data_fingerprint: str) -> str:
    """The alias of the best version on the data with that fingerprint."""
    return f"{CHAMPION}-{data_fingerprint[:8]}"


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
                (Path(folder) / name).write_text(text, encoding="utf-8")
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


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
