"""What the doctor sees around an installation, on made-up machines."""

import os
from pathlib import Path

import pytest

from moeash.cli.surroundings import (
    Warned,
    device,
    file_system,
    folders,
    open_files,
    quota_of,
    ray,
    shadowing,
    shared_memory,
    threads,
)

MOUNTS = """\
overlay / overlay rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sda1 /home/local\\040disk ext4 rw 0 0
"""


def test_a_file_called_like_a_module_is_named(tmp_path):
    (tmp_path / "mine.py").touch()
    (tmp_path / "torch").mkdir()  # a folder of checkpoints is no package
    assert "nothing" in shadowing(tmp_path, {"numpy", "torch"})
    (tmp_path / "numpy.py").touch()
    (tmp_path / "torch/__init__.py").touch()
    (tmp_path / "random.py").touch()
    with pytest.raises(Warned, match=r"numpy\.py, random\.py, torch in .*rename"):
        shadowing(tmp_path, {"numpy", "torch"})


def test_folders_are_tried_by_writing(tmp_path):
    assert "can be written" in folders(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Warned, match=r"missing cannot be written \(No such file.*TMPDIR"):
        folders(tmp_path, tmp_path / "missing")
    with pytest.raises(Warned, match="/proc cannot be written"):
        folders(Path("/proc"))


def test_little_shared_memory_is_told_with_the_option_of_the_container(tmp_path):
    assert shared_memory(tmp_path / "none") == "not of this system"
    assert shared_memory(tmp_path).endswith("GiB")
    with pytest.raises(Warned, match=r"0 MiB.*--shm-size"):
        shared_memory(Path("/proc"))  # of size 0


def test_few_open_files_are_told():
    assert open_files(65_536) == "65,536 a process"
    assert open_files(-1) == "unlimited"
    with pytest.raises(Warned, match="256 files; raise it with ulimit"):
        open_files(256)


def test_threads_are_compared_with_cores_and_with_what_a_container_grants(tmp_path):
    assert threads({"OMP_NUM_THREADS": "2"}, 4, None) == "4 cores, OMP_NUM_THREADS=2"
    with pytest.raises(Warned, match="MKL_NUM_THREADS=8 on 4 usable cores"):
        threads({"MKL_NUM_THREADS": "8"}, 4, 6.0)
    with pytest.raises(Warned, match=r"grants 1\.5 CPUs and shows 16 cores; .*threads = 1"):
        threads({}, 16, 1.5)
    for text, quota in {"150000 100000": 1.5, "max 100000": None, "nonsense": None}.items():
        (tmp_path / "cpu.max").write_text(text)
        assert quota_of(tmp_path / "cpu.max") == quota
    assert quota_of(tmp_path / "none") is None


def test_what_leads_ray_elsewhere_is_named(tmp_path):
    pytest.importorskip("ray")
    at_home = {"HOME": str(tmp_path)}
    assert "nothing leads" in ray(at_home)
    with pytest.raises(Warned, match=r"RAY_ADDRESS=head:6379 .*unset it"):
        ray(at_home | {"RAY_ADDRESS": "head:6379"})
    with pytest.raises(Warned, match="RAY_AUTH_MODE=token and no token"):
        ray(at_home | {"RAY_AUTH_MODE": "token"})
    assert "nothing leads" in ray(at_home | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a"})
    with pytest.raises(Warned, match="RAY_TMPDIR=/none is no folder"):
        ray(at_home | {"RAY_TMPDIR": "/none"})


def test_a_database_on_a_network_file_system_is_told_by_the_longest_mount():
    assert file_system(Path("/srv/a.db"), MOUNTS) == "overlay"
    assert file_system(Path("/home/local disk/a.db"), MOUNTS) == "ext4"
    with pytest.raises(Warned, match=r"/home/me/a\.db is on nfs4.*PostgreSQL"):
        file_system(Path("/home/me/a.db"), MOUNTS)
    assert file_system(Path(os.curdir)) != ""


def test_a_gpu_that_torch_cannot_use_is_told_with_the_reason():
    assert device(driver=False, built_for="13.0", available=False) == "cpu"
    assert device(driver=True, built_for="13.0", available=True) == "cpu"
    with pytest.raises(Warned, match="built without CUDA"):
        device(driver=True, built_for=None, available=False)
    with pytest.raises(Warned, match=r"built for CUDA 13\.0, cannot use it: it is older"):
        device(driver=True, built_for="13.0", available=False)
