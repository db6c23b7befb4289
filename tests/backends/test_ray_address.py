"""A Ray that cannot be reached, or is another one: one clear line."""

import time

import pytest

from moeash.backends.ray import check_address, why_not_connected
from moeash.errors import BackendError

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


def test_another_ray_or_python_on_the_cluster_is_one_clear_line(ray_environment):
    """In Ray's own words of today, so that a change of them is noticed."""
    from ray._private.utils import check_version_info

    theirs = {"ray_version": "2.1.0", "python_version": "3.8.1"}
    with pytest.raises(RuntimeError) as caught:
        check_version_info(theirs, "this process", raise_on_mismatch=True)
    line = why_not_connected("head:6379", caught.value)
    assert line.startswith("the Ray at head:6379 runs other versions than this process")
    assert "2.1.0" in line and line.endswith("install the same") and "\n" not in line


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "127.0.0.1:9",
            r"no Ray answers at 127\.0\.0\.1:9 \(Connection refused\); start one there",
        ),
        ("no-such-host.invalid:6379", "no Ray answers at no-such-host"),
        ("nowhere", "is not auto and not HOST:PORT"),
        ("ray://127.0.0.1:10001", "is a URL; give HOST:PORT"),
        ("127.0.0.1:99999", "no Ray answers"),
    ],
)
def test_a_wrong_address_is_one_line_within_seconds(address, message):
    started = time.monotonic()
    with pytest.raises(BackendError, match=message) as caught:
        check_address(address)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30
