"""A network's benchmark scores, kept with the run that has trained it: numbers, tables and its worst pictures."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence

from PIL import Image

from sesr_lab.registry.lookup import Named
from sesr_lab.results.hard_patches import PATCHES, hardest, patch_sheet
from sesr_lab.results.inference import of_named
from sesr_lab.scores.evaluate import Benchmark, ModelScore, SetScore
from sesr_lab.tracking.runs import Tracker

ARTIFACTS = "evaluation"
"""Where scores lie among a run's artifacts."""


def log_scores(tracker: Tracker, named: Named, score: ModelScore, sets: Sequence[Benchmark]) -> str:
    """Writes the scores of a registered network to its run; the run's id."""
    assert named.version is not None  # only a registered network has a run
    with tracker.adding_to(tracker.run(named.version.run_id).key) as run:
        for scored, samples in zip(score.sets, sets, strict=True):
            name = key_of(scored.set)
            run.log_constants({f"test/{name}/psnr": round(scored.psnr, 4), f"test/{name}/ssim": round(scored.ssim, 5)})
            document = ModelScore(score.model, score.params, score.macs_720p, (scored,)).document()
            run.log_file(json.dumps(document, indent=2).encode(), f"{ARTIFACTS}/{name}.json")
            run.log_file(_worst(named, scored, samples), f"{ARTIFACTS}/{name}-worst.png")
    tracker.flush()
    return named.version.run_id


def _worst(named: Named, scored: SetScore, samples: Benchmark) -> bytes:
    """The hardest patches of the pictures with the lowest PSNR, as PNG."""
    order = sorted(range(len(samples)), key=lambda index: scored.pictures[index].psnr)
    patches = hardest([samples[index] for index in order[:PATCHES]], samples.scale)
    image = io.BytesIO()
    Image.fromarray(patch_sheet(patches, [named.architecture.short_name], [of_named(named)])).save(image, "PNG")
    return image.getvalue()


def key_of(name: str) -> str:
    """A set's name as MLflow takes it in a metric's name and a path."""
    kept = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")
    return kept or f"set-{hashlib.sha256(name.encode()).hexdigest()[:8]}"  # of letters that are none of these
