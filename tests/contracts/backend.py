"""What every backend must do. Subclass it and supply ``make_backend``."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.errors import EvaluationError
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Archive, Job, Outcome
from tests.contracts.outcomes import outcomes
from tests.digits import digits_spec


def jobs(*ks, **options):
    return [Job(Recipe.of({"k": k}), **options) for k in ks]


def timeless(outcome):
    return replace(outcome, duration_s=0.0)


NOTHING = Archive(("size_bytes",))
TASK = digits_spec(method={"k": [1, 64]}).task()


class BackendContract:
    """Results never depend on where, in which order, or beside whom."""

    @pytest.fixture(scope="class")
    @classmethod
    def make_backend(cls):
        """Return a function from a task to a backend."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, make_backend):
        """One backend for all tests, as a study has one for all its phases."""
        made, cls.told = make_backend(TASK), []
        cls.baseline = made.open(progress=lambda *words: cls.told.append(words))
        cls.told_opening = list(cls.told)
        yield made
        made.close()

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls):
        """An evaluator in this process, with nothing in between."""
        evaluator = Evaluator(TASK)
        yield evaluator
        evaluator.close()

    def test_opening_tells_the_facts_of_the_task(self, backend, reference):
        baseline = self.baseline
        assert baseline.metric == reference.assessment.baseline
        assert (baseline.n_batches, baseline.reference) == (5, 0.0)
        shared = reference.compressor.build(jobs(8)[0].recipe)
        assert (baseline.n_shared, baseline.n_kept) == (shared.n_shared, shared.n_kept)
        assert baseline.original_bytes == shared.original_bytes
        assert sum(baseline.histogram.counts) == shared.n_shared
        entries = reference.compressor.build(jobs(64)[0].recipe).codebooks[0].entries
        assert baseline.histogram.low <= min(entries) and max(entries) <= baseline.histogram.high
        assert baseline.data_fingerprint == reference.splits["search"].fingerprint()

    def test_every_job_gets_the_outcome_of_the_reference(self, backend, reference):
        wanted = jobs(3, 17, 64, 5)
        got = dict(outcomes(backend, wanted, NOTHING))
        assert sorted(got) == [0, 1, 2, 3]
        for position, job in enumerate(wanted):
            assert timeless(got[position]) == timeless(reference.evaluate(job, NOTHING))
            assert got[position].status == "complete" and got[position].duration_s > 0
            assert re.fullmatch(r"\d+@.+", got[position].worker)
            assert datetime.fromisoformat(got[position].ended_at).tzinfo == UTC

    def test_outcomes_do_not_depend_on_the_order_of_jobs(self, backend):
        member = Outcome("complete", 0.97, 0.97, Sizes(9000, 10, 1.0), "f", 1, 0.0)
        archive = Archive.of(("size_bytes",), [member])
        wanted = jobs(*range(2, 30, 3), floor=0.5)
        rng = np.random.default_rng(0)
        seen = []
        for _ in range(3):
            order = rng.permutation(len(wanted))
            got = dict(outcomes(backend, [wanted[i] for i in order], archive))
            seen.append({wanted[i].key: timeless(got[p]) for p, i in enumerate(order)})
        assert seen[0] == seen[1] == seen[2]
        assert {o.status for o in seen[0].values()} == {"complete", "stopped"}

    def test_a_failed_job_is_an_outcome_and_the_next_one_is_unharmed(self, backend, reference):
        broken = Job(Recipe.of({"q": 3}))
        got = dict(outcomes(backend, [broken, *jobs(9)], NOTHING))
        assert (got[0].status, got[0].metric, got[0].n_batches) == ("failed", None, 0)
        assert "'k'" in got[0].error and "\n" not in got[0].error
        assert timeless(got[1]) == timeless(reference.evaluate(jobs(9)[0], NOTHING))

    def test_build_gives_the_weights_that_were_measured(self, backend):
        for job in [*jobs(6), Job(Recipe.of({"k": 6}, Merge((2, 1, 1, 1, 1))))]:
            ((_, outcome),) = outcomes(backend, [job], NOTHING)
            shared = backend.build(job.recipe)
            assert shared.fingerprint() == outcome.fingerprint
            assert shared.n_entries == outcome.sizes.entries

    def test_build_does_not_disturb_what_is_submitted(self, backend):
        wanted = jobs(7, 21)
        tickets = [backend.submit(job, NOTHING) for job in wanted]
        shared = backend.build(jobs(5)[0].recipe)
        got = dict(backend.next() for _ in wanted)
        assert sorted(got) == sorted(tickets) and len(set(tickets)) == 2
        assert shared.fingerprint() not in {o.fingerprint for o in got.values()}

    def test_a_recipe_that_cannot_be_built_is_one_line(self, backend):
        with pytest.raises(EvaluationError, match=r"cannot be built: .*'k'") as caught:
            backend.build(Recipe.of({"q": 3}))
        assert "\n" not in str(caught.value)

    def test_a_cancelled_job_has_no_outcome(self, backend):
        tickets = [backend.submit(job, NOTHING) for job in jobs(3, 4, 5)]
        backend.cancel(tickets[1])
        assert {backend.next()[0], backend.next()[0]} == {tickets[0], tickets[2]}

    def test_opening_tells_what_it_is_doing(self, backend):
        assert self.told_opening
        assert all(isinstance(what, str) for what, _, _ in self.told_opening)
