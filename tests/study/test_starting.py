"""Studies whose method begins with a solution of another study."""

import pytest

import moeash
from moeash import export
from moeash.errors import InputError, StudyExistsError
from moeash.study.spec.reading import parse_spec
from moeash.study.spec.starting import with_start
from tests.backends.studies import Listener, run_study, sequence, spec

pytestmark = pytest.mark.slow

MEASURED = {"evaluation__metric": "neg_divergence", "evaluation__max_drop": 20.0}
TRAIN = {"part": "all", "count": 300, "seed": 0}


def fixed(start, name="fixed", **changes):
    method = {"name": "wfn", "delta": [0.02, 0.05], "fractions": [0.5, 1.0], "epochs": 1}
    return spec(
        name,
        data__splits__train=TRAIN,
        **MEASURED,
        method=method if start is None else method | {"start": str(start)},
        training={"batch_size": 64},
        search={"population": 2},
        budget={"generations": 1},
        merge={"trials": 0},
        **changes,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two solutions of a study as files."""
    folder = tmp_path_factory.mktemp("starts")
    plain = spec(search={"population": 4}, budget={"generations": 1}, **MEASURED)
    front = (study := run_study(folder, plain)).front()
    assert len(front) > 1
    paths = [folder / "coarse.moeash", folder / "fine.moeash"]
    for path, solution in zip(paths, (front[0], front[-1]), strict=True):
        export(study, path, id=solution.id)
    return paths


@pytest.fixture(scope="module")
def study(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    run_study(folder, fixed(files[0]))
    return folder


def test_a_study_begins_with_a_solution_of_another(files, study, tmp_path):
    begun = run_study(study, fixed(files[0]))
    plain = run_study(tmp_path, fixed(None))
    metrics = [[r.outcome.metric for r in s.evaluations()] for s in (begun, plain)]
    assert None not in metrics[0] and metrics[0] != metrics[1]
    assert begun.facts.baseline == plain.facts.baseline, "drops are from the float network"


def test_the_file_may_move_and_nothing_is_evaluated_again(files, study, tmp_path):
    before = sequence(run_study(study, fixed(files[0])))
    moved = tmp_path / "moved.moeash"
    moved.write_bytes(files[0].read_bytes())
    listen = Listener()
    after = run_study(study, fixed(moved), listen=listen)
    assert sequence(after) == before and not listen.new
    assert after.spec.start == str(moved)


def test_another_file_and_none_are_other_studies(files, study, tmp_path):
    for start in (files[1], None):
        with pytest.raises(StudyExistsError, match=r"method.start_fingerprint: stored '\w+', now"):
            run_study(study, fixed(start))
    changed = tmp_path / "changed.moeash"
    changed.write_bytes(files[1].read_bytes())
    known = with_start(parse_spec(fixed(files[0])))
    again = known.to_dict()
    again["method"]["start"] = str(changed)
    with pytest.raises(InputError, match="is another solution than it was"):
        with_start(parse_spec(again))


def test_what_is_no_solution_is_refused_before_anything_runs(files, tmp_path):
    bad = tmp_path / "bad.moeash"
    bad.write_bytes(files[0].read_bytes()[:-1])
    for path in (bad, tmp_path / "nowhere.moeash"):
        with pytest.raises(InputError, match=r"method.start = .*; name the .moeash file of a"):
            run_study(tmp_path, fixed(path))
    other = fixed(files[0], network={"source": "lenet5", "weights": "random"}, data__source="mnist")
    with pytest.raises(InputError, match=r"unknown key 'method\.start'"):
        parse_spec(other | {"method": {"name": "uniform", "start": str(files[0])}})


def test_a_solution_of_another_network_is_refused_before_anything_runs(files, tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(6, 4)
    called = []
    with pytest.raises(InputError, match="it does not fit Linear"):
        moeash.search(
            module,
            evaluate=lambda m: called.append(m(torch.ones(1, 6))) or 0.0,
            calibration=torch.randn(32, 6),
            method={"name": "wfn", "start": str(files[0])},
            progress=False,
        )
    assert len(called) == 1, "the float network is measured, and no candidate"


def test_who_reads_the_study_needs_no_file(files, tmp_path):
    path = tmp_path / "start.moeash"
    path.write_bytes(files[0].read_bytes())
    run_study(tmp_path, fixed(path, name="gone"))
    path.unlink()
    plain = fixed(path, name="gone")
    study = moeash.open_study("gone", str(tmp_path / "gone.db"), spec=plain)
    best = study.pick("best")
    report = export(study, tmp_path / "best.moeash", id=best.id)
    assert report.size_bytes == best.size_bytes
