import inspect
import subprocess
import sys

import pytest

import moeash
from moeash import errors as tree
from moeash.api.showing import Shown

HEAVY = ("torch", "torchvision", "pymoo", "pandas", "matplotlib", "scipy", "sqlalchemy", "rich")


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules a fresh interpreter has loaded after running code."""
    probe = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=120, check=True
    )
    return set(done.stdout.split())


def test_importing_moeash_loads_nothing_heavy():
    assert not loaded_after("import moeash") & {*HEAVY, "numpy", "pydantic", "typer"}


def test_reading_a_file_needs_numpy_only(tiny):
    modules = loaded_after(f"import moeash; moeash.read({str(tiny.file)!r})")
    assert {"numpy"} <= modules
    assert not modules & {*HEAVY, "bitarray", "safetensors", "pydantic"}


def test_decompressing_loads_no_torch(tiny, tmp_path):
    written = f"moeash.decompress({str(tiny.file)!r}, {str(tmp_path / 'a.safetensors')!r})"
    modules = loaded_after(f"import moeash; assert {written}.names")
    assert not modules & {*HEAVY}


def test_reading_a_study_loads_no_torch(tiny):
    modules = loaded_after(
        f"import moeash; assert moeash.open_study('tiny', {tiny.storage!r}).front()"
    )
    assert "sqlalchemy" in modules
    assert not modules & (set(HEAVY) - {"sqlalchemy"})


@pytest.mark.slow(seconds=12)
def test_a_study_without_output_waits_neither_for_matplotlib_nor_for_torchs_compiler(
    bare, tmp_path
):
    run = f"moeash.run({str(bare)!r}, storage={str(tmp_path / 'a.db')!r}, progress=False)"
    modules = loaded_after(f"import moeash; assert {run}.front()")
    assert "torch" in modules
    assert not modules & {"matplotlib", "sympy"}, "sympy is what torch's compiler begins with"


def test_the_help_loads_nothing_heavy():
    modules = loaded_after(
        "import sys; sys.argv = ['moeash', '--help']\n"
        "import moeash.cli.main as m\n"
        "try: m.main()\nexcept SystemExit as end: assert end.code == 0"
    )
    assert "typer" in modules
    assert not modules & (set(HEAVY) - {"rich"} | {"numpy", "pydantic"})


def test_all_is_what_is_public_sorted_and_documented():
    assert moeash.__all__ == sorted(moeash.__all__)
    for name in moeash.__all__:
        assert getattr(moeash, name).__doc__, name
        assert name in dir(moeash)
    errors = {name for name, value in vars(tree).items() if is_ours(value)}
    assert set(moeash.__all__) == {*moeash.HOMES, *errors}


def is_ours(value):
    return isinstance(value, type) and issubclass(value, tree.MoeashError)


def test_what_a_file_is_asked_is_asked_of_the_package(tiny):
    checked = moeash.verify(tiny.file)
    report = moeash.inspect(tiny.file)
    assert checked.size_bytes == report.total == tiny.file.stat().st_size
    study = moeash.open_study("tiny", tiny.storage)
    assert checked.fingerprint in {s.record.outcome.fingerprint for s in study.front()}
    assert isinstance(study, moeash.Study)
    assert all(isinstance(solution, moeash.Solution) for solution in study.front())


def test_every_error_of_the_package_is_drawn_and_caught_by_one_name(tiny):
    for name in moeash.__all__:
        value = getattr(moeash, name)
        if is_ours(value):
            assert f" {name} " in f"{tree.__doc__} ".replace("\n", " \n "), name
    with pytest.raises(moeash.MoeashError):
        moeash.read(tiny.spec)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'moeash' has no attribute 'serach'"):
        moeash.serach  # noqa: B018


def test_who_hears_of_progress_is_said_alike_everywhere():
    functions = [getattr(moeash, name) for name in moeash.__all__]
    taken = [inspect.signature(f).parameters for f in functions if inspect.isfunction(f)]
    progress = {p["progress"].default for p in taken if "progress" in p}
    kinds = {p["progress"].annotation for p in taken if "progress" in p}
    assert progress == {True} and kinds == {Shown}
