"""Reads a study's stores and says what is not as it must be after whatever was done to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

POINTS = "select count(*), count(distinct run_uuid || '/' || key || '/' || step) from metrics"


FINISHED = (
    "select a.value_json from trial_user_attributes a join trials t using (trial_id)"
    " where a.key = 'fingerprint' and t.state = 'COMPLETE'"
)


def faults_in(folder: Path, *, networks: int, url: str = "") -> list[str]:
    """What is wrong in the stores of a finished study of so many networks; nothing if all is well.

    Args:
        url: of the study database, where it is none in the folder.
    """
    found = []
    engine = sa.create_engine(url or f"sqlite:///{folder / 'optuna.db'}", poolclass=sa.NullPool)
    with engine.connect() as optuna:
        fingerprints = [row[0] for row in optuna.execute(sa.text(FINISHED))]
        left = optuna.execute(sa.text("select count(*) from trials where state in ('RUNNING', 'WAITING')")).scalar_one()
    if len(fingerprints) != networks or len(set(fingerprints)) != networks:
        found.append(f"{len(fingerprints)} networks finished, {len(set(fingerprints))} different, not {networks}")
    if left:
        found.append(f"{left} trials are not over")
    with closing(sqlite3.connect(folder / "mlflow.db")) as mlflow:
        running = mlflow.execute("select name from runs where status = 'RUNNING'").fetchall()
        every, different = mlflow.execute(POINTS).fetchone()
        keys = mlflow.execute(
            "select value, count(*) from tags where key = 'sesr.key' group by value having count(*) > 1"
        ).fetchall()
        finished = mlflow.execute("select count(*) from runs where status = 'FINISHED' and name like 't0%'").fetchone()[
            0
        ]
        versions = mlflow.execute(
            "select v.name, count(*) from model_versions v join model_version_tags t using (name, version)"
            " where t.key = 'sesr.sha256' group by v.name, t.value having count(*) > 1"
        ).fetchall()
        models = mlflow.execute("select count(*) from logged_models where lifecycle_stage = 'active'").fetchone()[0]
        registered = mlflow.execute("select count(*) from model_versions").fetchone()[0]
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


def table(folder: Path) -> list[tuple[str, float]]:
    """The study's networks and scores, as its runs say."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as mlflow:
        return sorted(
            mlflow.execute(
                "select r.name, m.value from runs r join latest_metrics m using (run_uuid)"
                " where m.key = 'best_psnr' and r.name like 't0%' and r.status = 'FINISHED'"
            ).fetchall()
        )
