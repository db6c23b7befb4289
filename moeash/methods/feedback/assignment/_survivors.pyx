# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Fix columns one after the other, each along its cheapest path through a trellis.

Only paths.py may call this module; it says what is computed and owns the arrays. What comes from
data is never trusted with an index: a cost that is infinite or no number counts as the largest
float, so that infinity means what cannot be reached, and every choice begins as a member. Tables
and shapes are checked once a call.
Reference: tests/methods/feedback/assignment/trellis_twin.py, equal bit for bit in
tests/methods/feedback/assignment/test_paths.py; products and sums are therefore single float32
operations, and paths are summed in float64.
"""

from libc.float cimport FLT_MAX
from libc.math cimport HUGE_VAL
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free

from moeash.errors import InputError

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
    rounding is monotonic, so nothing is missed. A target that is no number, or a cost of infinity
    everywhere, gives a member next to the target.
    """
    cdef:
        Py_ssize_t low = 0
        Py_ssize_t high = n_members
        Py_ssize_t j, middle
        float least = price * shortest
        float best = <float> HUGE_VAL
        float d, c
        int32_t found
    while low < high:
        middle = (low + high) >> 1
        if entries[members[middle]] < target:
            low = middle + 1
        else:
            high = middle
    found = members[low if low < n_members else n_members - 1]
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
    cost[0] = best if best < FLT_MAX else FLT_MAX
    choice[0] = found


cdef void follow(
    const float* targets,
    Py_ssize_t n_groups,
    Py_ssize_t n_rows,
    const float* variance,
    Py_ssize_t n_columns,
    const float[:, ::1] penalty,
    const float[::1] entries,
    const int32_t[::1] members,
    const int32_t[::1] bounds,
    const float[::1] lengths,
    const float[::1] shortest,
    const uint8_t[::1] transitions,
    const uint8_t[::1] halves,
    Py_ssize_t n_places,
    double* path,
    float* cost,
    int32_t* choice,
    uint8_t* came,
) noexcept nogil:
    """Find the cheapest paths down a column whose rows do not influence one another.

    ``targets`` and ``variance`` point to the column in the first group.
    """
    cdef:
        Py_ssize_t n_states = halves.shape[0]
        Py_ssize_t g, r, i, j, state, subset, parity, reached
        float price
        double total
        double longer[MOST_STATES]
    for g in range(n_groups):
        for r in range(n_rows):
            i = g * n_rows + r
            price = variance[g * n_columns] * penalty[g, r]
            for subset in range(4):
                j = bounds[subset]
                if j == bounds[subset + 1]:
                    cost[subset] = <float> HUGE_VAL
                    choice[n_places * i + subset] = 0
                    continue
                cheapest(
                    targets[g * n_columns * n_rows + r], price, &entries[0], &members[j],
                    &lengths[j], bounds[subset + 1] - j, shortest[subset],
                    &cost[subset], &choice[n_places * i + subset],
                )
            for state in range(n_states):
                longer[state] = HUGE_VAL
                came[n_states * i + state] = 0
            for state in range(n_states):
                for parity in range(2):
                    reached = transitions[2 * state + parity]
                    total = path[state] + cost[2 * halves[state] + parity]
                    if total < longer[reached]:
                        longer[reached] = total
                        came[n_states * i + reached] = <uint8_t> (2 * state + parity)
            for state in range(n_states):
                path[state] = longer[state]


cdef void follow_coupled(
    const float* targets,
    Py_ssize_t n_groups,
    Py_ssize_t n_rows,
    const float* variance,
    Py_ssize_t n_columns,
    const float[:, :, ::1] between,
    const float[:, ::1] penalty,
    const float[::1] entries,
    const int32_t[::1] members,
    const int32_t[::1] bounds,
    const float[::1] lengths,
    const float[::1] shortest,
    const uint8_t[::1] transitions,
    const uint8_t[::1] halves,
    Py_ssize_t n_places,
    double* path,
    int32_t* choice,
    uint8_t* came,
    float* now,
    float* then,
) noexcept nogil:
    """Find good paths down a column whose rows take up each other's errors.

    Every state keeps the targets its own survivor left to later rows, ``now``, ``(n_states, rows)``
    per group: per-survivor processing. With one state this is the plain recursion.
    """
    cdef:
        Py_ssize_t n_states = halves.shape[0]
        Py_ssize_t g, r, s, i, j, state, subset, parity, reached, origin
        float price, error, value
        float cost
        float* swapped
        const float* source
        float* target
        const float* share
        double total
        double longer[MOST_STATES]
    for g in range(n_groups):
        for state in range(n_states):
            for r in range(n_rows):
                now[state * n_rows + r] = targets[g * n_columns * n_rows + r]
        for r in range(n_rows):
            i = g * n_rows + r
            price = variance[g * n_columns] * penalty[g, r]
            for state in range(n_states):
                longer[state] = HUGE_VAL
                came[n_states * i + state] = 0
            for state in range(n_states):
                if path[state] == HUGE_VAL:
                    continue
                for parity in range(2):
                    subset = 2 * halves[state] + parity
                    j = bounds[subset]
                    if j == bounds[subset + 1]:
                        continue
                    cheapest(
                        now[state * n_rows + r], price, &entries[0], &members[j], &lengths[j],
                        bounds[subset + 1] - j, shortest[subset],
                        &cost, &choice[n_places * i + 2 * state + parity],
                    )
                    reached = transitions[2 * state + parity]
                    total = path[state] + cost
                    if total < longer[reached]:
                        longer[reached] = total
                        came[n_states * i + reached] = <uint8_t> (2 * state + parity)
            share = &between[g, r, 0]
            for reached in range(n_states):
                path[reached] = longer[reached]
                if longer[reached] == HUGE_VAL:
                    continue
                origin = came[n_states * i + reached]
                source = &now[(origin >> 1) * n_rows]
                target = &then[reached * n_rows]
                error = source[r] - entries[choice[n_places * i + origin]]
                for s in range(r + 1, n_rows):
                    value = error * share[s]
                    target[s] = source[s] - value
            swapped = now
            now = then
            then = swapped


cdef bint fits(
    const float[:, :, ::1] moving,
    const float[:, :, ::1] coupling,
    const float[:, ::1] variance,
    const float[:, :, ::1] between,
    const float[:, ::1] penalty,
    Py_ssize_t start,
    Py_ssize_t stop,
    const float[::1] entries,
    const int32_t[::1] members,
    const int32_t[::1] bounds,
    const float[::1] lengths,
    const float[::1] shortest,
    const uint8_t[::1] transitions,
    const uint8_t[::1] halves,
    const int32_t[:, :, ::1] chosen,
    const float[:, :, ::1] carried,
    const int64_t[:, ::1] counts,
) noexcept nogil:
    """Return whether shapes agree and every index in a table is one."""
    cdef:
        Py_ssize_t groups = moving.shape[0]
        Py_ssize_t columns = moving.shape[1]
        Py_ssize_t rows = moving.shape[2]
        Py_ssize_t n_states = halves.shape[0]
        Py_ssize_t i
    if not 0 <= start <= stop <= columns or not 1 <= n_states <= MOST_STATES:
        return False
    for i in range(3):
        if chosen.shape[i] != moving.shape[i] or carried.shape[i] != moving.shape[i]:
            return False
    # One column on its own reads no coupling.
    if stop - start > 1 and (
        coupling.shape[0] != groups or coupling.shape[1] != columns or coupling.shape[2] != columns
    ):
        return False
    if between.shape[0] and (
        between.shape[0] != groups or between.shape[1] != rows or between.shape[2] != rows
    ):
        return False
    if variance.shape[0] != groups or variance.shape[1] != columns:
        return False
    if penalty.shape[0] != groups or penalty.shape[1] != rows:
        return False
    if counts.shape[0] != 2 or counts.shape[1] != entries.shape[0]:
        return False
    if bounds.shape[0] != 5 or shortest.shape[0] != 4 or lengths.shape[0] != members.shape[0]:
        return False
    if bounds[0] != 0 or bounds[4] != members.shape[0] or transitions.shape[0] != 2 * n_states:
        return False
    for i in range(4):
        if bounds[i] > bounds[i + 1]:
            return False
    for i in range(members.shape[0]):
        if not 0 <= members[i] < entries.shape[0]:
            return False
    for i in range(n_states):
        # From every state something can be chosen.
        if halves[i] > 1 or bounds[2 * halves[i]] == bounds[2 * halves[i] + 2]:
            return False
    for i in range(2 * n_states):
        if transitions[i] >= n_states:
            return False
    return True


def fix_columns(
    float[:, :, ::1] moving,             # IN/OUT (groups, columns, rows): targets of the columns
    const float[:, :, ::1] coupling,     # IN   (groups, columns, columns), above the diagonal
    const float[:, ::1] variance,        # IN   (groups, columns)
    const float[:, :, ::1] between,      # IN   (groups, rows, rows), or empty: above the diagonal
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
    """Fix columns ``start`` to ``stop`` and carry their errors among themselves.

    Raises:
        InputError: shapes disagree, or a table holds what is no index.
    """
    if not fits(
        moving, coupling, variance, between, penalty, start, stop, entries, members, bounds,
        lengths, shortest, transitions, halves, chosen, carried, counts,
    ):
        raise InputError("the arrays of a trellis do not fit together")
    cdef:
        Py_ssize_t n_groups = moving.shape[0]
        Py_ssize_t n_columns = moving.shape[1]
        Py_ssize_t n_rows = moving.shape[2]
        Py_ssize_t n_states = halves.shape[0]
        bint coupled = between.shape[0] > 0
        # Choices differ by subset, or by state and parity where states have targets of their own.
        Py_ssize_t n_places = 2 * n_states if coupled else 4
        Py_ssize_t t, s, g, r, i, state, reached, origin, place
        float value, share
        float cost[4]
        double path[MOST_STATES]
        int32_t* choice = <int32_t*> calloc(n_places * n_groups * n_rows + 1, sizeof(int32_t))
        uint8_t* came = <uint8_t*> calloc(n_states * n_groups * n_rows + 1, sizeof(uint8_t))
        float* survivors = <float*> calloc(2 * n_states * n_rows + 1, sizeof(float))

    if choice == NULL or came == NULL or survivors == NULL:
        free(choice)
        free(came)
        free(survivors)
        raise MemoryError
    with nogil:
        for t in range(start, stop if n_groups * n_rows else start):
            for state in range(n_states):
                path[state] = HUGE_VAL
            path[0] = 0
            if coupled:
                follow_coupled(
                    &moving[0, t, 0], n_groups, n_rows, &variance[0, t], n_columns, between,
                    penalty, entries, members, bounds, lengths, shortest, transitions, halves,
                    n_places, path, choice, came, survivors, survivors + n_states * n_rows,
                )
            else:
                follow(
                    &moving[0, t, 0], n_groups, n_rows, &variance[0, t], n_columns,
                    penalty, entries, members, bounds, lengths, shortest, transitions, halves,
                    n_places, path, cost, choice, came,
                )
            reached = 0
            for state in range(1, n_states):
                if path[state] < path[reached]:
                    reached = state
            for g in range(n_groups - 1, -1, -1):
                for r in range(n_rows - 1, -1, -1):
                    i = g * n_rows + r
                    origin = came[n_states * i + reached]
                    reached = origin >> 1
                    place = origin if coupled else 2 * halves[reached] + (origin & 1)
                    chosen[g, t, r] = choice[n_places * i + place]
                    counts[halves[reached], chosen[g, t, r]] += 1
                    carried[g, t, r] = moving[g, t, r] - entries[chosen[g, t, r]]
            for g in range(n_groups):
                for s in range(t + 1, stop):
                    share = coupling[g, t, s]
                    for r in range(n_rows):
                        value = share * carried[g, t, r]
                        moving[g, s, r] = moving[g, s, r] - value
    free(choice)
    free(came)
    free(survivors)
