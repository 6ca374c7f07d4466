"""What the UI shows of a study as a whole."""

from dataclasses import replace

from typed import outcomes

from sesr_lab.sweep.notes import MOST_ROWS, colours, study_note
from sesr_lab.trials.notes import GREY
from sesr_lab.trials.outcome import Outcome


def front(count: int) -> list[Outcome]:
    """So many networks, each better and costlier than the one before."""
    return [
        replace(
            outcomes(1)[0],
            network=f"m{index}",
            psnr=30.0 + index / 10,
            macs_720p=10**9 * (index + 1),
            run_id=f"{index:032x}",
            model=f"models:/sesr-m{index}-x2/3",
        )
        for index in range(count)
    ]


def test_a_study_s_note_begins_with_the_best_and_lists_the_pareto_set_with_links() -> None:
    worse = replace(front(1)[0], psnr=29.0, macs_720p=10**10)
    note = study_note("What it is for.", [*front(3), worse], experiment_id="7", finished=True)
    lines = note.splitlines()
    assert lines[0].startswith("**Best: m2 ×2, 30.20 dB**")
    assert lines[1] == "4 networks were trained, of which 3 are best for their cost."
    assert lines[2] == "What it is for."
    assert f"| [m0](#/experiments/7/runs/{0:032x}) | 30.00 |" in note
    assert "[version 3](#/models/sesr-m0-x2/versions/3)" in note
    assert note.index("[m0]") < note.index("[m2]"), "the cheapest first"


def test_a_study_that_was_stopped_says_so() -> None:
    assert "it has not finished" in study_note("", front(1), experiment_id="", finished=False)


def test_a_study_without_a_trained_network_is_described_by_its_own_words() -> None:
    assert study_note("What it is for.", [], experiment_id="7", finished=True) == "What it is for."


def test_a_large_pareto_set_fits_into_a_tag() -> None:
    note = study_note("", front(100), experiment_id="7", finished=True)
    assert note.count("\n| [m") == MOST_ROWS
    assert f"The {100 - MOST_ROWS} cheapest are left out here." in note
    assert len(note) < 8000, "as much as MLflow allows"


def test_each_network_of_a_pareto_set_has_a_colour_of_its_own() -> None:
    assert colours(1) == ["#f2a541"]
    found = colours(9)
    assert len({*found, GREY}) == 10
