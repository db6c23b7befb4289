# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Read a stream of asymmetric numeral systems straight into an array of symbols.

Only ans.py may call this module. Definition: decode_by_the_book in tests/codec/static/test_ans.py.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from moeash.errors import InputError

ctypedef fused symbol_t:
    uint8_t
    uint16_t
    uint32_t

cdef enum:
    SCALE_BITS = 24
    BUCKET_BITS = 12
    SCALE = 1 << 24
    BUCKETS = 1 << 12


def run(
    uint64_t[::1] machine,            # IN, OUT (2,): the state, and how many words are left
    const uint32_t[::1] words,        # (n_words,): a stack, the last on top
    const uint32_t[::1] starts,       # (n_places + 1,): where the slots of each place begin
    const uint32_t[::1] places,       # (BUCKETS + 1,): the place of the first slot of each bucket
    const symbol_t[::1] symbols,      # (n_places,): the symbol of each place
    symbol_t[:] out,                  # OUT (n,): n symbols
    int64_t[::1] counts,              # OUT (n_places,): how many of them are of each place
):
    """Decode as many symbols as ``out`` holds.

    Raises:
        InputError: a table is none, or more words are left than there are.
    """
    cdef:
        Py_ssize_t n_places = symbols.shape[0]
        Py_ssize_t i, n = out.shape[0]
        uint64_t state
        Py_ssize_t left
        uint32_t slot, low, high, middle
        bint fits = (
            machine.shape[0] == 2 and n_places > 0 and starts.shape[0] == n_places + 1
            and counts.shape[0] == n_places and places.shape[0] == BUCKETS + 1
        )

    fits = fits and machine[1] <= <uint64_t> words.shape[0]
    fits = fits and starts[0] == 0 and starts[n_places] == SCALE
    for i in range(n_places if fits else 0):
        fits = fits and starts[i] < starts[i + 1]
    for i in range(BUCKETS if fits else 0):
        low = places[i]
        fits = fits and low < <uint32_t> n_places and starts[low] <= (<uint32_t> i << BUCKET_BITS)
        fits = fits and starts[low + 1] > (<uint32_t> i << BUCKET_BITS)
    if not fits or places[BUCKETS] != <uint32_t> n_places:
        raise InputError("the tables of a coded source do not fit together")

    state = machine[0]
    left = <Py_ssize_t> machine[1]
    with nogil:
        for i in range(n):
            slot = <uint32_t> (state & (SCALE - 1))
            low = places[slot >> BUCKET_BITS]
            high = places[(slot >> BUCKET_BITS) + 1]
            while high > low + 8:  # many rare symbols in one bucket
                middle = (low + high) >> 1
                if starts[middle] <= slot:
                    low = middle
                else:
                    high = middle
            while starts[low + 1] <= slot:
                low += 1
            out[i] = symbols[low]
            counts[low] += 1
            state = (starts[low + 1] - starts[low]) * (state >> SCALE_BITS) + (slot - starts[low])
            while state < (<uint64_t> 1 << 32) and left > 0:
                left -= 1
                state = (state << 32) | words[left]
    machine[0] = state
    machine[1] = <uint64_t> left
