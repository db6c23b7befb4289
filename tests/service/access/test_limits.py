from moeash.service.access.limits import FORGOTTEN_S, FREE, LONGEST_S, MOST, Failures


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_waits_begin_after_some_failures_and_double_up_to_a_bound():
    failures, waits = Failures(Clock()), []
    for _ in range(FREE + 12):
        failures.add("10.0.0.1")
        waits.append(failures.wait_s("10.0.0.1"))
    assert waits[: FREE - 1] == [0.0] * (FREE - 1)
    assert waits[FREE - 1 : FREE + 3] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST_S


def test_a_wait_ends_and_failures_are_forgotten_in_time():
    clock = Clock()
    failures = Failures(clock)
    for _ in range(FREE + 1):
        failures.add("a")
    clock.now = 2.0
    assert failures.wait_s("a") == 0
    clock.now = FORGOTTEN_S + 1
    failures.add("a")
    assert failures.wait_s("a") == 0


def test_success_forgets_failures():
    failures = Failures(Clock())
    for _ in range(FREE):
        failures.add("a")
    failures.forget("a")
    assert failures.wait_s("a") == 0


def test_a_network_of_ipv6_is_one_address_and_a_mapped_one_is_the_same():
    failures = Failures(Clock())
    for n in range(FREE):
        failures.add(f"2001:db8::{n}")
        failures.add("::ffff:10.0.0.1")
    assert failures.wait_s("2001:db8::ffff") > 0 and failures.wait_s("2001:db8:0:1::1") == 0
    assert failures.wait_s("10.0.0.1") > 0


def test_memory_is_bounded():
    failures = Failures(Clock())
    for n in range(MOST + 100):
        failures.add(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(failures) == MOST
