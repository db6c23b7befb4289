# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One step of a path, inline: the cheapest entry of a subset, and the cheaper way into a state.

Definition: tests/methods/feedback/assignment/trellis_twin.py. How steps make paths is in
_survivors.pyx, which checks what its indices rest on.
"""

from libc.float cimport FLT_MAX
from libc.math cimport HUGE_VAL
from libc.stdint cimport int32_t, uint8_t

cdef enum:
    MOST_STATES = 16


cdef struct Subset:
    # The entries a weight may take in a state at a parity, and where among them to begin.
    Py_ssize_t n
    const int32_t* members           # (n,) which entries they are
    const float* lengths             # (n,) bits
    float* values                    # (n,) the entries themselves
    int32_t* guide                   # (n + 1,) how many lie in the cells before each of n cells
    float shortest                   # the lowest length
    float first                      # where the first cell begins
    float per_unit                   # cells in a unit


cdef inline Py_ssize_t cell(const Subset* subset, float value) noexcept nogil:
    """Return the cell of a value: it never falls as values grow, and 0 is that of no number."""
    cdef float place = (value - subset.first) * subset.per_unit
    if not place >= 0:
        return 0
    return <Py_ssize_t> place if place < subset.n else subset.n - 1


cdef inline void lay_out(Subset* subset, const float[::1] entries) noexcept nogil:
    """Fill in the values of a subset, and the guide that finds a value's place among them."""
    cdef Py_ssize_t j
    for j in range(subset.n):
        subset.values[j] = entries[subset.members[j]]
        subset.guide[j] = 0
    subset.guide[subset.n] = 0
    if not subset.n:
        return
    subset.first = subset.values[0]
    subset.per_unit = 0
    if subset.values[subset.n - 1] > subset.first:
        subset.per_unit = subset.n / (subset.values[subset.n - 1] - subset.first)
    for j in range(subset.n):
        subset.guide[cell(subset, subset.values[j]) + 1] += 1
    for j in range(subset.n):
        subset.guide[j + 1] += subset.guide[j]


cdef inline float cheapest(
    const Subset* subset, float target, float price, int32_t* choice
) noexcept nogil:
    """Find the member with the lowest ``(target - entry)^2 + price * length``; a tie: the lower.

    Members are tried outwards from the target, until distance alone costs more than the best:
    rounding is monotonic, so nothing is missed. A target that is no number, or a cost of infinity
    everywhere, gives a member next to the target.

    Returns:
        The cost.
    """
    cdef:
        Py_ssize_t place = cell(subset, target)
        Py_ssize_t low = subset.guide[place]
        Py_ssize_t high = subset.guide[place + 1]
        Py_ssize_t n = subset.n
        const float* values = subset.values
        const float* lengths = subset.lengths
        Py_ssize_t j, middle, found
        float least = price * subset.shortest
        float best = <float> HUGE_VAL
        float d, c
    # Where entries lie evenly, a cell holds one or two.
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < target:
            low = middle + 1
        else:
            high = middle
    found = low if low < n else n - 1
    for j in range(low, n):
        d = target - values[j]
        d = d * d
        if d + least > best:
            break
        c = d + price * lengths[j]
        if c < best:
            best = c
            found = j
    for j in range(low - 1, -1, -1):
        d = target - values[j]
        d = d * d
        if d + least > best:
            break
        c = d + price * lengths[j]
        if c <= best:
            best = c
            found = j
    choice[0] = subset.members[found]
    return best if best < FLT_MAX else FLT_MAX


cdef inline void extend(
    const double* totals,
    const uint8_t* ways,
    Py_ssize_t n_states,
    double* path,
    uint8_t* came,
) noexcept nogil:
    """Keep the cheaper of the two ways into every state; of equal ones that from the lower state.

    Args:
        totals: costs by state and parity, ``(2 * n_states,)``, infinite for what is no way.
        ways: ``(2 * n_states,)``, see ``lay_ways``.
    """
    cdef:
        Py_ssize_t state
        uint8_t one, other
        bint better
    for state in range(n_states):
        one = ways[2 * state]
        other = ways[2 * state + 1]
        better = totals[other] < totals[one]
        path[state] = totals[other] if better else totals[one]
        came[state] = other if better else one


cdef inline bint lay_ways(const uint8_t[::1] transitions, uint8_t* ways) noexcept nogil:
    """List for every state the two states and parities that lead to it, the lower one first.

    Returns:
        Whether there are two for every state.
    """
    cdef:
        Py_ssize_t n_ways = transitions.shape[0]
        Py_ssize_t origin, reached
        Py_ssize_t found[MOST_STATES]
    for reached in range(MOST_STATES):
        found[reached] = 0
    for origin in range(n_ways):
        reached = transitions[origin]
        if 2 * reached >= n_ways or found[reached] == 2:
            return False
        ways[2 * reached + found[reached]] = <uint8_t> origin
        found[reached] += 1
    return True
