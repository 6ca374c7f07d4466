"""Which network comes next, given what was tried. Nothing is stored, and the sampler is a function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from specs import spec

from sesr_lab.errors import ConfigError
from sesr_lab.network.cost import costs
from sesr_lab.study.config import Architecture
from sesr_lab.study.space import Choice
from sesr_lab.sweep.search import GIVE_UP, Draw, History, Point, Search, Settings
from sesr_lab.targets.estimate import Estimate, Size


def never(attempt: int, given: Settings) -> dict[str, Choice]:
    raise AssertionError("the sampler was asked")


def always(**settings: Choice) -> Draw:
    return lambda attempt, given: {**settings, **given}


def all_of(search: Search, draw: Draw, remaining: int = 1) -> Iterator[Point]:
    """The networks of a study from its first to its last."""
    seen: list[str] = []
    named: list[Settings] = []
    while (point := search.next(History(seen, named, len(seen)), remaining, draw)) is not None:
        seen.append(point.fingerprint)
        named += [point.named] if point.named is not None else []
        yield point


def test_a_space_that_fits_the_budget_is_gone_through_without_the_sampler() -> None:
    found = list(all_of(Search(spec()), never, remaining=4))
    assert sorted((p.settings["m"], p.settings["f"]) for p in found) == [(1, 2), (1, 4), (2, 2), (2, 4)]


def test_what_is_drawn_blindly_depends_on_the_seed_and_on_how_much_was_tried() -> None:
    space = {"m": list(range(1, 9)), "f": list(range(1, 9))}
    first = [p.settings for p in all_of(Search(spec(space=space)), never, remaining=64)]
    assert [p.settings for p in all_of(Search(spec(space=space)), never, remaining=64)] == first
    assert [p.settings for p in all_of(Search(spec(space=space, seed=1)), never, remaining=64)] != first


def test_networks_that_are_named_come_first_in_their_order() -> None:
    named = [{"m": 2, "f": 4, "feature_size": 8}, {"m": 1, "f": 2, "feature_size": 8}]
    found = list(all_of(Search(spec(enqueue=named[1:]), candidates=named[:1]), never, remaining=9))
    assert [p.settings for p in found[:2]] == named
    assert len(found) == 4


def test_candidates_outside_of_the_space_are_refused() -> None:
    known = [{"m": 2, "f": 4, "feature_size": 8}, {"m": 77, "f": 4, "feature_size": 8}]
    with pytest.raises(ConfigError, match=r"candidates: m = 77 of .* is not in space\.m; add it there, or leave m out"):
        Search(spec(), candidates=known)


def test_a_named_network_that_is_known_is_passed_over() -> None:
    named = {"m": 2, "f": 4, "feature_size": 8}
    search = Search(spec(enqueue=[named]))
    known = search.point(named).fingerprint
    point = search.next(History([known], (), 1), 3, never)
    assert point is not None
    assert point.settings != named


def test_what_a_named_network_leaves_open_is_the_samplers_choice() -> None:
    search = Search(spec(enqueue=[{"m": 2, "recipe": "paper"}]))
    point = search.next(History(), 1, always(m=1, f=4, feature_size=8))
    assert point is not None
    assert point.settings == {"m": 2, "f": 4, "feature_size": 8, "recipe": "paper"}
    assert point.named == {"m": 2, "recipe": "paper"}


def test_the_samplers_choice_is_taken_where_more_is_left_than_can_be_trained() -> None:
    point = Search(spec()).next(History(), 2, always(m=2, f=2, feature_size=8))
    assert point is not None
    assert point.settings == {"m": 2, "f": 2, "feature_size": 8}


def test_a_sampler_that_repeats_itself_does_not_stop_a_study() -> None:
    found = list(all_of(Search(spec()), always(m=2, f=2, feature_size=8)))
    assert len({p.fingerprint for p in found}) == len(found) == 4


def test_the_nearest_network_is_taken_where_the_samplers_choice_is_known() -> None:
    search = Search(
        spec(space={"m": [1, 2, 5, 9], "f": [2, 4, 8], "feature_size": [8], "block": ["collapsed", "expanded"]})
    )
    choice = {"m": 5, "f": 4, "feature_size": 8, "block": "collapsed"}
    near = [{"m": 2}, {"m": 9}, {"f": 2}, {"f": 8}, {"block": "expanded"}]
    found = list(all_of(search, always(**choice)))
    assert [point.settings for point in found[:1]] == [choice]
    assert sorted(map(str, (point.settings for point in found[1:6]))) == sorted(str(choice | each) for each in near)
    assert len(found) == 24


def test_a_choice_over_the_limit_gives_way_to_the_nearest_under_it() -> None:
    search = Search(spec(space={"m": [1, 2, 5, 9], "f": [2, 4, 8], "feature_size": [8]}, max_macs="0.3G"))
    point = search.next(History(), 1, always(m=5, f=8, feature_size=8))
    assert point is not None
    assert point.settings == {"m": 5, "f": 4, "feature_size": 8}


def test_a_continuous_space_ends_when_the_sampler_knows_nothing_new() -> None:
    space = {"m": [1], "f": [2], "learning_rate": {"low": 1e-4, "high": 1e-3}}
    asked = []

    def draw(attempt: int, given: Settings) -> dict[str, Choice]:
        asked.append(attempt)
        return {"m": 1, "f": 2, "learning_rate": 5e-4}

    assert len(list(all_of(Search(spec(space=space)), draw))) == 1
    assert asked == [0, *range(GIVE_UP)]


# The limit on MACs. At x2 a network costs (50f + 9mf² + 75f) weights times 640x360: f = 2 costs 66 and 74 MMAC.


def test_networks_over_the_limit_are_never_drawn() -> None:
    search = Search(spec(max_macs="100M"))
    found = list(all_of(search, always(m=2, f=4, feature_size=8)))
    assert sorted((p.settings["m"], p.settings["f"]) for p in found) == [(1, 2), (2, 2)]
    assert not any(search.over(point) for point in found)


def test_one_network_of_64_that_fits_is_found() -> None:
    space = {"m": list(range(1, 9)), "f": list(range(1, 9))}
    cheapest = costs(m=1, f=1, feature_size=256, scale=2).macs_720p
    found = list(all_of(Search(spec(space=space, max_macs=float(cheapest))), always(m=8, f=8)))
    assert [p.settings for p in found] == [{"m": 1, "f": 1}]


def test_in_a_continuous_space_the_nearest_network_that_fits_is_taken() -> None:
    space = {"m": [1, 2, 8], "f": [2, 4, 16], "learning_rate": {"low": 1e-4, "high": 1e-3}}
    search = Search(spec(space=space, max_macs="190M"))
    point = search.next(History(), 9, always(m=2, f=16, learning_rate=2e-4))
    assert point is not None
    assert point.settings == {"m": 2, "f": 4, "learning_rate": 2e-4}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"space": {"m": [1, 2], "f": [2], "learning_rate": {"low": 1e-4, "high": 1e-3}}},
        {"space": {"m": [1, 2], "seed": list(range(5000))}},
        {"space": {}, "enqueue": [{"m": 1, "f": 2}, {"m": 2, "f": 4}]},
        {"space": {"seed": [1, 2]}},
    ],
)
def test_a_limit_that_no_network_fits_is_said_at_once_with_the_cheapest(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"study tiny: max_macs: none of its networks fits 0\.01 GMAC") as caught:
        Search(spec(max_macs="10M", **changes))
    assert "the cheapest, m" in str(caught.value)
    assert "\n" not in str(caught.value)


def milliseconds(target: str, networks: Sequence[Architecture], size: Size) -> list[Estimate]:
    """A target on which PReLU costs three times what ReLU does, and channels come in fours."""
    times = [n.m * -(-n.f // 4) * (3.0 if n.activation == "prelu" else 1.0) for n in networks]
    return [Estimate(target, "tool 1", str(size), 1, ms) for ms in times]


def test_networks_over_the_time_on_the_target_are_not_taken() -> None:
    space = {"m": [1, 2], "f": [2, 4, 8], "activation": ["prelu", "relu"]}
    search = Search(spec(space=space, target="ethos-u55-256", max_ms=2.5), estimates=milliseconds)
    found = list(all_of(search, never, remaining=12))
    assert {(p.settings["m"], p.settings["f"], p.settings["activation"]) for p in found} == {
        *((m, f, "relu") for m in (1, 2) for f in (2, 4)),
        (1, 8, "relu"),
    }
    assert all(point.price.ms <= 2.5 for point in found)
    assert search.over(search.point({"m": 1, "f": 2, "activation": "prelu"})) is not None


def test_in_a_continuous_space_the_nearest_that_is_fast_enough_is_taken() -> None:
    space = {"m": [1, 2, 8], "f": [4], "activation": ["prelu", "relu"], "learning_rate": {"low": 1e-4, "high": 1e-3}}
    search = Search(spec(space=space, target="ethos-u55-256", max_ms=8), estimates=milliseconds)
    point = search.next(History(), 9, always(m=8, f=4, activation="prelu", learning_rate=2e-4))
    assert point is not None
    assert point.settings == {"m": 8, "f": 4, "activation": "relu", "learning_rate": 2e-4}


def test_a_time_that_no_network_fits_is_said_at_once_with_the_fastest() -> None:
    with pytest.raises(ConfigError) as caught:
        Search(spec(target="ethos-u55-256", max_ms=2), estimates=milliseconds)
    assert str(caught.value) == (
        "study tiny: max_ms: none of its networks fits 2 ms on ethos-u55-256; the fastest, m1-f2-p8, takes 3.00; raise "
        "it, or add smaller networks"
    )


def test_all_times_are_known_before_anything_is_drawn() -> None:
    asked: list[int] = []

    def counting(target: str, networks: Sequence[Architecture], size: Size) -> list[Estimate]:
        asked.append(len(networks))
        return milliseconds(target, networks, size)

    named = [{"m": 1, "f": 4, "feature_size": 8, "activation": "relu"}, {"m": 2}]
    search = Search(spec(target="onnxruntime-cpu", enqueue=named), estimates=counting)
    assert sum(asked) == 5, "the four of the space, and the one with another activation"
    assert len(list(all_of(search, always(f=2, feature_size=8), remaining=9))) == 5
    assert sum(asked) == 5


def test_a_named_network_that_fits_is_enough() -> None:
    search = Search(spec(max_macs="60M", enqueue=[{"m": 1, "f": 1, "feature_size": 8}], space={"feature_size": [8]}))
    assert len(list(all_of(search, never, remaining=9))) == 1


def test_settings_that_came_from_elsewhere_are_compared_with_the_space() -> None:
    search = Search(spec())
    assert search.outside({"m": 1, "f": 4}) == ""
    assert search.outside({"m": 5}) == "m = 5 is not in the study's space"
    assert search.outside({"x": 5}) == "x is not searched by the study"


def test_what_is_computed_for_a_space_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(spec(space={"m": list(range(1, 17)), "seed": list(range(64))}))
    found = search.fitting
    assert found is not None
    assert len(found) == 1024
    monkeypatch.setattr(Search, "point", lambda *arguments: pytest.fail("again"))
    assert search.next(History(), 1, always(m=3, seed=7)) is not None
