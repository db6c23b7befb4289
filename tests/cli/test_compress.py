import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import moeash as package


@pytest.fixture
def checkpoint(tmp_path):
    weights = np.random.default_rng(0).normal(size=(60, 50)).astype(np.float32)
    save_file({"w.weight": weights, "w.bias": weights[0]}, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def test_a_checkpoint_becomes_a_verified_file_and_comes_back(moeash, checkpoint, tmp_path):
    answer = moeash("compress", "m.safetensors", "--to", "m.moeash", "--max-error", "0.05")
    assert answer.code == 0, answer.err
    assert "decoded and compared bit for bit" in answer.out
    assert "largest relative error of a tensor: 0.04" in answer.out
    assert (
        package.verify(tmp_path / "m.moeash").size_bytes == (tmp_path / "m.moeash").stat().st_size
    )
    assert moeash("decompress", "m.moeash", "--to", "again.safetensors").code == 0
    before, after = load_file(checkpoint), load_file(tmp_path / "again.safetensors")
    np.testing.assert_array_equal(before["w.bias"], after["w.bias"])
    moved = np.linalg.norm(before["w.weight"] - after["w.weight"])
    assert 0.04 < moved / np.linalg.norm(before["w.weight"]) <= 0.05


def test_the_answer_in_json_is_the_report(moeash, checkpoint, tmp_path):
    answer = moeash("compress", ".", "--to", "m.moeash", "--k", "9", "--json").json
    assert answer["wrote"] == "m.moeash" and answer["k"] == 9
    assert answer["size_bytes"] == (tmp_path / "m.moeash").stat().st_size
    assert (answer["n_shared"], answer["n_kept"], answer["worst"]) == (3000, 50, "w.weight")


def test_kept_tensors_are_named(moeash, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"w": rng.normal(size=(90, 90)), "tiny": rng.normal(size=(3, 3)) * 1e-7}
    save_file({n: t.astype(np.float32) for n, t in tensors.items()}, tmp_path / "m.safetensors")
    answer = moeash("compress", "m.safetensors", "--to", "m.moeash", "--max-error", "0.1")
    assert "within the error takes more bytes: tiny\n" in answer.out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "needed exactly one"),
        (["--k", "2", "--bits", "2"], "needed exactly one"),
        (["--k", "2", "--include", "x*"], "matches no parameter"),
        (["--k", "two"], "valid integer"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(moeash, checkpoint, tmp_path, arguments, message):
    answer = moeash("compress", "m.safetensors", "--to", "m.moeash", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err and answer.err.count("\n") == 1
    assert not (tmp_path / "m.moeash").exists()


def test_an_existing_file_needs_force(moeash, checkpoint, tmp_path):
    (tmp_path / "m.moeash").write_bytes(b"old")
    arguments = ["compress", "m.safetensors", "--to", "m.moeash", "--k", "4"]
    answer = moeash(*arguments)
    assert answer.code == 2 and "'m.moeash' exists" in answer.err
    assert (tmp_path / "m.moeash").read_bytes() == b"old"
    assert moeash(*arguments, "--force").code == 0


@pytest.mark.slow
def test_a_study_becomes_one_file_that_meets_a_goal(moeash, bare, tmp_path):
    answer = moeash("compress", bare, "--max-kl", "0.2", "--to", "x.moeash")
    assert answer.code == 0, answer.err
    assert "search (60 images): divergence 0.1" in answer.out
    assert "trying k=16" in answer.err and "measuring the decoded network" in answer.err
    assert "holdout (100 images): divergence 0." in answer.out
    flags = ["--max-bytes", "16000", "--to", "y.moeash", "--set", "method.k=[2,32]", "--json"]
    answer = moeash("compress", bare, *flags).json
    assert answer["size_bytes"] == (tmp_path / "y.moeash").stat().st_size <= 16_000
    assert answer["search"]["n_images"] == 60
    answer = moeash("compress", bare, "--max-kl", "1e-9", "--to", "z.moeash")
    assert answer.code == 3 and "raise method.k" in answer.err


def test_options_of_the_other_kind_are_refused_with_the_right_ones(moeash, bare, checkpoint):
    answer = moeash("compress", bare, "--bits", "2", "--to", "x.moeash")
    assert answer.code == 2 and "--bits is for a checkpoint" in answer.err
    assert "--max-kl, --max-drop, --max-bytes" in answer.err
    answer = moeash("compress", "m.safetensors", "--max-kl", "2", "--to", "x.moeash")
    assert answer.code == 2 and "--max-kl is for a study" in answer.err
