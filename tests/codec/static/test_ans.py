import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from moeash.codec import container
from moeash.codec.pools import plan_pool
from moeash.codec.size import size
from moeash.codec.static import ans
from moeash.codec.static.tables import FRACTION_BITS, Rows, Table
from moeash.errors import CorruptContainerError, ExportError
from tests.codec.conftest import find_salted
from tests.entropy import entropy_bits


def table_frequencies(table):
    rows = Rows(table.alphabet, table.symbols, table.levels, np.zeros(1, dtype=np.int64))
    return ans.frequencies(rows, table.levels, table.resolution)


def decode_by_the_book(payload, salt, sources):
    """Textbook streaming ANS with a 64-bit state, 32-bit words and 24-bit frequencies."""
    significant = payload.rstrip(b"\0")
    whole = significant.ljust(-(-len(significant) // 4) * 4, b"\0")
    words = np.frombuffer(whole, dtype="<u4").tolist()
    state = 0
    while words and state < 1 << 32:
        state = state << 32 | words.pop()
    out = []
    for table, n in sources:
        frequency = [int(f) for f in np.roll(table_frequencies(table), salt)]
        left = np.concatenate(([0], np.cumsum(frequency))).tolist()
        ranks = []
        for _ in range(n):
            slot = state & (ans.SCALE - 1)
            rank = int(np.searchsorted(left, slot, side="right")) - 1
            state = frequency[rank] * (state >> ans.SCALE_BITS) + slot - left[rank]
            if state < 1 << 32 and words:
                state = state << 32 | words.pop()
            ranks.append((rank - salt) % len(frequency))
        out.append(ranks)
    assert (state, words) == (0, [])
    return out


def planned(counts):
    pool = plan_pool("ans", [counts]).build(ans)
    return pool.table(0)


def stream(indices, n_entries):
    counts = np.bincount(indices, minlength=n_entries)
    plan = plan_pool("ans", [counts])
    table = plan.build(ans).table(0)
    ranks = np.searchsorted(table.symbols, indices).astype(np.int32)
    reserved = ans.payload_bytes(int(plan.payload.sum()), plan.n_coded)
    return table, ranks, reserved


@given(st.integers(2, 60), st.integers(1, 400), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_a_decoder_of_our_own_reads_the_stream(n_entries, n, seed):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, n_entries, n) * rng.integers(0, 2, n)
    if np.unique(indices).size == 1:
        return
    table, ranks, reserved = stream(indices, n_entries)
    payload, salt = ans.encode([(lambda: ranks, table)], reserved)
    assert decode_by_the_book(payload, salt, [(table, n)]) == [ranks.tolist()]
    got = np.concatenate([part for _, part in ans.decode(payload, salt, [(table, n)])])
    assert_array_equal(got, ranks)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=3000), st.sampled_from(ans.RESOLUTIONS))
@settings(deadline=None)
def test_frequencies_are_positive_sum_to_the_scale_and_keep_the_order(levels, resolution):
    levels = np.array(levels)
    table = Table(levels.size, np.arange(levels.size), levels, resolution)
    frequency = table_frequencies(table)
    assert frequency.min() >= 1
    assert frequency.sum() == ans.SCALE
    by_level = np.argsort(levels, kind="stable")
    # The first of the highest may be above its equals, by what rounding left.
    assert (np.diff(frequency[by_level]) >= 0)[: -(levels == levels.max()).sum()].all()


def test_a_worked_case():
    table = Table(3, np.arange(3), np.array([1, 2, 2]), resolution=0)
    # Weights 1/2, 1, 1: shares of (2**24 - 3), each plus 1, and the rest to the first highest.
    assert table_frequencies(table).tolist() == [3355443, 6710887, 6710886]


def test_the_stream_of_weights_is_within_a_thousandth_of_the_entropy(layers):
    shared = layers([200_000], 41)
    report = size(shared)
    ideal = entropy_bits(shared.shared[0].counts) / 8
    assert ideal < report.indices < 1.001 * ideal


@pytest.mark.parametrize("arrange", [np.sort, lambda x: np.sort(x)[::-1].copy(), np.array])
@pytest.mark.parametrize("n_entries", [2, 3, 41, 300])
def test_reserved_bytes_hold_any_order_we_know(arrange, n_entries):
    rng = np.random.default_rng(n_entries)
    for n in (2, 3, 10, 1000, 100_000):
        skew = rng.integers(0, n_entries, n) // rng.integers(1, 4, n)
        indices = arrange(skew)
        if np.unique(indices).size == 1:
            continue
        table, ranks, reserved = stream(indices, n_entries)
        _, salt = ans.encode([(lambda r=ranks: r, table)], reserved)
        assert salt == 0


def test_a_stream_that_does_not_fit_is_retried_with_other_slots(one_tensor, monkeypatch):
    shared, data = find_salted(one_tensor, monkeypatch)
    assert len(data) == size(shared).total
    assert container.decode(data).shared.fingerprint() == shared.fingerprint()


def test_when_no_state_fits_the_export_fails(one_tensor, monkeypatch):
    monkeypatch.setattr(ans, "SLACK_BITS", -100)
    with pytest.raises(ExportError, match="no order of slots fits"):
        container.encode(one_tensor(np.arange(41).repeat(9), 41))


def test_a_stream_with_another_salt_or_a_flipped_bit_is_refused():
    table, ranks, reserved = stream(np.arange(3000) % 41, 41)
    payload, _ = ans.encode([(lambda: ranks, table)], reserved)
    with pytest.raises(CorruptContainerError, match="do not end where they began"):
        list(ans.decode(payload, 1, [(table, ranks.size)]))
    flipped = bytes([payload[0] ^ 1]) + payload[1:]
    with pytest.raises(CorruptContainerError, match="do not end where they began"):
        list(ans.decode(flipped, 0, [(table, ranks.size)]))


def test_the_cost_is_what_the_frequencies_say():
    counts = np.array([5, 0, 900, 77, 77])
    plan = plan_pool("ans", [counts])
    frequency = table_frequencies(planned(counts))
    exact = (counts[counts > 0] * (24 - np.log2(frequency))).sum()
    assert plan.payload[0] / 2**FRACTION_BITS == pytest.approx(exact, abs=counts.sum() * 2.0**-17)


@pytest.mark.parametrize("n", [0, 1, 7, 5000])
@pytest.mark.parametrize("salt", [0, 5])
def test_a_stream_is_the_same_and_read_the_same_whatever_part_is_in_memory(n, salt, monkeypatch):
    rng = np.random.default_rng(n)
    sources = [
        (planned(np.array([900, 50, 30, 20])), rng.integers(0, 4, n).astype(np.int32)),
        (Table(3, np.array([1]), np.array([1])), np.zeros(n, dtype=np.int32)),
        (planned(rng.integers(1, 9, 300)), rng.integers(0, 300, 3 * n).astype(np.int32)),
    ]
    runs = [(ranks, table) for table, ranks in reversed(sources)]
    whole: list[bytes] = []
    assert ans.push(runs, 10_000 * (n + 1), salt, whole.append)
    monkeypatch.setattr(ans, "CHUNK", 100)
    monkeypatch.setattr(ans, "WINDOW", 64)
    parts: list[bytes] = []
    divided = [
        (ranks[max(0, end - 90) : end], table)
        for ranks, table in runs
        for end in range(ranks.size, 0, -90)
    ]
    assert ans.push(divided, 10_000 * (n + 1), salt, parts.append)
    payload = b"".join(parts)
    assert payload == b"".join(whole) and len(parts) > (n == 5000)
    seen: list[int] = []

    class Counting(bytes):
        def __getitem__(self, part):
            seen.append(len(bytes.__getitem__(self, part)))
            return bytes.__getitem__(self, part)

    got = [[] for _ in sources]
    for position, ranks in ans.decode(Counting(payload), salt, [(t, r.size) for t, r in sources]):
        got[position].append(ranks)
    for (_, ranks), found in zip(sources, got, strict=True):
        assert_array_equal(np.concatenate([np.zeros(0, np.int32), *found]), ranks)
    assert max(seen, default=0) <= 4 * (100 + 64 + ans.STATE_WORDS)


def test_a_stream_without_room_is_given_up_before_all_of_it_was_made(monkeypatch):
    monkeypatch.setattr(ans, "WINDOW", 64)
    table, ranks, reserved = stream(np.arange(60_000) % 41, 41)
    pushed = 0

    def runs():
        nonlocal pushed
        for end in range(ranks.size, 0, -100):
            pushed += 1
            yield ranks[end - 100 : end], table

    assert not ans.push(runs(), reserved // 2, 0, lambda part: None)
    assert 250 < pushed < 350


def encode_by_the_book(ranks, table, salt):
    """The inverse of :func:`decode_by_the_book` for one source."""
    frequency = [int(f) for f in np.roll(table_frequencies(table), salt)]
    left = np.concatenate(([0], np.cumsum(frequency))).tolist()
    state, words = 0, []
    for rank in reversed(ranks):
        place = (rank + salt) % len(frequency)
        if state >= frequency[place] << 40:
            words.append(state & 0xFFFFFFFF)
            state >>= 32
        state = (state // frequency[place] << 24) + state % frequency[place] + left[place]
    while state:
        words.append(state & 0xFFFFFFFF)
        state >>= 32
    return np.array(words, dtype="<u4").tobytes()


@pytest.mark.parametrize("salt", [0, 1, 7])
def test_a_stream_that_is_exhausted_gives_the_symbol_in_the_first_place(salt, monkeypatch):
    monkeypatch.setattr(ans, "CHUNK", 100)  # the rest of a source is not decoded but filled in
    table = planned(np.array([900, 50, 30, 20]))
    ranks = [*[0, 1, 2, 3] * 40, *[-salt % 4] * 1000]
    payload = encode_by_the_book(ranks, table, salt)
    sources = [(table, len(ranks))]
    assert len(payload) < 100
    assert decode_by_the_book(payload, salt, sources) == [ranks]
    got = np.concatenate([part for _, part in ans.decode(payload, salt, sources)])
    assert got.tolist() == ranks
