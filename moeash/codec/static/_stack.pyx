# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""Push symbols on an ANS coder's stack and pop them: one loop each, without the GIL.

Only ans.py may call this module, which specifies the coder (see also the container). That arrays
fit together and symbols exist is checked once a call, and the slots of a table are made here and
reached from here alone, so that nothing is read or written outside of them. Twins:
decode_by_the_book and encode_by_the_book in tests/codec/static/test_ans.py, and, of one state, the
coder of another library, compared there byte by byte.

Four states are four chains of dependent instructions, which a processor runs beside each other;
whether a state takes a word is as good as random, so that it is computed and not branched on.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

import numpy as np

from moeash.errors import InputError

cdef enum:
    BITS = 24                       # ans.SCALE_BITS
    SCALE = 1 << 24
    BUCKET_BITS = 12                # digits of a slot that are looked up before places are searched
    SHIFT = 12                      # BITS - BUCKET_BITS
    N_BUCKETS = 1 << 12
    LANES = 4                       # ans.LANES

ctypedef fused Symbol:
    uint8_t
    uint16_t
    uint32_t

cdef struct Place:                  # who owns some slots
    uint32_t begin                  # first of them
    uint32_t frequency
    uint32_t rank
    uint32_t unused

cdef struct Bucket:                 # 2**12 slots
    uint32_t first                  # place that owns the first of them
    uint32_t end                    # where its slots end


cdef class Slots:
    """The slots of a table: place by place, and which place owns every 2**12-th slot.

    Args:
        frequencies: ``(P,)`` of each rank, at least 1, in all 2**24.
        salt: the place of rank j is ``(j + salt) % P``.

    Raises:
        InputError: they are no such frequencies.
    """

    cdef uint32_t[::1] _memory      # of the places, and one more that begins at 2**24
    cdef uint32_t[::1] _lookup      # of the buckets, and the last place once more
    cdef Place* places
    cdef Bucket* buckets
    cdef Py_ssize_t n_places
    cdef Py_ssize_t salt

    def __cinit__(self, const int64_t[::1] frequencies, Py_ssize_t salt):
        cdef:
            Py_ssize_t n = frequencies.shape[0]
            Py_ssize_t place, bucket, rank
            int64_t begin = 0
            bint fits = 0 < n <= SCALE and salt >= 0

        for rank in range(n):
            fits = fits and 1 <= frequencies[rank] <= SCALE
            begin += frequencies[rank] if fits else 0
        if not fits or begin != SCALE:
            raise InputError("the frequencies of an ANS coder must be positive and sum to 2**24")
        self._memory = np.zeros(4 * (n + 1), dtype=np.uint32)
        self._lookup = np.zeros(2 * (N_BUCKETS + 1), dtype=np.uint32)
        self.places = <Place*> &self._memory[0]
        self.buckets = <Bucket*> &self._lookup[0]
        self.n_places = n
        self.salt = salt % n
        begin = 0
        bucket = 0
        for place in range(n):
            rank = place - self.salt + (n if place < self.salt else 0)
            self.places[place].begin = <uint32_t> begin
            self.places[place].frequency = <uint32_t> frequencies[rank]
            self.places[place].rank = <uint32_t> rank
            begin += frequencies[rank]
            while bucket << SHIFT < begin:
                self.buckets[bucket].first = <uint32_t> place
                self.buckets[bucket].end = <uint32_t> begin
                bucket += 1
        self.places[n].begin = SCALE
        self.buckets[N_BUCKETS].first = <uint32_t> (n - 1)


cdef inline const Place* owner(
    const Place* places, const Bucket* buckets, uint32_t slot
) noexcept nogil:
    """Return the place that owns a slot: of most buckets it is the first or the second one."""
    cdef const Bucket* bucket = buckets + (slot >> SHIFT)
    cdef uint32_t low = bucket.first + (slot >= bucket.end)
    cdef uint32_t high, middle

    if slot >= places[low + 1].begin:
        high = bucket[1].first
        while low < high:
            middle = high - (high - low) // 2
            if places[middle].begin <= slot:
                low = middle
            else:
                high = middle - 1
    return places + low


cdef inline uint64_t popped(
    uint64_t state,
    const Place* places,
    const Bucket* buckets,
    const uint32_t* words,          # IN   one at least is left
    Py_ssize_t* left,               # IN / OUT
    uint32_t* rank,                 # OUT
) noexcept nogil:
    """Return a state without its symbol, and with a word more if it is small."""
    cdef:
        uint32_t slot = <uint32_t> (state & (SCALE - 1))
        const Place* place = owner(places, buckets, slot)
        uint64_t after = place.frequency * (state >> BITS) + (slot - place.begin)
        uint64_t longer = after << 32 | words[left[0] - 1]
        uint64_t small = 0 - <uint64_t> (after >> 32 == 0)

    rank[0] = place.rank
    left[0] += <Py_ssize_t> small
    return after ^ ((after ^ longer) & small)


def push(
    Slots slots,
    const int32_t[::1] ranks,       # IN   (n,), pushed from the last to the first
    Py_ssize_t at,                  # symbols of the part that come before the first
    uint64_t[::1] states,           # IN / OUT   (1,) or (4,)
    uint32_t[::1] words,            # OUT  (n,) at least
):
    """Push symbols, and return how many words were pushed off the states.

    Raises:
        InputError: the arrays do not fit together, or there is no such rank.
    """
    cdef:
        Py_ssize_t n = ranks.shape[0]
        Py_ssize_t n_lanes = states.shape[0]
        Py_ssize_t n_places = slots.n_places
        Py_ssize_t i, place, lane, pushed = 0
        const Place* places = slots.places
        Py_ssize_t salt = slots.salt
        uint64_t f, state
        int32_t rank = 0
        bint fits = True

    if n_lanes not in (1, LANES) or words.shape[0] < n or at < 0:
        raise InputError("the arrays of an ANS coder do not fit together")
    with nogil:
        for i in range(n - 1, -1, -1):
            rank = ranks[i]
            if not 0 <= rank < n_places:
                fits = False
                break
            place = rank + salt
            if place >= n_places:
                place -= n_places
            lane = (at + i) & (n_lanes - 1)
            state = states[lane]
            f = places[place].frequency
            if state >> (64 - BITS) >= f:
                words[pushed] = <uint32_t> state
                pushed += 1
                state >>= 32
            states[lane] = (state // f << BITS) + state % f + places[place].begin
    if not fits:
        raise InputError(f"a symbol to code has rank {rank} of {n_places}")
    return pushed


def pop(
    Slots slots,
    uint64_t[::1] states,           # IN / OUT   (1,) or (4,)
    Py_ssize_t at,                  # symbols of the part that came before
    const uint32_t[::1] words,      # IN   the stack, its top last
    Py_ssize_t left,                # words of it that are left
    Symbol[::1] symbols,            # IN   (P,), of each rank
    int64_t[::1] counts,            # IN / OUT   (P,), how often each rank came
    Symbol[:] out,                  # OUT  (n,)
):
    """Pop symbols, and return how many words are left.

    Raises:
        InputError: the arrays do not fit together.
    """
    cdef:
        Py_ssize_t n = out.shape[0]
        Py_ssize_t n_lanes = states.shape[0]
        const Place* places = slots.places
        const Bucket* buckets = slots.buckets
        const Place* place
        const uint32_t* stack = &words[0] if words.shape[0] else NULL
        Py_ssize_t i = 0, lane
        uint64_t a, b, c, d
        uint32_t slot, rank

    if (
        n_lanes not in (1, LANES)
        or not 0 <= left <= words.shape[0]
        or symbols.shape[0] != slots.n_places
        or counts.shape[0] != slots.n_places
        or at < 0
    ):
        raise InputError("the arrays of an ANS coder do not fit together")
    with nogil:
        while i < n:
            if n_lanes == LANES and (at + i) % LANES == 0 and n - i >= LANES and left >= LANES:
                a = states[0]
                b = states[1]
                c = states[2]
                d = states[3]
                while n - i >= LANES and left >= LANES:  # each may take a word
                    a = popped(a, places, buckets, stack, &left, &rank)
                    out[i] = symbols[rank]
                    counts[rank] += 1
                    b = popped(b, places, buckets, stack, &left, &rank)
                    out[i + 1] = symbols[rank]
                    counts[rank] += 1
                    c = popped(c, places, buckets, stack, &left, &rank)
                    out[i + 2] = symbols[rank]
                    counts[rank] += 1
                    d = popped(d, places, buckets, stack, &left, &rank)
                    out[i + 3] = symbols[rank]
                    counts[rank] += 1
                    i += LANES
                states[0] = a
                states[1] = b
                states[2] = c
                states[3] = d
                continue
            if n_lanes == 1 and left:
                a = states[0]
                while i < n and left:
                    a = popped(a, places, buckets, stack, &left, &rank)
                    out[i] = symbols[rank]
                    counts[rank] += 1
                    i += 1
                states[0] = a
                continue
            lane = (at + i) & (n_lanes - 1)
            a = states[lane]
            slot = <uint32_t> (a & (SCALE - 1))
            place = owner(places, buckets, slot)
            a = place.frequency * (a >> BITS) + (slot - place.begin)
            if a >> 32 == 0 and left:
                left -= 1
                a = a << 32 | words[left]
            states[lane] = a
            out[i] = symbols[place.rank]
            counts[place.rank] += 1
            i += 1
    return left
