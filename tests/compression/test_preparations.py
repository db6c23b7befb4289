from dataclasses import replace

import pytest
import torch

from moeash.compression.preparations import Preparations, digest_of, digest_of_code
from moeash.core.solutions.candidate import Candidate
from moeash.data.unlabelled import Unlabelled
from moeash.methods.base import Preparation
from moeash.methods.feedback.method import Feedback
from moeash.methods.feedback.options import FeedbackOptions
from tests.contracts.method import digits_network


class Counted(Feedback):
    """Feedback that counts how often it prepares."""

    prepared = 0

    def prepare(self, preparation):
        type(self).prepared += 1
        return super().prepare(preparation)


@pytest.fixture
def method():
    Counted.prepared = 0
    return Counted(FeedbackOptions(images=20, sketches=1))


def preparation(seed=0, inputs=0, **changes):
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(inputs))
    given = {
        "network": digits_network(),
        "splits": {"calibration": Unlabelled(images, at_most=20)},
        "seed": seed,
        "n_threads": 1,
        "refines": False,
    }
    return Preparation(**{**given, **changes})


def test_what_was_kept_is_not_prepared_again_and_compresses_alike(tmp_path, method):
    given = preparation()
    candidate = Candidate.of({"k": 20, "rate": 0.05})
    first = Preparations(tmp_path / "kept", worth_keeping_s=0).prepare(method, given, "cpu")
    again = Preparations(tmp_path / "kept", worth_keeping_s=0).prepare(method, given, "cpu")
    assert method.prepared == 1
    fingerprints = {
        method.compress(prepared, candidate, network=given.network).fingerprint()
        for prepared in (first, again)
    }
    assert len(fingerprints) == 1


@pytest.mark.slow
def test_what_takes_no_time_is_not_kept(tmp_path, method):
    for _ in range(2):
        Preparations(tmp_path / "kept", worth_keeping_s=1e9).prepare(method, preparation(), "cpu")
    assert method.prepared == 2
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"inputs": 1},
        {"n_threads": 2},
        {"refines": True},
    ],
    ids=str,
)
def test_whatever_a_preparation_depends_on_gives_it_another_name(method, changes):
    assert digest_of(method, preparation(**changes), "cpu") != digest_of(
        method, preparation(), "cpu"
    )


def test_another_network_option_or_device_gives_another_name(method):
    plain = digest_of(method, preparation(), "cpu")
    network = digits_network()
    state = list(network.state)
    state[0] = replace(state[0], values=state[0].values + 1)
    other = replace(network, state=tuple(state))
    assert digest_of(method, preparation(network=other), "cpu") != plain
    assert digest_of(Counted(FeedbackOptions(images=21)), preparation(), "cpu") != plain
    assert digest_of(method, preparation(), "cuda") != plain


def test_other_code_of_the_same_version_gives_another_name(tmp_path):
    (tmp_path / "methods" / "wing").mkdir(parents=True)
    file = tmp_path / "methods" / "wing" / "a.py"
    digests = []
    for text in ("a = 1", "a = 2", "a = 1"):
        file.write_text(text)
        digests.append(digest_of_code(tmp_path))
    assert digests[0] == digests[2] != digests[1]
    assert digest_of_code() not in digests


def test_a_damaged_file_is_made_again(tmp_path, method):
    kept = Preparations(tmp_path, worth_keeping_s=0)
    kept.prepare(method, preparation(), "cpu")
    (path,) = tmp_path.glob("*.prepared")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    kept.prepare(method, preparation(), "cpu")
    assert method.prepared == 2
    kept.prepare(method, preparation(), "cpu")
    assert method.prepared == 2


def test_a_folder_that_cannot_be_written_costs_the_study_nothing(tmp_path, method):
    (tmp_path / "kept").write_text("a file where the folder should be")
    prepared = Preparations(tmp_path / "kept", worth_keeping_s=0).prepare(
        method, preparation(), "cpu"
    )
    assert method.notes(prepared)


@pytest.mark.slow
def test_only_the_newest_files_are_kept(tmp_path, method, monkeypatch):
    most = 3
    monkeypatch.setattr("moeash.compression.preparations.MOST", most)
    kept = Preparations(tmp_path, worth_keeping_s=0)
    for seed in range(most + 2):
        kept.prepare(method, preparation(seed), "cpu")
    assert len(list(tmp_path.glob("*.prepared"))) == most
    kept.prepare(method, preparation(most + 1), "cpu")
    assert method.prepared == most + 2
