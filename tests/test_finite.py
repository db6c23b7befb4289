"""Infinity and NaN are refused where they come in, and every JSON that goes out is JSON."""

import json
import math
import shutil
import sqlite3
from typing import Any

import numpy as np
import pytest
import torch

import moeash as package
from moeash.core.plain import json_text
from moeash.core.solutions.recipe import Recipe
from moeash.errors import EvaluationError, InputError, SpecError
from moeash.evaluation.metrics import MeanScore
from moeash.options.kinds import Either, Fixed, Kind, ListOf, Number
from moeash.options.tables import Table, Tagged, kinds
from moeash.study.spec.reading import load_spec, parse_spec
from moeash.study.spec.spec import StudySpec
from tests.marks import slow

NOT_FINITE = [math.inf, -math.inf, math.nan]

PLAIN: dict[str, Any] = {
    "name": "x",
    "network": {"source": "digits-cnn"},
    "data": {"source": "digits", "splits": {"search": {"part": "all", "range": [0, 20]}}},
}


def strict(text):
    """Return what JSON says, without what Python reads besides."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def number_places(options, at=()):
    """Yield the place of every float of options, and a value there with ``x`` in its place."""
    for key, kind in kinds(options).items():
        yield from _places_of(kind, (*at, key))


def _places_of(kind: Kind, at):
    match kind:
        case Number(whole=False):
            yield at, lambda x: x
        case Fixed(items=items):
            for i, item in enumerate(items):
                if isinstance(item, Number):
                    ones = [1] * len(items)
                    yield at, lambda x, i=i, o=ones: [*o[:i], x, *o[i + 1 :]]
        case ListOf(each=each):
            yield from ((place, lambda x, f=f: [f(x)]) for place, f in _places_of(each, at))
        case Either(kinds=inner):
            for one in inner:
                yield from _places_of(one, at)
        case Table(options=options):
            yield from number_places(options, at)
        case Tagged(options=several):
            for options in several:
                for place, value in number_places(options, at):
                    yield (*place, options.name), value


PLACES = list(number_places(StudySpec))


def described(place, value):
    """Return a spec with a value in one place; of method options the last part is their name."""
    data = json.loads(json.dumps(PLAIN))
    if place[0] == "method":
        *place, name = place
        data["method"] = {"name": name}
    *tables, key = place
    here = data
    for table in tables:
        here = here.setdefault(table, {})
    here[key] = value
    return data


def test_the_walk_finds_floats_of_every_depth():
    found = {".".join(place) for place, _ in PLACES}
    assert {"evaluation.max_drop", "method.rate.feedback", "method.clip.uniform"} <= found
    assert len(found) >= 12


@pytest.mark.parametrize("x", NOT_FINITE)
@pytest.mark.parametrize("place, value", PLACES, ids=[".".join(place) for place, _ in PLACES])
def test_no_option_of_a_spec_takes_what_is_not_finite(place, value, x):
    with pytest.raises(SpecError, match=r"(nan|inf).*needed"):
        parse_spec(described(place, value(x)))


@pytest.mark.parametrize("x", ["nan", "inf", "-inf", "+inf"])
def test_set_takes_nothing_that_is_not_finite(tmp_path, x):
    path = tmp_path / "x.toml"
    path.write_text(
        'name = "x"\nnetwork.source = "digits-cnn"\n'
        'data = {source = "digits", splits = {search = {part = "all", range = [0, 20]}}}\n'
    )
    assert load_spec(path).name == "x"
    with pytest.raises(SpecError, match=r"evaluation\.max_drop is .*needed a number"):
        load_spec(path, [f"evaluation.max_drop={x}"])


@pytest.mark.parametrize("x", NOT_FINITE)
def test_search_and_compress_refuse_options_and_candidates_that_are_not_finite(tmp_path, x):
    network, to = torch.nn.Linear(8, 8), tmp_path / "x.moeash"
    feedback = {"name": "feedback", "images": 4}
    for refused in (
        lambda: package.search(network, evaluate=lambda m: 1.0, max_drop=x),
        lambda: package.search(
            network, evaluate=lambda m: 1.0, spec={"budget": {"wall_time_s": x}}
        ),
        lambda: package.compress(network, to, candidate={"k": 4}, method={"clip": [0, x]}),
        lambda: package.compress(network, to, candidate={"k": x}),
        lambda: package.compress(network, to, candidate={"k": 4, "rate": x}, method=feedback),
    ):
        with pytest.raises(InputError, match=r"nan|inf"):
            refused()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value, message",
    [
        ({"k": 4.5, "rate": 0.1}, "k = 4.5, needed a whole number"),
        ({"k": True, "rate": 0.1}, "k = True, needed a whole number"),
        ({"k": "4", "rate": 0.1}, "k = '4', needed a whole number"),
        ({"k": 4, "rate": "x"}, "rate = 'x', needed a number"),
        ({"k": 4, "rate": -0.01}, "rate = -0.01, needed 0 or more"),
        ({"k": 4}, r"candidate has \['k'\], the method needs \['k', 'rate'\]"),
    ],
)
def test_a_candidate_has_values_of_its_variables_kinds(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        package.compress(
            torch.nn.Linear(8, 8), tmp_path / "x.moeash", candidate=value, method="feedback"
        )


def test_numpys_numbers_are_numbers_of_a_candidate(tmp_path):
    report = package.compress(
        torch.nn.Linear(8, 8), tmp_path / "x.moeash", candidate={"k": np.int64(4)}, progress=False
    )
    assert report.total == (tmp_path / "x.moeash").stat().st_size


@pytest.mark.parametrize("x", NOT_FINITE)
def test_a_recipe_holds_finite_numbers_wherever_it_comes_from(x):
    with pytest.raises(InputError, match="rate = "):
        Recipe.from_dict({"candidate": {"rate": x}, "steps": []})


@pytest.mark.parametrize(
    "x", [*map(slow, (math.inf, -math.inf)), math.nan, *map(slow, (1e308, -1e308))]
)
def test_a_function_that_gives_no_usable_number_is_refused_and_a_candidate_fails(x, tmp_path):
    with pytest.raises(EvaluationError, match="must be a finite number"):
        package.search(torch.nn.Linear(8, 8), evaluate=lambda m: x, progress=False)
    values = [0.5, 0.4, x, 0.3, x]
    study = package.search(
        torch.nn.Linear(8, 8),
        evaluate=lambda m: values.pop(0) if values else 0.2,
        generations=2,
        population=4,
        progress=False,
    )
    failed = [e for e in study.evaluations() if e.outcome.status == "failed"]
    assert len(failed) == 2
    assert all("must be a finite number" in e.outcome.error for e in failed)
    assert all(math.isfinite(g.hypervolume) for g in study.generations())
    strict(json_text([s.as_dict() for s in study.front()]))


@pytest.mark.parametrize("x", [*NOT_FINITE, "low"])
def test_a_functions_reference_is_a_finite_number(x):
    def evaluate(network):
        return 1.0

    evaluate.reference = x
    with pytest.raises(EvaluationError, match="reference"):
        package.search(torch.nn.Linear(8, 8), evaluate=evaluate, progress=False)
    with pytest.raises(EvaluationError, match="reference"):
        assert MeanScore("x", evaluate).reference


@pytest.mark.parametrize("x", [math.nan, -math.inf, "high"])
def test_a_scores_best_is_a_number_or_infinity(x):
    def score(outputs, labels):
        return labels

    score.best = x
    with pytest.raises(EvaluationError, match="best"):
        MeanScore("x", score).start(np.arange(3))
    score.best = math.inf
    assert MeanScore("x", score).start(np.arange(3)).upper_bound() == math.inf


def test_scores_whose_mean_would_overflow_are_refused(moeash, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "overflowing.py").write_text(
        "import torch\ndef score(outputs, labels):\n"
        "    return torch.full((len(outputs),), 1.7e308, dtype=torch.float64)\n"
    )
    (tmp_path / "x.toml").write_text(
        'name = "x"\nnetwork.source = "digits-cnn"\n'
        'data = {source = "digits", splits = {search = {part = "all", range = [0, 20]}}}\n'
        'evaluation.metric = "overflowing:score"\n'
    )
    answer = moeash("run", "x.toml")
    assert answer.code == 1
    assert "it must return one finite score within ±1e+100 for each of 20 images" in answer.err


@pytest.mark.parametrize("flag", ["--max-drop=nan", "--max-drop=inf", "--max-drop=-inf"])
def test_a_limit_of_a_pick_is_finite(moeash, tiny, flag):
    answer = moeash("export", "tiny", "--to", "x.moeash", flag, "--storage", tiny.storage)
    assert answer.code == 2
    assert "needed a finite number; leave it out for none" in answer.err


def test_json_has_null_for_what_it_has_no_word_for():
    given = {"a": [math.nan, (1, -math.inf)], "b": {"c": np.float64("inf")}, "d": 1.5}
    assert strict(json_text(given, indent=2)) == {
        "a": [None, [1, None]],
        "b": {"c": None},
        "d": 1.5,
    }


@pytest.mark.slow
def test_documents_of_a_study_that_holds_infinities_are_json(moeash, tiny, tmp_path):
    copy = tmp_path / "copy.db"
    shutil.copy(tiny.storage, copy)
    with sqlite3.connect(copy) as database:
        database.execute(
            "UPDATE studies SET environment = '{\"threads\": NaN}', "
            "spec = json_set(spec, '$.x', 1), activity = NULL"
        )
        database.execute("UPDATE events SET payload = '{\"text\": Infinity}' WHERE kind = 'note'")
    database.close()
    for command in (["list"], ["status", "tiny"], ["front", "tiny"]):
        strict(moeash(*command, "--storage", copy, "--json").out)
