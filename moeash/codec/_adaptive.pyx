# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Code the indices of one tensor as mixed, adaptive binary decisions: integers only, no allocation.

Only adaptive.py may call this module; it says what is modelled and why, builds the tables and owns
every array. All state lives in those arrays, so that a tensor can be coded in several calls, row
by row. Nothing here depends on floating point, on the compiler or on the width of ``int``; sums
that may overflow wrap modulo 2**32. Definition: tests/codec/adaptive_twin.py, equal bit for bit in
tests/codec/test_adaptive.py, which also builds this file with bounds checks.
"""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

# Numbers of the format; adaptive.py holds the same ones under the same names, see check_layout().
cdef enum:
    N_CONTEXTS = 8
    N_STATISTICS = 6
    N_INPUTS = N_CONTEXTS + N_STATISTICS + 1
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
    HALF_SHIFT = 2            # log2(UNARY / BY_HALF)
    ESCAPE_LENGTHS = 32

cdef enum:
    STRETCH_LIMIT = 2047
    COUNT_LIMIT = 250
    STEP_LIMIT = 5801
    MIN_PROBABILITY = 24
    MAX_PROBABILITY = 65536 - MIN_PROBABILITY
    MIN_ESCAPE = 512
    MAX_ESCAPE = 65536 - MIN_ESCAPE

# Positions in the state that outlives a call.
cdef enum:
    SPAN = 0
    CODE = 1
    POSITION = 2

cdef struct RangeCoder:
    uint64_t span             # width of the interval, at least 2**32 between decisions
    uint64_t code             # the interval's lower end, or the stream's offset into the interval
    Py_ssize_t position       # bytes written or read
    Py_ssize_t length         # bytes there are to read
    const uint8_t* stream
    uint8_t* output


def layout():
    """Return the numbers this kernel was built with, for adaptive.py to compare with its own."""
    return (
        N_CONTEXTS, N_STATISTICS, CONTEXT_SLOTS, UNARY, LOCAL, KNOTS, COUNT_LIMIT, STEP_LIMIT,
        MIN_PROBABILITY, ESCAPE_LENGTHS, BY_HALF,
    )


cdef inline int32_t clamp(int32_t x, int32_t low, int32_t high) noexcept nogil:
    return low if x < low else (high if x > high else x)


cdef inline int32_t magnitude(int32_t x) noexcept nogil:
    return -x if x < 0 else x


cdef inline int32_t capped(int32_t x, int32_t most) noexcept nogil:
    """Return the magnitude of x, at most ``most``."""
    cdef int32_t m = -x if x < 0 else x
    return m if m < most else most


cdef inline int32_t sign3(int32_t x) noexcept nogil:
    return 2 if x > 0 else (1 if x < 0 else 0)


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


cdef inline bint code_bit(
    RangeCoder* coder, bint decoding, bint bit, int32_t probability,
) noexcept nogil:
    """Code ``bit``, one with ``probability`` / 65536, or return the decoded one.

    Source: range coding after G. N. N. Martin (1979) with a 64-bit interval, so that its precision
    costs nothing measurable; a carry is walked back into the bytes already written.
    """
    cdef:
        uint64_t split = (coder.span >> 16) * <uint64_t> probability
        uint32_t word = 0
        Py_ssize_t j
    if decoding:
        bit = coder.code < split
    if bit:
        coder.span = split
    else:
        coder.span -= split
        if decoding:
            coder.code -= split
        else:
            coder.code += split
            if coder.code < split:
                j = coder.position - 1
                while coder.output[j] == 255:
                    coder.output[j] = 0
                    j -= 1
                coder.output[j] += 1
    if coder.span >> 32 == 0:
        coder.span <<= 32
        if decoding:
            for j in range(coder.position, coder.position + 4):
                word = (word << 8) | (coder.stream[j] if j < coder.length else 0)
            coder.code = (coder.code << 32) | word
        else:
            for j in range(4):
                coder.output[coder.position + j] = <uint8_t> (coder.code >> (56 - 8 * j))
            coder.code <<= 32
        coder.position += 4
    return bit


cdef inline int32_t escape_probability(uint32_t state) noexcept nogil:
    return clamp(<int32_t> (state >> 16), MIN_ESCAPE, MAX_ESCAPE)


cdef inline uint32_t escape_update(uint32_t state, bint bit) noexcept nogil:
    return state + (~state >> 5) if bit else state - (state >> 5)


def run_rows(
    bint decoding,
    const uint8_t[::1] stream,           # IN   what to decode
    uint8_t[::1] output,                 # OUT  what is encoded, from POSITION on
    uint64_t[::1] state,                 # IN/OUT SPAN, CODE, POSITION
    int32_t[::1] values,                 # IN/OUT (pad + rows * row_size,): index - zero, or level
    Py_ssize_t pad,                      # zeros before the first value, at least row_size + 2
    Py_ssize_t first_row,
    Py_ssize_t last_row,
    Py_ssize_t n_channels,
    Py_ssize_t n_taps,
    Py_ssize_t tap_width,
    int32_t negative_limit,              # the largest magnitude below zero
    int32_t positive_limit,
    const int16_t[::1] stretch,          # tables, see adaptive.Tables
    const int32_t[::1] squash,
    const int16_t[::1] logs,
    const int32_t[::1] learning,
    const int32_t[::1] reciprocal,
    const int32_t[::1] counting,
    uint32_t[::1] slots,                 # the model, see adaptive.Model
    int32_t[::1] weights,
    int32_t[::1] refinements,
    int32_t[::1] steps,
    uint32_t[::1] escapes,
    int32_t[::1] column_mean,            # statistics of the tensor: (row_size + 2,)
    int32_t[::1] column_sign,            # (row_size,)
    int32_t[::1] column_drift,           # (row_size + 2,)
    int32_t[::1] channel_mean,           # (n_channels,)
    uint8_t[::1] states,                 # (row_size,): of the columns' paths
    const uint8_t[::1] transitions,      # IN   (2 * n_states,), of one state without a trellis
    const uint8_t[::1] halves,           # IN   (n_states,)
    const int32_t[::1] channel_prior,    # IN   (n_channels,), a statistic known beforehand
    int32_t[::1] tensor_mean,            # (2,): the mean and how many weights it has seen
):
    """Code rows ``first_row`` to ``last_row`` of a tensor and return whether they can be its own.

    Encoding writes at most ``adaptive.WORST_BYTES`` per weight. Decoding reads zeros past the end
    of the stream and returns False as soon as it is certain that the stream has another length, or
    a magnitude exceeds its limit; the rows from there on are then meaningless.
    """
    cdef:
        Py_ssize_t row_size = n_channels * n_taps
        Py_ssize_t row, column, channel, tap, i, j
        Py_ssize_t above = row_size
        Py_ssize_t back = n_taps if n_taps > 1 else 2          # the same tap, one channel before
        Py_ssize_t upper = tap_width if n_taps > 1 else 2      # the tap one line up in its kernel
        Py_ssize_t length = stream.shape[0]
        RangeCoder coder
        int32_t at[2 * N_CONTEXTS]
        int32_t given[2 * N_STATISTICS]
        int32_t inputs[N_INPUTS]
        int32_t where[N_CONTEXTS]
        int32_t row_mean, row_recent, row_sign, row_drift, kernel_sum
        int32_t value, m, left, left2, up, same_tap, line, diagonal, antidiagonal
        int32_t kernel_tap, kernel_column, kernel_total
        int32_t log_row, log_column, log_beside, log_channel, log_tensor, base
        int32_t row_tilt, drift, beside, kernel_tilt
        int32_t node, decision, first_context, first_input, bit, sign, limit, width
        int32_t probability, refined, error, place, fraction, step, excess
        int32_t target, count, learned, number, fixed, vote
        int32_t half, below, over, unit, shift
        bint dependent = halves.shape[0] > 1
        int64_t total
        uint32_t slot
        bint possible = True

    coder.span = state[SPAN]
    coder.code = state[CODE]
    coder.position = <Py_ssize_t> state[POSITION]
    coder.length = length
    coder.stream = &stream[0] if length else NULL
    coder.output = &output[0] if output.shape[0] else NULL
    with nogil:
        for row in range(first_row, last_row):
            row_mean = tensor_mean[0]
            row_recent = row_mean
            row_sign = 0
            row_drift = 0
            kernel_sum = 0
            kernel_total = 0
            kernel_column = 0
            channel = 0
            tap = 0
            for column in range(row_size):
                i = pad + row * row_size + column
                left = values[i - 1]
                left2 = values[i - 2]
                up = values[i - above]
                same_tap = values[i - back]
                line = values[i - upper]
                kernel_tap = <int32_t> tap if tap < 31 else 31
                if tap == 0:
                    kernel_sum = 0
                    kernel_total = 0
                    kernel_column = 0
                diagonal = 0
                antidiagonal = 0
                if tap >= tap_width:
                    if kernel_column > 0:
                        diagonal = values[i - tap_width - 1]
                    if kernel_column < tap_width - 1:
                        antidiagonal = values[i - tap_width + 1]

                # What is known about the magnitude.
                log_row = logs[log_slot(row_mean)]
                log_column = logs[log_slot(column_mean[column + 1])]
                log_beside = logs[log_slot((column_mean[column] + column_mean[column + 2]) >> 1)]
                log_channel = logs[log_slot(channel_mean[channel])]
                log_tensor = logs[log_slot(tensor_mean[0])]
                at[0] = coarse(log_row) * 32 + coarse(log_column)
                at[1] = kernel_tap * 32 + coarse(log_row)
                at[2] = (
                    (capped(left, 3) * 4 + capped(left2, 3)) * 4 + capped(up, 3)
                ) * 4 + capped(same_tap, 3)
                at[3] = clamp(
                    (
                        ((log_row * 8 + log_column * 5 + log_channel * 6 - log_tensor * 3) >> 4)
                        + 1400
                    ) >> 3, 0, 511,
                )
                at[4] = coarse(log_column) * 32 + coarse(log_beside)
                at[LOCAL] = kernel_tap * 3 + capped(left, 2)
                at[6] = (
                    (capped(left, 2) * 3 + capped(same_tap, 2)) * 3 + capped(line, 2)
                ) * 32 + kernel_tap
                at[7] = clamp(kernel_tap, 0, 11) * 16 + clamp(kernel_total, 0, 15)
                given[0] = clamp(log_row - log_tensor, -STRETCH_LIMIT, STRETCH_LIMIT)
                given[1] = clamp(log_channel - log_tensor, -STRETCH_LIMIT, STRETCH_LIMIT)
                given[2] = clamp(log_beside - log_tensor, -STRETCH_LIMIT, STRETCH_LIMIT)
                given[3] = clamp(
                    logs[log_slot(row_recent)] - log_tensor, -STRETCH_LIMIT, STRETCH_LIMIT
                )
                given[4] = channel_prior[channel]
                given[5] = clamp(log_column - log_tensor, -STRETCH_LIMIT, STRETCH_LIMIT)
                place = clamp((log_column + 1024) >> 7, 0, 15) * N_DECISIONS
                for j in range(N_CONTEXTS):
                    at[j] = (<int32_t> j * CONTEXT_SLOTS + at[j]) * UNARY

                value = values[i] if not decoding else 0
                m = magnitude(value)
                sign = value > 0
                half = 0
                below = negative_limit
                over = positive_limit
                if dependent:
                    half = halves[states[column]]
                    below = (below + half) >> 1
                    over = (over + half) >> 1
                limit = below if below > over else over
                decision = 0
                while limit > 0:
                    # Decision 0: not zero? SIGN: positive? u in 1..UNARY-1: magnitude above u?
                    unit = decision
                    shift = 0
                    if decision == SIGN:
                        node = 0
                        first_context = N_CONTEXTS
                        first_input = N_STATISTICS
                    else:
                        node = decision
                        first_context = 0
                        first_input = 0
                        if half and decision < BY_HALF:
                            unit = HALF + decision
                            node = HALF_SLOTS + decision
                            shift = HALF_SHIFT

                    base = unit * N_INPUTS
                    total = 0
                    for j in range(N_CONTEXTS):
                        where[j] = (at[first_context + j] >> shift) + node
                        inputs[j] = stretch[slots[where[j]] >> 20]
                    for j in range(N_STATISTICS):
                        inputs[N_CONTEXTS + j] = given[first_input + j]
                    inputs[N_INPUTS - 1] = 256
                    for j in range(N_INPUTS):
                        total += <int64_t> weights[base + j] * inputs[j]
                    total >>= 16
                    if total > STRETCH_LIMIT:
                        total = STRETCH_LIMIT
                    elif total < -STRETCH_LIMIT:
                        total = -STRETCH_LIMIT
                    fraction = <int32_t> total + STRETCH_LIMIT + 1
                    probability = squash[fraction]
                    step = (place + unit) * KNOTS + (fraction >> 7)
                    fraction &= 127
                    refined = (
                        (refinements[step] >> 14) * (128 - fraction)
                        + (refinements[step + 1] >> 14) * fraction
                    ) >> 7
                    step += fraction >> 6
                    refined = clamp(
                        (probability + refined) >> 1, MIN_PROBABILITY, MAX_PROBABILITY
                    )

                    bit = sign if decision == SIGN else m > decision
                    bit = code_bit(&coder, decoding, bit, refined)

                    error = (bit << 16) - probability
                    error *= learning[steps[unit]]
                    if steps[unit] < STEP_LIMIT:
                        steps[unit] += 1
                    for j in range(N_INPUTS):
                        weights[base + j] = <int32_t> (
                            <uint32_t> weights[base + j]
                            + <uint32_t> ((<int64_t> inputs[j] * error + 131072) >> 18)
                        )
                    target = (1 << 22) - 1 if bit else 0
                    for j in range(N_CONTEXTS):
                        slot = slots[where[j]]
                        count = slot & 1023
                        learned = toward(<int32_t> (slot >> 10), target, counting[count])
                        slots[where[j]] = (<uint32_t> learned << 10) | <uint32_t> (
                            count + (count < COUNT_LIMIT)
                        )
                    target = (1 << 30) - 1 if bit else 0
                    refinements[step] += (target - refinements[step]) >> 7

                    if decision == 0:
                        if not bit:
                            break
                        if decoding:
                            m = 1
                        if below > 0 and over > 0:
                            decision = SIGN
                            row_tilt = clamp(row_sign >> 9, -4, 4) + 4
                            drift = clamp(column_drift[column + 1] >> 9, -4, 4) + 4
                            beside = clamp(
                                (column_drift[column] + column_drift[column + 2]) >> 9, -4, 4
                            ) + 4
                            kernel_tilt = clamp(kernel_sum, -4, 4) + 4
                            at[N_CONTEXTS] = (
                                (
                                    (clamp(kernel_tap, 0, 11) * 3 + sign3(left)) * 3 + sign3(line)
                                ) * 3 + sign3(diagonal)
                            ) * 3 + sign3(antidiagonal)
                            at[N_CONTEXTS + 1] = (
                                kernel_tap * 3 + sign3(left)
                            ) * 3 + sign3(line)
                            at[N_CONTEXTS + 2] = row_tilt * 9 + clamp(
                                column_sign[column] >> 9, -4, 4
                            ) + 4
                            at[N_CONTEXTS + 3] = (
                                (sign3(left) * 3 + sign3(line)) * 3 + sign3(same_tap)
                            ) * 3 + sign3(up)
                            at[N_CONTEXTS + 4] = drift * 9 + beside
                            at[N_CONTEXTS + LOCAL] = kernel_tap
                            at[N_CONTEXTS + 6] = (
                                kernel_tilt * 9 + drift
                            ) * 9 + clamp(row_drift >> 8, -4, 4) + 4
                            at[N_CONTEXTS + 7] = (
                                sign3(left) * 3 + sign3(left2)
                            ) * 3 + sign3(up)
                            for j in range(N_CONTEXTS):
                                at[N_CONTEXTS + j] += (
                                    SIGN_SLOTS + <int32_t> j * CONTEXT_SLOTS
                                )
                            given[N_STATISTICS] = clamp(left, -6, 6) * 128
                            given[N_STATISTICS + 1] = clamp(left2, -6, 6) * 128
                            given[N_STATISTICS + 2] = clamp(line, -6, 6) * 128
                            given[N_STATISTICS + 3] = clamp(diagonal, -6, 6) * 128
                            given[N_STATISTICS + 4] = clamp(antidiagonal, -6, 6) * 128
                            given[N_STATISTICS + 5] = column_drift[column + 1] >> 2
                            continue
                        sign = over > 0
                        decision = SIGN
                        bit = sign
                    if decision == SIGN:
                        sign = bit
                        limit = over if sign else below
                        decision = 1
                    else:
                        if not bit:
                            break
                        decision += 1
                        if decoding:
                            m = decision
                    if decision >= limit or decision == UNARY:
                        break

                if decision == UNARY and limit > UNARY:
                    # The rest in Elias' gamma code: its length and two leading bits are adaptive.
                    excess = m - UNARY + 1
                    width = 0
                    while True:
                        bit = code_bit(
                            &coder, decoding, excess >> (width + 1) > 0,
                            escape_probability(escapes[width]),
                        )
                        escapes[width] = escape_update(escapes[width], bit)
                        if not bit:
                            break
                        width += 1
                        if decoding and (1 << width) > limit - UNARY + 1:
                            possible = False
                            break
                    number = 1
                    for j in range(width if possible else 0):
                        bit = (excess >> (width - 1 - j)) & 1
                        if j < 2:
                            node = ESCAPE_LENGTHS + width * 4 + number
                            bit = code_bit(
                                &coder, decoding, bit, escape_probability(escapes[node])
                            )
                            escapes[node] = escape_update(escapes[node], bit)
                        else:
                            bit = code_bit(&coder, decoding, bit, 32768)
                        number = number * 2 + bit
                    if decoding:
                        m = number + UNARY - 1
                        if m > limit:
                            m = limit
                            possible = False

                if decoding:
                    value = m if sign else -m
                    values[i] = value

                # What the weight teaches.
                fixed = (m if m < 255 else 255) << 16
                if dependent:
                    # A level of half 1 stands for half a step less.
                    if half and m:
                        fixed -= 1 << 15
                    states[column] = transitions[2 * states[column] + (value & 1)]
                row_mean = toward(row_mean, fixed, reciprocal[min(column, 1000) + 9])
                row_recent += (fixed - row_recent) >> 3
                column_mean[column + 1] = toward(
                    column_mean[column + 1], fixed, reciprocal[min(row, 300) + 3]
                )
                channel_mean[channel] = toward(
                    channel_mean[channel], fixed, reciprocal[min(row * n_taps + tap, 2000) + 6]
                )
                tensor_mean[0] = toward(tensor_mean[0], fixed, reciprocal[tensor_mean[1] + 50])
                if tensor_mean[1] < 4000:
                    tensor_mean[1] += 1
                kernel_sum = clamp(kernel_sum + value, -64, 64)
                kernel_total = clamp(kernel_total + m, 0, 64)
                vote = 4096 if value > 0 else (-4096 if value < 0 else 0)
                row_sign += (vote - row_sign) >> 4
                row_drift += (vote - row_drift) >> 7
                column_sign[column] += (vote - column_sign[column]) >> 3
                column_drift[column + 1] += ((vote - column_drift[column + 1]) * 3) >> 7
                kernel_column += 1
                if kernel_column == tap_width:
                    kernel_column = 0
                tap += 1
                if tap == n_taps:
                    tap = 0
                    channel += 1
                if decoding and (not possible or coder.position - 8 >= length):
                    possible = False
                    break
            if not possible:
                break
    state[SPAN] = coder.span
    state[CODE] = coder.code
    state[POSITION] = <uint64_t> coder.position
    return possible
