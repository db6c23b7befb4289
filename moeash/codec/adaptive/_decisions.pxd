# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""How a decision is predicted: contexts, statistics and one logistic mixture of them, inline.

Definition: tests/codec/adaptive/twin.py. What a decision teaches is in _rows.pyx.
"""

from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t

from moeash.codec.adaptive._range_coder cimport clamp

# Numbers of the format; model.py holds the same ones under the same names and compares.
cdef enum:
    N_CONTEXTS = 8
    N_STATISTICS = 6
    N_INPUTS = N_CONTEXTS + N_STATISTICS + 1
    N_LANES = 16              # inputs and weights of a decision as they lie in memory
    N_GIVEN = N_LANES - N_CONTEXTS
    CONTEXT_SLOTS = 1024
    UNARY = 8
    SIGN = UNARY
    HALF = UNARY + 1          # the decisions that half 1 of a trellis takes for itself begin here
    BY_HALF = 2
    N_DECISIONS = HALF + BY_HALF
    LOCAL = 5
    KNOTS = 33
    LOG_SPLIT = 1 << 18
    SIGN_SLOTS = N_CONTEXTS * CONTEXT_SLOTS * UNARY
    HALF_SLOTS = SIGN_SLOTS + N_CONTEXTS * CONTEXT_SLOTS
    PLACE_SCALES = 32
    PLACE_LEVELS = 4

cdef enum:
    STRETCH_LIMIT = 2047
    STEP_LIMIT = 5801
    MIN_PROBABILITY = 24
    MAX_PROBABILITY = 65536 - MIN_PROBABILITY

cdef struct Mixer:
    const int16_t* stretch    # tables, see model.Tables
    const int32_t* squash
    const int32_t* learning
    const int64_t* counting
    int32_t* weights          # the model, see model.Model
    int32_t* refinements
    int32_t* steps

cdef struct Decision:
    uint32_t* slots[N_CONTEXTS]
    int16_t inputs[N_LANES]
    int32_t* weights
    int32_t* steps
    int32_t* refinement       # the nearer of the two its last stage lies between
    int32_t mixed             # probability before the last stage
    int32_t probability


cdef inline int32_t magnitude(int32_t x) noexcept nogil:
    return -x if x < 0 else x


cdef inline int32_t capped(int32_t x, int32_t most) noexcept nogil:
    """Return the magnitude of x, at most ``most``."""
    cdef int32_t m = -x if x < 0 else x
    return m if m < most else most


cdef inline int32_t sign3(int32_t x) noexcept nogil:
    return 2 if x > 0 else (1 if x < 0 else 0)


cdef inline int32_t in_units(int32_t x, int32_t shift) noexcept nogil:
    """Return x / 2**shift, rounded away from zero."""
    return ((x - 1) >> shift) + 1 if x > 0 else x >> shift


cdef inline int32_t log_slot(int32_t mean) noexcept nogil:
    """Return where the logarithm of a mean magnitude of 16 fraction bits stands in its table."""
    if mean < LOG_SPLIT:
        return mean >> 6
    return 4096 + (mean >> 12)


cdef inline int32_t coarse(int32_t log) noexcept nogil:
    return clamp((log + 1088) >> 6, 0, 31)


cdef inline int32_t toward(int32_t x, int32_t y, int32_t rate) noexcept nogil:
    """Return x moved to y by ``rate`` / 65536 of the way, rounded down."""
    return x + <int32_t> ((<int64_t> (y - x) * rate) >> 16)


cdef inline void predict(
    Decision* decision,
    const Mixer* mixer,
    uint32_t** slots,         # of the contexts
    int32_t node,             # which of the decisions that share them
    const int16_t* given,     # (N_GIVEN,): statistics, 256, 0
    int32_t which,            # decision whose weights and refinements are used
    int32_t scale,            # of the column
) noexcept nogil:
    """Find the probability of a decision, and what :func:`learn` needs."""
    cdef:
        int32_t* weights = mixer.weights + which * N_LANES
        int32_t* refinement = mixer.refinements + (scale * N_DECISIONS + which) * KNOTS
        int64_t by_contexts = 0
        int64_t by_given = 0
        int64_t total
        int32_t j, x, fraction, refined
        int16_t stretched

    for j in range(N_CONTEXTS):
        decision.slots[j] = slots[j] + node
        stretched = mixer.stretch[slots[j][node] >> 20]
        decision.inputs[j] = stretched
        by_contexts += <int64_t> weights[j] * stretched
    for j in range(N_GIVEN):
        decision.inputs[N_CONTEXTS + j] = given[j]
    for j in range(N_INPUTS - N_CONTEXTS):
        by_given += <int64_t> weights[N_CONTEXTS + j] * given[j]
    total = (by_contexts + by_given) >> 16
    total = STRETCH_LIMIT if total > STRETCH_LIMIT else total
    total = -STRETCH_LIMIT if total < -STRETCH_LIMIT else total
    x = <int32_t> total + STRETCH_LIMIT + 1
    fraction = x & 127
    refinement += x >> 7
    refined = (
        (refinement[0] >> 14) * (128 - fraction) + (refinement[1] >> 14) * fraction
    ) >> 7
    decision.mixed = mixer.squash[x]
    decision.probability = clamp((decision.mixed + refined) >> 1, MIN_PROBABILITY, MAX_PROBABILITY)
    decision.refinement = refinement + (fraction >> 6)
    decision.weights = weights
    decision.steps = mixer.steps + which
