"""``moeash report``."""

import json
import re


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
