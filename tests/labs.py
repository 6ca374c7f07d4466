"""A small but real lab for tests: its own photographs, SQLite stores, and networks that train in a second."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import skimage.data
from mlflow_store import new_store
from PIL import Image

from sesr_lab.study.spec import StudySpec
from sesr_lab.tracking.runs import open_store
from sesr_lab.trials import trial
from sesr_lab.trials.lab import Lab
from sesr_lab.trials.locks import Locks
from sesr_lab.trials.outcome import Outcome

TINY = {"m": 1, "f": 4, "feature_size": 8}
STUDY_FILE = """
trials = 2
[space]
m = [1]
f = [2, 4]
feature_size = [8]
[train]
data = "{data}"
steps = 10
patch = 32
batch_size = 4
"""
"""A study of two small networks, as a user's file has it."""


class Notebook:
    """A view that remembers what it was shown."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.begun: list[str] = []
        self.events: list[trial.Event] = []
        self.outcomes: list[Outcome] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def recall(self, outcomes: Sequence[Outcome], text: str) -> None:
        self.note(text)

    def preparing(self, done: int, total: int, text: str) -> None:
        """Not remembered."""

    def begin(self, label: str, worker: str = "") -> None:
        self.begun.append(label)

    def event(self, event: trial.Event, label: str) -> None:
        self.events.append(event)

    def end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def photographs(folder: Path) -> str:
    """A small folder of crops of bundled photographs; its name as a data source."""
    folder.mkdir(parents=True, exist_ok=True)
    crops = {"a": skimage.data.astronaut(), "b": skimage.data.chelsea(), "c": skimage.data.coffee()}
    for name, picture in crops.items():
        for index in range(2):
            top = 60 * index
            crop = np.ascontiguousarray(picture[top : top + 160, 100:280])
            Image.fromarray(crop).save(folder / f"{name}{index}.png")
    return f"folder:{folder}"


def lab(tmp_path: Path, *, stop: Callable[[], bool] = lambda: False, uri: str = "") -> tuple[Lab, Notebook]:
    """A lab on real SQLite stores in `tmp_path`, or on the MLflow server at `uri`, on the CPU."""
    notebook = Notebook()
    if uri or (tmp_path / "mlflow.db").exists():
        tracker = open_store(uri or f"sqlite:///{tmp_path / 'mlflow.db'}", state=tmp_path / "state")
    else:
        tracker = new_store(tmp_path)
    url = storage(tmp_path)
    return Lab(tracker, Locks(url), trial.place("cpu", "simple"), notebook, stop), notebook


def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'optuna.db'}"


def study(data: str, **changes: object) -> StudySpec:
    """Four tiny networks, ten steps each."""
    values: dict[str, object] = {
        "name": "tiny",
        "trials": 3,
        "space": {"m": [1, 2], "f": [2, 4], "feature_size": [8]},
        "train": {"data": data, "steps": 10, "patch": 32, "batch_size": 4},
    }
    return StudySpec.model_validate(values | changes)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sesr_lab", *arguments]


def spawn(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """`sesr-lab` as a process of its own in `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(command(*arguments), cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def until(what: Callable[[], bool], *, timeout_s: float = 60.0, every_s: float = 0.05) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > end:
            raise TimeoutError("it did not happen in time")
        time.sleep(every_s)
