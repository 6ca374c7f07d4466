"""Outcomes as they are stored: by this version, by an older one and by a newer one."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from specs import ended, spec

from sesr_lab.sweep.search import Search
from sesr_lab.trials.outcome import Outcome, best_of, outcome_from, pareto, record_of

OUTCOME = ended(Search(spec()).point({"m": 1, "f": 4}), 31.5, seconds=2.5, model="models:/a/1")


def test_a_stored_outcome_is_what_it_was() -> None:
    assert outcome_from(json.loads(json.dumps(record_of(OUTCOME)))) == OUTCOME


def test_what_a_newer_version_adds_is_passed_over_and_what_it_leaves_out_has_its_default() -> None:
    record = {**record_of(OUTCOME), "version": 99, "novelty": {"a": 1}}
    del record["ssim"], record["macs_720p"], record["reason"]
    found = outcome_from(record)
    assert found is not None
    assert (found.psnr, found.ssim, found.macs_720p, found.reason) == (31.5, None, 0, "")


def test_what_is_no_outcome_is_none_and_what_is_hardly_one_is_a_failed_one() -> None:
    assert [outcome_from(record) for record in (None, "", 3, [])] == [None] * 4
    found = outcome_from({})
    assert isinstance(found, Outcome)
    assert found.result == "failed"
    strange = outcome_from({**record_of(OUTCOME), "psnr": {"mean": 3}, "steps": "many", "settings": None})
    assert strange is not None
    assert (strange.psnr, strange.steps, strange.settings) == (None, 0, {})


def test_a_score_that_is_not_a_number_decides_nothing() -> None:
    for score in (math.inf, -math.inf, math.nan):
        record = json.loads(json.dumps({**record_of(OUTCOME), "psnr": score}))
        found = outcome_from(record)
        assert found is not None
        assert found.psnr is None
        assert best_of([found]) is None
        assert pareto([found]) == []


def test_with_a_target_the_pareto_set_is_of_milliseconds_and_without_of_macs() -> None:
    points = [Search(spec()).point({"m": m, "f": f}) for m, f in ((1, 2), (2, 2), (1, 4), (2, 4))]
    counted = [ended(point, 30.0 + i, label=str(i)) for i, point in enumerate(points)]
    assert [outcome.label for outcome in pareto(counted)] == ["0", "1", "2", "3"]
    times = (4.0, 9.0, 4.0, 8.0)  # as on a device where twice the channels take no longer
    timed = [replace(outcome, latency_ms=ms) for outcome, ms in zip(counted, times, strict=True)]
    assert [outcome.label for outcome in pareto(timed)] == ["2", "3"]
    assert [outcome.label for outcome in pareto(timed, by_macs=True)] == ["0", "1", "2", "3"]
    assert outcome_from(json.loads(json.dumps(record_of(timed[0])))) == timed[0]
