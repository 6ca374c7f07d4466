"""A stored study as a report shows it: its trials with their settings, and what decides their PSNR."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from sesr_lab.results.ranking import Trial
from sesr_lab.results.report import Study
from sesr_lab.sweep.records import FINISHED, Entry, entry_of
from sesr_lab.sweep.storage import storage_errors, studies_in

_TOP, _TOP_PART = 5, 1 / 3
"""PED-ANOVA compares the best with all: a third of them, since fewer give another order with every seed."""
FEWEST = 2 * _TOP
"""Trained networks from which on importances say something: the best must be no more than half of them."""


def stored_study(name: str, url: str) -> Study:
    """The stored study of that name.

    Raises:
        ConfigError: there is no study of that name.
        StoreError: the database cannot be read.
    """
    with storage_errors(url):
        (study,) = studies_in(url, name)
        entries = [entry_of(trial) for trial in study.get_trials(deepcopy=False)]
        return study_of(name, entries, finished=bool(study.user_attrs.get(FINISHED)))


def study_of(name: str, entries: Iterable[Entry], *, finished: bool, description: str = "") -> Study:
    """What a study's entries come to; those of known networks, and those that have not ended, are left out."""
    trials = [
        Trial(entry.outcome, _settings(entry))
        for entry in entries
        if entry.outcome is not None and entry.twin is None and entry.state not in ("waiting", "running")
    ]
    return Study(name, trials, finished, description, importances(trials))


def importances(trials: Sequence[Trial]) -> Mapping[str, float]:
    """How much each setting decides PSNR, by PED-ANOVA: parts of 1, the largest first; empty where few have ended.

    Source: Watanabe, Bansal and Hutter, "PED-ANOVA" (arXiv 2304.10255), as Optuna has it.
    """
    scored = [(trial.settings, trial.outcome.psnr) for trial in trials if trial.outcome.result == "finished"]
    trained = [(settings, psnr) for settings, psnr in scored if psnr is not None]
    axes = _axes([settings for settings, _ in trained])
    if len(trained) < FEWEST or not axes:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler())
        study.add_trials(
            optuna.trial.create_trial(params={name: settings[name] for name in axes}, distributions=axes, value=psnr)
            for settings, psnr in trained
        )
        part = max(_TOP_PART, _TOP / len(trained))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=part)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return found if all(map(math.isfinite, found.values())) else {}  # NaN where all score alike


def _settings(entry: Entry) -> dict[str, bool | int | float | str]:
    """All that tells the trial's network and training from others; what records leave out is as in the paper."""
    assert entry.outcome is not None  # what has not ended is no trial of a report
    usual: dict[str, bool | int | float | str] = {"activation": "prelu", "input_residual": True}
    return {**usual, **entry.outcome.settings, **entry.settings}


def _axes(settings: Sequence[Mapping[str, bool | int | float | str]]) -> dict[str, BaseDistribution]:
    """The settings that every trial has and that differ among them, each with the values that it took."""
    names = [
        name for name in dict.fromkeys(key for each in settings for key in each) if all(name in s for s in settings)
    ]
    values = {name: list(dict.fromkeys(each[name] for each in settings)) for name in names}
    return {name: _axis(taken) for name, taken in values.items() if len(taken) > 1}


def _axis(values: Sequence[bool | int | float | str]) -> BaseDistribution:
    numbers = [value for value in values if type(value) is float]
    if len(numbers) == len(values):
        return FloatDistribution(min(numbers), max(numbers))
    return CategoricalDistribution(sorted(values, key=str))
