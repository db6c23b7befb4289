# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Walk the paths of a tensor through a trellis; trellis.py says what they mean and owns the arrays.

Definition: tests/core/test_trellis.py.
"""

from libc.stdint cimport int32_t, uint8_t


def walk(
    bint inverse,
    const int32_t[::1] source,           # IN   (rows * columns,): values, or levels if inverse
    int32_t[::1] target,                 # OUT  the same shape: levels, or values if inverse
    Py_ssize_t n_rows,
    Py_ssize_t n_columns,
    const uint8_t[::1] transitions,      # (2 * n_states,)
    const uint8_t[::1] halves,           # (n_states,)
):
    """Translate and return True, or False at the first value its quantiser does not have."""
    cdef:
        Py_ssize_t row, column, i
        int32_t x, level, half
        uint8_t[::1] states = bytearray(n_columns)
        bint follows = True

    with nogil:
        for row in range(n_rows):
            for column in range(n_columns):
                i = row * n_columns + column
                x = source[i]
                half = halves[states[column]]
                if inverse:
                    level = x
                    target[i] = 2 * x - (half if x > 0 else (-half if x < 0 else 0))
                else:
                    if x != 0 and (x & 1) != half:
                        follows = False
                        break
                    level = (x + (half if x > 0 else (-half if x < 0 else 0))) // 2
                    target[i] = level
                states[column] = transitions[2 * states[column] + (level & 1)]
            if not follows:
                break
    return follows
