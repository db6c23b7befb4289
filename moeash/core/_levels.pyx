# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Walk the paths of a tensor through a trellis; trellis.py says what they mean and owns the arrays.

Definition: tests/core/test_trellis.py.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t

from moeash.errors import InputError


def walk(
    bint inverse,
    const int32_t[::1] source,           # IN   (rows * columns,): values, or levels if inverse
    int32_t[::1] target,                 # OUT  the same shape: levels, or values if inverse
    Py_ssize_t n_rows,
    Py_ssize_t n_columns,
    const uint8_t[::1] transitions,      # (2 * n_states,)
    const uint8_t[::1] halves,           # (n_states,)
):
    """Translate and return True, or False at the first value its quantiser does not have.

    Raises:
        InputError: shapes disagree, or a table holds what is no state or no half.
    """
    cdef:
        Py_ssize_t n_states = halves.shape[0]
        Py_ssize_t row, column, i
        int32_t x, half
        int64_t level
        bint follows = n_rows >= 0 and n_columns >= 0 and transitions.shape[0] == 2 * n_states

    for i in range(n_states):
        follows = follows and halves[i] <= 1
    for i in range(transitions.shape[0]):
        follows = follows and transitions[i] < n_states
    if not follows or source.shape[0] != n_rows * n_columns or target.shape[0] != source.shape[0]:
        raise InputError("the arrays of a trellis do not fit together")
    if not source.shape[0]:
        return True
    cdef uint8_t[::1] states = bytearray(n_columns)

    with nogil:
        for row in range(n_rows):
            for column in range(n_columns):
                i = row * n_columns + column
                x = source[i]
                half = halves[states[column]]
                if inverse:
                    level = x
                    target[i] = <int32_t> (2 * level - (half if x > 0 else (-half if x < 0 else 0)))
                else:
                    if x != 0 and (x & 1) != half:
                        follows = False
                        break
                    level = (<int64_t> x + (half if x > 0 else (-half if x < 0 else 0))) // 2
                    target[i] = <int32_t> level
                states[column] = transitions[2 * states[column] + (level & 1)]
            if not follows:
                break
    return follows
