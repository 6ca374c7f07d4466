"""What a study's database keeps, in plain values: read tolerantly, whatever version wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.trial import FrozenTrial

from sesr_lab.errors import ConfigError
from sesr_lab.study.space import Choice
from sesr_lab.study.spec import StudySpec
from sesr_lab.targets.estimate import INPUT, MACS
from sesr_lab.trials.outcome import Outcome, outcome_from

State = Literal["waiting", "running", "complete", "pruned", "fail"]

IDENTITY, FINISHED, WANTED, SAMPLER = "sesr:study", "sesr:finished", "sesr:trials", "sesr:sampler"
"""Attributes of a stored study."""
ENDLESS = 100_000
"""Networks of a study that ends with its list, however long that is."""
FINGERPRINT, KEY, OUTCOME, TWIN, REASON = "fingerprint", "key", "outcome", "dedup_of", "reason"
ERRORS, LOSSES, RUNG = "errors", "lost", "rung"
DRIVER, ATTEMPTS, PROGRESS = "driver", "attempts", "progress"
EXTRAS, NAMED, RUN_ID = "settings", "enqueued", "run_id"
"""Attributes of a stored trial: settings beside those that are searched, what was asked for by name, and its run's id,
as version 0.1.0 kept it."""


@dataclass(frozen=True)
class Entry:
    """One trial as it is stored, in plain values."""

    number: int
    state: State
    settings: Mapping[str, Choice]
    fingerprint: str | None
    key: str
    """Of its MLflow run."""
    outcome: Outcome | None
    twin: int | None
    """The trial that has trained the same network."""
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ours(self) -> bool:
        """Whether this program began it: others may use the same study through Optuna."""
        return self.fingerprint is not None or NAMED in self.attributes


@dataclass(frozen=True)
class Running:
    """A trial that is being trained, as its driver last said."""

    label: str
    step: int | None = None
    steps: int | None = None
    """So many steps are its training; None where it ends by the clock, or has said nothing yet."""
    fraction: float = 0.0
    psnr: float | None = None
    worker: str = ""


@dataclass(frozen=True)
class TimeLeft:
    """How long a study still takes, about."""

    seconds: float
    rests_on: str


@dataclass(frozen=True)
class Standing:
    """Where a stored study stands."""

    study: str
    finished: bool
    wanted: int | None
    """Networks that the study was to train when it last ran; None where an older version ran it."""
    done: int
    """Networks that it has trained, or tried to."""
    counts: Mapping[str, int]
    best: Outcome | None
    pareto: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    running: tuple[Running, ...] = ()
    left: TimeLeft | None = None
    """None where nothing is left to do, and while it cannot be told."""


def values_of(spec: StudySpec, outcome: Outcome) -> list[float] | None:
    """What Optuna is told of an outcome; None where there is no score to tell.

    That is not a failure in Optuna's sense: samplers pass over what failed, and ask for the same network again.
    """
    if outcome.result != "finished" or outcome.psnr is None:
        return None
    return [outcome.psnr, float(outcome.cost)] if spec.objective == "pareto" else [outcome.psnr]


def outcomes_of(entries: tuple[Entry, ...]) -> Iterator[Outcome]:
    """How the trials ended that have, in order; those of known networks are left out."""
    for entry in entries:
        if entry.outcome is not None and entry.twin is None and entry.state not in ("waiting", "running"):
            yield entry.outcome


def counts_of(entries: tuple[Entry, ...]) -> dict[str, int]:
    """Trials by state, those of networks that were known already apart."""
    states = [entry.state for entry in entries if entry.twin is None]
    return {state: states.count(state) for state in sorted(set(states))} | {"known before": len(entries) - len(states)}


def trained_of(outcomes: tuple[Outcome, ...]) -> list[Outcome]:
    """Those that count against the study's number: what was trained, or tried to."""
    return [outcome for outcome in outcomes if outcome.result != "over budget"]


FEWEST = 2
"""Networks that have to be trained before the time that the others take is told from theirs."""


def running_of(entries: tuple[Entry, ...]) -> tuple[Running, ...]:
    """The trials that are being trained, or were when their driver was killed."""
    return tuple(_running(entry) for entry in entries if entry.state == "running" and entry.ours)


def _running(entry: Entry) -> Running:
    name = "-".join(f"{key[0]}{entry.settings[key]}" for key in ("m", "f") if key in entry.settings)
    label = "-".join(filter(None, (f"t{entry.number:04d}", name)))
    said = entry.attributes.get(PROGRESS)
    known = said if isinstance(said, Mapping) else {}
    return Running(
        label, **{key: known[key] for key in ("step", "steps", "fraction", "psnr", "worker") if key in known}
    )


def time_left(outcomes: tuple[Outcome, ...], running: tuple[Running, ...], wanted: int | None) -> TimeLeft | None:
    """How long the networks take that are still to be trained, as many at a time as are being trained now."""
    times = [outcome.seconds for outcome in outcomes if outcome.result == "finished"]
    left = max((wanted or 0) - len(trained_of(outcomes)), len(running)) - sum(each.fraction for each in running)
    if len(times) < FEWEST or left <= 0:
        return None
    mean, slots = sum(times) / len(times), max(1, len(running))
    at_once = "one" if slots == 1 else str(slots)
    return TimeLeft(left * mean / slots, f"{len(times)} networks that took {mean:.0f} s each, {at_once} at a time")


def entry_of(trial: FrozenTrial) -> Entry:
    """The trial in plain values."""
    attributes = trial.user_attrs
    extras = attributes.get(EXTRAS)
    fixed = trial.system_attrs.get("fixed_params")
    params = {**(fixed if isinstance(fixed, Mapping) else {}), **trial.params}  # a kill may have come between two
    twin, fingerprint = attributes.get(TWIN), attributes.get(FINGERPRINT)
    return Entry(
        number=trial.number,
        state=trial.state.name.lower(),  # type: ignore[arg-type]  # Optuna's five states, which do not change
        settings={**params, **(extras if isinstance(extras, Mapping) else {})},
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
        key=str(attributes.get(KEY) or attributes.get(RUN_ID) or ""),
        outcome=outcome_from(attributes.get(OUTCOME)),
        twin=twin if isinstance(twin, int) else None,
        attributes=attributes,
    )


def is_current(identity: object) -> bool:
    """Whether a stored identity has the form of this version: version 0.1.0 kept the file's own tables."""
    return isinstance(identity, Mapping) and "train" not in identity


def check_identity(spec: StudySpec, known: object) -> None:
    """A stored study goes on only as the study that it was; of keys that one version does not know nothing is said.

    Raises:
        ConfigError: something that its numbers depend on is another now.
    """
    if not isinstance(known, Mapping):
        return
    now = spec.identity
    then = _renewed(spec, known)
    differing = [key for key in {**then, **now} if key in now.keys() & then.keys() and now[key] != then[key]]
    differing += [key for key in now.keys() ^ then.keys() if key.startswith("space.")]
    if differing:
        key = differing[0]
        raise ConfigError(
            f"study {spec.name}: {key} is {now.get(key)!r} but the stored study has {then.get(key)!r}; restore it, or "
            f"give the study another name"
        )


BEFORE = {"target": MACS, "input": INPUT, "max_ms": None, "pruning": None}
"""What a study was that says nothing of these."""


def _renewed(spec: StudySpec, known: Mapping[str, Any]) -> Mapping[str, Any]:
    """The identity that version 0.1.0 stored (the study's keys as they stood in its file), as it is stored now."""
    if is_current(known):
        return {**BEFORE, **known}
    keys = {key: value for key, value in known.items() if key in type(spec).model_fields and value is not None}
    try:
        return type(spec).model_validate({**keys, "trials": spec.trials}).identity
    except ValueError:  # a setting that this version no longer takes: what can be compared is
        return {key: known[key] for key in ("objective", "sampler", "seed") if key in known}
