"""``moeash report``."""

import json
import re

import pytest


def test_a_report_holds_the_front_that_the_terminal_prints(moeash, tiny, tmp_path):
    to = tmp_path / "tiny.html"
    assert moeash("report", "tiny", "--to", str(to), "--storage", tiny.storage).code == 0
    text = to.read_text("utf-8")
    data = re.search(r'<script type="application/json" id="report">(.*?)</script>', text)[1]
    report = json.loads(data)
    front = moeash("front", "tiny", "--json", "--storage", tiny.storage).json
    assert [s["id"] for s in report["front"]] == [s["id"] for s in front]
    assert report["points"]["total"] == len(report["points"]["numbers"])


def test_a_report_of_no_study_is_refused_and_writes_nothing(moeash, tiny, tmp_path):
    to = tmp_path / "none.html"
    answer = moeash("report", "tiiny", "--to", str(to), "--storage", tiny.storage)
    assert answer.code == 2
    assert "tiiny" in answer.err
    assert not to.exists()


def test_a_report_of_no_database_makes_none(moeash, tmp_path):
    assert moeash("report", "tiny", "--to", "none.html", "--storage", "none.db").code == 2
    assert [*tmp_path.iterdir()] == []


@pytest.mark.slow
def test_evaluations_and_optuna_get_what_is_stored(moeash, tiny, tmp_path):
    import optuna

    n = len(moeash("front", "tiny", "--json", "--storage", tiny.storage).json)
    answer = moeash("evaluations", "tiny", "--to", tmp_path / "a.csv", "--storage", tiny.storage)
    assert answer.code == 0 and len((tmp_path / "a.csv").read_text().splitlines()) > n
    url = f"sqlite:///{tmp_path / 'x.db'}"
    call = ("export-optuna", "tiny", "--to", url, "--storage", tiny.storage, "--json")
    assert moeash(*call).json["trials"] == len(
        optuna.load_study(study_name="tiny", storage=url).trials
    )
    again = moeash(*call)
    assert again.code == 1 and "already" in again.err
    assert moeash("evaluations", "tiny", "--to", "a.x", "--storage", tiny.storage).code == 2
