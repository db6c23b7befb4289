from datetime import datetime

import pytest

from moeash.errors import ExportError
from moeash.exports.interop.optuna_study import _distributions, export_optuna
from moeash.study.opening import open_study

optuna = pytest.importorskip("optuna", reason="Optuna is not installed; pip install -e '.[test]'")


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'optuna.db'}"


@pytest.mark.slow
def test_a_study_opens_in_optuna_with_what_was_measured(tiny, url):
    study = open_study("tiny", tiny.storage)
    records = study.evaluations()
    assert export_optuna(study, url) == len(records)
    loaded = optuna.load_study(study_name="tiny", storage=url)
    assert [direction.name for direction in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert loaded.user_attrs["baseline"] == study.facts.baseline
    states = {"complete": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
    for trial, record in zip(loaded.trials, records, strict=True):
        assert trial.params == record.candidate.as_dict()
        assert trial.state.name == states[record.outcome.status]
        assert (trial.user_attrs["id"], trial.user_attrs["phase"]) == (record.number, record.stage)
        assert trial.user_attrs["bytes"] == record.outcome.sizes.size_bytes
        if record.outcome.status == "complete":
            assert trial.values == [record.outcome.metric, record.outcome.sizes.size_bytes]
            assert trial.user_attrs["top1"] == record.outcome.metric
        ended = datetime.fromisoformat(record.outcome.ended_at).timestamp()
        assert trial.datetime_complete.timestamp() == pytest.approx(ended, abs=0.01)
        assert trial.duration.total_seconds() == pytest.approx(record.outcome.duration_s, abs=0.01)


@pytest.mark.slow
def test_optunas_front_is_the_studys(tiny, url):
    study = open_study("tiny", tiny.storage)
    export_optuna(study, url, name="other")
    loaded = optuna.load_study(study_name="other", storage=url)
    best = {(t.values[0], t.values[1]) for t in loaded.best_trials}
    assert best == {(s.metric, float(s.size_bytes)) for s in study.front()}
    marked = {t.user_attrs["id"] for t in loaded.trials if t.user_attrs["on_front"]}
    assert marked == {s.id for s in study.front()}


def test_failed_and_stopped_evaluations_have_no_values(make_study, url):
    study = make_study([(0.9, 1000), (None, 500), (0.8, 400, 1)])
    export_optuna(study, url)
    trials = optuna.load_study(study_name="study", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert trials[1].values is None and trials[2].user_attrs["parent"] == 1


def test_a_study_of_that_name_is_kept(make_study, url):
    study = make_study([(0.9, 1000)])
    export_optuna(study, url)
    with pytest.raises(ExportError, match=r"has an Optuna study 'study' already; give another"):
        export_optuna(make_study([(0.9, 1000), (0.8, 500)], name="more"), url, name="study")
    assert len(optuna.load_study(study_name="study", storage=url).trials) == 1


def test_a_study_that_cannot_be_written_whole_is_not_there(make_study, url, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(optuna.Study, "add_trials", full)
    with pytest.raises(ExportError, match=r"Optuna cannot write to .*OSError: disk full"):
        export_optuna(make_study([(0.9, 1000)]), url)
    assert optuna.get_all_study_names(url) == []


@pytest.mark.parametrize("bad", ["no url", "sqlite:////no/such/folder/x.db", "nothing://x"])
def test_a_storage_that_is_none_is_refused(make_study, bad):
    with pytest.raises(ExportError, match="Optuna cannot write to"):
        export_optuna(make_study([(0.9, 1000)]), bad)


@pytest.mark.parametrize("forgetful", ["sqlite://", "sqlite:///:memory:"])
def test_what_is_written_to_memory_is_not_called_written(make_study, forgetful):
    with pytest.raises(ExportError, match=r"holds 0 of the 1 trials .* name a file or a server"):
        export_optuna(make_study([(0.9, 1000)]), forgetful)


def test_optuna_is_left_as_talkative_as_it_was(make_study, url, capfd):
    before = optuna.logging.get_verbosity()
    export_optuna(make_study([(0.9, 1000)]), url)
    assert optuna.logging.get_verbosity() == before and capfd.readouterr().err == ""


def test_values_of_every_kind_are_parameters():
    found = _distributions([{"k": 3, "rate": 0.5, "kind": "a"}, {"k": 9, "rate": 1, "kind": "b"}])
    assert found["k"] == optuna.distributions.IntDistribution(3, 9)
    assert found["rate"] == optuna.distributions.FloatDistribution(0.5, 1)
    assert found["kind"] == optuna.distributions.CategoricalDistribution(("a", "b"))
