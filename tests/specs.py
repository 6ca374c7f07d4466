"""Studies and their ends for tests that train nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sesr_lab.study.spec import StudySpec
from sesr_lab.sweep.search import Point
from sesr_lab.trials.outcome import Outcome


def spec(**changes: object) -> StudySpec:
    """Four tiny networks, to be trained for a step each."""
    values: dict[str, object] = {
        "name": "tiny",
        "trials": 3,
        "space": {"m": [1, 2], "f": [2, 4], "feature_size": [8]},
        "train": {"steps": 1, "patch": 32},
    }
    return StudySpec.model_validate(values | changes)


def ended(point: Point, psnr: float | None = 30.0, **changes: Any) -> Outcome:
    """How the training of a network may have ended."""
    settings: Mapping[str, int | str] = point.config.architecture.model_dump(exclude={"scale"})
    values: dict[str, Any] = {
        "label": point.config.architecture.short_name,
        "network": point.config.architecture.name,
        "scale": point.config.scale,
        "settings": settings,
        "result": "finished" if psnr is not None else "failed",
        "reason": "",
        "run_id": "",
        "params": point.macs // (640 * 360),
        "macs_720p": point.macs,
        "psnr": psnr,
    }
    return Outcome(**{**values, **changes})
