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

from libc.math cimport HUGE_VAL
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free

from moeash.methods.feedback.assignment._steps cimport (
    MOST_STATES, Subset, cheapest, extend, lay_out, lay_ways,
)

from moeash.errors import InputError

cdef enum:
    WINDOW = 32  # rows for which every survivor has targets of its own


cdef struct Survivors:
    # What the paths to the states have of their own, and what they have in common.
    float* left                      # (rows,): targets, less the errors of what is common
    float* now                       # (n_states, WINDOW): targets of the window's rows
    float* then                      # likewise, one row later
    float* errors                    # (rows, 2 * n_states): by state and parity of the choice
    float* trail                     # (rows, n_states): errors on the way to each state


cdef void follow(
    const float* targets,
    Py_ssize_t n_groups,
    Py_ssize_t n_rows,
    const float* variance,
    Py_ssize_t n_columns,
    const float[:, ::1] penalty,
    const Subset* subsets,
    const uint8_t* ways,
    const uint8_t[::1] halves,
    double* path,
    int32_t* choice,
    uint8_t* came,
) noexcept nogil:
    """Find the cheapest paths down a column whose rows do not influence one another.

    ``targets`` and ``variance`` point to the column in the first group.
    """
    cdef:
        Py_ssize_t n_states = halves.shape[0]
        Py_ssize_t g, r, i, state, subset, parity
        float price
        double cost[4]
        double totals[2 * MOST_STATES]
    for g in range(n_groups):
        for r in range(n_rows):
            i = g * n_rows + r
            price = variance[g * n_columns] * penalty[g, r]
            for subset in range(4):
                cost[subset] = HUGE_VAL
                if subsets[subset].n:
                    cost[subset] = cheapest(
                        &subsets[subset], targets[g * n_columns * n_rows + r], price,
                        &choice[4 * i + subset],
                    )
            for state in range(n_states):
                for parity in range(2):
                    totals[2 * state + parity] = path[state] + cost[2 * halves[state] + parity]
            extend(totals, ways, n_states, path, &came[n_states * i])


cdef void follow_coupled(
    const float* targets,
    Py_ssize_t n_groups,
    Py_ssize_t n_rows,
    const float* variance,
    Py_ssize_t n_columns,
    const float[:, :, ::1] between,
    const float[:, ::1] penalty,
    const float[::1] entries,
    const Subset* subsets,
    const uint8_t* ways,
    const uint8_t[::1] halves,
    double* path,
    int32_t* choice,
    uint8_t* came,
    Survivors* own,
) noexcept nogil:
    """Find good paths down a column whose rows take up each other's errors.

    Every state has targets of its own, those its survivor left to later rows: per-survivor
    processing. With one state this is the plain recursion. But survivors differ in their last rows
    alone: followed back, they soon meet. So targets of each are kept for the rows of one window,
    and what survivors have in common is taken off the targets behind it once for all of them. Of
    every target errors are taken off in the order of the rows, as if each was taken off at once.
    """
    cdef:
        Py_ssize_t n_states = halves.shape[0]
        Py_ssize_t g, r, s, i, state, parity, subset, origin, window, start, stop, common
        float price, error
        const float* share
        float* swapped
        float* source
        float* target
        double totals[2 * MOST_STATES]
    for g in range(n_groups):
        for r in range(n_rows):
            own.left[r] = targets[g * n_columns * n_rows + r]
        common = 0
        for window in range((n_rows + WINDOW - 1) // WINDOW):
            start = window * WINDOW
            stop = min(start + WINDOW, n_rows)
            common = part(
                own, &between[g, 0, 0], path, &came[n_states * g * n_rows], n_states, n_rows,
                common, start, stop,
            )
            for r in range(start, stop):
                i = g * n_rows + r
                price = variance[g * n_columns] * penalty[g, r]
                for state in range(n_states):
                    for parity in range(2):
                        origin = 2 * state + parity
                        totals[origin] = HUGE_VAL
                        subset = 2 * halves[state] + parity
                        if path[state] == HUGE_VAL or not subsets[subset].n:
                            continue
                        error = own.now[state * WINDOW + r - start]
                        totals[origin] = path[state] + cheapest(
                            &subsets[subset], error, price, &choice[2 * n_states * i + origin]
                        )
                        error = error - entries[choice[2 * n_states * i + origin]]
                        own.errors[2 * n_states * r + origin] = error
                extend(totals, ways, n_states, path, &came[n_states * i])
                share = &between[g, r, start]
                for state in range(n_states):
                    if path[state] == HUGE_VAL:
                        continue
                    origin = came[n_states * i + state]
                    error = own.errors[2 * n_states * r + origin]
                    source = &own.now[(origin >> 1) * WINDOW]
                    target = &own.then[state * WINDOW]
                    for s in range(r + 1 - start, stop - start):
                        target[s] = source[s] - error * share[s]
                swapped = own.now
                own.now = own.then
                own.then = swapped


cdef Py_ssize_t part(
    Survivors* own,
    const float* between,
    const double* path,
    const uint8_t* came,
    Py_ssize_t n_states,
    Py_ssize_t n_rows,
    Py_ssize_t common,
    Py_ssize_t start,
    Py_ssize_t stop,
) noexcept nogil:
    """Give every survivor its targets of the window from ``start`` to ``stop``.

    Args:
        between: ``(rows, rows)`` of the group.
        came: ``(rows, n_states)`` of the group.
        common: as many rows are taken off ``own.left`` already, from ``start`` on.

    Returns:
        The rows that all survivors have in common; they are taken off ``own.left``.
    """
    cdef:
        Py_ssize_t state, q, s, origin, met = start
        Py_ssize_t at[MOST_STATES]
        Py_ssize_t somewhere = -1
        bint apart
        float error
        float* target
        const float* share
    for state in range(n_states):
        at[state] = state
        if path[state] != HUGE_VAL:
            somewhere = state
    # Followed back row by row; the error of row q on the way to a state is kept as trail[q, state].
    for q in range(start - 1, common - 1, -1):
        apart = False
        for state in range(n_states):
            if path[state] != HUGE_VAL and at[state] != at[somewhere]:
                apart = True
        if apart:
            met = q
        for state in range(n_states):
            if path[state] == HUGE_VAL:
                continue
            origin = came[n_states * q + at[state]]
            own.trail[n_states * q + state] = own.errors[2 * n_states * q + origin]
            at[state] = origin >> 1
    for q in range(common, met):
        error = own.trail[n_states * q + somewhere]
        share = &between[n_rows * q]
        for s in range(start, n_rows):
            own.left[s] = own.left[s] - error * share[s]
    for state in range(n_states):
        if path[state] == HUGE_VAL:
            continue
        target = &own.now[state * WINDOW]
        for s in range(start, stop):
            target[s - start] = own.left[s]
        for q in range(met, start):
            error = own.trail[n_states * q + state]
            share = &between[n_rows * q + start]
            for s in range(stop - start):
                target[s] = target[s] - error * share[s]
    return met


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
    uint8_t* ways,
) noexcept nogil:
    """Return whether shapes agree and every index in a table is one; fill in ``ways``."""
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
    return lay_ways(transitions, ways)


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
    cdef uint8_t ways[2 * MOST_STATES]
    if not fits(
        moving, coupling, variance, between, penalty, start, stop, entries, members, bounds,
        lengths, shortest, transitions, halves, chosen, carried, counts, ways,
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
        Py_ssize_t n_members = members.shape[0]
        Py_ssize_t n_apart = n_rows if coupled else 0
        Py_ssize_t t, s, g, r, i, j, state, reached, origin, place
        float share
        double path[MOST_STATES]
        Subset subsets[4]
        Survivors own
        int32_t* choice = <int32_t*> calloc(n_places * n_groups * n_rows + 1, sizeof(int32_t))
        uint8_t* came = <uint8_t*> calloc(n_states * n_groups * n_rows + 1, sizeof(uint8_t))
        int32_t* guides = <int32_t*> calloc(n_members + 4, sizeof(int32_t))
        float* values = <float*> calloc(n_members + 1, sizeof(float))
        float* survivors = <float*> calloc(
            n_apart * (1 + 3 * n_states) + 2 * n_states * WINDOW, sizeof(float)
        )

    if not (choice and came and guides and values and survivors):
        free(choice)
        free(came)
        free(guides)
        free(values)
        free(survivors)
        raise MemoryError
    own.left = survivors
    own.errors = own.left + n_apart
    own.trail = own.errors + 2 * n_states * n_apart
    own.now = own.trail + n_states * n_apart
    own.then = own.now + n_states * WINDOW
    for i in range(4):
        j = bounds[i]
        subsets[i].n = bounds[i + 1] - j
        subsets[i].members = &members[0] + j
        subsets[i].lengths = &lengths[0] + j
        subsets[i].values = values + j
        subsets[i].guide = guides + j + i
        subsets[i].shortest = shortest[i]
        lay_out(&subsets[i], entries)
    with nogil:
        for t in range(start, stop if n_groups * n_rows else start):
            for state in range(n_states):
                path[state] = HUGE_VAL
            path[0] = 0
            if coupled:
                follow_coupled(
                    &moving[0, t, 0], n_groups, n_rows, &variance[0, t], n_columns, between,
                    penalty, entries, subsets, ways, halves, path, choice, came, &own,
                )
            else:
                follow(
                    &moving[0, t, 0], n_groups, n_rows, &variance[0, t], n_columns,
                    penalty, subsets, ways, halves, path, choice, came,
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
                        moving[g, s, r] = moving[g, s, r] - share * carried[g, t, r]
    free(choice)
    free(came)
    free(guides)
    free(values)
    free(survivors)
