"""What would end the process in a user's code is an error of that code; interrupts interrupt."""

import signal
import subprocess
import sys

import pytest
import torch

import moeash as package
import moeash.nn as package_nn
from moeash.errors import DataError, SpecError, UserCodeError
from moeash.names import call_factory, contained, find_function
from tests.marks import slow


class OwnEnd(BaseException):
    """Neither an exception nor an interrupt."""


ENDS = [SystemExit(0), SystemExit("bye"), GeneratorExit(), OwnEnd("x")]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that can be imported under a name of its own."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_what_ends_a_process_becomes_an_error_that_says_what_and_where(end):
    with pytest.raises(UserCodeError) as raised, contained():
        raise end
    assert f"the user's code raised {type(end).__name__}" in str(raised.value)
    assert f"({__file__}, line " in str(raised.value)
    assert raised.value.__cause__ is end


def test_the_place_is_where_exit_was_called():
    with pytest.raises(UserCodeError, match=rf"SystemExit: 0 \({__file__}, line "), contained():
        exit(0)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x")], ids=repr)
def test_interrupts_and_exceptions_go_on_as_they_are(error):
    with pytest.raises(type(error)) as raised, contained():
        raise error
    assert raised.value is error


def test_what_the_handler_of_a_signal_raises_goes_on(monkeypatch):
    def end(*_):
        sys.exit(143)

    before = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(SystemExit) as raised, contained():
            signal.raise_signal(signal.SIGUSR1)
        assert raised.value.code == 143
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_module_that_exits_at_import_cannot_be_imported(module):
    name = module("exits_at_import", "import sys\nsys.exit(0)\n")
    with pytest.raises(SpecError, match=r"exits_at_import.*SystemExit: 0 .*line 2"):
        find_function(f"{name}:make", error=SpecError)


def test_a_factory_that_exits_has_failed_and_its_call_is_shown(module):
    name = module("exits_when_called", "import sys\ndef make(**o):\n    sys.exit('bye')\n")
    with pytest.raises(DataError, match=r"make\(a=1\).*SystemExit: bye .*line 3"):
        call_factory(f"{name}:make", {"a": 1}, error=DataError)


@pytest.mark.parametrize("end", [ENDS[0], *map(slow, ENDS[1:3]), ENDS[3]], ids=repr)
def test_an_evaluation_that_exits_has_failed_and_the_study_goes_on(end):
    calls = []

    def evaluate(network):
        calls.append(1)
        if len(calls) == 3:
            raise end
        return float(network.weight.detach().std())

    study = package.search(
        torch.nn.Linear(8, 8), evaluate=evaluate, generations=1, population=4, progress=False
    )
    assert study.status == "finished"
    (failed,) = [e for e in study.evaluations() if e.outcome.status == "failed"]
    assert type(end).__name__ in failed.outcome.error
    assert not failed.outcome.retriable


def fails_on_what_is_coarse(outputs, labels):
    if outputs.std() < 1:
        sys.exit(0)
    return (outputs.argmax(1) == labels).double()


def test_a_study_whose_candidates_have_all_failed_is_no_success(moeash, bare, tmp_path):
    command = [
        *("run", bare, "--storage", tmp_path / "a.db"),
        *("--set", f"evaluation.metric={__name__}:fails_on_what_is_coarse"),
        *("--set", "method={name='uniform',k=[2,2]}"),
    ]
    for _ in ("when it ends", "asked again"):
        answer = moeash(*command)
        assert answer.code == 1
        assert "candidates failed; the first, k=2" in answer.err and "SystemExit" in answer.err


@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_a_function_that_exits_on_the_float_network_is_an_error_of_search(end):
    def evaluate(network):
        raise end

    with pytest.raises(UserCodeError, match=type(end).__name__):
        package.search(torch.nn.Linear(8, 8), evaluate=evaluate, progress=False)


def test_a_forward_pass_that_exits_is_an_error_of_compress(tmp_path):
    class Exits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(8, 8)

        def forward(self, x):
            sys.exit(0)

    with pytest.raises(package.MoeashError, match="SystemExit"):
        package.compress(
            Exits(),
            tmp_path / "x.moeash",
            candidate={"k": 8, "rate": 0.05},
            method={"name": "feedback", "images": 4},
            calibration=torch.randn(4, 8),
            progress=False,
        )


class Leaves(torch.nn.Linear):
    """A network whose own code ends the process when it is asked what it holds."""

    def state_dict(self, *args, **kwargs):
        sys.exit(0)

    def modules(self):
        sys.exit(0)


@pytest.mark.parametrize(
    "use",
    [
        lambda file, network: package.load(file, into=network),
        lambda file, network: package_nn.compress_(network, file),
        lambda file, network: package_nn.memory(network),
        lambda file, network: package.decompress(
            file, file.with_suffix(".onnx"), network=network, inputs=torch.ones(2, 8)
        ),
    ],
    ids=["load", "compress_", "memory", "decompress"],
)
def test_a_network_that_exits_when_a_file_is_loaded_is_an_error(tmp_path, use):
    file = tmp_path / "x.moeash"
    package.compress(torch.nn.Linear(8, 8), file, candidate={"k": 4}, progress=False)
    with pytest.raises(UserCodeError, match="SystemExit: 0"):
        use(file, Leaves(8, 8))


def test_a_listener_that_exits_ends_the_study_as_failed(tmp_path):
    def listen(event):
        if event.kind == "evaluated":
            sys.exit(0)

    place = tmp_path / "a.db"
    with pytest.raises(UserCodeError, match="SystemExit"):
        package.search(
            torch.nn.Linear(8, 8),
            evaluate=lambda network: 1.0,
            name="x",
            storage=place,
            progress=listen,
        )
    assert package.open_study("x", place).status == "failed"


USER_MODULE = """
import sys, torch
class Source:
    name, parts, n_classes = "s", ("all",), 2
    def labels(self, part):
        import numpy
        {labels}
        return numpy.arange(40) % 2
    def images(self, part, indices):
        {images}
        return torch.randn(len(indices), 1, 4, 4)
    def files(self, part, indices):
        return None
def data(): return Source()
def network():
    {network}
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
def score(outputs, labels):
    {score}
    return (outputs.argmax(1) == labels).float()
"""

SPEC = """
name = "x"
[network]
source = "{name}:network"
[data]
source = "{name}:data"
splits.search = {{ part = "all", range = [0, 40] }}
[evaluation]
metric = "{name}:score"
threads = 1
[method]
k = [3, 5]
[search]
algorithm = "exhaustive"
"""


@pytest.mark.parametrize(
    "place, code", [("labels", 1), ("images", 1), ("network", 2), ("score", 1)]
)
def test_code_named_by_a_spec_that_exits_fails_the_command_in_one_line(
    moeash, module, tmp_path, place, code
):
    passes = dict.fromkeys(("labels", "images", "network", "score"), "pass")
    name = module(f"exits_in_{place}", USER_MODULE.format(**passes | {place: "sys.exit(0)"}))
    (tmp_path / "x.toml").write_text(SPEC.format(name=name))
    answer = moeash("run", "x.toml", "--json")
    assert (answer.code, answer.out) == (code, "")
    *_, said = answer.err.splitlines()
    assert said.startswith("moeash: ") and "SystemExit: 0" in said and f"{name}.py" in said


@pytest.mark.slow
def test_a_scripts_own_answer_to_sigterm_ends_a_search_at_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys, torch, moeash\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "calls = []\n"
        "def evaluate(network):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return 1.0\n"
        "moeash.search(torch.nn.Linear(8, 8), evaluate=evaluate, name='x', storage='x.db')\n"
    )
    ran = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, timeout=60)
    assert ran.returncode == 143
    assert package.open_study("x", tmp_path / "x.db").status == "interrupted"
