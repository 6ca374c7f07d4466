"""What `sesr-lab cost` shows: a network's own costs, and its time on a target beside its MACs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sesr_lab.cli.output import print_json
from sesr_lab.errors import ConfigError
from sesr_lab.network.cost import Costs, costs
from sesr_lab.study.config import Architecture
from sesr_lab.targets.estimate import Estimate, check_target, parse_size


def cost_of(network: Architecture, *, batch_size: int, patch: int, as_json: bool) -> None:
    """Shows a network's weights and MACs, those of training with that batch included."""
    counted = _costs(network, batch_size=batch_size, patch=patch)
    document = {"network": network.name, "scale": network.scale, "batch_size": batch_size, "patch": patch}
    if as_json:
        print_json({**document, **asdict(counted)})
        return
    from sesr_lab.cli.tables import show_costs

    show_costs(counted, title=f"{network.name} x{network.scale}", batch=f"{batch_size}x{patch}x{patch}")


def cost_on(target: str, networks: Sequence[Architecture], size: str, *, fresh: bool, as_json: bool) -> None:
    """Shows what the networks cost on a target, beside their MACs.

    Raises:
        ConfigError: `size` is no size.
        TargetError: the target is unknown, its tool is missing, or it cannot take the picture.
    """
    from sesr_lab.targets.catalog import estimates

    check_target(target)
    try:
        picture = parse_size(size)
    except ValueError as error:
        raise ConfigError(f"cost: --input: {error}") from None
    found = estimates(target, networks, picture, fresh=fresh)
    if as_json:
        documents = [_document(*pair) for pair in zip(networks, found, strict=True)]
        print_json(documents[0] if len(documents) == 1 else {"target": target, "networks": documents})
        return
    _show(networks, found)


def _show(networks: Sequence[Architecture], found: Sequence[Estimate]) -> None:
    from sesr_lab.cli.tables import Sheet
    from sesr_lab.cli.terminal import console

    kinds = list(dict.fromkeys(kind for estimate in found for kind in estimate.memory_bytes))
    timed = ["ms"] if found[0].milliseconds is not None else []
    falls = ["falls to the CPU"] if any(estimate.fallbacks for estimate in found) else []
    columns = ["network", "weights", "GMAC", *timed, *(f"{kind}, MB" for kind in kinds), *falls]
    rows = [_row(network, estimate, kinds)[: len(columns)] for network, estimate in zip(networks, found, strict=True)]
    first = found[0]
    title = f"x{networks[0].scale} on {first.target}, {first.input} in ({first.tool})"
    console().print(Sheet(title, columns, rows, expendable=("weights",)))
    if falls:
        print("what falls to the CPU is not in the milliseconds")


def _row(network: Architecture, estimate: Estimate, kinds: Sequence[str]) -> list[str]:
    spread = "" if estimate.spread_ms is None else f" ± {estimate.spread_ms / 2:.2f}"
    return [
        network.short_name,
        f"{_costs(network).params:,}",
        f"{estimate.macs / 1e9:.2f}",
        *([] if estimate.milliseconds is None else [f"{estimate.milliseconds:.2f}{spread}"]),
        *(f"{estimate.memory_bytes.get(kind, 0) / 1e6:.2f}" for kind in kinds),
        ", ".join(estimate.fallbacks),
    ]


def _document(network: Architecture, estimate: Estimate) -> dict[str, object]:
    counted = _costs(network)
    own = {"network": network.name, "preset": network.preset, "scale": network.scale}
    return {**own, "params": counted.params, "macs_720p": counted.macs_720p, **asdict(estimate)}


def _costs(network: Architecture, *, batch_size: int = 32, patch: int = 64) -> Costs:
    shape = network.model_dump(include={"m", "f", "feature_size", "scale"})
    return costs(**shape, batch_size=batch_size, patch=patch)
