# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""Push symbols on an ANS coder's stack and pop them: one loop each, without the GIL.

Only ans.py may call this module, which specifies the coder (see also the container) and builds its
tables. That arrays fit together and symbols exist is checked here once more, so that nothing is
read or written outside of them. Twins: decode_by_the_book and encode_by_the_book in
tests/codec/static/test_ans.py, and the coder of another library, compared there byte by byte.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from moeash.errors import InputError

cdef enum:
    BITS = 24                       # ans.SCALE_BITS
    SCALE = 1 << 24


def push(
    const int32_t[::1] ranks,           # IN   (n,), pushed from the last to the first
    const uint32_t[::1] frequencies,    # IN   (P,), of each rank, at least 1
    const uint32_t[::1] begins,         # IN   (P,), first slot of each rank
    uint64_t state,
    uint32_t[::1] words,                # OUT  (n,) at least
):
    """Return the state behind the symbols, and how many words were pushed off it.

    Raises:
        InputError: the arrays do not fit together, or there is no such rank.
    """
    cdef:
        Py_ssize_t n = ranks.shape[0]
        Py_ssize_t n_ranks = frequencies.shape[0]
        Py_ssize_t i, pushed = 0
        uint64_t f
        int32_t rank
        bint fits = begins.shape[0] == n_ranks and words.shape[0] >= n

    for i in range(n_ranks):
        fits = fits and 1 <= frequencies[i] <= SCALE and begins[i] <= SCALE - frequencies[i]
    if not fits:
        raise InputError("the arrays of an ANS coder do not fit together")
    with nogil:
        for i in range(n - 1, -1, -1):
            rank = ranks[i]
            if not 0 <= rank < n_ranks:
                fits = False
                break
            f = frequencies[rank]
            if state >> (64 - BITS) >= f:
                words[pushed] = <uint32_t> state
                pushed += 1
                state >>= 32
            state = (state // f << BITS) + state % f + begins[rank]
    if not fits:
        raise InputError(f"a symbol to code has rank {rank} of {n_ranks}")
    return state, pushed


def pop(
    uint64_t state,
    const uint32_t[::1] words,          # IN   the stack, its top last
    Py_ssize_t left,                    # words of it that are left
    const uint32_t[::1] frequencies,    # IN   (P,), of each place in the order of slots
    const uint32_t[::1] begins,         # IN   (P + 1,), first slot of each place, and 2**24
    const int32_t[::1] places,          # IN   (2**24 >> shift) + 1,), place that owns a slot
    int shift,                          # every 2**shift-th slot is in places
    int32_t[::1] out,                   # OUT  (n,), places
):
    """Return the state behind the symbols, and how many words are left.

    Raises:
        InputError: the arrays do not fit together.
    """
    cdef:
        Py_ssize_t n = out.shape[0]
        Py_ssize_t n_places = frequencies.shape[0]
        Py_ssize_t n_buckets = places.shape[0] - 1
        Py_ssize_t i
        uint32_t slot
        int32_t low, high, middle
        bint fits = 0 <= left <= words.shape[0] and begins.shape[0] == n_places + 1 and n_places > 0

    fits = fits and 0 <= shift <= BITS and n_buckets == SCALE >> shift
    fits = fits and begins[0] == 0 and begins[n_places] == SCALE
    for i in range(n_places):
        fits = fits and begins[i + 1] == begins[i] + frequencies[i]
    for i in range(n_buckets + 1):
        fits = fits and 0 <= places[i] < n_places
    for i in range(n_buckets):
        fits = fits and places[i] <= places[i + 1]
    if not fits:
        raise InputError("the arrays of an ANS coder do not fit together")
    with nogil:
        for i in range(n):
            while state >> 32 == 0 and left:
                left -= 1
                state = state << 32 | words[left]
            slot = <uint32_t> (state & (SCALE - 1))
            low = places[slot >> shift]
            high = places[(slot >> shift) + 1]
            while high - low > 4:
                middle = (low + high) // 2
                if begins[middle] <= slot:
                    low = middle
                else:
                    high = middle
            while low < high and begins[low + 1] <= slot:
                low += 1
            state = frequencies[low] * (state >> BITS) + slot - begins[low]
            out[i] = low
        while state >> 32 == 0 and left:
            left -= 1
            state = state << 32 | words[left]
    return state, left
