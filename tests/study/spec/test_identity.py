from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest

from moeash.compression.options import CodecOptions
from moeash.study.spec.spec import StudySpec
from tests.digits import digits_spec

CHANGES = {
    "budget, backend, paths and what is added to the front": [
        {"budget": {"generations": 99}},
        {"budget": {"wall_time_s": 1.5}},
        {"backend": {"kind": "ray", "workers": [1, 4]}},
        {"output": {"folder": "anywhere"}},
        {"refine": {"solutions": 1}},
        {"merge": {"trials": 3}},
        {"merge": {"max_drop": 0.1}},
        {"network": {"checkpoint": "elsewhere.safetensors"}},
        {"data": {"root": "elsewhere"}},
    ],
    "defaults spelt out": [
        {"version": 1},
        {"method": {"k": (2, 64), "centre": "mean"}},
        {"codec": {"coder": "ans"}},
        {"evaluation": {"metric": "top1"}},
        {"network": {"options": {}}},
    ],
}


@pytest.mark.parametrize("changes", [c for group in CHANGES.values() for c in group], ids=str)
def test_budget_place_paths_and_defaults_do_not_identify_a_study(changes):
    assert digits_spec(**changes).fingerprint() == digits_spec().fingerprint()
    assert digits_spec().differences(digits_spec(**changes)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"seed": 1},
        {"network": {"source": "lenet5"}},
        {"network": {"weights": "random"}},
        {"network": {"options": {"root": 3}}},
        {"network": {"options": {"a": {"budget": 1}}}},
        {"network": {"include": ["*"]}},
        {"network": {"exclude": ["*"]}},
        {"network": {"share_all": True}},
        {"data": {"source": "mnist"}},
        {"data": {"options": {"checkpoint": 1}}},
        {"data": {"splits": {"search": {"count": 201}}}},
        {"evaluation": {"metric": "macro_f1"}},
        {"evaluation": {"batch_size": 41}},
        {"evaluation": {"max_drop": 0.5}},
        {"evaluation": {"threads": 2}},
        {"evaluation": {"device": "cuda"}},
        {"evaluation": {"precision": "bf16"}},
        {"method": {"k": [2, 65]}},
        {"method": {"centre": "midpoint"}},
        {"method": {"name": "feedback"}},
        {"search": {"algorithm": "random"}},
        {"search": {"population": 9}},
        {"search": {"initial": "log"}},
        {"search": {"objectives": ["entries"]}},
        {"codec": {"coder": "huffman"}},
        {"codec": {"kept": "float32"}},
        {"codec": {"kept": "auto"}},
        {"codec": {"norms": "as_they_are"}},
    ],
    ids=str,
)
def test_everything_else_identifies_a_study_and_is_named_as_a_difference(changes):
    now = digits_spec(**changes)
    assert now.fingerprint() != digits_spec().fingerprint()
    assert digits_spec().differences(now)


TRAINING = [
    {"labels": 0.5},
    {"batch_size": 64},
    {"augment": ["flips"]},
    {"arithmetic": "bf16"},
    {"norms": "batch"},
]


@pytest.mark.parametrize("training", TRAINING, ids=str)
def test_how_it_trains_identifies_a_study_whose_method_does(training):
    """The steps behind a search say in their recipes how they were trained."""
    train = {"data": {"splits": {"train": {"part": "all", "rest": True}}}}
    for method in ("wfn", "pwfn"):
        plain = {"method": {"name": method, "k": None}, **train}
        now = digits_spec(training=training, **plain)
        assert now.fingerprint() != digits_spec(**plain).fingerprint()
        (key,) = training
        (difference,) = digits_spec(**plain).differences(now)
        assert difference.startswith(f"training.{key}: ")
    assert digits_spec(training=training).fingerprint() == digits_spec().fingerprint()


def test_what_a_method_begins_with_identifies_a_study_and_where_that_is_does_not():
    train = {"data": {"splits": {"train": {"part": "all", "rest": True}}}}

    def begun(path, fingerprint):
        start = {"start": path, "start_fingerprint": fingerprint}
        return digits_spec(method={"name": "wfn", "k": None, **start}, **train)

    one, moved, other = begun("a", "1" * 32), begun("b", "1" * 32), begun("a", "2" * 32)
    assert one.fingerprint() == moved.fingerprint() != other.fingerprint()
    assert one.differences(moved) == []
    (difference,) = one.differences(other)
    assert difference.startswith("method.start_fingerprint: stored '1111")


def test_splits_in_another_order_are_other_splits():
    """Each is drawn from what the earlier ones have left."""
    plain = digits_spec().to_dict()
    plain["data"]["splits"] = dict(reversed(plain["data"]["splits"].items()))
    assert StudySpec.from_dict(plain).fingerprint() != digits_spec().fingerprint()


def test_differences_are_told_key_by_key_with_defaults_spelt_out():
    now = digits_spec(codec={"coder": "huffman"}, method={"k": [2, 9]}, seed=3)
    assert digits_spec().differences(now) == [
        "seed: stored 0, now 3",
        "method.k: stored [2, 64], now [2, 9]",
        "codec.coder: stored 'ans', now 'huffman'",
    ]


def test_of_another_method_the_name_says_enough():
    other = digits_spec(method={"name": "gpfq", "k": None})
    assert digits_spec().differences(other) == ["method.name: stored 'uniform', now 'gpfq'"]


@dataclass(frozen=True)
class LaterCodecOptions(CodecOptions):
    """``[codec]`` of a later moeash."""

    table: ClassVar[str] = "codec"

    checksum: bool = False


@dataclass(frozen=True, kw_only=True)
class LaterSpec(StudySpec):
    """The spec of a later moeash, with an option and a table more."""

    codec: LaterCodecOptions = field(default_factory=LaterCodecOptions)
    schedule: str = "none"


@pytest.mark.parametrize("changes", [{}, {"codec": {"coder": "huffman"}}], ids=str)
def test_an_option_of_a_later_moeash_leaves_fingerprints_and_reads_what_is_stored(changes):
    stored = digits_spec(**changes)
    later = LaterSpec.from_dict(stored.to_dict())
    assert later.codec.checksum is False
    assert later.fingerprint() == stored.fingerprint()
    assert replace(later, schedule="cosine").fingerprint() != stored.fingerprint()


def test_what_differs_is_named_down_to_its_key():
    def with_splits(**splits):
        plain = digits_spec().to_dict()
        plain["data"]["splits"] = {name: {"part": "all", "count": n} for name, n in splits.items()}
        return StudySpec.from_dict(plain)

    one = with_splits(search=450, holdout=450)
    (count,) = one.differences(with_splits(search=450, holdout=400))
    assert count.startswith("data.splits.holdout.count: stored 450, now 400")
    (order,) = one.differences(with_splits(holdout=450, search=450))
    assert order == "data.splits: stored in the order search, holdout, now holdout, search"
    (more,) = one.differences(with_splits(search=450, holdout=450, train=9))
    assert more.startswith("data.splits.train: stored None, now {")
