"""What a study's storage holds: Optuna's database, opened, checked and read. With `sweep`, all that touches Optuna."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from sesr_lab.errors import ConfigError
from sesr_lab.study.spec import StudySpec
from sesr_lab.tracking.store import shown
from sesr_lab.trials.claims import failure
from sesr_lab.trials.outcome import Outcome, best_of, pareto

IDENTITY, FINISHED = "sesr:study", "sesr:finished"
"""Attributes of a stored study."""
OUTCOME, DUPLICATE = "outcome", "dedup_of"
"""Attributes of a stored trial."""


@dataclass(frozen=True)
class Standing:
    """Where a stored study stands."""

    study: str
    finished: bool
    counts: Mapping[str, int]
    best: Outcome | None
    pareto: tuple[str, ...]
    outcomes: tuple[Outcome, ...]


def standing(storage: str, name: str | None = None) -> list[Standing]:
    """Where the stored studies stand, or the one called `name`.

    Raises:
        ConfigError: there is no study of that name.
    """
    known: list[str] = []
    with storage_errors(storage):
        if not _is_missing_file(storage):
            backend = open_storage(storage)
            known = optuna.get_all_study_names(backend)
        if name is not None and name not in known:
            raise ConfigError(f"study {name!r} is not in {shown(storage)}; stored there: {', '.join(known) or 'none'}")
        wanted = [name] if name is not None else known
        return [_standing(optuna.load_study(study_name=each, storage=backend)) for each in wanted]


def _is_missing_file(storage: str) -> bool:
    """Whether the storage is a SQLite file that nobody has made yet: looking must not make it."""
    url = make_url(storage)
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()


def _standing(study: optuna.Study) -> Standing:
    outcomes = tuple(outcomes_of(study))
    return Standing(
        study=study.study_name,
        finished=bool(study.user_attrs.get(FINISHED)),
        counts=counts_of(study),
        best=best_of(outcomes),
        pareto=tuple(outcome.label for outcome in pareto(outcomes)),
        outcomes=outcomes,
    )


def stored(name: str, storage: str) -> list[Outcome]:
    """The trained x2 networks of a stored study.

    Raises:
        ConfigError: there is no such study, it has not finished, or it is not one of x2 networks.
    """
    with storage_errors(storage):
        try:
            study = optuna.load_study(study_name=name, storage=open_storage(storage))
        except KeyError:
            where = shown(storage)
            raise ConfigError(f"study {name!r} is not in {where}; run it first: sesr-lab sweep {name}") from None
        if not study.user_attrs.get(FINISHED):
            raise ConfigError(f"study {name!r} has not finished; go on with it: sesr-lab sweep {name}")
        trained = [outcome for outcome in outcomes_of(study) if outcome.result == "finished"]
        if any(outcome.scale != 2 for outcome in trained):
            raise ConfigError(f"study {name!r} is one of x4 networks; candidates come from a x2 study")
        return trained


def open_study(spec: StudySpec, storage: str) -> optuna.Study:
    """The stored study, or a new one.

    Raises:
        ConfigError: a study of that name is stored whose space, settings or objective are others.
    """
    maximize, minimize = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    directions = [maximize, minimize] if spec.objective == "pareto" else [maximize]
    backend = open_storage(storage)
    names = optuna.get_all_study_names(backend)
    if spec.name in names:
        _check_identity(spec, optuna.load_study(study_name=spec.name, storage=backend).user_attrs)
    study = optuna.create_study(storage=backend, study_name=spec.name, directions=directions, load_if_exists=True)
    study.sampler = _sampler(spec, len(study.get_trials(deepcopy=False)))
    study.set_user_attr(IDENTITY, spec.identity)
    study.set_user_attr("sesr:sampler", f"{type(study.sampler).__name__}(seed={spec.seed})")
    return study


def _check_identity(spec: StudySpec, attrs: Mapping[str, Any]) -> None:
    stored_identity = attrs.get(IDENTITY)
    now = json.loads(json.dumps(spec.identity))
    if stored_identity is None or stored_identity == now:
        return
    keys = sorted(key for key in now.keys() | stored_identity.keys() if now.get(key) != stored_identity.get(key))
    key = keys[0]
    raise ConfigError(
        f"study {spec.name}: {key} is {json.dumps(now.get(key))} but the stored study has "
        f"{json.dumps(stored_identity.get(key))}; restore it, or give the study another name"
    )


def _sampler(spec: StudySpec, asked: int) -> optuna.samplers.BaseSampler:
    """The study's sampler; a resumed one draws on instead of drawing the same again."""
    seed = spec.seed + asked
    if spec.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, multivariate=spec.objective == "psnr", n_startup_trials=8)


def open_storage(storage: str) -> optuna.storages.RDBStorage:
    """Optuna's storage at that URL; its chatter is turned off."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    arguments = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(storage, engine_kwargs={"pool_pre_ping": True, **arguments})


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Turns what the database, or Optuna about it, says into one line."""
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        raise failure(storage, error) from error
    except optuna.exceptions.StorageInternalError as error:
        raise failure(storage, error.__cause__ if isinstance(error.__cause__, Exception) else error) from error


def outcomes_of(study: optuna.Study) -> Iterator[Outcome]:
    """The trials that ended, in order; those told from memory are left out."""
    for trial in study.get_trials(deepcopy=False):
        if OUTCOME in trial.user_attrs and trial.state.is_finished():
            yield Outcome(**trial.user_attrs[OUTCOME])


def counts_of(study: optuna.Study) -> dict[str, int]:
    """Trials by state, those of networks that were known already apart."""
    every = study.get_trials(deepcopy=False)
    states = [trial.state.name.lower() for trial in every if DUPLICATE not in trial.user_attrs]
    return {state: states.count(state) for state in sorted(set(states))} | {"known before": len(every) - len(states)}
