"""The registered models that there are: finding one by the words that a user has for it, and loading it."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sesr_lab.errors import ModelError, ParentError, StoreAwayError
from sesr_lab.registry.version import TAG, Loaded, Version, architecture_of
from sesr_lab.registry.weights import EXPANDED, load_file, sha256_of
from sesr_lab.tracking import champions
from sesr_lab.tracking.answers import Away, answer_to, line_of
from sesr_lab.tracking.champions import CHAMPION, champion_alias, crown, has_files, label
from sesr_lab.tracking.runs import Tracker

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

__all__ = [
    "CHAMPION",
    "aliases_of",
    "best",
    "by_number",
    "champion",
    "champion_alias",
    "load",
    "promote",
    "resolve",
    "version_of_run",
    "versions",
    "versions_of",
]

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[\w-]+))?")
_PAGE = 200


def resolve(tracker: Tracker, model: str) -> Version:
    """The version that `model` names: a run's id, `models:/name/3`, `models:/name@alias`, or a name.

    Raises:
        ModelError: there is none; the message says what there is.
    """
    if _RUN_ID.fullmatch(model):
        return _of_run(tracker, model)
    match = _MODEL_URI.fullmatch(model)
    if match is None:
        if model.startswith("models:"):
            raise ModelError(f"{model}: write models:/NAME/VERSION or models:/NAME@ALIAS")
        return _by_name(tracker, model)
    if match["version"]:
        return by_number(tracker, match["name"], int(match["version"]))
    return _by_alias(tracker, match["name"], match["alias"]) if match["alias"] else _by_name(tracker, match["name"])


def load(tracker: Tracker, version: Version) -> Loaded:
    """The version with its expanded weights, after checking that they are what was published.

    Raises:
        ModelError: the file is missing, altered, or of another shape.
    """
    from sesr_lab.network.model import shape_of

    with tempfile.TemporaryDirectory() as folder:
        path = _download(tracker, version, Path(folder))
        found = sha256_of(path)
        if found != version.sha256:
            raise ModelError(
                f"{version.uri}: {EXPANDED} was altered or cut short: {path.stat().st_size} bytes with sha256"
                f" {found[:12]}… where {version.sha256[:12]}… was published; {_again(version)}"
            )
        weights = load_file(path)
    shape = version.architecture.model_dump(exclude={"block"})
    if (found_shape := shape_of(weights)) != shape:
        raise ModelError(f"{version.uri}: the weights are of {found_shape}, the tags say {shape}; {_again(version)}")
    return Loaded(version, weights)


def champion(tracker: Tracker, name: str, data_fingerprint: str) -> Version | None:
    """The best version of `name` on that data, as far as any is above bicubic; None if there is none.

    Raises:
        ParentError: the alias points to a version that is gone or is not ours.
    """
    alias = champion_alias(data_fingerprint)
    number = aliases_of(tracker, name).get(alias)
    if number is None:
        return None
    try:
        return _with_files(tracker, by_number(tracker, name, number), alias)
    except ModelError as error:
        raise ParentError(
            f"{name}: the alias {alias} points to version {number}, which cannot be used ({error}); point it to"
            f" another: sesr-lab promote models:/{name}/VERSION --alias {alias}"
        ) from error


def best(tracker: Tracker, name: str, data_fingerprint: str) -> Version | None:
    """The version of `name` with the highest PSNR on that data, be it below bicubic; one with its files, if any has."""
    known = [version for version in versions_of(tracker, name) if version.data_fingerprint == data_fingerprint]
    ranked = sorted(known, key=lambda version: (-version.psnr_db, version.version))
    with tracker.reporting(f"look up {name}"):
        usable = (version for version in ranked if _is_whole(tracker, version))
        return next(usable, ranked[0] if ranked else None)


def versions(tracker: Tracker, name_contains: str = "") -> list[Version]:
    """All versions that sesr-lab has published under names that contain that, by name and number."""
    with tracker.reporting("list the registered models"):
        found = [item for item in _search(tracker, f"tags.`{TAG}sha256` != ''") if name_contains in item.name]
        aliases = _aliases(tracker, sorted({item.name for item in found}))
        ours = (_version_or_none(item, aliases.get(item.name, {})) for item in found)
        return sorted((version for version in ours if version), key=lambda version: (version.name, version.version))


def version_of_run(tracker: Tracker, run_id: str) -> Version | None:
    """The version that the run has published last; None if it has published none."""
    with tracker.reporting(f"look up the model of run {run_id}"):
        found = [item for item in _search(tracker, f"run_id = '{run_id}'") if _version_or_none(item, {})]
    return by_number(tracker, found[-1].name, int(found[-1].version)) if found else None


def promote(tracker: Tracker, model: str, alias: str) -> Version:
    """The version that `model` names; `alias` points to it now.

    Raises:
        ModelError: there is no such version, or `alias` cannot be one.
    """
    if not re.fullmatch(r"[A-Za-z][\w-]*", alias) or re.fullmatch(r"v\d+|latest", alias, re.IGNORECASE):
        raise ModelError(f"{alias!r} cannot be an alias: use letters, digits, - and _, but not `latest` or `v3`")
    version = resolve(tracker, model)
    with tracker.reporting(f"promote {model}"):
        tracker.client.set_registered_model_alias(version.name, alias, str(version.version))
        label(tracker.client, version.name)
    return by_number(tracker, version.name, version.version)


def by_number(tracker: Tracker, name: str, number: int) -> Version:
    """That version of that model.

    Raises:
        ModelError: there is none, or it is not ours.
    """
    from mlflow.exceptions import MlflowException

    aliases = aliases_of(tracker, name, must_exist=True)
    with tracker.reporting(f"look up version {number} of {name}"):
        try:
            return _version(tracker.client.get_model_version(name, str(number)), aliases)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            there_are = ", ".join(str(version.version) for version in versions_of(tracker, name)) or "none"
            raise ModelError(f"{name} has no version {number}; it has {there_are}") from error
        except (KeyError, ValueError) as error:
            raise ModelError(f"models:/{name}/{number} was not published by sesr-lab: {error}") from error


def versions_of(tracker: Tracker, name: str) -> list[Version]:
    """The versions of that model that are ours, by number."""
    aliases = aliases_of(tracker, name)
    with tracker.reporting(f"look up {name}"):
        found = (_version_or_none(item, aliases) for item in champions.versions_of(tracker.client, name))
        return [version for version in found if version is not None]


def aliases_of(tracker: Tracker, name: str, *, must_exist: bool = False) -> dict[str, int]:
    """The version that each of the model's aliases points to.

    Raises:
        ModelError: the model does not exist but must.
    """
    from mlflow.exceptions import MlflowException

    with tracker.reporting(f"look up {name}"):
        try:
            model = tracker.client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            if must_exist:
                raise ModelError(_unknown(tracker, name)) from error
            return {}
    return {alias: int(number) for alias, number in model.aliases.items()}


def _of_run(tracker: Tracker, run_id: str) -> Version:
    from mlflow.exceptions import MlflowException

    version = version_of_run(tracker, run_id)
    if version is not None:
        return version
    with tracker.reporting(f"look up the run {run_id}"):
        try:
            run = tracker.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise ModelError(f"there is no run {run_id}, nor a model of it; see: sesr-lab models") from error
    what = f"{run.info.run_name}, {run.info.status}"
    raise ModelError(f"the run {run_id} ({what}) has published no model; see: sesr-lab models")


def _by_name(tracker: Tracker, name: str) -> Version:
    """The model's champion, or the best of its versions where none is above bicubic."""
    if CHAMPION not in aliases_of(tracker, name, must_exist=True):
        ranked = sorted(versions_of(tracker, name), key=lambda version: (-version.psnr_db, version.version))
        if ranked:
            return ranked[0]
    return _by_alias(tracker, name, CHAMPION)


def _by_alias(tracker: Tracker, name: str, alias: str) -> Version:
    aliases = aliases_of(tracker, name, must_exist=True)
    if alias not in aliases:
        there_are = ", ".join(f"{key} (version {number})" for key, number in sorted(aliases.items())) or "none"
        command = f"sesr-lab promote models:/{name}/VERSION --alias {alias}"
        raise ModelError(f"{name} has no alias {alias}; it has {there_are}; set it: {command}")
    return _with_files(tracker, by_number(tracker, name, aliases[alias]), alias)


def _with_files(tracker: Tracker, version: Version, alias: str) -> Version:
    """The version; where its files are gone and a champion's alias points to it, the next best one, crowned now."""
    if not alias.startswith(CHAMPION):
        return version
    with tracker.reporting(f"look up {version.name}"):
        if _is_whole(tracker, version):
            return version
        crown(tracker.client, version.name, version.data_fingerprint)
        label(tracker.client, version.name)
    number = aliases_of(tracker, version.name).get(alias)
    return version if number is None else by_number(tracker, version.name, number)


def _is_whole(tracker: Tracker, version: Version) -> bool:
    return has_files(tracker.client, tracker.client.get_model_version(version.name, str(version.version)))


def _unknown(tracker: Tracker, name: str) -> str:
    known = _registered(tracker)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"there is no registered model {name}; did you mean {' or '.join(near)}?"
    return f"there is no registered model {name}, nor one like it among the {len(known)}; see: sesr-lab models"


def _registered(tracker: Tracker) -> list[str]:
    names: list[str] = []
    token = None
    while True:
        page = tracker.client.search_registered_models(max_results=_PAGE, page_token=token)
        names += [model.name for model in page]
        token = page.token
        if not token:
            return names


def _search(tracker: Tracker, condition: str) -> list[ModelVersion]:
    """Matching versions, each model's by number."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = tracker.client.search_model_versions(condition, _PAGE, ["version_number ASC"], token)
        found += page
        token = page.token
        if not token:
            return found


def _aliases(tracker: Tracker, names: list[str]) -> dict[str, dict[str, int]]:
    """The aliases of those models, asked for at once: others may have thousands in the same registry."""
    found: dict[str, dict[str, int]] = {}
    shared = re.match(r"[\w.-]*", os.path.commonprefix(names))  # noqa: RUF071 (LIKE compares letters)
    condition = f"name LIKE '{shared.group()}%'" if shared and shared.group() else None
    token = None
    while names:
        page = tracker.client.search_registered_models(condition, _PAGE, page_token=token)
        found |= {model.name: {alias: int(number) for alias, number in model.aliases.items()} for model in page}
        token = page.token
        if not token:
            break
    return found


def _version_or_none(found: ModelVersion, aliases: Mapping[str, int]) -> Version | None:
    """The version, if it is ours, and its tags are as we have written them."""
    try:
        return _version(found, aliases)
    except (KeyError, ValueError):
        return None


def _version(found: ModelVersion, aliases: Mapping[str, int]) -> Version:
    """The version that MLflow's is, read from its tags; KeyError or ValueError where they are not ours."""
    tags, number = dict(found.tags), int(found.version)
    parent = tags.get(TAG + "parent.file")
    if TAG + "parent.name" in tags:
        parent = f"{tags[TAG + 'parent.name']}/{tags[TAG + 'parent.version']}"
    return Version(
        name=found.name,
        version=number,
        model_id=str(found.source).removeprefix("models:/"),
        run_id=found.run_id or "",
        aliases=tuple(sorted(alias for alias, pointed in aliases.items() if pointed == number)),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        sha256=tags[TAG + "sha256"],
        architecture=architecture_of(tags),
        psnr_db=float(tags[TAG + "psnr_db"]),
        ssim=float(tags[TAG + "ssim"]),
        params=int(tags[TAG + "params"]),
        macs_720p=int(tags[TAG + "macs_720p"]),
        data=tags[TAG + "data"],
        data_fingerprint=tags[TAG + "data_fingerprint"],
        recipe=tags[TAG + "recipe"],
        parent=parent,
        tags=tags,
    )


def _download(tracker: Tracker, version: Version, folder: Path) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        if not _is_whole(tracker, version):
            raise ModelError(f"{version.uri}: {EXPANDED} is gone from the store; {_again(version)}")
        model = tracker.client.get_logged_model(version.model_id)
        uri = f"{model.artifact_location.rstrip('/')}/{EXPANDED}"
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=tracker.uri))
    except (MlflowException, OSError) as error:
        is_gone = "404" in str(error) or "does not exist" in str(error).lower()
        if isinstance(answer_to(error), Away) and not is_gone:  # MLflow gives one code to all failures of a download
            raise StoreAwayError(f"{version.uri}: cannot be fetched now: {line_of(error)}") from error
        raise ModelError(
            f"{version.uri}: {EXPANDED} cannot be fetched ({line_of(error)}); {_again(version)}"
        ) from error


def _again(version: Version) -> str:
    a = version.architecture
    return (
        f"train it again: sesr-lab train --m {a.m} --f {a.f} --feature-size {a.feature_size} --block {a.block}"
        f"{a.variant_flags} --scale {a.scale} --data {version.data}"
    )
