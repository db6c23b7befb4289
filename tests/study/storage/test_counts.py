"""Counts are kept beside evaluations, and are what counting would give, whatever was done."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Recipe
from moeash.errors import StorageError
from moeash.evaluation.outcome import Job
from moeash.study.storage.records import EvaluationRecord, now
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.deleting import delete_study
from tests.contracts.counts import assert_counts_are_true
from tests.contracts.storage import COMPLETE, FAILED, STOPPED, add, facts

FACTS = facts(baseline=0.9, spec={"evaluation": {"max_drop": 0.4}})

OUTCOMES = st.one_of(
    st.builds(
        lambda metric, size: replace(COMPLETE, metric=metric, sizes=Sizes(size, 7, 2.1)),
        st.sampled_from([0.2, 0.5, 0.7]),
        st.integers(1, 50),
    ),
    st.just(STOPPED),
    st.booleans().map(lambda retriable: replace(FAILED, retriable=retriable)),
)
BATCHES = st.lists(st.tuples(st.sampled_from(["search", "merged"]), OUTCOMES), max_size=5)
STEPS = st.lists(
    st.one_of(BATCHES, st.sampled_from(["forget", "hold", "refused", "delete"])), max_size=12
)


@pytest.mark.slow
@settings(max_examples=15)
@given(STEPS)
def test_counts_are_what_counting_gives_after_any_course(tmp_path_factory, steps):
    storage = SqlStorage(str(tmp_path_factory.mktemp("counts") / "a.db"))
    other = storage.create_study(replace(FACTS, name="other"))
    add(storage, other, 1)
    study, last = storage.create_study(FACTS), 0
    for step in steps:
        if step == "forget":
            storage.forget_retriable(study.id)
        elif step == "hold":
            last += 1
            storage.hold(study.id, Job(Recipe.of({"k": last})), COMPLETE)
        elif step == "refused":
            twice = [record_of(last + 1, "search", COMPLETE)] * 2
            with pytest.raises(StorageError):
                storage.add_evaluations(study.id, twice)
        elif step == "delete":
            delete_study(storage.database, FACTS.name)
            study, last = storage.create_study(FACTS), 0
        else:
            records = [record_of(last + i, *one) for i, one in enumerate(step, start=1)]
            storage.add_evaluations(study.id, records)
            last += len(records)
        assert_counts_are_true(storage)
    storage.close()


def record_of(number, stage, outcome):
    job = Job(Recipe.of({"k": number}))
    return EvaluationRecord(number, stage, 1, None, job, outcome, now())
