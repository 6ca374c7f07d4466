"""A space of networks: the settings that are searched, the values that each may take, and its points."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from typing import Self

from pydantic import ValidationError, model_validator

from sesr_lab.study.config import Frozen, explain

Choice = bool | int | float | str

CONTINUOUS = ("learning_rate",)
SEARCHABLE = (
    "m",
    "f",
    "feature_size",
    "block",
    "activation",
    "input_residual",
    "learning_rate",
    "batch_size",
    "patch",
    "seed",
    "recipe",
    "steps",
    "epochs",
    "max_seconds",
)
ENUMERABLE = 4096
"""Spaces with at most so many points are listed, so that none is tried twice and their end is known."""


class Range(Frozen):
    """A continuous setting: from `low` to `high`, drawn evenly or evenly in its logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low: {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low: {self.low:g} is not positive; a log range needs that")
        return self


Axis = tuple[Choice, ...] | Range


def points(space: Mapping[str, Axis]) -> list[dict[str, Choice]] | None:
    """All combinations in order, or None where an axis is continuous or there are too many to list."""
    if any(isinstance(axis, Range) for axis in space.values()):
        return None
    size = 1
    for axis in space.values():
        size *= len(axis) if isinstance(axis, tuple) else 1
    if size > ENUMERABLE:
        return None
    combinations = product(*(axis for axis in space.values() if isinstance(axis, tuple)))
    return [dict(zip(space, combination, strict=True)) for combination in combinations]


def holds(axis: Axis, value: Choice) -> bool:
    """Whether a value lies on an axis."""
    if isinstance(axis, tuple):
        return value in axis
    return isinstance(value, int | float) and axis.low <= value <= axis.high


def parse_macs(text: str) -> float:
    """A number of MACs from text such as `2.5G`, `800M` or `3e9`.

    Raises:
        ValueError: it is not a number of MACs.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([kKMGT]?)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is not a number of MACs; write it as 2.5G, 800M or 3e9")
    return float(match[1]) * {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[match[2]]


def parse_duration(text: str) -> float:
    """Seconds from text such as `90s`, `30m`, `8h` or `2d`.

    Raises:
        ValueError: it is not a duration.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write it as 90s, 30m, 8h or 2d")
    return float(match[1]) * {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[match[2]]


def axis_from(key: str, value: object) -> Axis:
    """One axis of the space from what stands in the TOML.

    Raises:
        ValueError: it is neither a list of values nor a range.
    """
    if isinstance(value, dict):
        return _range(key, value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key}: found {value!r}; give a list of values, or {{low = 1e-4, high = 1e-2, log = true}}")
    for item in value:
        check_choice(key, item)
    if len({*value}) < len(value):
        raise ValueError(f"{key}: {value!r} names a value twice; keep it once")
    return tuple(value)


def _range(key: str, value: Mapping[str, object]) -> Range:
    """The `Range` in a TOML table; ValueError names what is wrong with it."""
    try:
        return Range.model_validate(dict(value))
    except ValidationError as error:
        raise ValueError(f"{key}: {explain(error, Range)}") from None


def check_choice(key: str, value: object) -> None:
    """Raises ValueError where a value is not a plain one."""
    if not isinstance(value, Choice):
        raise ValueError(f"{key}: found {value!r}; a number, a text, true or false is allowed")
