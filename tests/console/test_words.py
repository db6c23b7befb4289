from moeash.console.words import Best, ended, started
from moeash.study.events import PhaseEnded, PhaseStarted
from moeash.study.opening import open_study


def test_the_best_so_far_is_what_would_be_picked(tiny):
    study = open_study("tiny", tiny.storage)
    best = Best(0.05)
    assert str(best) == "nothing within a drop of 0.05 yet"
    best.start(study.facts)
    for record in study.evaluations():
        best.add(record)
    picked = study.pick("smallest", max_drop=0.05)
    assert str(best).startswith(f"best {picked.size_bytes:,} B (ratio {picked.ratio:.1f}) at drop")


def test_the_end_of_a_phase_is_told_where_it_is_not_what_was_expected():
    assert ended(PhaseEnded("merge", "complete")) is None
    assert ended(PhaseEnded("merge", "wall_time")).startswith("merging ended: ")
    assert ended(PhaseEnded("search", "complete")).startswith("search ended: ")


def test_one_solution_is_no_plural():
    assert started(PhaseStarted("merge", 1)) == "merging 1 solution of the front"
    assert started(PhaseStarted("search", 40)) is None
