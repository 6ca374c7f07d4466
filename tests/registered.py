"""Small networks, published for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from uuid import uuid4

import torch
from torch import Tensor

from sesr_lab.network.cost import costs
from sesr_lab.network.model import SESR
from sesr_lab.registry import publish as registry
from sesr_lab.registry.catalog import by_number
from sesr_lab.registry.version import Lineage, ModelFacts, Version
from sesr_lab.study.config import Architecture
from sesr_lab.tracking.runs import RunLog, Tracker

PHOTOS, DIV2K = "aaaaaaaa00000000", "bbbbbbbb11111111"
NAME = "sesr-m1-f4-p8-collapsed-x2"


def start(tracker: Tracker) -> RunLog:
    return tracker.begin(uuid4().hex, experiment="trials", name="t0001")


def run_id_of(tracker: Tracker, run: RunLog) -> str:
    found = tracker.wait_for(run.key)
    assert found is not None
    return found.run_id


def publish(
    tracker: Tracker,
    run: RunLog,
    *,
    name: str,
    weights: Mapping[str, Tensor],
    facts: ModelFacts,
    parent: Lineage | None = None,
) -> Version:
    """The version that the run has published, once it is there."""
    registry.publish(run, registry.prepare(name, weights=weights, facts=facts, parent=parent))
    assert tracker.flush() == 0
    found = tracker.delivered(run.key)
    assert found is not None
    return by_number(tracker, name, int(found.model.rpartition("/")[2]))


def network_weights(scale: int = 2, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(SESR(m=1, f=4, feature_size=8, scale=scale).state_dict())


def facts_of(psnr_db: float = 30.0, data: str = PHOTOS, scale: Literal[2, 4] = 2) -> ModelFacts:
    return ModelFacts(
        architecture=Architecture(m=1, f=4, feature_size=8, block="collapsed", scale=scale),
        psnr_db=psnr_db,
        ssim=0.9,
        bicubic_psnr_db=29.0,
        bicubic_ssim=0.88,
        costs=costs(m=1, f=4, feature_size=8, scale=scale),
        data="photos" if data == PHOTOS else "div2k",
        data_fingerprint=data,
        recipe="fast",
        steps=2000,
        config_fingerprint="c0ffee",
    )


def published(tracker: Tracker, psnr_db: float = 30.0, data: str = PHOTOS, seed: int = 0) -> Version:
    facts = facts_of(psnr_db, data)
    return publish(tracker, start(tracker), name=NAME, weights=network_weights(seed=seed), facts=facts)
