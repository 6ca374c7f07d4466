"""What one trial is: the network, its recipe, its budget and its data, checked at the border and frozen."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sesr_lab.errors import ConfigError
from sesr_lab.training.recipe import Recipe, RecipeName
from sesr_lab.training.recipe import recipe as named_recipe

BlockType = Literal["collapsed", "expanded"]
ActivationType = Literal["prelu", "relu"]

PRESETS: Mapping[str, Mapping[str, int]] = {
    "m3": {"m": 3, "f": 16, "feature_size": 256},
    "m5": {"m": 5, "f": 16, "feature_size": 256},
    "m7": {"m": 7, "f": 16, "feature_size": 256},
    "m11": {"m": 11, "f": 16, "feature_size": 64},
    "xl": {"m": 11, "f": 32, "feature_size": 64},
}
"""The paper's networks."""

EPOCHS = 300
"""The reference's budget, used when none is given."""

RECIPE_KEYS = tuple(field.name for field in fields(Recipe) if field.name != "name")
"""What a recipe decides, unless it is set by itself."""

FINGERPRINT_LENGTH = 12
ModelT = TypeVar("ModelT", bound=BaseModel)

Blocks = Annotated[int, Field(ge=1, le=64)]
Channels = Annotated[int, Field(ge=1, le=512)]
FeatureSize = Annotated[int, Field(ge=1, le=4096)]


class Frozen(BaseModel):
    """A value that never changes and takes no unknown keys; a string is never taken for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Architecture(Frozen):
    """One member of the SESR family at one scale."""

    m: Blocks = 5
    f: Channels = 16
    feature_size: FeatureSize = 256
    block: BlockType = "collapsed"
    scale: Literal[2, 4] = 2
    activation: ActivationType = "prelu"
    """`relu` is the paper's own choice for hardware."""
    input_residual: bool = True
    """Whether the input is added to the output, as in the paper; without it, mid-grey is."""

    @property
    def name(self) -> str:
        """As in `m5-f16-p256-collapsed`, or `m5-f16-p256-collapsed-relu-noskip` where it is not the paper's."""
        variant = ("-relu" if self.activation == "relu" else "") + ("" if self.input_residual else "-noskip")
        return f"m{self.m}-f{self.f}-p{self.feature_size}-{self.block}{variant}"

    @property
    def short_name(self) -> str:
        """As in `m5-f16-p256`; the block type is named where it is not the usual one."""
        return self.name.replace("-collapsed", "")

    @property
    def settings(self) -> dict[str, int | str | bool]:
        """What it is made of; what came later than 0.1.0 only where it is not the paper's, so that records match."""
        later = {name for name in ("activation", "input_residual") if getattr(self, name) == _DEFAULTS[name]}
        return self.model_dump(include=set(Architecture.model_fields), exclude=later)

    @property
    def variant_flags(self) -> str:
        """What is typed for it where it is not the paper's, as in ` --activation relu --no-input-residual`."""
        activation = "" if self.activation == "prelu" else f" --activation {self.activation}"
        return activation + ("" if self.input_residual else " --no-input-residual")

    def registered_name(self, prefix: str = "sesr") -> str:
        """As in `sesr-m5-f16-p256-collapsed-x2`."""
        return f"{prefix}-{self.name}-x{self.scale}"

    @property
    def preset(self) -> str | None:
        """The paper's name for this m, f and feature_size, if it has one."""
        shape = {"m": self.m, "f": self.f, "feature_size": self.feature_size}
        return next((name for name, preset in PRESETS.items() if preset == shape), None)


_DEFAULTS = {name: field.default for name, field in Architecture.model_fields.items()}


class TrialConfig(Architecture):
    """All that decides a trial's result. What is None follows the recipe."""

    recipe: RecipeName = "fast"
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    patch: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Side of a training patch in high-resolution pixels, a multiple of the scale (the reference's 128 and 200)."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    max_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    data: Annotated[str, Field(min_length=1)] = "photos"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    parent: Annotated[str, Field(min_length=1)] = "auto"
    """For x4: `auto`, `require`, `none`, or a MODEL to start from."""
    parent_block: Literal["any", "same"] = "any"
    """Whether a parent of the other block type is accepted; both types hold the same parameters."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.patch is not None and self.patch % self.scale:
            good = max(16, self.patch // self.scale * self.scale)
            raise ValueError(f"patch: {self.patch} is not a multiple of scale {self.scale}; use {good}")
        if self.epochs is not None and self.steps is not None:
            raise ValueError("steps: epochs is given too; a run has one of them")
        if self.scale != 4 and self.parent not in ("auto", "none"):
            raise ValueError(f"parent: {self.parent!r} at scale {self.scale}; only x4 networks have parents")
        return self

    @property
    def architecture(self) -> Architecture:
        """The network alone."""
        return Architecture(**{name: getattr(self, name) for name in Architecture.model_fields})

    def resolved_recipe(self) -> Recipe:
        """The recipe with this trial's own settings in place."""
        return named_recipe(
            self.recipe,
            self.scale,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            patch=None if self.patch is None else self.patch // self.scale,
        )

    def steps_for(self, images: int) -> int | None:
        """Steps to train on `images` pictures; None when only the clock limits the run."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None and self.max_seconds is not None:
            return None
        return self.resolved_recipe().steps(epochs=self.epochs or EPOCHS, images=images)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that two trials share when and only when they are the same experiment.

        Taken over the recipe as resolved, so a setting left out and the same setting spelled out are one. Whether
        a parent is trained if need be (`auto`) or must be there (`require`) does not change what comes of it.
        """
        identity = {
            "architecture": self.architecture.settings,
            "recipe": asdict(self.resolved_recipe()),
            "budget": self._budget,
            "data": self.data,
            "seed": self.seed,
            "parent": self._start,
        }
        return digest(identity)

    @property
    def identity(self) -> dict[str, object]:
        """What the fingerprint is taken over, one setting a key."""
        recipe = asdict(self.resolved_recipe())
        rest = {"data": self.data, "seed": self.seed, "parent": self._start}
        return {**self.architecture.model_dump(), "recipe": recipe.pop("name"), **recipe, **self._budget, **rest}

    @property
    def _budget(self) -> dict[str, int | float | None]:
        budget: dict[str, int | float | None] = {
            "epochs": self.epochs,
            "steps": self.steps,
            "max_seconds": self.max_seconds,
        }
        return budget if any(budget.values()) else {**budget, "epochs": EPOCHS}

    @property
    def _start(self) -> str:
        """What a x4 network starts from, apart from how it comes to be there."""
        parent = "" if self.scale == 2 else self.parent
        return f"auto, {self.parent_block} block" if parent in ("auto", "require") else parent


def digest(value: object) -> str:
    """12 hex digits of the SHA-256 of `value` as canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_LENGTH]


def preset(name: str) -> dict[str, int]:
    """m, f and feature_size of the paper's network called `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        return dict(PRESETS[name.lower()])
    except KeyError:
        raise ConfigError(f"preset: {name!r} is unknown; {one_of(name, PRESETS)}") from None


def checked(model: type[ModelT], values: Mapping[str, object], *, where: str) -> ModelT:
    """`model` made from `values`.

    Raises:
        ConfigError: the first thing that is wrong, as `where: key: what was found; what is allowed`.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake in one line: the key, what was found, what is allowed."""
    mistakes = error.errors(include_url=False)
    first = next((mistake for mistake in mistakes if mistake["type"] == "extra_forbidden"), mistakes[0])
    path = [str(part) for part in first["loc"] if not str(part).startswith(("function-", "constrained-"))]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key; {one_of(path[-1], _keys_at(model, path[:-1]))}"
    if first["type"] == "missing":
        return f"{key}: missing; give a value"
    message = first["msg"].removeprefix("Value error, ").replace("dictionary", "table").replace("tuple", "list")
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: found {first['input']!r}: {message[0].lower()}{message[1:]}"


def one_of(found: str, allowed: Iterable[str]) -> str:
    """What is allowed instead of `found`, the nearest first named."""
    names = list(allowed)
    near = difflib.get_close_matches(found, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(names)}"


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that the table at `path` below `model` takes."""
    current: type[BaseModel] = model
    for part in path:
        field = current.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        current = field.annotation
    return [field.alias or name for name, field in current.model_fields.items()]
