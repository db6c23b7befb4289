from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from moeash.backends.inprocess import InProcessBackend
from moeash.core.merge import merge_runs
from moeash.core.solutions.recipe import Recipe
from moeash.errors import BackendError, StorageError, StudyExistsError
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Archive
from moeash.methods.uniform.method import Uniform
from moeash.networks.loading.sources import load_network
from moeash.study.course.budget import ENDINGS
from moeash.study.events import ignore
from moeash.study.facts import floor_of
from moeash.study.opening import open_study
from moeash.study.plan import task_of
from moeash.study.run import run
from moeash.study.storage.sql import SqlStorage
from tests.backends.studies import Listener
from tests.databases import stored_at
from tests.digits import digits_plan
from tests.marks import slow

MERGING = {"merge": {"trials": 12}, "budget": {"generations": 3}}


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture
def storage(tmp_path):
    return stored_at(str(tmp_path / "a.db"))


def study(storage, listen=ignore, make_backend=InProcessBackend, **changes):
    return run(digits_plan(**changes), storage, make_backend, listen)


def timeless(record):
    return replace(record, created_at="", outcome=replace(record.outcome, duration_s=0.0))


def story(study):
    """Everything a study remembers except when and how long."""
    return (
        [timeless(r) for r in study.evaluations()],
        [replace(g, elapsed_s=0.0) for g in study.generations()],
        [s.as_dict() for s in study.front()],
        (study.record.status, study.record.ending),
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return study(SqlStorage(str(tmp_path_factory.mktemp("whole") / "a.db")), **MERGING)


# ------------------------------------------------------------------ resume is replay


@pytest.mark.slow
def test_a_study_interrupted_again_and_again_is_the_uninterrupted_one(storage, uninterrupted):
    rng = np.random.default_rng(0)
    n_new = 0
    for _ in range(60):
        told = Listener({int(rng.integers(1, 12)): interrupt})
        try:
            finished = study(storage, told, **MERGING)
        except KeyboardInterrupt:
            n_new += told.n
            assert storage.study("digits").status == "interrupted"
            assert len(storage.evaluations(1)) == n_new
        else:
            n_new += told.n
            break
    assert story(finished) == story(uninterrupted)
    assert n_new == len(uninterrupted.evaluations())
    assert {r.stage for r in finished.evaluations()} == {"search", "merged"}


@pytest.mark.slow
def test_a_finished_study_answers_without_a_forward_pass(storage):
    forwards = []

    class Counting(InProcessBackend):
        def open(self, *arguments):
            baseline = super().open(*arguments)
            module = self.evaluator.compressor.network.module
            module.register_forward_hook(lambda *_: forwards.append(1))
            return baseline

    first = study(storage, ignore, Counting, **MERGING)
    assert len(forwards) == sum(r.outcome.n_batches for r in first.evaluations()) > 0
    keys = Counter(r.job.key for r in first.evaluations())
    assert set(keys.values()) == {1}
    del forwards[:]
    again = Listener()
    assert story(study(storage, again, Counting, **MERGING)) == story(first)
    assert forwards == [] and again.new == [] and set(again.known) == set(keys)


@pytest.mark.slow
def test_the_replayed_story_of_a_generation_keeps_its_times(storage):
    first = study(storage).generations()
    assert study(storage).generations() == first and first[0].elapsed_s > 0


@pytest.mark.parametrize("algorithm", [slow("nsga2"), slow("random"), slow("exhaustive")])
def test_a_larger_budget_continues_a_study_as_if_it_had_been_given_at_once(tmp_path, algorithm):
    def grown(path, *budgets):
        for generations in budgets:
            budget = {"generations": generations}
            storage = SqlStorage(str(tmp_path / path))
            out = study(storage, search={"algorithm": algorithm}, budget=budget)
        return out

    steps, once = grown("a.db", 2, 3, 5), grown("b.db", 5)
    assert story(steps)[:3] == story(once)[:3]
    assert len(steps.generations()) == 5
    stored = open_study("digits", str(tmp_path / "a.db")).facts.spec
    assert stored["budget"] == {"generations": 5}, "as it was run last"


@pytest.mark.slow
def test_a_study_continued_beyond_its_merges_finds_what_a_longer_one_finds(storage, uninterrupted):
    longer = {**MERGING, "budget": {"generations": 5}}
    short = study(storage, **MERGING)
    n_short = len(short.evaluations())
    grown = study(storage, **longer)
    fresh = study(SqlStorage(storage.url.replace("a.db", "b.db")), **longer)

    def searched(one):
        return {r.job.key: r.outcome.metric for r in one.evaluations() if r.stage == "search"}

    assert searched(grown) == searched(fresh)
    assert searched(grown).keys() > searched(uninterrupted).keys()
    numbers = [r.number for r in grown.evaluations()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [timeless(r) for r in grown.evaluations()[:n_short]] == story(short)[0][:n_short]
    assert story(study(storage, **longer)) == story(grown)


@pytest.mark.slow
def test_a_smaller_budget_leaves_what_is_stored(storage):
    before = study(storage).evaluations()
    study(storage, budget={"generations": 1})
    assert storage.evaluations(1) == before


# ------------------------------------------------------------------ who may continue it


@pytest.mark.slow
def test_a_budget_that_was_at_its_default_can_be_changed(storage):
    first = study(storage, budget={"generations": 1})
    n_known = len(first.evaluations())
    plan = digits_plan(budget=None)
    assert plan.spec.fingerprint() == first.facts.fingerprint
    told = Listener({1: interrupt})
    with pytest.raises(KeyboardInterrupt):
        run(plan, storage, InProcessBackend, told)
    assert len(told.known) == n_known


@pytest.mark.slow
def test_another_spec_under_the_same_name_is_refused_with_the_differences(storage):
    first = story(study(storage))
    with pytest.raises(StudyExistsError) as caught:
        study(storage, seed=3, search={"population": 9}, method={"k": [2, 65]})
    message = str(caught.value)
    for difference in (
        "seed: stored 0, now 3",
        "search.population: stored 8, now 9",
        "method.k: stored [2, 64], now [2, 65]",
    ):
        assert difference in message
    assert message.count("stored ") == 3
    assert story(study(storage)) == first


@pytest.mark.slow
def test_other_weights_or_images_are_refused(storage, tmp_path):
    from safetensors.torch import save_file

    first = story(study(storage))
    state = load_network("digits-cnn").state_dict()
    name = next(iter(state))
    state[name] = state[name] * 1.001
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(StudyExistsError, match="another network's weights"):
        study(storage, network={"checkpoint": str(tmp_path / "other.safetensors")})
    assert story(study(storage)) == first  # its status above all


def test_another_evaluation_set_is_refused(storage, tmp_path):
    rng = np.random.default_rng(0)
    table = {"source": "npz", "splits": {"search": {"part": "all", "count": 40}, "holdout": None}}
    for brightness in (1.0, 0.5):
        pictures = (rng.random((60, 8, 8)) * 255 * brightness).astype(np.uint8)
        np.savez(
            tmp_path / f"{brightness}.npz",
            x=pictures,
            y=np.arange(60) % 10,
        )
    options = {"network": {"source": "digits-cnn"}, "budget": {"generations": 1}}
    study(storage, data={**table, "root": str(tmp_path / "1.0.npz")}, **options)
    with pytest.raises(StudyExistsError, match="another search split"):
        study(storage, data={**table, "root": str(tmp_path / "0.5.npz")}, **options)


def halves(tmp_path, brightness):
    """Two files of pictures, of which the second half has another brightness in each."""
    pictures = np.random.default_rng(0).random((120, 8, 8)) * 255
    paths = []
    for second in brightness:
        scaled = np.concatenate([pictures[:60], pictures[60:] * second]).astype(np.uint8)
        paths.append(tmp_path / f"{second}.npz")
        np.savez(paths[-1], x=scaled, y=np.arange(120) % 10)
    return paths


FIRST_HALF = {"part": "all", "range": [0, 60], "count": 60}
CALIBRATED = {"method": {"name": "feedback", "k": [4, 40], "images": 30, "sketches": 1}}
TRAINED = {"method": {"name": "wfn", "k": None, "epochs": 1, "fractions": [0.5, 1.0]}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "changes"),
    [("calibration", CALIBRATED), ("train", TRAINED)],
    ids=["calibrated", "trained"],
)
def test_images_that_candidates_are_made_from_may_not_change(storage, tmp_path, of, changes):
    splits = {"search": FIRST_HALF, "holdout": None}
    splits[of] = {"part": "all", "range": [60, 120]}
    table = {"source": "npz", "splits": splits}
    options = {
        "network": {"source": "digits-cnn"},
        "budget": {"generations": 1},
        "search": {"population": 2},
        "merge": {"trials": 0},
        **changes,
    }
    one, other = halves(tmp_path, (1.0, 0.5))
    first = study(storage, data={**table, "root": str(one)}, **options)
    assert first.facts.inputs_fingerprint
    with pytest.raises(StudyExistsError, match="another calibration or training split"):
        study(storage, data={**table, "root": str(other)}, **options)
    assert story(study(storage, data={**table, "root": str(one)}, **options)) == story(first)


def test_images_that_no_candidate_is_made_from_may_change(storage, tmp_path):
    splits = {"search": FIRST_HALF, "train": {"part": "all", "rest": True}}
    table = {"source": "npz", "splits": {**splits, "holdout": None}}
    options = {"network": {"source": "digits-cnn"}, "budget": {"generations": 1}}
    for path in halves(tmp_path, (1.0, 0.5)):
        assert study(storage, data={**table, "root": str(path)}, **options).status == "finished"


@pytest.mark.slow
def test_the_thread_count_of_the_first_run_stays(storage, monkeypatch):
    monkeypatch.setattr("moeash.study.plan.default_threads", lambda: 1)
    first = study(storage, evaluation={"threads": None}, budget={"generations": 1})
    assert first.facts.environment["threads"] == 1
    monkeypatch.setattr("moeash.study.plan.default_threads", lambda: 64)
    tasks = []

    def make_backend(task):
        tasks.append(task)
        return InProcessBackend(task)

    more = {"evaluation": {"threads": None}, "budget": {"generations": 2}}
    study(storage, make_backend=make_backend, **more)
    assert [task.n_threads for task in tasks] == [1]


@pytest.mark.slow
def test_how_kept_tensors_are_stored_is_decided_once(storage, monkeypatch):
    changes = {"codec": {"kept": "auto"}, "method": {"k": [4, 40]}}
    first = study(storage, budget={"generations": 1}, **changes)
    keeping = task_of(first).keeping
    assert keeping is not None and keeping.exponents
    # Another machine may round otherwise and would decide otherwise: it is not asked.
    monkeypatch.setattr("moeash.compression.keeping.TOLERANCE", 0.0)
    tasks = []

    def make_backend(task):
        tasks.append(task)
        return InProcessBackend(task)

    more = study(storage, make_backend=make_backend, budget={"generations": 2}, **changes)
    assert [task.keeping for task in tasks] == [keeping]
    evaluator = Evaluator(task_of(more))
    for solution in more.front():
        built = evaluator.compressor.build(solution.recipe)
        assert built.fingerprint() == solution.record.outcome.fingerprint
    evaluator.close()


# ------------------------------------------------------------------ trouble


def test_a_place_that_is_gone_interrupts_a_study_and_is_named(storage):
    class Leaving(InProcessBackend):
        n_left = 5

        def next(self):
            if not self.n_left:
                raise BackendError("the cluster is gone")
            self.n_left -= 1
            return super().next()

    with pytest.raises(BackendError):
        study(storage, make_backend=Leaving, budget={"generations": 1})
    left = storage.study("digits")
    assert (left.status, left.reason) == ("interrupted", "BackendError: the cluster is gone")
    assert len(storage.evaluations(left.id)) == 5
    assert study(storage, budget={"generations": 1}).status == "finished"


@pytest.mark.slow
def test_a_study_whose_storage_fails_says_so_and_continues_later(storage, uninterrupted):
    class Full(SqlStorage):
        n_left = 13

        def add_evaluations(self, study_id, records):
            self.n_left -= len(records)
            if self.n_left < 0:
                raise StorageError("database is full")
            super().add_evaluations(study_id, records)

    with pytest.raises(StorageError, match="is full"):
        study(Full(storage.url), **MERGING)
    assert storage.study("digits").status == "failed"
    assert len(storage.evaluations(1)) == 13
    assert story(study(storage, **MERGING)) == story(uninterrupted)


@pytest.mark.slow
def test_failed_candidates_stay_off_the_front_and_do_not_end_the_study(storage):
    class Failing(Uniform):
        def compress(self, prepared, candidate, **way):
            shared = super().compress(prepared, candidate, **way)
            if shared.n_entries % 2:
                raise RuntimeError("an odd codebook")
            return shared

    plan = digits_plan()
    plan = replace(plan, task=replace(plan.task, method=Failing(plan.spec.method)))
    done = run(plan, storage, InProcessBackend)
    failed = [r for r in done.evaluations() if r.outcome.status == "failed"]
    assert failed and all(r.outcome.error == "RuntimeError: an odd codebook" for r in failed)
    assert done.record.status == "finished" and len(done.generations()) == 4
    assert done.front() and all(s.entries % 2 == 0 for s in done.front())
    assert done.to_dataframe().status.value_counts()["failed"] == len(failed)


def test_an_exhausted_space_is_a_finished_study(storage):
    told = Listener()
    done = study(storage, told, method={"k": [2, 9]}, budget={"generations": 50})
    assert (done.record.status, done.record.ending) == ("finished", "exhausted")
    assert len(done.evaluations()) == 8
    assert [ENDINGS[e.ending] for e in told.of("phase_ended")] == ["nothing new was left to try"]


# ------------------------------------------------------------------ merging


def chains(study):
    """Return for every merged parent its trials in order."""
    by_parent = {}
    for record in study.evaluations():
        if record.stage == "merged":
            by_parent.setdefault(record.parent, []).append(record)
    return by_parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "merge",
    [
        slow({"trials": 100}),
        slow({"trials": 100, "max_drop": 0.03}),
        {"trials": 5, "max_drop": 0.1},
    ],
)
def test_accepted_merges_hold_their_floor_and_shrink(storage, merge):
    done = study(storage, merge=merge, budget={"generations": 3})
    records = {r.number: r for r in done.evaluations()}
    n_accepted = 0
    for parent, trials in chains(done).items():
        own = records[parent].outcome
        assert records[parent].stage == "search" and own.status == "complete"
        assert len(trials) <= merge["trials"]
        floor = own.metric
        if "max_drop" in merge:
            floor = floor_of(done.facts.baseline, merge["max_drop"])
            assert own.metric >= floor
        size, runs = own.sizes, (1,) * own.sizes.entries
        for trial in trials:
            assert trial.job.floor == floor and trial.candidate == records[parent].candidate
            assert trial.generation == records[parent].generation
            # One pair more than the last accepted state, never anything else.
            (merge_step,) = trial.recipe.steps
            assert len(merge_step.runs) == len(runs) - 1
            assert sum(merge_step.runs) == own.sizes.entries
            outcome = trial.outcome
            assert outcome.sizes.entries == len(merge_step.runs)
            if outcome.status == "complete" and outcome.metric >= floor:
                assert outcome.sizes.size_bytes <= size.size_bytes
                size, runs = outcome.sizes, merge_step.runs
                n_accepted += 1
            else:
                assert outcome.bound < floor or outcome.metric < floor
    assert n_accepted >= 3
    merged = [s for s in done.front() if s.record.stage == "merged"]
    assert merged and all(s.as_dict()["parent"] in records for s in merged)
    assert all(len(s.record.recipe.steps[-1].runs) == s.entries for s in merged)


@pytest.mark.slow
def test_every_solution_of_the_front_is_offered_to_the_merge_pass(storage):
    done = study(storage, merge={"trials": 2})
    searched = [r for r in done.evaluations() if r.stage == "search"]
    from moeash.study.solution import Solution, front_of

    complete = [Solution(done.facts, r) for r in searched if r.outcome.status == "complete"]
    front = {s.id for s in front_of(complete) if s.entries > 1}
    assert set(chains(done)) == front
    assert max(map(len, chains(done).values())) == 2


@pytest.mark.slow
def test_a_merged_solution_rebuilds_from_its_candidate_and_runs(uninterrupted):
    evaluator = Evaluator(task_of(uninterrupted))
    merged = [s for s in uninterrupted.solutions() if s.record.stage == "merged"]
    assert merged
    for solution in merged:
        shared = evaluator.compressor.build(solution.recipe)
        assert shared.fingerprint() == solution.record.outcome.fingerprint
        (step,) = solution.recipe.steps
        plain = evaluator.compressor.build(Recipe(solution.recipe.candidate))
        assert merge_runs(plain, step.runs).fingerprint() == shared.fingerprint()
        measured = evaluator.evaluate(solution.record.job, Archive(("size_bytes",)))
        assert (measured.metric, measured.sizes) == (solution.metric, solution.record.outcome.sizes)
    evaluator.close()
