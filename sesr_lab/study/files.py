"""Studies in files: those that travel with sesr-lab and the user's own, read from TOML, strictly."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from sesr_lab.errors import ConfigError
from sesr_lab.study.config import TrialConfig, checked, explain, one_of
from sesr_lab.study.naming import study_name
from sesr_lab.study.space import Choice, Range
from sesr_lab.study.spec import StudySpec


def load_study(name_or_path: str) -> StudySpec:
    """The built-in study of that name, or the one in the TOML file at that path.

    Raises:
        ConfigError: there is no such study, or something in it is wrong.
    """
    path = _find(name_or_path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows put a mark in front
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error}); mend the file") from None
    where = _shown(path)
    spec = checked(StudySpec, {"name": study_name(path.stem), **table}, where=where)
    _check_trials(spec, where)
    return spec


def built_in() -> dict[str, Path]:
    """The studies that travel with sesr-lab, by name."""
    return {path.stem: path for path in sorted(_folder().glob("*.toml"))}


def _check_trials(spec: StudySpec, where: str) -> None:
    """Every point that can be listed is a valid trial, so that a typo shows before the first hour of training."""
    for part, params in _samples(spec):
        try:
            TrialConfig.model_validate({"seed": spec.seed, **spec.train, **params})
        except ValidationError as error:
            mistake = explain(error, TrialConfig)
            key = mistake.partition(":")[0]
            raise ConfigError(f"{where}: {part if key in params else 'train'}: {mistake}") from None


def _samples(spec: StudySpec) -> Iterator[tuple[str, Mapping[str, Choice]]]:
    """Trials that hold every value that can be listed, and the part of the file that they come from."""
    for settings in spec.enqueue:
        yield "enqueue", settings
    if not spec.space and not spec.enqueue:
        yield "train", {}
    base = {key: axis.low if isinstance(axis, Range) else axis[0] for key, axis in spec.space.items()}
    for key, axis in spec.space.items():
        for value in (axis.low, axis.high) if isinstance(axis, Range) else axis:
            yield "space", {**base, key: value}


def _find(name_or_path: str) -> Path:
    studies = built_in()
    if name_or_path in studies:
        return studies[name_or_path]
    path = Path(name_or_path)
    if path.suffix == ".toml" and path.is_file():
        return path
    if path.suffix == ".toml":
        raise ConfigError(f"study {name_or_path}: no such file; built-in studies: {', '.join(studies)}")
    raise ConfigError(f"study {name_or_path!r} is unknown; {one_of(name_or_path, studies)}, or a path to a .toml")


def _folder() -> Path:
    """Where the studies are: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "_studies"
    return inside if inside.is_dir() else package.parent / "studies"


def _shown(path: Path) -> str:
    return f"studies/{path.name}" if path.parent == _folder() else str(path)
