"""Solutions of a front made again with more effort: stored in their order, by whoever, once."""

import pytest

from moeash import export
from moeash.backends.inprocess import InProcessBackend
from moeash.core.solutions.recipe import Refine
from moeash.exports.plots import plot_front
from tests.backends.studies import Listener, front, run_study, sequence, spec


def calibrated(name="feedback", solutions=3, **changes):
    return spec(
        name,
        data__splits__calibration={"part": "all", "count": 60, "seed": 0},
        data__splits__holdout={"part": "all", "rest": True},
        method={"name": "feedback", "k": [4, 40], "images": 60, "sketches": 1},
        search={"population": 6},
        budget={"generations": 2},
        refine={"solutions": solutions},
        **changes,
    )


def refined(study):
    return [r for r in study.evaluations() if r.stage == "refined"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return run_study(tmp_path_factory.mktemp("refined"), calibrated(merge={"trials": 0}))


@pytest.mark.slow
def test_solutions_of_the_searchs_front_are_made_again_from_end_to_end(study):
    records = {r.number: r for r in study.evaluations()}
    searched = [s for s in study.solutions() if s.record.stage == "search"]
    parents = [records[r.parent] for r in refined(study)]
    assert len(parents) == 3
    sizes = [r.outcome.sizes.size_bytes for r in parents]
    assert sizes == sorted(sizes)
    assert sizes[0] == min(s.size_bytes for s in searched), "the smallest is on any front"
    assert parents[-1].outcome.metric == max(s.metric for s in searched), "and so is the best"
    for record, parent in zip(refined(study), parents, strict=True):
        assert record.recipe == parent.recipe.then(Refine())
        assert record.generation == parent.generation
        assert record.outcome.fingerprint != parent.outcome.fingerprint


@pytest.mark.slow
def test_the_smallest_solution_within_each_of_some_drops_is_made_again(study, tmp_path):
    """The searches are one: only what follows is another."""
    searched = [s for s in study.solutions() if s.record.stage == "search"]
    drops = sorted({s.cautious_drop for s in searched})
    wanted = max(0.0, drops[len(drops) // 2])
    other = run_study(tmp_path, calibrated(solutions=[wanted, 0.9], merge={"trials": 0}))
    _, made = refined(other)
    within = [s for s in searched if s.is_within(wanted)]
    assert made.parent == min(within, key=lambda s: s.size_bytes).id


@pytest.mark.slow
def test_a_refined_solution_is_exported_bit_for_bit(study, tmp_path):
    done = next(r for r in refined(study) if r.outcome.status == "complete")
    report = export(study, tmp_path / "a.moeash", id=done.number)
    assert report.size_bytes == done.outcome.sizes.size_bytes


@pytest.mark.slow
def test_the_picture_shows_what_was_refined(study):
    n = sum(s.record.stage == "refined" for s in study.solutions())
    labels = [t.get_text() for t in plot_front([study]).axes[0].figure.legends[0].get_texts()]
    assert f"refined ({n})" in labels


@pytest.mark.slow
@pytest.mark.parametrize("n_refined", [1, 2])
def test_a_study_interrupted_while_it_refines_goes_on_where_it_was(tmp_path, study, n_refined):
    n_searched = sum(r.stage == "search" for r in study.evaluations())

    def stop():
        raise KeyboardInterrupt

    plain = calibrated(merge={"trials": 0})
    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path, plain, listen=Listener({n_searched + n_refined: stop}))
    made = []

    class Counting(InProcessBackend):
        def submit(self, job, archive):
            made.append(job)
            return super().submit(job, archive)

    again = run_study(tmp_path, plain, make_backend=Counting)
    assert sequence(again) == sequence(study)
    assert len(made) == 3 - n_refined


@pytest.mark.slow
def test_a_continued_study_whose_refined_solutions_are_all_stored_says_so(tmp_path):
    plain = calibrated(merge={"trials": 0})
    for n_stored in (0, 3):
        told = Listener()
        run_study(tmp_path, plain, listen=told)
        (started,) = (e for e in told.of("phase_started") if e.phase == "refine")
        assert (started.total, started.n_stored) == (3, n_stored)
    assert told.new == []


@pytest.mark.slow
def test_a_larger_budget_refines_more_and_repeats_nothing(tmp_path):
    few = run_study(tmp_path, calibrated(solutions=1, merge={"trials": 0}))
    assert len(refined(few)) == 1
    first = sequence(few)
    more = run_study(tmp_path, calibrated(solutions=4, merge={"trials": 0}))
    assert len(refined(more)) > 1
    assert set(first) <= set(sequence(more))


@pytest.mark.slow
def test_nothing_is_refined_unless_wanted_and_possible(tmp_path):
    off = run_study(tmp_path, calibrated("off", solutions=0, merge={"trials": 0}))
    uniform = run_study(tmp_path, spec("uniform", merge={"trials": 0}))
    assert refined(off) == refined(uniform) == []


@pytest.mark.slow
def test_a_merge_pass_goes_on_from_refined_solutions(tmp_path):
    study = run_study(tmp_path, calibrated(merge={"trials": 2, "max_drop": 0.3}))
    records = {r.number: r for r in study.evaluations()}
    merged = [records[r.parent].stage for r in study.evaluations() if r.stage == "merged"]
    assert "refined" in merged
    assert front(study)
