# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""The loops of uniform binning: O(n), OpenMP, nothing allocated.

Only bins.py and statistics.py may call this module; they check dtypes and ranges and say what is
wrong. That arrays are as large as they are read is checked here once more, a few comparisons a
call; a weight that is NaN or infinite still has a bin.
Reference: bins.assign_bins_reference, compared bit for bit in tests/core/test_bins.py. With every
access checked: CONTRIBUTING.md, Kernels.

The C below is plain C. With GCC on x86-64 glibc each loop is compiled for three instruction sets
and the loader picks one, so a wheel runs anywhere; elsewhere there is one plain version. Only
subtraction, multiplication, comparison and truncation are used, and never a multiplication whose
result is added, so no instruction set can round differently.
"""

from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from moeash.errors import InputError

cdef extern from *:
    r"""
    #include <stdint.h>
    #include <stddef.h>

    /* The loader picks a clone before a sanitizer could be ready: then there is one version. */
    #if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) \
        && !defined(__SANITIZE_ADDRESS__)
    #if __GNUC__ >= 12  /* the first to dispatch on x86-64-v4 */
    #define MOEASH_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
    #else
    #define MOEASH_CLONES __attribute__((target_clones("avx2", "default")))
    #endif
    #else
    #define MOEASH_CLONES
    #endif

    /* j[i] = bin of w[i]; returns non-zero if any w[i] is NaN or infinite (w - w is then NaN).
       Clamped as a float: converting a float outside int32 is undefined in C. */
    #define MOEASH_LOCATE(SUFFIX, WEIGHT)                                                       \
    MOEASH_CLONES static int moeash_locate_##SUFFIX(                                            \
        const WEIGHT *restrict w, ptrdiff_t n,                                                  \
        double origin, double per_width, double top, int32_t *restrict j)                       \
    {                                                                                           \
        int bad = 0;                                                                            \
        for (ptrdiff_t i = 0; i < n; i++) {                                                     \
            double x = ((double) w[i] - origin) * per_width;                                    \
            x = x > 0.0 ? x : 0.0;                                                              \
            x = x < top ? x : top;                                                              \
            j[i] = (int32_t) x;                                                                 \
            bad |= !(w[i] - w[i] == 0);                                                         \
        }                                                                                       \
        return bad;                                                                             \
    }
    MOEASH_LOCATE(float, float)
    MOEASH_LOCATE(double, double)

    #define MOEASH_STORE(INDEX)                                                                 \
    MOEASH_CLONES static void moeash_narrow_##INDEX(                                            \
        const int32_t *restrict j, ptrdiff_t n, INDEX *restrict out)                            \
    {                                                                                           \
        for (ptrdiff_t i = 0; i < n; i++)                                                       \
            out[i] = (INDEX) j[i];                                                              \
    }                                                                                           \
    static void moeash_look_up_##INDEX(                                                         \
        const int32_t *restrict j, ptrdiff_t n, const INDEX *restrict lookup,                   \
        INDEX *restrict out)                                                                    \
    {                                                                                           \
        for (ptrdiff_t i = 0; i < n; i++)                                                       \
            out[i] = lookup[j[i]];                                                              \
    }
    MOEASH_STORE(uint8_t)
    MOEASH_STORE(uint16_t)
    MOEASH_STORE(uint32_t)
    """
    int moeash_locate_float(
        const float *, Py_ssize_t, double, double, double, int32_t *) noexcept nogil
    int moeash_locate_double(
        const double *, Py_ssize_t, double, double, double, int32_t *) noexcept nogil
    void moeash_narrow_uint8_t(const int32_t *, Py_ssize_t, uint8_t *) noexcept nogil
    void moeash_narrow_uint16_t(const int32_t *, Py_ssize_t, uint16_t *) noexcept nogil
    void moeash_narrow_uint32_t(const int32_t *, Py_ssize_t, uint32_t *) noexcept nogil
    void moeash_look_up_uint8_t(
        const int32_t *, Py_ssize_t, const uint8_t *, uint8_t *) noexcept nogil
    void moeash_look_up_uint16_t(
        const int32_t *, Py_ssize_t, const uint16_t *, uint16_t *) noexcept nogil
    void moeash_look_up_uint32_t(
        const int32_t *, Py_ssize_t, const uint32_t *, uint32_t *) noexcept nogil

ctypedef fused weight_t:
    float
    double

ctypedef fused index_t:
    uint8_t
    uint16_t
    uint32_t

cdef enum:
    TILE = 1 << 10      # its bins stay in L1 between the loop that finds and the one that stores
    CHUNK_SIZE = 1 << 16

CHUNK = CHUNK_SIZE      # weights a thread takes at a time; a multiple of TILE


def assign(
    const weight_t[::1] weights,    # IN   (n,)
    double origin,
    double per_width,
    Py_ssize_t n_bins,              # in [1, 2**31)
    const index_t[::1] lookup,      # IN   (n_bins,), or (0,) for the bins themselves
    index_t[::1] indices,           # OUT  (n,)
    int n_threads,
):
    """Write the (looked up) bin of every weight; return 0 iff all weights are finite.

    Each weight writes its own element, so the result does not depend on n_threads.
    """
    cdef:
        Py_ssize_t n = weights.shape[0]
        Py_ssize_t n_chunks = (n + CHUNK_SIZE - 1) // CHUNK_SIZE
        Py_ssize_t chunk
        double top = <double> (n_bins - 1)
        const index_t *table = &lookup[0] if lookup.shape[0] else NULL
        int bad = 0

    if (
        not 1 <= n_bins < <Py_ssize_t> 1 << 31
        or indices.shape[0] != n
        or (table is not NULL and lookup.shape[0] != n_bins)
    ):
        raise InputError(f"{n} weights, {n_bins} bins and {indices.shape[0]} indices do not fit")
    for chunk in prange(n_chunks, schedule="static", nogil=True, num_threads=n_threads):
        bad += _assign_range(
            weights, chunk * CHUNK_SIZE, min(n, (chunk + 1) * CHUNK_SIZE),
            origin, per_width, top, table, indices,
        )
    return bad


cdef int _assign_range(
    const weight_t[::1] weights, Py_ssize_t start, Py_ssize_t stop,
    double origin, double per_width, double top, const index_t *table, index_t[::1] indices,
) noexcept nogil:
    cdef:
        int32_t[TILE] tile
        Py_ssize_t i = start
        Py_ssize_t m
        int bad = 0

    while i < stop:
        m = min(<Py_ssize_t> TILE, stop - i)
        bad |= _locate(&weights[i], m, origin, per_width, top, tile)
        _store(tile, m, table, &indices[i])
        i += m
    return bad


cdef inline int _locate(
    const weight_t *w, Py_ssize_t n, double origin, double per_width, double top, int32_t *j,
) noexcept nogil:
    if weight_t is float:
        return moeash_locate_float(w, n, origin, per_width, top, j)
    else:
        return moeash_locate_double(w, n, origin, per_width, top, j)


cdef inline void _store(
    const int32_t *j, Py_ssize_t n, const index_t *table, index_t *out,
) noexcept nogil:
    if index_t is uint8_t:
        if table is NULL:
            moeash_narrow_uint8_t(j, n, out)
        else:
            moeash_look_up_uint8_t(j, n, table, out)
    elif index_t is uint16_t:
        if table is NULL:
            moeash_narrow_uint16_t(j, n, out)
        else:
            moeash_look_up_uint16_t(j, n, table, out)
    else:
        if table is NULL:
            moeash_narrow_uint32_t(j, n, out)
        else:
            moeash_look_up_uint32_t(j, n, table, out)


def range_sums(
    const weight_t[::1] ordered,    # IN   (n,)
    const int64_t[::1] positions,   # IN   (n_ranges + 1,), increasing, in [0, n]
    Py_ssize_t block,
    const double[::1] high,         # IN   (n // block + 1,)
    const double[::1] low,          # IN   (n // block + 1,), see statistics._block_prefix
    double[::1] sums,               # OUT  (n_ranges,)
):
    """Write into sums[r] the sum of ordered[positions[r]:positions[r + 1]].

    Whole blocks come from the prefix sums high + low, the ends from the weights themselves: never
    a difference of two sums that share a weight, so a small range beside large ones is exact.
    """
    cdef:
        Py_ssize_t n_ranges = sums.shape[0]
        Py_ssize_t n = ordered.shape[0]
        Py_ssize_t r, start, stop, first, last
        double ends, middle
        bint fits = block > 0 and positions.shape[0] == n_ranges + 1

    if fits:
        fits = high.shape[0] > n // block and low.shape[0] > n // block
        fits = fits and 0 <= positions[0] and positions[n_ranges] <= n
        for r in range(n_ranges):
            fits = fits and positions[r] <= positions[r + 1]
    if not fits:
        raise InputError(f"the {n_ranges} ranges of {n} weights do not fit")

    for r in range(n_ranges):
        start = positions[r]
        stop = positions[r + 1]
        first = (start + block - 1) // block
        last = stop // block
        if start == stop:
            sums[r] = 0.0
        elif first >= last:
            sums[r] = _sum(&ordered[start], stop - start)
        else:
            middle = (high[last] - high[first]) + (low[last] - low[first])
            ends = 0.0
            if start < first * block:
                ends += _sum(&ordered[start], first * block - start)
            if last * block < stop:
                ends += _sum(&ordered[last * block], stop - last * block)
            sums[r] = middle + ends


cdef inline double _sum(const weight_t *weights, Py_ssize_t n) noexcept nogil:
    cdef:
        Py_ssize_t i = 0
        double a = 0.0
        double b = 0.0
        double c = 0.0
        double d = 0.0

    while i + 4 <= n:
        a += weights[i]
        b += weights[i + 1]
        c += weights[i + 2]
        d += weights[i + 3]
        i += 4
    while i < n:
        a += weights[i]
        i += 1
    return (a + b) + (c + d)
