"""A study: a space of networks, how to search it, and what each trial holds fixed. Checked strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sesr_lab.errors import ConfigError, TargetError
from sesr_lab.study.config import PRESETS, RECIPE_KEYS, Frozen, TrialConfig, checked, one_of, preset
from sesr_lab.study.naming import PATTERN, slug, study_name
from sesr_lab.study.price import Prices
from sesr_lab.study.space import (
    CONTINUOUS,
    SEARCHABLE,
    Axis,
    Choice,
    Range,
    axis_from,
    check_choice,
    holds,
    parse_duration,
    parse_macs,
    points,
)
from sesr_lab.targets.estimate import INPUT, MACS, TARGETS, Size, check_target, parse_size

Objective = Literal["pareto", "psnr"]
Sampler = Literal["tpe", "random"]


Pruner = Literal["median", "successive-halving"]


class Pruning(Frozen):
    """When a study gives a network up before its steps are over."""

    rung: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """The part of its steps after which a network is compared with the others at the same step."""
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.04
    """Decibels by which a network of equal or lower cost must be better; twice what two seeds differ by."""
    pruner: Pruner = "median"
    """Optuna's, in studies of one objective."""
    presets: bool = False
    """Whether the published networks' runs are given up too."""


class Confirm(Frozen):
    """A second, longer look at a study's best networks."""

    top: Annotated[int, Field(ge=1, le=1000)] = 5
    """So many of the Pareto set, or of the best, at most."""
    seeds: Annotated[int, Field(ge=2, le=100)] = 3
    steps: Annotated[int, Field(ge=1)]
    """Of each training."""


class StudySpec(Frozen):
    """One study, as its TOML file describes it."""

    name: str
    description: str = ""
    trials: Annotated[int, Field(ge=1, le=100_000)]
    """Networks to train; those known already, or over the limit, cost nothing and do not count."""
    objective: Objective = "pareto"
    max_macs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The MAC budget to a 1280×720 picture; networks over it are not trained."""
    target: str = MACS
    """What the networks are for: the costs of `pareto` and `max_ms` are times there; `macs` counts MACs."""
    input: str = INPUT
    """The size of the low-resolution picture that the target is given."""
    max_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Milliseconds on the target; networks that take longer are not trained."""
    sampler: Sampler = "tpe"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    space: dict[str, Axis] = Field(default_factory=dict)
    enqueue: Annotated[tuple[dict[str, Choice], ...], Field(strict=False)] = ()
    """Trials to run first: a preset's name, or a table of settings."""
    candidates: str | None = None
    """A finished x2 study whose Pareto set is the list of trials."""
    train: dict[str, Choice] = Field(default_factory=dict)
    """Settings that every trial shares."""
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds after which no network is begun any more, over all the lives of the study."""
    device_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Hours of training after which no network is begun any more, those of lost attempts counted."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """So many networks in a row that gain nothing end the study."""
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    """The study ends when a larger part of its networks than this has failed."""
    pruning: Pruning | None = None
    """Without it, every network is trained to its end."""
    confirm: Confirm | None = None
    """What is trained again, with several seeds, once the search is over."""
    workers: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Networks that are trained at once, on Ray; without it one, in the driver's process."""
    trials_per_device: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Networks that take turns on one device, in the driver's process: small ones leave much of a GPU idle."""
    cpus: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Cores for each network on Ray; torch gets as many threads."""
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """GPUs for each network on Ray, or the part of one."""
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    """How often a trial is begun again, from its checkpoint, whose worker was lost."""

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if re.fullmatch(PATTERN, value) is None:
            raise ValueError(
                f"found {value!r}; letters, digits, dots, dashes and underscores are allowed: {study_name(value)}"
            )
        return value

    @field_validator("max_macs", mode="before")
    @classmethod
    def _macs(cls, value: object) -> object:
        return parse_macs(value) if isinstance(value, str) else value

    @field_validator("timeout", mode="before")
    @classmethod
    def _timeout(cls, value: object) -> object:
        return parse_duration(value) if isinstance(value, str) else value

    @field_validator("target")
    @classmethod
    def _target(cls, value: str) -> str:
        try:
            check_target(value)
        except TargetError as error:
            raise ValueError(str(error).removeprefix("target: ")) from None
        return value

    @field_validator("input")
    @classmethod
    def _input(cls, value: str) -> str:
        return str(parse_size(value))

    @field_validator("space", mode="before")
    @classmethod
    def _axes(cls, value: object) -> object:
        return {key: axis_from(key, axis) for key, axis in value.items()} if isinstance(value, dict) else value

    @field_validator("enqueue", mode="before")
    @classmethod
    def _presets(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return [_preset(item) if isinstance(item, str) else _settings(item) for item in value]

    @field_validator("train", mode="before")
    @classmethod
    def _train(cls, value: object) -> object:
        return _settings(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.target == MACS and (self.max_ms is not None or self.input != INPUT):
            key = "input" if self.max_ms is None else "max_ms"
            raise ValueError(f"{key}: MACs take no time; name a target: {', '.join(TARGETS[1:])}")
        self._check_pruning()
        if self.trials_per_device is not None and self.workers is not None:
            raise ValueError("trials_per_device: is for trials in this process; leave workers out")
        for key in self.space:
            if key not in SEARCHABLE:
                raise ValueError(f"space.{key}: cannot be searched; {one_of(key, SEARCHABLE)}")
            if isinstance(self.space[key], Range) and key not in CONTINUOUS:
                raise ValueError(f"space.{key}: found a range; list its values (ranges are for {CONTINUOUS[0]})")
            if key in self.train:
                raise ValueError(f"space.{key}: also fixed under [train]; keep one of them")
        for key in ("scale", "data"):
            if any(key in settings for settings in self.enqueue):
                raise ValueError(f"enqueue: {key}: scores at another {key} do not compare; set it under [train]")
        outside = [
            f"{key} = {settings[key]!r} is not in space.{key}"
            for settings in self.enqueue
            for key in self.space
            if key in settings and not holds(self.space[key], settings[key])
        ]
        if outside:
            raise ValueError(f"enqueue: {', '.join(dict.fromkeys(outside))}; add it there")
        if not self.space and not self.enqueue and self.candidates is None:
            raise ValueError("space: missing; give [space], enqueue or candidates")
        return self

    def _check_pruning(self) -> None:
        if self.pruning is None:
            return
        if "max_seconds" in self.train or "max_seconds" in self.space:
            raise ValueError("pruning: networks are compared at the same step; give steps or epochs, not max_seconds")
        idle = {"margin"} if self.objective == "psnr" else {"pruner"}
        for key in sorted(idle & self.pruning.model_fields_set):
            other = "pareto" if self.objective == "psnr" else "psnr"
            raise ValueError(f'pruning.{key}: is for objective = "{other}"; leave it out')

    @cached_property
    def points(self) -> list[dict[str, Choice]] | None:
        """All combinations of the space in order, or None where it is continuous or too large to list."""
        return points(self.space) if self.space else []

    def trial(self, params: Mapping[str, Choice]) -> TrialConfig:
        """The trial with these settings on top of the study's own.

        Raises:
            ConfigError: they do not make a trial.
        """
        settings = {"seed": self.seed, **self.train, **params}
        return checked(TrialConfig, settings, where=f"study {self.name}: trial")

    def prices(self) -> Prices:
        """What its networks cost, and its limits on that."""
        return Prices(self.target, self.size, self.max_macs, self.max_ms)

    @property
    def size(self) -> Size:
        """The low-resolution picture that the target is given."""
        return parse_size(self.input)

    def changed(self, *, data: str | None = None, **limits: object) -> StudySpec:
        """The study with other limits and workers where they are given, or on other data (under another name then).

        Raises:
            ConfigError: a limit is not what its key allows.
        """
        given = {key: value for key, value in limits.items() if value is not None}
        allowed = checked(
            StudySpec, {"name": "limits", "trials": 1, "enqueue": [{}], **given}, where=f"study {self.name}"
        )
        update: dict[str, object] = {key: getattr(allowed, key) for key in given}
        if data is not None and data != self.train.get("data", TrialConfig.model_fields["data"].default):
            update |= {"train": {**self.train, "data": data}, "name": f"{self.name}-{slug(data)}"}
            if self.candidates is not None:  # that study's numbers on the same data
                update["candidates"] = f"{self.candidates}-{slug(data)}"
        return self.model_copy(update=update)

    @property
    def identity(self) -> dict[str, object]:
        """What must stay the same for a stored study to go on, by dotted keys and in plain JSON values.

        Settings are as they are used, so a default that is written out changes nothing. What only says how much to
        do, or which networks come first, is left out.
        """
        space = {key: _plain(axis) for key, axis in self.space.items()}
        first = self.trial({key: axis.low if isinstance(axis, Range) else axis[0] for key, axis in self.space.items()})
        fixed = {key: value for key, value in first.identity.items() if key not in self._searched}
        kept = ("objective", "max_macs", "target", "input", "max_ms", "sampler", "seed", "candidates")
        search = {key: getattr(self, key) for key in kept}
        search["pruning"] = None if self.pruning is None else self.pruning.model_dump()
        named = {f"space.{key}": axis for key, axis in space.items()} | {f"train.{k}": v for k, v in fixed.items()}
        return {**search, **named}

    @property
    def _searched(self) -> set[str]:
        """The keys of a trial's identity that its space decides."""
        if "recipe" in self.space:
            return {*self.space, *(set(RECIPE_KEYS) - self.train.keys())}
        return {*self.space}


def _plain(axis: Axis) -> object:
    return axis.model_dump() if isinstance(axis, Range) else list(axis)


def _settings(table: object) -> object:
    """The table, whose values are plain; what is no table is left for pydantic to refuse."""
    if isinstance(table, dict):
        for key, value in table.items():
            check_choice(key, value)
    return table


def _preset(name: str) -> dict[str, int]:
    try:
        return preset(name)
    except ConfigError:
        raise ValueError(f"preset {name!r} is unknown; {one_of(name, PRESETS)}") from None
