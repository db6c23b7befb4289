from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from moeash.codec import container
from moeash.codec.pools import plan_pool
from moeash.codec.size import size
from moeash.codec.static import ans, rates
from moeash.codec.static.tables import FRACTION_BITS, Rows, Table
from moeash.errors import CorruptContainerError, ExportError
from tests.codec.conftest import find_salted
from tests.entropy import entropy_bits


def table_frequencies(table):
    rows = Rows(table.alphabet, table.symbols, table.levels, np.zeros(1, dtype=np.int64))
    return rates.frequencies(rows, table.levels, table.resolution)


def words_of(data):
    return np.frombuffer(data, dtype="<u4").tolist()


def decode_by_the_book(payload, salt, sources):
    """Textbook streaming ANS with 64-bit states, 32-bit words and 24-bit frequencies."""
    asked = [source for source, (_, n) in enumerate(sources) for _ in range(n)]
    frequencies = [[int(f) for f in np.roll(table_frequencies(t), salt)] for t, _ in sources]
    lefts = [np.concatenate(([0], np.cumsum(frequency))).tolist() for frequency in frequencies]
    out = [[] for _ in sources]
    if len(asked) < rates.PART:
        significant = payload.rstrip(b"\0")
        parts = [(asked, words_of(significant.ljust(-(-len(significant) // 4) * 4, b"\0")), [0])]
    else:
        parts, end = [], 0
        n_parts = -(-len(asked) // rates.PART)
        for i, length in reversed(list(enumerate(words_of(payload[-4 * n_parts :])))):
            begin, end = end, end + 4 * length
            symbols = asked[i * rates.PART : (i + 1) * rates.PART]
            parts.insert(0, (symbols, words_of(payload[begin:end]), [1 << 32] * 4))
        assert not any(payload[end : -4 * n_parts])
    for symbols, words, first in parts:
        states = [0] * len(first)
        for lane in range(len(states)):
            while words and states[lane] < 1 << 32:
                states[lane] = states[lane] << 32 | words.pop()
        for i, source in enumerate(symbols):
            frequency, left = frequencies[source], lefts[source]
            state = states[i % len(states)]
            slot = state & (rates.SCALE - 1)
            rank = bisect_right(left, slot) - 1
            state = frequency[rank] * (state >> rates.SCALE_BITS) + slot - left[rank]
            if state < 1 << 32 and words:
                state = state << 32 | words.pop()
            states[i % len(states)] = state
            out[source].append((rank - salt) % len(frequency))
        assert (states, words) == (first, [])
    return out


def decoded(payload, salt, sources):
    """What is decoded, as ranks by source."""
    outs = [np.empty(n, dtype=np.uint16) for _, n in sources]
    found = ans.fill(payload, salt, [(t, o) for (t, _), o in zip(sources, outs, strict=True)])
    ranks = [np.searchsorted(t.symbols, o) for (t, _), o in zip(sources, outs, strict=True)]
    for (table, _), rank, counts in zip(sources, ranks, found, strict=True):
        assert_array_equal(np.bincount(rank, minlength=table.symbols.size), counts)
    return ranks


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


@given(
    st.integers(2, 60),
    st.integers(1, 400),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1 << 20, 100, 7]),
)
@settings(deadline=None, max_examples=60)
def test_a_decoder_by_the_book_reads_the_stream(n_entries, n, seed, part):
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(rates, "PART", part)
        check_by_the_book(n_entries, n, seed)


def check_by_the_book(n_entries, n, seed):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, n_entries, n) * rng.integers(0, 2, n)
    if np.unique(indices).size == 1:
        return
    table, ranks, reserved = stream(indices, n_entries)
    payload, salt = ans.encode([(lambda: ranks, table, n)], reserved)
    assert decode_by_the_book(payload, salt, [(table, n)]) == [ranks.tolist()]
    assert_array_equal(decoded(payload, salt, [(table, n)])[0], ranks)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=3000), st.sampled_from(ans.RESOLUTIONS))
@settings(deadline=None)
def test_frequencies_are_positive_sum_to_the_scale_and_keep_the_order(levels, resolution):
    levels = np.array(levels)
    table = Table(levels.size, np.arange(levels.size), levels, resolution)
    frequency = table_frequencies(table)
    assert frequency.min() >= 1
    assert frequency.sum() == rates.SCALE
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
        _, salt = ans.encode([(lambda r=ranks: r, table, n)], reserved)
        assert salt == 0


def test_a_stream_that_does_not_fit_is_retried_with_other_slots(one_tensor, monkeypatch):
    shared, data = find_salted(one_tensor, monkeypatch)
    assert len(data) == size(shared).total
    assert container.decode(data).shared.fingerprint() == shared.fingerprint()


def test_when_no_state_fits_the_export_fails(one_tensor, monkeypatch):
    monkeypatch.setattr(rates, "SLACK_BITS", -100)
    with pytest.raises(ExportError, match="no order of slots fits"):
        container.encode(one_tensor(np.arange(41).repeat(9), 41))


def test_a_stream_with_another_salt_or_a_flipped_bit_is_refused():
    table, ranks, reserved = stream(np.arange(3000) % 41, 41)
    payload, _ = ans.encode([(lambda: ranks, table, ranks.size)], reserved)
    with pytest.raises(CorruptContainerError, match="do not end where they began"):
        decoded(payload, 1, [(table, ranks.size)])
    flipped = bytes([payload[0] ^ 1]) + payload[1:]
    with pytest.raises(CorruptContainerError, match="do not end where they began"):
        decoded(flipped, 0, [(table, ranks.size)])


def test_the_cost_is_what_the_frequencies_say():
    counts = np.array([5, 0, 900, 77, 77])
    plan = plan_pool("ans", [counts])
    frequency = table_frequencies(planned(counts))
    exact = (counts[counts > 0] * (24 - np.log2(frequency))).sum()
    assert plan.payload[0] / 2**FRACTION_BITS == pytest.approx(exact, abs=counts.sum() * 2.0**-17)


def three_sources(n, seed=0):
    """A skewed source, one of a single symbol, and a flat one of three times the symbols."""
    rng = np.random.default_rng(n + seed)
    return [
        (planned(np.array([900, 50, 30, 20])), rng.integers(0, 4, n).astype(np.int32)),
        (Table(3, np.array([1]), np.array([1])), np.zeros(n, dtype=np.int32)),
        (planned(rng.integers(1, 9, 300)), rng.integers(0, 300, 3 * n).astype(np.int32)),
    ]


def encoded(sources):
    """Return the stream of sources of table and ranks, its salt, and what decoding is told."""
    coded = [(lambda r=ranks: r, table, ranks.size) for table, ranks in sources]
    payload, salt = ans.encode(coded, reserved_for(sources))
    return payload, salt, [(table, ranks.size) for table, ranks in sources]


def reserved_for(sources):
    coded = [(table, ranks) for table, ranks in sources if table.symbols.size > 1]
    cost = sum(int(rates.cost_of(table_frequencies(table))[ranks].sum()) for table, ranks in coded)
    return rates.payload_bytes(cost, sum(ranks.size for _, ranks in coded))


@pytest.mark.parametrize("part", [1 << 20, 400, 99])
@pytest.mark.parametrize("n", [0, 1, 7, 5000])
@pytest.mark.parametrize("salt", [0, 5])
def test_a_stream_is_the_same_whatever_runs_it_is_made_of_and_read_part_by_part_or_at_once(
    n, salt, part, monkeypatch
):
    monkeypatch.setattr(rates, "PART", part)
    sources = three_sources(n)
    reserved = reserved_for(sources)
    whole: list[bytes] = []
    parts: list[bytes] = []
    coded = [(table, ranks) for table, ranks in sources if table.symbols.size > 1]
    runs = [(ranks, table) for table, ranks in reversed(coded)]
    assert ans.push(runs, 4 * n, reserved, salt, whole.append)
    divided = [
        (ranks[max(0, end - 90) : end], table)
        for ranks, table in runs
        for end in range(ranks.size, 0, -90)
    ]
    assert ans.push(divided, 4 * n, reserved, salt, parts.append)
    payload = b"".join(parts)
    assert payload == b"".join(whole) and len(payload) == reserved
    sizes = [(table, ranks.size) for table, ranks in coded]
    assert decode_by_the_book(payload, salt, sizes) == [ranks.tolist() for _, ranks in coded]
    seen: list[int] = []

    class Counting(bytes):
        def __getitem__(self, part):
            seen.append(len(bytes.__getitem__(self, part)))
            return bytes.__getitem__(self, part)

    stream = ans.runs(Counting(payload), salt, sizes, lambda _: np.dtype(np.uint16))
    got = list(stream)
    assert max((run.size for run in got), default=0) <= part
    flat = np.concatenate([np.zeros(0, np.uint16), *got])
    wanted = [table.symbols[ranks] for table, ranks in coded]
    assert_array_equal(flat, np.concatenate([np.zeros(0, np.int64), *wanted]))
    if part < 4 * n:
        assert max(seen) <= max(4 * (part + 8), rates.payload_bytes(0, 4 * n))


@pytest.mark.parametrize("part", [1 << 20, 400])
def test_a_stream_with_bytes_more_or_fewer_than_its_symbols_take_is_refused(part, monkeypatch):
    monkeypatch.setattr(rates, "PART", part)
    sources = three_sources(1000)
    reserved = reserved_for(sources)
    payload, salt, sizes = encoded(sources)
    for (_, ranks), found in zip(sources, decoded(payload, salt, sizes), strict=True):
        assert_array_equal(found, ranks)
    end = len(payload) - 4 * (10 if part == 400 else 0)
    for forged in (
        payload[:end] + b"\0" + payload[end:],
        payload[:end] + b"\0" * 4 + payload[end:],
        payload[: end - 1] + payload[end:],
    ):
        with pytest.raises(CorruptContainerError, match=rf"take {reserved} bytes, but|fill their"):
            decoded(forged, salt, sizes)
    with pytest.raises(CorruptContainerError, match="bytes at most"):
        decoded(payload + bytes(100_000), salt, sizes)


def test_parts_that_say_they_are_longer_or_shorter_are_refused(monkeypatch):
    monkeypatch.setattr(rates, "PART", 400)
    sources = three_sources(1000)
    payload, salt, sizes = encoded(sources)
    lengths = np.frombuffer(payload[-40:], "<u4")
    body = payload[:-40]

    def forged(changes, body=body):
        changed = lengths.astype(np.int64)
        for at, by in changes.items():
            changed[at] += by
        return body + changed.astype("<u4").tobytes()

    for changes in ({0: 1, 1: -1}, {3: -1, 7: 1}, {0: 1}, {9: -1}, {0: -8}):
        with pytest.raises(CorruptContainerError, match="coded indices"):
            decoded(forged(changes), salt, sizes)
    with pytest.raises(CorruptContainerError, match="do not fill their bytes"):
        decoded(forged({2: 10_000}), salt, sizes)
    with pytest.raises(CorruptContainerError, match="do not fill their bytes"):
        decoded(forged({2: 1 << 31}), salt, sizes)
    padding = len(body) - 4 * int(lengths.sum())
    assert padding > 0
    with pytest.raises(CorruptContainerError, match="something behind"):
        decoded(forged({}, body[:-1] + b"\1"), salt, sizes)
    top = 4 * int(lengths[9])  # of the last part, which is the first in the file
    for word in range(top - 32, top, 4):
        spoiled = body[:word] + bytes(4) + body[word + 4 :]
        with pytest.raises(CorruptContainerError, match="coded indices"):
            decoded(forged({}, spoiled), salt, sizes)


def test_a_stream_without_room_is_given_up_before_all_of_it_was_made(monkeypatch):
    monkeypatch.setattr(rates, "PART", 1000)
    table, ranks, reserved = stream(np.arange(60_000) % 41, 41)
    pushed = 0

    def runs():
        nonlocal pushed
        for end in range(ranks.size, 0, -100):
            pushed += 1
            yield ranks[end - 100 : end], table

    assert not ans.push(runs(), ranks.size, reserved // 2, 0, lambda part: None)
    assert 250 < pushed < 350


def test_threads_and_one_thread_decode_the_same(monkeypatch):
    monkeypatch.setattr(rates, "PART", 500)
    sources = three_sources(3000)
    payload, salt, sizes = encoded(sources)
    for n_threads in (1, 2, 7):
        monkeypatch.setattr(ans, "available_cores", lambda n=n_threads: n)
        for (_, ranks), found in zip(sources, decoded(payload, salt, sizes), strict=True):
            assert_array_equal(found, ranks)
    broken = payload[:100] + bytes([payload[100] ^ 1]) + payload[101:]
    with pytest.raises(CorruptContainerError, match="do not end where they began"):
        decoded(broken, salt, sizes)


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
def test_a_stream_that_is_exhausted_gives_the_symbol_in_the_first_place(salt):
    table = planned(np.array([900, 50, 30, 20]))
    ranks = [*[0, 1, 2, 3] * 40, *[-salt % 4] * 1000]
    payload = encode_by_the_book(ranks, table, salt)
    sources = [(table, len(ranks))]
    assert len(payload) < 100
    assert decode_by_the_book(payload, salt, sources) == [ranks]
    padded = payload.ljust(reserved_for([(table, np.array(ranks))]), b"\0")
    assert decoded(padded, salt, sources)[0].tolist() == ranks
