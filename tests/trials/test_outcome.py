"""Outcomes as they are stored: by this version, by an older one and by a newer one."""

from __future__ import annotations

import json
import math

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
