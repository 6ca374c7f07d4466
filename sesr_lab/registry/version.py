"""A published network: what is known of it, as tags of a model version and as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING

from sesr_lab.data.sources import terms_of
from sesr_lab.network.cost import Costs
from sesr_lab.study.config import Architecture
from sesr_lab.targets.estimate import Estimate

if TYPE_CHECKING:
    from torch import Tensor

TAG = "sesr."


@dataclass(frozen=True)
class ModelFacts:
    """What is recorded of a trained network when it is published."""

    architecture: Architecture
    psnr_db: float
    """Mean over the validation set, on luma, border shaved; so are the next three."""
    ssim: float
    bicubic_psnr_db: float
    bicubic_ssim: float
    costs: Costs
    data: str
    """The data's name, as given to `--data`."""
    data_fingerprint: str
    """Scores are comparable between equal fingerprints only."""
    recipe: str
    steps: int
    config_fingerprint: str
    estimate: Estimate | None = None
    """What it costs on its study's target, where it has one."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    version: int
    model_id: str
    run_id: str
    aliases: tuple[str, ...]
    created: datetime
    sha256: str
    """Of `weights.safetensors`."""
    architecture: Architecture
    psnr_db: float
    ssim: float
    params: int
    macs_720p: int
    data: str
    data_fingerprint: str
    recipe: str
    parent: str | None
    """The x2 version that training started from, as `name/3`."""
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """What names exactly this version, as in `models:/sesr-m5-f16-p256-collapsed-x2/3`."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Loaded:
    """A version and its expanded weights, by the network's parameter names, on the CPU."""

    version: Version
    weights: Mapping[str, Tensor] = field(repr=False)


@dataclass(frozen=True)
class Lineage:
    """What training started from: a registered version, or a file of weights."""

    text: str
    """Markdown for people."""
    tags: Mapping[str, str]
    """By which a run and a version name it for ever after: numbers and checksums, never an alias."""


def lineage_of(parent: Version) -> Lineage:
    """The lineage of what starts from a registered version."""
    return Lineage(f"[{parent.name} version {parent.version}]({_ui_path(parent)})", parent_tags(parent))


def lineage_of_file(path: str, sha256: str) -> Lineage:
    """The lineage of what starts from a file of weights."""
    return Lineage(f"the file `{path}`", {f"{TAG}parent.file": path, f"{TAG}parent.sha256": sha256})


def parent_tags(parent: Version) -> dict[str, str]:
    """Tags by which a run, or a version, names the version that it started from; never by alias."""
    values = {
        "name": parent.name,
        "version": str(parent.version),
        "run_id": parent.run_id,
        "sha256": parent.sha256,
    }
    return {f"{TAG}parent.{key}": value for key, value in values.items()}


def facts_tags(facts: ModelFacts) -> dict[str, str]:
    """The facts as tags, with the digits that mean something."""
    a = facts.architecture
    values: dict[str, object] = {
        **a.settings,
        **{item.name: getattr(facts, item.name) for item in fields(facts)},
        **{"params": facts.costs.params, "macs_720p": facts.costs.macs_720p},
    }
    if facts.estimate is not None:
        values |= {"latency_ms": facts.estimate.milliseconds, **facts.estimate.origin}
    objects = {"architecture", "costs", "estimate"}
    return {TAG + key: _text(value) for key, value in values.items() if key not in objects}


def _text(value: object) -> str:
    return str(round(value, 4) if isinstance(value, float) else value)


def architecture_of(tags: Mapping[str, str]) -> Architecture:
    """The architecture that `facts_tags` has written.

    Raises:
        ValueError: a tag is missing, or is of no architecture.
    """
    try:
        numbers = {key: int(tags[TAG + key]) for key in ("m", "f", "feature_size", "scale")}
        # Networks of the paper, and so all that 0.1.0 has published, have no tags for the next two.
        variant = {
            "activation": tags.get(TAG + "activation", "prelu"),
            "input_residual": tags.get(TAG + "input_residual", "True") == "True",
        }
        return Architecture.model_validate(numbers | {"block": tags[TAG + "block"]} | variant)
    except KeyError as error:
        raise ValueError(f"the tag {error} is missing") from error


def describe(facts: ModelFacts, *, uri: str, parent: Lineage | None) -> str:
    """Markdown for people: what the network is, how good, how costly, where from, and how to use it.

    `{run}` in it stands for the link to the run, which whoever publishes it fills in.
    """
    a = facts.architecture
    found = facts.estimate
    time = (
        ""
        if found is None
        else f"\n- **Time**: {found.milliseconds:.2f} ms on {found.target}, {found.input} in, by {found.tool}"
    )
    start = f"started from {parent.text}" if parent else "from scratch"
    return f"""\
**SESR {a.name} ×{a.scale}**: luma super-resolution, {facts.psnr_db:.2f} dB on {facts.data} \
({facts.psnr_db - facts.bicubic_psnr_db:+.2f} dB over bicubic) for {facts.costs.macs_720p / 1e9:.2f} GMACs to 720p.

| validation on {facts.data} | PSNR, dB | SSIM |
|---|---|---|
| this network | {facts.psnr_db:.2f} | {facts.ssim:.4f} |
| bicubic | {facts.bicubic_psnr_db:.2f} | {facts.bicubic_ssim:.4f} |

- **Cost**: {facts.costs.params:,} weights when collapsed, {facts.costs.macs_720p / 1e9:.2f} GMACs to 1280×720{time}
- **Training**: {facts.recipe} recipe, {facts.steps:,} steps, by [this run]({{run}}), {start}
- **Data**: {facts.data}, fingerprint `{facts.data_fingerprint}`; compare scores only where it is the same. \
Its licence: {terms_of(facts.data)}
- **Files**: `weights.safetensors` (expanded: train on from it), `collapsed.safetensors` (the small network)

```
sesr-lab upscale PICTURE --model {uri}
sesr-lab evaluate {uri} --benchmark FOLDER --scale {a.scale}
mlflow models serve --model-uri {uri} --env-manager local
```
"""


def _ui_path(version: Version) -> str:
    return f"#/models/{version.name}/versions/{version.version}"
