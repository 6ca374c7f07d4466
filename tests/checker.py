"""Reads a study's stores and says what is not as it must be after whatever was done to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

FINISHED = (
    "select a.value_json from trial_user_attributes a join trials t using (trial_id) join studies s using (study_id)"
    " where a.key = 'fingerprint' and t.state = 'COMPLETE' and s.study_name = :study and not exists"
    " (select 1 from trial_user_attributes b where b.trial_id = t.trial_id and b.key = 'dedup_of')"
)
LEFT = (
    "select count(*) from trials t join studies s using (study_id) where s.study_name = :study"
    " and t.state in ('RUNNING', :waiting)"
)
RUNS = "(select r.* from runs r join experiments e using (experiment_id) where e.name = :study)"
POINTS = (
    f"select count(*), count(distinct run_uuid || '/' || key || '/' || step) from metrics join {RUNS} using (run_uuid)"
)
TWICE = (
    f"select value, count(*) from tags join {RUNS} using (run_uuid) where key = 'sesr.key'"
    " group by value having count(*) > 1"
)
SAME = (
    "select v.name, count(*) from model_versions v join model_version_tags t using (name, version)"
    " where t.key = 'sesr.sha256' and v.name like :names group by v.name, t.value having count(*) > 1"
)
MODELS = (
    "select count(*) from logged_models m join experiments e using (experiment_id)"
    " where m.lifecycle_stage = 'active' and e.name = :study"
)


def faults_in(
    folder: Path,
    *,
    networks: int,
    url: str = "",
    store: Path | None = None,
    study: str = "tiny",
    prefix: str = "sesr",
    may_wait: bool = False,
) -> list[str]:
    """What is wrong in the stores of a finished study of so many networks; nothing if all is well.

    Args:
        url: of the study database, where it is none in the folder.
        store: MLflow's database, where it is none in the folder.
        may_wait: whether trials may be left that somebody has enqueued.
        prefix: the first word of the names of the study's registered models.
    """
    found = []
    engine = sa.create_engine(url or f"sqlite:///{folder / 'optuna.db'}", poolclass=sa.NullPool)
    of = {"study": study, "names": f"{prefix}-%", "waiting": "RUNNING" if may_wait else "WAITING"}
    with engine.connect() as optuna:
        fingerprints = [row[0] for row in optuna.execute(sa.text(FINISHED), of)]
        left = optuna.execute(sa.text(LEFT), of).scalar_one()
    if len(fingerprints) != networks or len(set(fingerprints)) != networks:
        found.append(f"{len(fingerprints)} networks finished, {len(set(fingerprints))} different, not {networks}")
    if left:
        found.append(f"{left} trials are not over")
    with closing(sqlite3.connect(store or folder / "mlflow.db")) as mlflow:

        def ask(text: str) -> list[Any]:
            return mlflow.execute(text, of).fetchall()

        running = ask(f"select name from {RUNS} where status = 'RUNNING'")
        ((every, different),) = ask(POINTS)
        keys = ask(TWICE)
        ((finished,),) = ask(f"select count(*) from {RUNS} where status = 'FINISHED' and name like 't0%'")
        versions = ask(SAME)
        ((models,),) = ask(MODELS)
        ((registered,),) = ask("select count(*) from model_versions where name like :names")
    found += [f"{name} is RUNNING" for (name,) in running]
    if every != different:
        found.append(f"{every - different} points of curves are there twice")
    if keys:
        found.append(f"runs made twice: {keys}")
    if finished != networks:
        found.append(f"{finished} runs of trials are FINISHED, not {networks}")
    if versions:
        found.append(f"networks registered twice: {versions}")
    if models != registered:
        found.append(f"{models} logged models for {registered} versions")
    return found


def table(folder: Path, *, store: Path | None = None, study: str = "tiny") -> list[tuple[str, float]]:
    """The study's networks and scores, as its runs say."""
    asked = (
        f"select r.name, m.value from {RUNS} r join latest_metrics m using (run_uuid)"
        " where m.key = 'best_psnr' and r.name like 't0%' and r.status = 'FINISHED'"
    )
    with closing(sqlite3.connect(store or folder / "mlflow.db")) as mlflow:
        return sorted(mlflow.execute(asked, {"study": study}).fetchall())


def curves(store: Path, *, study: str = "tiny", key: str = "val/psnr") -> dict[str, list[tuple[int, float]]]:
    """The curve of each finished run of a trial, by its name."""
    asked = (
        f"select r.name, m.step, m.value from {RUNS} r join metrics m using (run_uuid)"
        " where m.key = :key and r.name like 't0%' and r.status = 'FINISHED' order by m.step"
    )
    found: dict[str, list[tuple[int, float]]] = {}
    with closing(sqlite3.connect(store)) as mlflow:
        for name, step, value in mlflow.execute(asked, {"study": study, "key": key}):
            found.setdefault(name, []).append((step, value))
    return found
