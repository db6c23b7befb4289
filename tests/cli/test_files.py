import numpy as np
from safetensors.numpy import load_file

import moeash as package


def test_verify_accepts_an_exported_file_and_finds_its_solution(moeash, tiny):
    answer = moeash(
        "verify", tiny.file, "--study", "tiny", "--storage", tiny.storage, "--json"
    ).json
    assert answer["ok"] and answer["size_bytes"] == tiny.file.stat().st_size
    (number,) = answer["solutions"]
    text = moeash("verify", tiny.file, "--study", "tiny", "--storage", tiny.storage).out
    assert f"as solution {number}" in text


def test_verify_against_a_study_refuses_weights_it_never_measured(moeash, tiny, tmp_path):
    from moeash.networks.loading.sources import load_network

    package.compress(load_network("digits-cnn"), tmp_path / "x.moeash", candidate={"k": 3})
    assert moeash("verify", "x.moeash").code == 0
    answer = moeash("verify", "x.moeash", "--study", "tiny", "--storage", tiny.storage)
    assert answer.code == 1
    assert "measured no solution with these weights" in answer.err


def test_parts_of_a_file_sum_to_its_size(moeash, tiny):
    answer = moeash("inspect", tiny.file, "--json").json
    assert sum(answer["parts"].values()) == answer["size_bytes"] == tiny.file.stat().st_size
    elements = sum(row["elements"] for row in answer["tensors"])
    assert elements == answer["n_shared"] + answer["n_kept"] == 55_164


def test_inspect_counts_every_shared_weight_at_one_entry(moeash, tiny):
    answer = moeash("inspect", tiny.file, "--json").json
    values = {str(v) for book in answer["codebooks"] for v in book["values"]}
    assert sum(sum(book["counts"]) for book in answer["codebooks"]) == answer["n_shared"]
    assert len(values) == answer["entries"]
    decoded = package.read(tiny.file)
    for book in answer["codebooks"]:
        for name in book["tensors"]:
            assert {str(float(v)) for v in set(decoded[name].reshape(-1).tolist())} <= values


def test_inspect_prints_every_part_and_tensor(moeash, tiny):
    out = moeash("inspect", tiny.file).out
    for word in ("header", "indices", "checksum", "fc1.weight", "bn1.running_mean", "digits-cnn"):
        assert word in out


def test_inspect_names_every_tensor_in_full(moeash, tiny):
    rows = moeash("inspect", tiny.file, "--json").json["tensors"]
    named = [name for row in rows for name in row["names"]]
    assert sorted(named) == sorted(package.read(tiny.file))
    for row in rows:
        assert row["name"].startswith(row["names"][0])


def test_decompressed_safetensors_equal_the_decoded_arrays(moeash, tiny, tmp_path):
    assert moeash("decompress", tiny.file, "--to", "d.safetensors").code == 0
    written, decoded = load_file(tmp_path / "d.safetensors"), package.read(tiny.file)
    assert written.keys() == decoded.keys()
    for name, array in decoded.items():
        assert written[name].dtype == array.dtype
        np.testing.assert_array_equal(written[name], array)


def test_files_that_are_none_are_refused_in_one_line(moeash, tiny, tmp_path):
    for command in (["verify"], ["inspect"], ["decompress", "--to", "x"]):
        answer = moeash(*command, tiny.spec)
        assert (answer.code, answer.out) == (1, "")
        assert answer.err == "moeash: this is no .moeash file: it does not begin with its mark\n"
    assert not (tmp_path / "x").exists()
