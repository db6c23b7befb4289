import copy
import json
from dataclasses import replace

import pytest
import yaml

import moeash
from moeash.exports.interop.card import card_text, write_card
from moeash.study.opening import open_study


@pytest.fixture(scope="module")
def exported(tiny, tmp_path_factory):
    study = open_study("tiny", tiny.storage)
    path = tmp_path_factory.mktemp("card") / "net.moeash"
    return study, moeash.export(study, path, pick="best", progress=False)


def test_a_card_holds_what_was_measured(exported):
    study, report = exported
    path = write_card(study, report)
    assert path.name == "net.md" and path.parent.joinpath("net.moeash").exists()
    _, front, text = path.read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    (result,) = card["model-index"][0]["results"]
    assert result["dataset"]["name"] == "digits" and result["dataset"]["split"] == "holdout"
    assert [m["value"] for m in result["metrics"]] == [report.holdout.top1]
    assert result["metrics"][0]["type"] == "accuracy"
    assert "license" not in card
    for value in (
        f"{report.size_bytes:,} bytes",
        f"| top1 | {report.holdout_float.top1:.4f} | {report.holdout.top1:.4f} |",
        f"{report.holdout.n_images:,} images that the search never saw",
        f"Solution {report.solution['id']} of study `tiny`",
        json.dumps(report.solution["recipe"]),
        study.facts.network_fingerprint,
        moeash.verify(report.path).fingerprint,
        'moeash.load("net.moeash", into=network)',
    ):
        assert value in text


def test_a_card_of_another_format_tells_no_way_to_load_it_as_ours(moeash, tiny, tmp_path):
    call = ("export", "tiny", "--to", tmp_path / "a.pt", "--storage", tiny.storage, "--card")
    answer = moeash(*call, "--json")
    assert answer.code == 0
    text = (tmp_path / "a.md").read_text()
    assert answer.json["solution"]["fingerprint"] in text and "# a.pt" in text
    assert "moeash.load" not in text


def test_a_study_without_holdout_says_so_and_names_no_metric(exported):
    study, report = exported
    text = card_text(study, replace(report, holdout=None, holdout_float=None), "f")
    assert "nothing was measured on one" in text and "model-index" not in text


def test_names_do_not_become_markup(exported):
    study, report = exported
    odd = replace(report, solution=report.solution | {"recipe": {"a": "`](x) <b>"}})
    assert "`](x)" not in card_text(study, odd, "f").replace("'](x)", "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<img src=x>", r"\<img src=x\>"),
        ("a|b", r"a\|b"),
        ("[a](b)", r"\[a\](b)"),
        ("a\n\n# b", r"a\\n\\n\# b"),
        ("\x1b[31m", r"\\x1b\[31m"),
        ("neg_divergence", "neg_divergence"),
    ],
)
def test_a_metric_is_called_what_it_is_called_and_no_markup(exported, name, shown):
    study, report = exported
    holdout = replace(report.holdout, metric_name=name)
    exact = replace(report.holdout_float, metric_name=name)
    named = copy.copy(study)
    named.record = replace(study.record, facts=replace(study.facts, metric_name=name))
    card = card_text(named, replace(report, holdout=holdout, holdout_float=exact), "f")
    assert f"| {shown} |" in card
    assert f"search split {shown} is" in card


def test_the_terminal_writes_a_card_on_request(moeash, tiny, tmp_path):
    call = ("export", "tiny", "--to", tmp_path / "a.moeash", "--storage", tiny.storage)
    assert moeash(*call).code == 0 and not (tmp_path / "a.md").exists()
    assert moeash(*call, "--force", "--card").code == 0
    assert "## Evaluation" in (tmp_path / "a.md").read_text()
