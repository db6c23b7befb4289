import pytest

import moeash
from moeash.errors import InputError, NothingMeetsError
from moeash.exports import reaching
from moeash.study.spec.reading import parse_spec


def spec(**tables):
    return {
        "name": "x",
        "network": {"source": "digits-cnn"},
        "data": {
            "source": "digits",
            "splits": {
                "search": {"part": "all", "range": [0, 200]},
                "holdout": {"part": "all", "range": [200, 300]},
            },
        },
        "method": {"k": [2, 64]},
    } | tables


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit, value, search",
    [
        ({"max_kl": 0.01}, lambda r: r.search.divergence, 0.01),
        ({"max_drop": 0.02}, lambda r: r.search.drop, 0.02),
        ({"max_bytes": 22_000}, lambda r: r.size_bytes, 22_000),
    ],
)
def test_the_file_meets_its_goal_as_somebody_measures_who_is_given_it(
    tmp_path, limit, value, search
):
    path = tmp_path / "x.moeash"
    report = moeash.compress_spec(spec(), path, progress=False, **limit)
    assert value(report) <= search
    assert report.size_bytes == path.stat().st_size == moeash.inspect(path).total
    assert moeash.verify(path).path
    assert (report.search.n_images, report.holdout.n_images) == (200, 100)
    assert report.search.metric_name == "top1"
    assert report.search.drop == pytest.approx(report.search.top1_float - report.search.top1)
    assert report.holdout.divergence > 0


@pytest.mark.slow
def test_less_is_larger(tmp_path):
    sizes = [
        moeash.compress_spec(
            spec(), tmp_path / "x.moeash", max_kl=kl, force=True, progress=False
        ).size_bytes
        for kl in (0.005, 0.02, 0.1)
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


@pytest.mark.slow
def test_where_the_metric_is_the_divergence_a_drop_is_one_of_top1(tmp_path):
    given = spec(evaluation={"metric": "neg_divergence"})
    report = moeash.compress_spec(given, tmp_path / "x.moeash", max_drop=0.05, progress=False)
    assert report.search.metric_name == "top1"
    assert 0 <= report.search.drop <= 0.05


@pytest.mark.slow
def test_progress_is_told_all_along(tmp_path):
    heard = []
    moeash.compress_spec(spec(), tmp_path / "x.moeash", max_kl=0.1, progress=heard.append)
    said = " ".join(event.what for event in heard)
    for words in ("loading", "trying k=64", "measuring the decoded network", "writing and verify"):
        assert words in said


@pytest.mark.slow
def test_a_goal_nothing_meets_writes_nothing(tmp_path):
    with pytest.raises(NothingMeetsError, match=r"raise method\.k"):
        moeash.compress_spec(spec(), tmp_path / "x.moeash", max_kl=1e-9, progress=False)
    assert not list(tmp_path.iterdir())


def test_methods_that_train_are_sent_to_a_study(tmp_path):
    splits = spec()["data"]["splits"] | {"train": {"part": "all", "range": [300, 400]}}
    given = spec(method={"name": "wfn"}, data={"source": "digits", "splits": splits})
    with pytest.raises(InputError, match="wfn trains every candidate; run a study instead"):
        reaching.compress_for(parse_spec(given).task(), tmp_path / "x", max_kl=0.1)


@pytest.mark.parametrize("limits", [{}, {"max_kl": 0.1, "max_bytes": 9}])
def test_exactly_one_limit_is_needed(tmp_path, limits):
    with pytest.raises(InputError, match="needed exactly one"):
        moeash.compress_spec(spec(), tmp_path / "x.moeash", progress=False, **limits)


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    (tmp_path / "x.moeash").write_bytes(b"old")
    with pytest.raises(InputError, match="exists"):
        moeash.compress_spec(spec(), tmp_path / "x.moeash", max_kl=0.1, progress=False)
    assert (tmp_path / "x.moeash").read_bytes() == b"old"
