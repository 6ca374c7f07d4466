"""Studies as they are stored, without anything trained: trials of known networks with made-up scores."""

from __future__ import annotations

import math
import random
from pathlib import Path

import optuna

from sesr_lab.network.cost import costs
from sesr_lab.results.ranking import Trial
from sesr_lab.results.report import Study
from sesr_lab.sweep.importance import importances
from sesr_lab.sweep.records import FINGERPRINT, FINISHED, OUTCOME
from sesr_lab.trials.outcome import Outcome, record_of

PRESETS = ((3, 16, 256), (5, 16, 256), (7, 16, 256), (11, 16, 64), (11, 32, 64))
BICUBIC_DB = 33.68


def outcome(m: int, f: int, feature_size: int, psnr: float | None, *, number: int = 0, **changes: object) -> Outcome:
    name, price = f"m{m}-f{f}-p{feature_size}", costs(m=m, f=f, feature_size=feature_size, scale=2)
    values: dict[str, object] = {
        "label": f"t{number:04d}-{name}",
        "network": f"{name}-collapsed",
        "scale": 2,
        "settings": {"m": m, "f": f, "feature_size": feature_size, "block": "collapsed"},
        "result": "diverged" if psnr is None else "finished",
        "reason": "loss <is> & stays NaN, at step 7" if psnr is None else "",
        "run_id": f"{number:032x}",
        "params": price.params,
        "macs_720p": price.macs_720p,
        "steps": 1000,
        "seconds": 12.5 + number,
        "psnr": psnr,
        "ssim": None if psnr is None else psnr / 40,
        "bicubic_psnr": BICUBIC_DB,
    }
    return Outcome(**(values | changes))  # type: ignore[arg-type]


def trial(m: int, f: int, feature_size: int, psnr: float | None, *, number: int = 0, **changes: object) -> Trial:
    ended = outcome(m, f, feature_size, psnr, number=number, **changes)
    return Trial(ended, dict(ended.settings))


def trials(count: int, *, timed: bool = False) -> list[Trial]:
    """The paper's networks first, then others; better where there are more MACs, with noise; every 17th diverged."""
    chance, made = random.Random(0), []
    for number in range(count):
        m, f, size = PRESETS[number] if number < len(PRESETS) else (chance.randint(1, 16), 4 * chance.randint(1, 8), 64)
        gigas = costs(m=m, f=f, feature_size=size, scale=2).macs_720p / 1e9
        psnr = None if number % 17 == 16 else 36 + math.log(gigas) / 2 + chance.gauss(0, 0.05)
        target = {
            "latency_ms": 2 * gigas + 8 * math.ceil(f / 16),
            "target": "ethos-u65-512",
            "target_input": "320x180",
            "target_tool": "ethos-u-vela 5.2.0",
        }
        made.append(trial(m, f, size, psnr, number=number, **(target if timed else {})))
    return made


def study(count: int, *, timed: bool = False, finished: bool = True) -> Study:
    made = trials(count, timed=timed)
    return Study("tiny", made, finished, "PSNR <against> MACs", importances(made))


def stored(folder: Path, made: list[Trial], name: str = "tiny", *, finished: bool = True) -> str:
    """The URL of a study database in which these trials have ended."""
    url = f"sqlite:///{folder / 'optuna.db'}"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kept = optuna.create_study(study_name=name, storage=url, direction="maximize")
    kept.set_user_attr(FINISHED, finished)
    for each in made:
        attributes = {FINGERPRINT: each.outcome.label, OUTCOME: record_of(each.outcome)}
        state = optuna.trial.TrialState.PRUNED if each.outcome.psnr is None else optuna.trial.TrialState.COMPLETE
        kept.add_trial(optuna.trial.create_trial(state=state, value=each.outcome.psnr, user_attrs=attributes))
    return url
