"""The best versions of a registered model: the aliases that point to them, and what the model's tags say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHECKSUM = "sesr.sha256"
WEIGHTS = "weights.safetensors"
"""The file that a version is of no use without."""
_SCORE, _FLOOR, _DATA = "sesr.psnr_db", "sesr.bicubic_psnr_db", "sesr.data_fingerprint"
_PAGE = 200


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


def label(client: MlflowClient, name: str) -> None:
    """Gives the model as a whole the tags of its champion, or of its best version where none is above bicubic.

    The UI's list of models shows these: scale, PSNR in dB, and on which data, GMACs, milliseconds where a target is
    known.
    """
    model = client.get_registered_model(name)
    crowned = model.aliases.get(CHAMPION)
    known = versions_of(client, name)
    ranked = sorted(known, key=lambda version: (str(version.version) != str(crowned), -(score_of(version) or 0.0)))
    ours = [version for version in ranked if score_of(version) is not None]
    wanted = _labels(ours[0].tags) if ours else {}
    for key, value in wanted.items():
        if model.tags.get(key) != value:
            client.set_registered_model_tag(name, key, value)


def _labels(tags: Mapping[str, str]) -> dict[str, str]:
    """What a version's tags say of it, in few words."""
    psnr, macs, ms = (_number(tags.get(f"sesr.{key}")) for key in ("psnr_db", "macs_720p", "latency_ms"))
    said = {
        "psnr_db": None if psnr is None else f"{psnr:.2f}",
        "gmacs_720p": None if macs is None else f"{macs / 1e9:.2f}",
        "scale": f"x{tags['sesr.scale']}" if "sesr.scale" in tags else None,
        "data": tags.get("sesr.data"),
        "latency_ms": None if ms is None else f"{ms:.2f} on {tags.get('sesr.target', 'its target')}",
    }
    return {key: value for key, value in said.items() if value is not None}


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


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
