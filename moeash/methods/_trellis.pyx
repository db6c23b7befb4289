# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Fix columns one after the other, each along its cheapest path through a trellis.

Only assign_trellis.py may call this module; it says what is computed and owns the arrays.
Reference: tests/methods/trellis_twin.py, equal bit for bit in
tests/methods/test_assign_trellis.py; products and sums are therefore single float32 operations, and
paths are summed in float64.
"""

from libc.math cimport HUGE_VAL
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc

cdef enum:
    MOST_STATES = 16


cdef inline void cheapest(
    float target,
    float price,
    const float* entries,
    const int32_t* members,
    const float* lengths,
    Py_ssize_t n_members,
    float shortest,
    float* cost,
    int32_t* choice,
) noexcept nogil:
    """Find the member with the lowest ``(target - entry)^2 + price * length``; a tie: the lower.

    Members are tried outwards from the target, until distance alone costs more than the best:
    rounding is monotonic, so nothing is missed.
    """
    cdef:
        Py_ssize_t low = 0
        Py_ssize_t high = n_members
        Py_ssize_t j, middle
        float least = price * shortest
        float best = <float> HUGE_VAL
        float d, c
        int32_t found = members[0]
    while low < high:
        middle = (low + high) >> 1
        if entries[members[middle]] < target:
            low = middle + 1
        else:
            high = middle
    for j in range(low, n_members):
        d = target - entries[members[j]]
        d = d * d
        if d + least > best:
            break
        c = d + price * lengths[j]
        if c < best:
            best = c
            found = members[j]
    for j in range(low - 1, -1, -1):
        d = target - entries[members[j]]
        d = d * d
        if d + least > best:
            break
        c = d + price * lengths[j]
        if c <= best:
            best = c
            found = members[j]
    cost[0] = best
    choice[0] = found


def fix_columns(
    float[:, :, ::1] moving,             # IN/OUT (groups, columns, rows): targets of the columns
    const float[:, :, ::1] coupling,     # IN   (groups, columns, columns), above the diagonal
    const float[:, ::1] variance,        # IN   (groups, columns)
    const float[:, ::1] penalty,         # IN   (groups, rows): nats per bit over the sensitivity
    Py_ssize_t start,
    Py_ssize_t stop,
    const float[::1] entries,            # IN   (n_entries,)
    const int32_t[::1] members,          # IN   the entries of the four subsets, each increasing
    const int32_t[::1] bounds,           # IN   (5,): where the subsets begin and end
    const float[::1] lengths,            # IN   bits of every member
    const float[::1] shortest,           # IN   (4,): the lowest of each subset
    const uint8_t[::1] transitions,      # IN   (2 * n_states,)
    const uint8_t[::1] halves,           # IN   (n_states,)
    int32_t[:, :, ::1] chosen,           # OUT  (groups, columns, rows): entries
    float[:, :, ::1] carried,            # OUT  (groups, columns, rows): what is left to carry
    int64_t[:, ::1] counts,              # IN/OUT (2, n_entries): uses by half
):
    """Fix columns ``start`` to ``stop`` and carry their errors among themselves."""
    cdef:
        Py_ssize_t n_groups = moving.shape[0]
        Py_ssize_t n_rows = moving.shape[2]
        Py_ssize_t n_states = halves.shape[0]
        Py_ssize_t t, s, g, r, i, j, state, subset, parity, reached, origin
        float value, price, share
        double total
        double path[MOST_STATES]
        double longer[MOST_STATES]
        float* cost = <float*> malloc((4 * n_groups * n_rows + 1) * sizeof(float))
        int32_t* choice = <int32_t*> malloc((4 * n_groups * n_rows + 1) * sizeof(int32_t))
        uint8_t* came = <uint8_t*> malloc((n_states * n_groups * n_rows + 1) * sizeof(uint8_t))

    if cost == NULL or choice == NULL or came == NULL:
        free(cost)
        free(choice)
        free(came)
        raise MemoryError
    with nogil:
        for t in range(start, stop):
            for state in range(n_states):
                path[state] = HUGE_VAL
            path[0] = 0
            for g in range(n_groups):
                for r in range(n_rows):
                    i = g * n_rows + r
                    price = variance[g, t] * penalty[g, r]
                    for subset in range(4):
                        j = bounds[subset]
                        if j == bounds[subset + 1]:
                            cost[4 * i + subset] = <float> HUGE_VAL
                            choice[4 * i + subset] = 0
                            continue
                        cheapest(
                            moving[g, t, r], price, &entries[0], &members[j], &lengths[j],
                            bounds[subset + 1] - j, shortest[subset],
                            &cost[4 * i + subset], &choice[4 * i + subset],
                        )
                    for state in range(n_states):
                        longer[state] = HUGE_VAL
                        came[n_states * i + state] = 0
                    for state in range(n_states):
                        for parity in range(2):
                            reached = transitions[2 * state + parity]
                            total = path[state] + cost[4 * i + 2 * halves[state] + parity]
                            if total < longer[reached]:
                                longer[reached] = total
                                came[n_states * i + reached] = <uint8_t> (2 * state + parity)
                    for state in range(n_states):
                        path[state] = longer[state]
            reached = 0
            for state in range(1, n_states):
                if path[state] < path[reached]:
                    reached = state
            for g in range(n_groups - 1, -1, -1):
                for r in range(n_rows - 1, -1, -1):
                    i = g * n_rows + r
                    origin = came[n_states * i + reached]
                    reached = origin >> 1
                    subset = 2 * halves[reached] + (origin & 1)
                    chosen[g, t, r] = choice[4 * i + subset]
                    counts[halves[reached], chosen[g, t, r]] += 1
                    carried[g, t, r] = moving[g, t, r] - entries[chosen[g, t, r]]
            for g in range(n_groups):
                for s in range(t + 1, stop):
                    share = coupling[g, t, s]
                    for r in range(n_rows):
                        value = share * carried[g, t, r]
                        moving[g, s, r] = moving[g, s, r] - value
    free(cost)
    free(choice)
    free(came)
