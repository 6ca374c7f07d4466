"""Where trials run, where they are recorded, who watches, and how to wait for a store that is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from sesr_lab.data.dataset import Data
from sesr_lab.errors import StoreAwayError
from sesr_lab.study.config import TrialConfig
from sesr_lab.targets.estimate import Estimate
from sesr_lab.tracking.runs import Tracker
from sesr_lab.trials import trial
from sesr_lab.trials.locks import Locks
from sesr_lab.trials.outcome import Outcome, Result

T = TypeVar("T")

RETRY_S = 5.0
"""How often a store that does not answer is asked again where nothing can go on without it."""
NOTE_EVERY_S = 60.0


class View(Protocol):
    """Who shows what happens: the terminal, or nobody."""

    def note(self, text: str) -> None:
        """Says one line."""
        ...

    def recall(self, outcomes: Sequence[Outcome], text: str) -> None:
        """Trials that an earlier process ended, and one line about them."""
        ...

    def preparing(self, done: int, total: int, text: str) -> None:
        """Data is being fetched or prepared: `done` of `total`."""
        ...

    def begin(self, label: str, worker: str = "") -> None:
        """A trial of that name starts, on a worker that has a name where there are several."""
        ...

    def event(self, event: trial.Event, label: str) -> None:
        """The trial of that name has got on."""
        ...

    def end(self, outcome: Outcome) -> None:
        """The running trial is over."""
        ...


@dataclass(frozen=True)
class Lab:
    """Where trials run, where they are recorded, and who watches."""

    tracker: Tracker
    locks: Locks
    where: trial.Place
    view: View
    stop: Callable[[], bool] = field(default=lambda: False)
    """Whether what runs shall stop at its next checkpoint."""
    begins_nothing: Callable[[], bool] = field(default=lambda: False)
    """Whether nothing new shall be begun, while what runs is finished."""
    prefix: str = "sesr"
    """The first word of registered models' names."""


@dataclass(frozen=True)
class Task:
    """One trial to record: what it is, where its run belongs, and what its network costs on its study's target."""

    config: TrialConfig
    experiment: str
    """The name of the MLflow experiment."""
    label: str
    tags: Mapping[str, str] = field(default_factory=dict)
    study_key: str | None = None
    """The key of the study's own run, below which the UI shows this one."""
    estimate: Estimate | None = None

    @property
    def target_metrics(self) -> dict[str, float]:
        """The time on the study's target, as a metric: nothing without a target."""
        ms = None if self.estimate is None else self.estimate.milliseconds
        return {} if ms is None else {"latency_ms": ms}

    @property
    def target_tags(self) -> dict[str, str]:
        """The study's target, what it is given, and what has found the time: nothing without a target."""
        found = self.estimate
        return {} if found is None else {f"sesr.{key}": value for key, value in found.origin.items()}


class Interrupted(KeyboardInterrupt):
    """A trial was stopped at a checkpoint because the user asked; the same command goes on from there."""


def patiently(lab: Lab, ask: Callable[[], T]) -> T:
    """What `ask` returns, waiting without limit for a store that does not answer, and saying so.

    Raises:
        StoreError: waiting will not change what the store says.
        Interrupted: the user asked to stop.
    """
    said = float("-inf")
    while True:
        try:
            return ask()
        except StoreAwayError as error:
            if time.monotonic() - said > NOTE_EVERY_S:
                said = time.monotonic()
                lab.view.note(f"waiting: {error}")
            again = time.monotonic() + RETRY_S
            while time.monotonic() < again:
                if lab.stop():
                    raise Interrupted("stopped while waiting for a store") from error
                time.sleep(min(0.2, RETRY_S))


def load_data(lab: Lab, config: TrialConfig) -> Data:
    """The trial's data; the view shows how loading it gets on.

    Raises:
        DataError: it cannot be loaded, or a picture is smaller than the trial's patch.
    """
    data = trial.load_data(config.data, config.scale, lab.view.preparing)
    data.check_patch(config.resolved_recipe().patch)
    return data


def untrained(task: Task, result: Result, reason: str, *, key: str = "") -> Outcome:
    """The outcome of a trial that has no trained network to show."""
    costs = trial.trial_costs(task.config)
    return Outcome(
        label=task.label,
        network=task.config.architecture.name,
        scale=task.config.scale,
        settings={key: value for key, value in task.config.architecture.settings.items() if key != "scale"},
        result=result,
        reason=reason,
        run_id="",
        params=costs.params,
        macs_720p=costs.macs_720p,
        latency_ms=task.target_metrics.get("latency_ms"),
        target=task.target_tags.get("sesr.target"),
        target_input=task.target_tags.get("sesr.target_input"),
        target_tool=task.target_tags.get("sesr.target_tool"),
        key=key,
    )
