import pytest

from moeash.backends.crew import StartFailed
from moeash.backends.pool import MAX_LOSSES, Failure, Pool
from moeash.backends.staff import MAX_START_FAILURES, Limits
from moeash.errors import BackendError
from tests.backends.crew import Boom, Death, Hang, Long, Ok, SimulatedCrew


def limits(**changes):
    values = {
        "min_workers": 0,
        "max_workers": 2,
        "timeout_s": 10.0,
        "max_tries": 3,
        "start_timeout_s": 60.0,
        "idle_s": 30.0,
    }
    return Limits(**(values | changes))


def answers(pool, payloads):
    tickets = {pool.submit(payload): payload for payload in payloads}
    return {tickets.pop(ticket): result for ticket, result in (pool.next() for _ in payloads)}


def fates(**special):
    """Payload "p3" is number 3; each special one has its fates in order of its tries."""
    table = {int(name[1:]): list(value) for name, value in special.items()}

    def behave(payload, tries, crew):
        sequence = table.get(payload, [Ok()])
        return sequence[min(tries, len(sequence) - 1)]

    return behave


def test_every_payload_is_answered_once():
    crew = SimulatedCrew()
    assert answers(Pool(crew, limits()), range(20)) == {n: n * 10 for n in range(20)}
    assert crew.time == 2 + 10, "two workers share twenty seconds of work"


def test_what_kills_three_workers_has_failed_and_the_rest_goes_on():
    said = []
    crew = SimulatedCrew(fates(p3=[Death()]))
    pool = Pool(crew, limits(), notify=said.append)
    results = answers(pool, range(8))
    assert results[3] == Failure(("worker gone",) * 3)
    assert str(results[3]) == "gave up after 3 tries: worker gone (3 times)"
    assert all(results[n] == n * 10 for n in range(8) if n != 3)
    assert [text for text in said if "3 lost its worker" in text and "try 2 of 3" in text]


def test_only_the_payload_in_flight_is_tried_again():
    crew = SimulatedCrew(fates(p3=[Death()]))
    answers(Pool(crew, limits()), range(8))
    assert {payload: n for payload, n in crew.tries.items() if n > 1} == {3: 3}


def test_a_hanging_payload_costs_its_timeout_and_its_worker():
    crew = SimulatedCrew(fates(p0=[Hang(), Ok()]))
    assert answers(Pool(crew, limits(max_workers=1)), [0]) == {0: 0}
    assert crew.time == pytest.approx(2 + 10 + 2 + 1)
    assert ("kill", 1) in crew.log


def test_a_payload_that_always_hangs_fails_after_its_tries():
    crew = SimulatedCrew(fates(p0=[Hang()]))
    results = answers(Pool(crew, limits()), range(4))
    assert str(results[0]) == "gave up after 3 tries: no answer within 10 s (3 times)"
    assert results[3] == 30


def test_raising_fails_at_once_and_spares_the_worker():
    crew = SimulatedCrew(fates(p1=[Boom()]))
    results = answers(Pool(crew, limits(max_workers=1)), range(4))
    assert results[1] == Failure(("ValueError: boom",), raised=True)
    assert crew.tries[1] == 1
    assert [entry for entry in crew.log if entry[0] == "start"] == [("start", 1)]


def test_a_flaky_payload_succeeds_on_its_second_try():
    crew = SimulatedCrew(fates(p2=[Death(), Ok()]))
    assert answers(Pool(crew, limits()), range(4))[2] == 20


def test_a_lost_node_charges_nobody():
    crew = SimulatedCrew(fates(p2=[Death("node")] * 5 + [Ok()]))
    assert answers(Pool(crew, limits(max_tries=1)), range(4))[2] == 20


def test_even_innocence_ends():
    crew = SimulatedCrew(fates(p2=[Death("node")]))
    result = answers(Pool(crew, limits()), range(4))[2]
    assert isinstance(result, Failure) and len(result.reasons) == MAX_LOSSES


def test_after_memory_ran_out_the_suspect_runs_alone_and_only_then_is_charged():
    beside = []

    def behave(payload, tries, crew):
        if payload == 2:
            beside.append(len(crew.running) - 1)
            return Death("memory")
        return Ok(3.0)

    results = answers(Pool(SimulatedCrew(behave), limits(max_workers=4)), range(12))
    assert len(results[2].reasons) == 4, "the first, with neighbours, is not charged"
    assert beside[0] > 0 and beside[1:] == [0, 0, 0]
    assert all(results[n] == n * 10 for n in range(12) if n != 2)


def test_an_innocent_neighbour_of_a_memory_hog_is_answered():
    crew = SimulatedCrew(fates(p1=[Death("memory"), Ok()], p2=[Death("memory")]))
    results = answers(Pool(crew, limits(max_tries=1)), range(6))
    assert results[1] == 10
    assert isinstance(results[2], Failure)


def test_workers_are_asked_for_as_there_is_work_and_never_more_than_the_most():
    crew = SimulatedCrew()
    pool = Pool(crew, limits(max_workers=5))
    answers(pool, range(3))
    assert pool.n_alive == 3
    answers(pool, range(100))
    assert pool.n_alive == 5


def test_room_that_appears_is_used_and_waiting_workers_are_the_demand():
    crew = SimulatedCrew(room=1)
    pool = Pool(crew, limits(max_workers=4))
    for payload in range(20):
        pool.submit(payload)
    pool.next()
    assert pool.n_alive == 1
    assert len(crew.queued) == 3
    crew.add_room(3)
    for _ in range(8):
        pool.next()
    assert pool.n_alive == 4


def test_a_worker_that_never_starts_does_not_hold_up_the_others():
    said = []
    crew = SimulatedCrew(lambda payload, tries, crew: Ok(20.0), room=1)
    pool = Pool(crew, limits(timeout_s=100.0), notify=said.append)
    answers(pool, range(10))
    assert [text for text in said if "did not start within 60 s: there is no room" in text]
    assert len(said) == 1, "the same thing is said once"
    assert pool.n_starting == 1, "and the worker is still asked for"


def test_when_no_worker_can_start_the_wait_ends_with_the_reason():
    crew = SimulatedCrew(room=0)
    with pytest.raises(BackendError, match="no worker started within 60 s: there is no room"):
        answers(Pool(crew, limits()), [1])
    assert crew.time == 60


def test_a_fatal_start_failure_ends_at_once():
    crew = SimulatedCrew()
    crew.start_fails = [StartFailed(0, "no such file", fatal=True)]
    with pytest.raises(BackendError, match="no worker could start: no such file"):
        answers(Pool(crew, limits(max_workers=1)), [1])
    assert crew.time == 2


def test_passing_start_failures_are_survived_but_not_for_ever():
    crew = SimulatedCrew()
    crew.start_fails = [StartFailed(0, "worker died")] * (MAX_START_FAILURES - 1)
    assert answers(Pool(crew, limits(max_workers=1)), [1]) == {1: 10}
    crew = SimulatedCrew()
    crew.start_fails = [StartFailed(0, "worker died")] * MAX_START_FAILURES
    with pytest.raises(BackendError, match="worker died"):
        answers(Pool(crew, limits(max_workers=1)), [1])


def test_a_fatal_start_failure_beside_a_living_worker_is_told_and_survived():
    said = []
    crew = SimulatedCrew()
    pool = Pool(crew, limits(), notify=said.append)
    pool.ensure(1)
    crew.start_fails = [StartFailed(0, "no such file", fatal=True)]
    assert len(answers(pool, range(6))) == 6
    assert said == ["a worker could not start: no such file"]


def test_workers_beyond_the_fewest_are_released_when_idle_and_come_back_with_the_work():
    crew = SimulatedCrew(fates(p9=[Ok(100.0)]))
    pool = Pool(crew, limits(min_workers=1, max_workers=3, timeout_s=1e9))
    answers(pool, range(9))
    assert pool.n_alive == 3
    answers(pool, [9])
    assert pool.n_alive == 1, "one worked for 100 s, and the others had nothing to do"
    answers(pool, range(9))
    assert pool.n_alive == 3


def test_a_little_work_keeps_as_few_workers_busy_as_it_can():
    crew = SimulatedCrew()
    pool = Pool(crew, limits(max_workers=3))
    answers(pool, range(9))
    for payload in range(40):  # one after the other, a second each
        answers(pool, [payload])
    assert pool.n_alive == 1


def test_a_fixed_number_of_workers_is_kept_whatever_they_do():
    crew = SimulatedCrew(fates(p9=[Ok(1e6)]))
    pool = Pool(crew, limits(min_workers=3, max_workers=3, timeout_s=1e9))
    answers(pool, range(9))
    answers(pool, [9])
    assert pool.n_alive == 3


def test_workers_are_not_released_between_two_generations():
    crew = SimulatedCrew()
    pool = Pool(crew, limits(max_workers=3))
    for _ in range(50):
        answers(pool, range(6))
        crew.time += 5.0  # the search thinks
    assert [what for what, _ in crew.log] == 3 * ["start"]


def test_workers_that_are_needed_no_longer_are_not_asked_for_any_longer():
    crew = SimulatedCrew(fates(p3=[Ok(100.0)]), room=1)
    pool = Pool(crew, limits(max_workers=4, timeout_s=1e9, start_timeout_s=1e9))
    for payload in range(4):
        pool.submit(payload)
    pool.next()
    assert len(crew.queued) == 3
    for _ in range(3):
        pool.next()
    assert (pool.n_alive, len(crew.queued)) == (1, 0)


def test_slots_let_the_number_of_workers_grow_where_it_may():
    crew = SimulatedCrew()
    pool = Pool(crew, limits(min_workers=1, max_workers=8))
    pool.ensure(1)
    n_out, alive = 0, []
    for _ in range(60):  # a steady search: a child for every free slot
        while n_out < pool.n_slots:
            pool.submit(1)
            n_out += 1
        pool.next()
        n_out -= 1
        alive.append(pool.n_alive)
    assert alive[-1] == 8 and alive == sorted(alive)
    assert Pool(SimulatedCrew(), limits(min_workers=2)).n_slots == 2


def test_a_worker_that_comes_while_the_others_are_busy_ends_the_wait():
    def an_hour(payload, tries, crew):
        crew.add_room(1)  # the other worker starts now
        return Ok(3600.0)

    crew = SimulatedCrew(an_hour, room=1)
    pool = Pool(crew, limits(min_workers=2, max_workers=2, timeout_s=1e9, start_timeout_s=1e9))
    pool.ensure(1)
    first = pool.submit(0)
    assert not pool.wait(pool.n_slots)
    assert (pool.n_slots, pool.n_alive) == (2, 2) and crew.time < 60
    second = pool.submit(1)
    assert pool.wait(pool.n_slots)
    assert (pool.next(), pool.next()) == ((first, 0), (second, 10)) and crew.time < 3700


def test_a_cancelled_payload_is_never_returned():
    crew = SimulatedCrew()
    pool = Pool(crew, limits(max_workers=1))
    tickets = [pool.submit(n) for n in range(4)]
    pool.ensure(1)
    pool.cancel(tickets[0])  # runs by now, or will first
    pool.cancel(tickets[2])  # queued
    assert [pool.next(), pool.next()] == [(tickets[1], 10), (tickets[3], 30)]
    assert 2 not in crew.tries


def test_a_cancelled_payload_that_kills_its_worker_is_not_tried_again():
    crew = SimulatedCrew(fates(p0=[Death()]))
    pool = Pool(crew, limits(max_workers=1))
    first, second = pool.submit(0), pool.submit(1)
    pool.ensure(1)
    pool.cancel(first)
    assert pool.next() == (second, 10)
    assert crew.tries[0] == 1


def test_usage_counts_idle_time():
    crew = SimulatedCrew(lambda payload, tries, crew: Ok(9.0 if payload == 0 else 1.0))
    pool = Pool(crew, limits())
    answers(pool, [0, 1])
    assert pool.usage.busy_s == pytest.approx(10)
    assert pool.usage.utilisation == pytest.approx(10 / 18)


def test_a_payload_that_beats_may_take_longer_than_the_timeout():
    crew = SimulatedCrew(fates(p0=[Long(n_beats=12, every_s=8.0)]))
    assert answers(Pool(crew, limits(max_workers=1)), [0]) == {0: 0}
    assert crew.time == 2 + 12 * 8 and crew.tries[0] == 1


def test_a_payload_that_stops_beating_is_lost_a_timeout_after_its_last_beat():
    crew = SimulatedCrew(fates(p0=[Long(n_beats=3, every_s=8.0, ends=False), Ok()]))
    assert answers(Pool(crew, limits(max_workers=1)), [0]) == {0: 0}
    assert crew.time == 2 + 3 * 8 + 10 + 2 + 1
    assert ("kill", 1) in crew.log


def test_a_beat_of_one_worker_does_not_excuse_another():
    crew = SimulatedCrew(fates(p0=[Long(n_beats=50, every_s=2.0)], p1=[Hang()]))
    results = answers(Pool(crew, limits(max_tries=1)), [0, 1])
    assert results[0] == 0
    assert results[1] == Failure(("no answer within 10 s",))


def test_beats_are_passed_on_with_what_they_are_about():
    told = []
    crew = SimulatedCrew(fates(p0=[Long(n_beats=2, every_s=8.0)]))
    pool = Pool(
        crew,
        limits(max_workers=1),
        describe=lambda payload: f"candidate {payload}",
        progress=lambda *beat: told.append(beat),
    )
    answers(pool, [0, 1])
    assert told == [("candidate 0: training", 1, 2), ("candidate 0: training", 2, 2)]


def test_nobody_hears_of_a_payload_that_was_cancelled():
    told = []
    crew = SimulatedCrew(fates(p0=[Long(n_beats=2, every_s=8.0)]))
    pool = Pool(crew, limits(max_workers=1), progress=lambda *beat: told.append(beat))
    first, second = pool.submit(0), pool.submit(1)
    pool.ensure(1)
    pool.cancel(first)
    assert pool.next() == (second, 10)
    assert told == []


def test_a_start_that_beats_may_take_longer_than_its_timeout():
    told = []
    crew = SimulatedCrew()
    crew.start_takes_s, crew.start_beats = 300.0, 9
    pool = Pool(crew, limits(max_workers=1), progress=lambda *beat: told.append(beat))
    assert answers(pool, [1]) == {1: 10}
    assert told == [("preparing", n, 9) for n in range(1, 10)]


def test_starts_beside_a_working_worker_are_silent():
    told = []
    crew = SimulatedCrew(lambda payload, tries, crew: Ok(9.0))
    pool = Pool(crew, limits(), progress=lambda *beat: told.append(beat))
    pool.ensure(1)
    crew.start_beats = 3
    answers(pool, range(4))
    assert pool.n_alive == 2 and told == []


def test_one_result_can_be_waited_for_and_the_others_stay():
    pool = Pool(SimulatedCrew(), limits(max_workers=1))
    first, second, third = (pool.submit(n) for n in (1, 2, 3))
    assert pool.result(second) == 20
    assert pool.n_ready == 1
    assert [pool.next(), pool.next()] == [(first, 10), (third, 30)]


def test_closing_ends_everything():
    crew = SimulatedCrew(room=1)
    pool = Pool(crew, limits())
    pool.submit(1)
    pool.submit(2)
    pool.ensure(1)
    pool.close()
    assert not crew.alive and not crew.queued


def test_another_crew_takes_over_what_was_under_way_and_nothing_is_charged():
    first = SimulatedCrew(fates(p1=[Death(), Ok()]))
    pool = Pool(first, limits())
    tickets = [pool.submit(payload) for payload in range(6)]
    done = dict([pool.next()])
    second = SimulatedCrew()
    second.time = first.time
    pool.begin_again(second)
    while len(done) < len(tickets):
        number, result = pool.next()
        assert number not in done
        done[number] = result
    assert done == {ticket: payload * 10 for payload, ticket in enumerate(tickets)}
    assert sum(second.tries.values()) == 5
