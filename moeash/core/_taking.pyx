# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""Look entries up by narrow indices, without widening these and without the GIL.

NumPy and torch widen indices to 4 or 8 bytes first, which takes longer than looking them up. Values
are moved as bits, so that any dtype of 2, 4 or 8 bytes will do. Twin: np.take, in
tests/core/test_taking.py.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from moeash.errors import InputError

ctypedef fused Bits:
    uint16_t
    uint32_t
    uint64_t

ctypedef fused Index:
    uint8_t
    uint16_t
    uint32_t


def take(
    const Bits[::1] entries,        # IN   (n_entries,)
    const Index[::1] indices,       # IN   (n,)
    Bits[::1] out,                  # OUT  (n,)
):
    """Set ``out`` to the entries of all indices.

    Raises:
        InputError: there is no such entry, or the arrays do not fit together.
    """
    cdef:
        Py_ssize_t n = indices.shape[0]
        Py_ssize_t n_entries = entries.shape[0]
        Py_ssize_t i, index = 0
        bint fits = True

    if out.shape[0] != n:
        raise InputError(f"{n} indices were given, and room for {out.shape[0]} entries")
    with nogil:
        for i in range(n):
            index = <Py_ssize_t> indices[i]
            if index >= n_entries:
                fits = False
                break
            out[i] = entries[index]
    if not fits:
        raise InputError(f"index {index} was given, of {n_entries} entries")
