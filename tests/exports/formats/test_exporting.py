"""Solutions of a study through every format: what leaves is the network that was measured."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import moeash
import moeash as package
from moeash.data.splits import load_splits
from moeash.errors import InputError
from moeash.exports.formats.names import FORMATS, SUFFIXES
from moeash.networks.loading.sources import load_network
from moeash.study.opening import open_study
from moeash.study.plan import task_of
from tests.exports.formats.test_c import FLAGS, needs_gcc
from tests.marks import slow

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'moeash[onnx]'")


@pytest.fixture(scope="module")
def study(tiny):
    return open_study("tiny", tiny.storage)


@pytest.fixture(scope="module")
def holdout(study):
    (batch,) = load_splits(task_of(study).data)["holdout"].batches(100)
    return batch


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    """One solution in every format."""
    folder = tmp_path_factory.mktemp("exported")
    return folder, moeash.export(study, folder / "net", pick="knee", format=FORMATS, progress=False)


def loaded(state):
    module = load_network("digits-cnn").eval()
    module.load_state_dict(state)
    return lambda x: module(x)


def from_moeash(path):
    return package.load(path, into=load_network("digits-cnn")).eval()


def from_safetensors(path):
    return loaded(load_file(path))


def from_torch(path):
    return loaded(torch.load(path, weights_only=True))


def from_onnx(path):
    session = onnxruntime.InferenceSession(path)
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


def from_c(path):
    """Compile a program that writes the decoded tensors, and read them in their order."""
    program = '#define NET_IMPLEMENTATION\n#include "net.h"\n#include <stdio.h>\n'
    program += "static union { double align; unsigned char bytes[NET_BYTES]; } to;\nint main(void)"
    program += "{ size_t i; for (i = 0; i < NET_TENSORS; i++)"
    program += " net_decode(i, to.bytes + net_tensors[i].offset);"
    program += " fwrite(to.bytes, 1, NET_BYTES, stdout); return 0; }\n"
    (path.parent / "main.c").write_text(program)
    subprocess.run(f"gcc {FLAGS} main.c -o main".split(), cwd=path.parent, check=True)
    decoded = subprocess.run(["./main"], cwd=path.parent, check=True, capture_output=True).stdout
    state = {}
    at = 0
    for name, tensor in load_network("digits-cnn").state_dict().items():
        array = np.frombuffer(decoded, tensor.numpy().dtype, tensor.numel(), at)
        state[name] = torch.tensor(array.reshape(tensor.shape))
        at += -(-array.nbytes // 8) * 8
    return loaded(state)


READERS = {
    "moeash": from_moeash,
    "safetensors": from_safetensors,
    "torch": from_torch,
    "onnx": from_onnx,
    "c": from_c,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_gcc) if n == "c" else n for n in FORMATS]
)
def test_every_format_gives_the_holdout_accuracy_that_was_reported(exported, holdout, name):
    folder, report = exported
    images, labels = holdout
    with torch.inference_mode():
        outputs = READERS[name](folder / f"net{SUFFIXES[name][0]}")(images)
        expected = READERS["moeash"](folder / "net.moeash")(images)
    assert int((outputs.argmax(1) == labels).sum()) / 100 == report.holdout.top1
    distance = float((outputs - expected).abs().max() / expected.abs().max())
    assert distance <= (1e-5 if name == "onnx" else 0)


@pytest.mark.slow
def test_the_report_names_every_file_with_its_bytes(exported):
    folder, report = exported
    assert [file.format for file in report.files] == list(FORMATS)
    for file in report.files:
        assert (folder / file.name).stat().st_size == file.size_bytes
    assert report.path == str(folder / "net.moeash")
    assert report.size_bytes == report.files[0].size_bytes == report.solution["size_bytes"]


@pytest.mark.slow
def test_files_of_all_formats_name_study_recipe_and_fingerprint(exported, study):
    import onnx

    folder, report = exported
    state = torch.load(folder / "net.pt", weights_only=True)
    solution = study.solution(report.solution["id"])
    assert state.moeash == {
        "moeash_version": package.__version__,
        "study": "tiny",
        "recipe": solution.recipe.key,
        "fingerprint": solution.record.outcome.fingerprint,
        "note_network": "digits-cnn",
    }
    model = onnx.load(folder / "net.onnx")
    assert {p.key: p.value for p in model.metadata_props} == state.moeash
    text = (folder / "net.h").read_text()
    for key, value in state.moeash.items():
        assert f" * {key}: {value}\n" in text


@pytest.mark.slow
def test_an_onnx_file_is_near_the_size_of_its_indices(exported):
    folder, report = exported
    n_bytes = report.n_shared + 4 * report.n_kept
    assert (folder / "net.onnx").stat().st_size < n_bytes + 6_000


@pytest.mark.slow
def test_no_file_gets_its_name_when_one_of_them_fails(study, tmp_path):
    (tmp_path / "net.pt").write_bytes(b"before")
    (tmp_path / "net.h").mkdir()
    with pytest.raises(package.ExportError, match=r"net.h"):
        moeash.export(
            study,
            tmp_path / "net",
            format=["torch", "safetensors", "c"],
            force=True,
            progress=False,
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.h", "net.pt"]
    assert (tmp_path / "net.pt").read_bytes() == b"before"


@pytest.mark.slow
def test_a_study_of_a_function_needs_inputs_to_be_run_on(tmp_path):
    module = torch.nn.Linear(8, 6)
    study = package.search(
        module,
        evaluate=lambda module: float(module.weight.detach().mean()),
        method={"k": [20, 21]},
        population=2,
        generations=1,
        progress=False,
    )
    to = tmp_path / "x.onnx"
    with pytest.raises(InputError, match="its study has no inputs; give some with inputs="):
        package.export(study, to, progress=False)
    before = module.weight.detach().clone()
    package.export(study, to, inputs=torch.randn(5, 8), progress=False)
    assert torch.equal(module.weight, before)
    assert onnxruntime.InferenceSession(to).get_inputs()[0].shape == ["batch", 8]


@pytest.mark.slow
def test_the_command_takes_a_format_or_the_suffix_of_the_file(moeash, tiny, tmp_path):
    stored = ["--storage", tiny.storage]
    answer = moeash("export", "tiny", "--to", "a.pt", *stored)
    assert answer.code == 0 and "exported solution" in answer.out
    assert torch.load(tmp_path / "a.pt", weights_only=True)
    answer = moeash(
        "export", "tiny", "--to", "b.moeash", "--format", "moeash", "--format", "c", *stored
    )
    assert "with it, as c: b.h, " in answer.out
    assert {p.name for p in tmp_path.iterdir()} == {"a.pt", "b.moeash", "b.h"}
    answer = moeash("export", "tiny", "--to", "c", "--format", "onxx", *stored)
    assert answer.code == 2 and "no format is called 'onxx'; nearest: 'onnx'" in answer.err


def test_a_report_lists_all_files_and_inspects_the_moeash_file(moeash, tiny, tmp_path):
    for formats in (["moeash", "c"], ["c"]):
        flags = [word for name in formats for word in ("--format", name)]
        flags += ["--report", "report.json", "--storage", tiny.storage, "--force"]
        to = "x.moeash" if "moeash" in formats else "x.h"
        assert moeash("export", "tiny", "--to", to, *flags).code == 0
        document = json.loads((tmp_path / "report.json").read_text())
        assert [file["name"] for file in document["files"]] == [
            f"x{SUFFIXES[name][0]}" for name in formats
        ]
        assert (document["inspection"] is not None) == ("moeash" in formats)


@pytest.mark.parametrize("flag", ["--report", "--card"])
@pytest.mark.parametrize("there", ["a pipe", "a file", slow("a folder"), slow("a loop")])
def test_what_lies_beside_an_export_is_tried_before_it_is_worked_for(
    tiny, moeash, tmp_path, flag, there
):
    """Else the file is there and the command has failed; or somebody's own notes are gone."""
    beside = tmp_path / "a.md"
    match there:
        case "a pipe":
            os.mkfifo(beside)
        case "a folder":
            beside.mkdir()
        case "a file":
            beside.write_text("notes")
        case "a loop":
            beside.symlink_to(beside.name)
    to = tmp_path / "a.moeash"
    flags = [flag, beside] if flag == "--report" else [flag]
    answer = moeash("export", "tiny", "--to", to, *flags, "--storage", tiny.storage)
    assert answer.code in (1, 2)
    assert "exists; choose" in answer.err or "cannot write" in answer.err
    assert not os.path.lexists(to)
    assert there != "a file" or beside.read_text() == "notes"


def test_a_report_does_not_take_the_place_of_what_it_reports(tiny, moeash, tmp_path):
    call = ("export", "tiny", "--to", "a.moeash", "--storage", tiny.storage, "--force")
    for flags in (["--report", tmp_path / "a.moeash"], ["--report", "./a.md", "--card"]):
        answer = moeash(*call, *flags)
        assert answer.code == 2 and "are both" in answer.err
    assert [*tmp_path.iterdir()] == []
