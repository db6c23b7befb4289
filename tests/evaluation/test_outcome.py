import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeash.core.solutions.objectives import SIZE_NAMES, Sizes, as_minimised
from moeash.core.solutions.pareto import non_dominated
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.evaluation.outcome import Archive, Job, Outcome

sizes = st.builds(Sizes, st.integers(1, 4), st.integers(1, 4), st.sampled_from([1.0, 1.5, 2.0]))
metrics = st.sampled_from([0.0, 0.25, 0.5, 0.75])


def complete(metric, sizes):
    return Outcome("complete", metric, metric, sizes, "f", 1, 0.0)


@pytest.mark.slow
@given(
    names=st.sampled_from([SIZE_NAMES[:1], SIZE_NAMES[1:2], SIZE_NAMES[:2], SIZE_NAMES]),
    known=st.lists(st.tuples(metrics, sizes), max_size=8),
    mine=sizes,
    bound=metrics,
)
@settings(deadline=None, max_examples=400)
def test_ruled_out_means_dominated_whatever_the_metric_ends_at(names, known, mine, bound):
    archive = Archive.of(names, [complete(*one) for one in known])

    def dominated(metric):
        rows = [(*as_minimised([m], [s.vector(names)])[0],) for m, s in known]
        rows.append((*as_minimised([metric], [mine.vector(names)])[0],))
        return not non_dominated(rows)[-1]

    possible = [m for m in (0.0, 0.25, 0.5, 0.75) if m <= bound]
    assert archive.rules_out(bound, mine) == all(dominated(m) for m in possible)


def test_an_equal_evaluation_is_not_ruled_out():
    archive = Archive.of(["size_bytes"], [complete(0.5, Sizes(10, 3, 1.0))])
    assert not archive.rules_out(0.5, Sizes(10, 9, 9.0))
    assert archive.rules_out(0.5, Sizes(11, 1, 0.5))
    assert archive.rules_out(np.nextafter(0.5, 0), Sizes(10, 3, 1.0))
    assert not archive.rules_out(0.0, Sizes(9, 3, 1.0))


def test_only_complete_evaluations_rule_out():
    stopped = Outcome("stopped", None, 0.9, Sizes(1, 1, 1.0), None, 1, 0.0)
    failed = Outcome("failed", None, None, None, None, 0, 0.0, "boom")
    assert not Archive.of(["size_bytes"], [stopped, failed]).rules_out(-1e9, Sizes(9, 9, 9.0))
    assert not Archive(("size_bytes",)).rules_out(-1e9, Sizes(9, 9, 9.0))


def test_the_key_of_a_job_names_the_network_it_builds():
    job = Job(Recipe.of({"k": 4}))
    assert job.key == '{"candidate":{"k":4},"steps":[]}'
    assert Job(job.recipe.then(Merge((1, 2, 1)))).key == job.recipe.then(Merge((1, 2, 1))).key
    assert Job(job.recipe, floor=0.5).key == job.key
    assert pickle.loads(pickle.dumps(job)) == job


@pytest.mark.parametrize("names", [("size_bytes",), SIZE_NAMES])
def test_an_archive_travels(names):
    archive = Archive.of(names, [complete(0.5, Sizes(10, 3, 1.0))])
    copy = pickle.loads(pickle.dumps(archive))
    assert copy.rules_out(0.4, Sizes(10, 3, 1.0)) and copy.names == names
