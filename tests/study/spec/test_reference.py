import dataclasses

import pytest

from moeash.backends.options import BackendOptions
from moeash.compression.options import CodecOptions
from moeash.data.options import DATA_SOURCES, DataOptions
from moeash.data.sources import SOURCES
from moeash.evaluation.metrics import METRICS
from moeash.evaluation.options import METRIC_NAMES, EvaluationOptions
from moeash.methods.options import OPTIONS
from moeash.methods.registry import build_method
from moeash.methods.training.options import TrainingOptions
from moeash.networks.loading.builtin import BUILTIN
from moeash.networks.options import NETWORKS, NetworkOptions
from moeash.options.tables import to_plain
from moeash.searches.options import SearchOptions
from moeash.study.course.options import (
    BudgetOptions,
    DistillOptions,
    MergeOptions,
    RefineOptions,
    TuneOptions,
)
from moeash.study.spec.output import OutputOptions
from moeash.study.spec.reference import documented, spec_keys
from moeash.study.spec.spec import StudySpec

TABLES = [
    StudySpec,
    NetworkOptions,
    DataOptions,
    EvaluationOptions,
    SearchOptions,
    BudgetOptions,
    RefineOptions,
    MergeOptions,
    DistillOptions,
    TuneOptions,
    TrainingOptions,
    CodecOptions,
    BackendOptions,
    OutputOptions,
    *OPTIONS.values(),
]


TRAINING = ("distill.", "tune.", "training.")


def test_a_spec_has_at_most_60_keys_and_at_most_19_about_training():
    places = {key.place for key in spec_keys()}
    others = [to_plain(o(), defaults=True) for o in OPTIONS.values() if not o.trains]
    taken = {f"method.{key}" for key in ("name", *(key for table in others for key in table))}
    training = {
        place
        for place in places
        if place.startswith(TRAINING) or (place.startswith("method.") and place not in taken)
    }
    assert len(training) <= 19
    assert len(places - training) <= 60


@pytest.mark.parametrize("table", TABLES)
def test_every_option_is_documented_and_nothing_else(table):
    assert list(documented(table)) == [field.name for field in dataclasses.fields(table)]


def test_names_that_may_be_given_are_those_that_are_built_in():
    assert tuple(BUILTIN) == NETWORKS
    assert tuple(SOURCES) == DATA_SOURCES
    assert tuple(METRICS) == METRIC_NAMES
    assert all(build_method(options()).name == name for name, options in OPTIONS.items())


@pytest.mark.parametrize(
    ("options", "key", "names"),
    [
        (NetworkOptions, "source", NETWORKS),
        (DataOptions, "source", DATA_SOURCES),
        (EvaluationOptions, "metric", METRIC_NAMES),
    ],
)
def test_built_in_names_are_in_the_description_of_their_key(options, key, names):
    assert all(name in documented(options)[key] for name in names)


def test_a_key_says_what_it_takes_and_what_it_is_left_out():
    keys = {(key.place, key.default): key for key in spec_keys()}
    assert keys["search.population", "20"].type == "integer of at least 2 and at most 10,000"
    of_k = [key.description.partition(":")[0] for key in spec_keys() if key.place == "method.k"]
    assert of_k == ["uniform", "feedback"], "each method's own"
    assert keys["method.centre", '"mean"'].description.startswith("uniform: ")
    assert keys["data.splits", "required"].type == "table of tables"
    assert keys["evaluation.threads", ""].type == "integer of at least 1 and at most 1,024"
    assert "calibration" not in {place for place, _ in keys}
