"""Which networks are the Pareto set, which are tied with it, and what networks are ranked by."""

from dataclasses import replace

from studied import trial, trials

from sesr_lab.results.ranking import SPREAD_DB, Trial, best, costs_of, ranked, spread_of


def seeds(m: int, *scores: float) -> list[Trial]:
    made = [trial(m, 16, 64, score, number=number) for number, score in enumerate(scores)]
    return [replace(each, settings={**each.settings, "seed": number}) for number, each in enumerate(made)]


def test_the_pareto_set_is_what_nothing_beats_in_both() -> None:
    made = trials(60)
    placed = ranked(made, costs_of(made)[0], spread_of(made))
    assert len(placed) == sum(each.outcome.psnr is not None for each in made)
    for item in placed:
        beaten = any(
            (other.psnr >= item.psnr and other.cost < item.cost) or (other.psnr > item.psnr and other.cost <= item.cost)
            for other in placed
        )
        assert item.on_front is not beaten


def test_networks_within_the_spread_are_tied_with_the_best_that_costs_no_more() -> None:
    made = [
        trial(3, 16, 64, 36.0),
        trial(5, 16, 64, 36.0 - SPREAD_DB / 2),
        trial(7, 16, 64, 36.0 - SPREAD_DB * 2),
        trial(7, 16, 64, None),
    ]
    placed = ranked(made, costs_of(made)[0], spread_of(made))
    assert [(item.on_front, item.is_tied) for item in placed] == [(True, False), (False, True), (False, False)]


def test_of_equal_networks_one_is_the_pareto_set_and_the_other_tied() -> None:
    made = [trial(3, 16, 64, 36.0, number=number) for number in range(2)]
    placed = ranked(made, costs_of(made)[0], spread_of(made))
    assert [(item.on_front, item.is_tied) for item in placed] == [(True, False), (False, True)]
    assert best(placed) is placed[0]


def test_the_spread_is_the_studys_own_where_it_has_trained_with_several_seeds() -> None:
    made = [*seeds(3, 36.0, 36.2), *seeds(5, 36.4, 36.6), *seeds(7, 36.8, 37.0)]
    spread = spread_of(made)  # each group: a standard deviation of 0.1 * sqrt(2)
    assert abs(spread.psnr_db - 0.2 * 2**0.5) < 1e-9
    assert spread.measured_on == 3
    assert spread_of(made[:4]).psnr_db == SPREAD_DB
    assert spread_of([trial(3, 16, 64, 36.0), trial(3, 16, 256, 36.5)]).measured_on == 0


def test_a_study_with_a_target_is_ranked_by_time_and_by_macs() -> None:
    assert [cost.key for cost in costs_of(trials(5))] == ["gmacs"]
    time, macs = costs_of(trials(5, timed=True))
    assert (time.name, time.short) == ("ms on ethos-u65-512, 320x180 in", "ms")
    assert macs.short == "GMACs"
    made = [*trials(5, timed=True), trial(1, 4, 64, 35.0)]
    assert len(ranked(made, costs_of(made)[0], spread_of(made))) == 5  # no time is known of the last
    assert len(ranked(made, costs_of(made)[1], spread_of(made))) == 6


def test_presets_are_the_papers_networks_alone() -> None:
    assert [each.preset for each in trials(5)] == ["m3", "m5", "m7", "m11", "xl"]
    relu = {"m": 5, "f": 16, "feature_size": 256, "block": "collapsed", "activation": "relu"}
    assert trial(5, 16, 256, 36.0, settings=relu).preset is None
    assert trial(5, 16, 64, 36.0).preset is None
    assert trial(5, 16, 64, 36.0, settings={}).preset is None  # as a damaged record is read
