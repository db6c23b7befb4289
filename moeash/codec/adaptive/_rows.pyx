# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Code the indices of one tensor as mixed, adaptive binary decisions: integers only, no allocation.

Only walk.py may call this module; coder.py says what is modelled and why, walk.py owns every array.
All state lives in them, so that a tensor can be coded in several calls, row by row. That they are
as large as they are used is checked once a call; every index behind that is bounded by the code
that makes it, whatever a stream says. Nothing here depends on floating point, on the compiler or on
the width of ``int``; sums that may overflow wrap modulo 2**32. Definition:
tests/codec/adaptive/twin.py, equal bit for bit in tests/codec/adaptive/test_coder.py, which also
builds this file with bounds checks.
"""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from moeash.codec.adaptive._decisions cimport (
    BY_HALF, CONTEXT_SLOTS, Decision, HALF, HALF_SLOTS, KNOTS, LOCAL, MIN_PROBABILITY, Mixer,
    N_CONTEXTS, N_DECISIONS, N_GIVEN, N_LANES, N_STATISTICS, PLACE_LEVELS, PLACE_SCALES, SIGN,
    SIGN_SLOTS, STEP_LIMIT, STRETCH_LIMIT, UNARY, capped, coarse, in_units, log_slot, magnitude,
    predict, sign3, toward,
)
from moeash.codec.adaptive._range_coder cimport (
    COUNT_LIMIT, ESCAPE_LENGTHS, PLACE_BITS, RangeCoder, clamp, code_bit, code_escape, code_place,
    observed,
)
from moeash.errors import InputError

# Positions in the state that outlives a call.
cdef enum:
    SPAN = 0
    CODE = 1
    POSITION = 2

cdef enum:
    COLUMN_SCALES = 16        # of the refinements, by the logarithm of a column's mean
    MOST_LEVELS = 1 << 30     # entries on one side of zero, so that no sum of two leaves 32 bits
    WORST_BYTES = 64          # of one weight, as walk.WORST_BYTES


def layout():
    """Return the numbers this kernel was built with, which model.py compares."""
    return (
        N_CONTEXTS, N_STATISTICS, CONTEXT_SLOTS, UNARY, LOCAL, KNOTS, COUNT_LIMIT, STEP_LIMIT,
        MIN_PROBABILITY, ESCAPE_LENGTHS, BY_HALF, N_LANES, PLACE_SCALES, PLACE_LEVELS,
        PLACE_BITS,
    )


cdef void learn(const Decision* decision, const Mixer* mixer, bint bit) noexcept nogil:
    """Learn from how a decision was taken.

    It is most of the work and nothing waits for it: callers predict what comes next before. Not
    inline, as compilers then turn its first loop into vector instructions; each input times the
    error, of 34 bits, is taken apart into products of 16 by 16 bits for that.
    """
    cdef:
        int32_t rate = mixer.learning[decision.steps[0]]
        int32_t error = ((<int32_t> bit << 16) - decision.mixed) * rate
        int16_t high = <int16_t> (error >> 11)
        int16_t low = <int16_t> (error & 2047)
        int32_t x, j

    for j in range(N_LANES):
        x = decision.inputs[j]
        decision.weights[j] = <int32_t> (
            <uint32_t> decision.weights[j]
            + <uint32_t> ((x * high + ((x * low + 131072) >> 11)) >> 7)
        )
    for j in range(N_CONTEXTS):
        decision.slots[j][0] = observed(decision.slots[j][0], bit, mixer.counting)
    decision.refinement[0] += ((((1 << 30) - 1) & -<int32_t> bit) - decision.refinement[0]) >> 7
    decision.steps[0] += decision.steps[0] < STEP_LIMIT


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
    int32_t shift,                       # magnitudes are modelled in units of 2**shift
    const int16_t[::1] stretch,          # tables, see model.Tables
    const int32_t[::1] squash,
    const int16_t[::1] logs,
    const int32_t[::1] learning,
    const int32_t[::1] reciprocal,
    const int64_t[::1] counting,
    uint32_t[::1] slots,                 # the model, see model.Model
    int32_t[::1] weights,
    int32_t[::1] refinements,
    int32_t[::1] steps,
    uint32_t[::1] escapes,
    uint32_t[::1] places,
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

    Encoding writes at most ``walk.WORST_BYTES`` per weight. Decoding reads zeros past the end
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
        Mixer mixer
        Decision nonzero
        Decision positive
        Decision larger[2]                # taken in turns
        Decision* asked
        uint32_t* own_slots[N_CONTEXTS]
        uint32_t* half_slots[N_CONTEXTS]
        uint32_t* sign_slots[N_CONTEXTS]
        uint32_t** first_slots
        int16_t given[N_GIVEN]
        int16_t tilts[N_GIVEN]
        int32_t at[N_CONTEXTS]
        int32_t row_mean, row_recent, row_sign, row_drift, kernel_sum, kernel_total
        int32_t kernel_tap, kernel_column, scale
        int32_t left, left2, up, same_tap, line, diagonal, antidiagonal
        int32_t log_row, log_column, log_beside, log_channel, log_tensor, log_blend
        int32_t row_tilt, column_tilt, kernel_tilt, drift, beside
        int32_t value, m, below, over, limit    # a magnitude, and the largest ones
        int32_t coded, level, highest, last     # in units of 2**shift
        int32_t bit, sign, half, first, place, fixed, vote
        bint dependent = halves.shape[0] > 1
        bint possible = True

    if not (
        n_channels >= 1 and 1 <= tap_width <= n_taps and pad >= row_size + 2
        and 0 <= first_row <= last_row and values.shape[0] >= pad + last_row * row_size
        and 0 <= negative_limit <= MOST_LEVELS and 0 <= positive_limit <= MOST_LEVELS
        and 0 <= shift < 30 and state.shape[0] == 3
        and (decoding or <Py_ssize_t> state[POSITION]
             + (last_row - first_row) * row_size * WORST_BYTES <= output.shape[0])
        and stretch.shape[0] == 4096 and squash.shape[0] == 4096 and logs.shape[0] == 8192
        and learning.shape[0] == STEP_LIMIT + 1 and reciprocal.shape[0] == 4096
        and counting.shape[0] == COUNT_LIMIT + 1
        and slots.shape[0] == N_CONTEXTS * CONTEXT_SLOTS * N_DECISIONS
        and weights.shape[0] == N_DECISIONS * N_LANES and steps.shape[0] == N_DECISIONS
        and refinements.shape[0] == COLUMN_SCALES * N_DECISIONS * KNOTS
        and escapes.shape[0] == ESCAPE_LENGTHS * 5
        and places.shape[0] == PLACE_SCALES * PLACE_LEVELS << PLACE_BITS
        and column_mean.shape[0] == row_size + 2 and column_drift.shape[0] == row_size + 2
        and column_sign.shape[0] == row_size and states.shape[0] == row_size
        and channel_mean.shape[0] == n_channels and channel_prior.shape[0] == n_channels
        and tensor_mean.shape[0] == 2 and 0 <= tensor_mean[1] <= 4000
        and halves.shape[0] >= 1 and transitions.shape[0] == 2 * halves.shape[0]
    ):
        raise InputError("the arrays of the adaptive coder do not fit together")
    for i in range(transitions.shape[0]):
        if transitions[i] >= halves.shape[0] or halves[i >> 1] > 1:
            raise InputError("the path of a tensor leads to a state that its trellis has not")
    given[N_STATISTICS] = tilts[N_STATISTICS] = 256
    given[N_STATISTICS + 1] = tilts[N_STATISTICS + 1] = 0
    mixer.stretch = &stretch[0]
    mixer.squash = &squash[0]
    mixer.learning = &learning[0]
    mixer.counting = &counting[0]
    mixer.weights = &weights[0]
    mixer.refinements = &refinements[0]
    mixer.steps = &steps[0]
    coder.decoding = decoding
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
                left = in_units(values[i - 1], shift)
                left2 = in_units(values[i - 2], shift)
                up = in_units(values[i - above], shift)
                same_tap = in_units(values[i - back], shift)
                line = in_units(values[i - upper], shift)
                kernel_tap = <int32_t> tap if tap < 31 else 31
                if tap == 0:
                    kernel_sum = 0
                    kernel_total = 0
                    kernel_column = 0
                diagonal = 0
                antidiagonal = 0
                if tap >= tap_width:
                    if kernel_column > 0:
                        diagonal = in_units(values[i - tap_width - 1], shift)
                    if kernel_column < tap_width - 1:
                        antidiagonal = in_units(values[i - tap_width + 1], shift)

                # What is known about the magnitude.
                log_row = logs[log_slot(row_mean)]
                log_column = logs[log_slot(column_mean[column + 1])]
                log_beside = logs[log_slot((column_mean[column] + column_mean[column + 2]) >> 1)]
                log_channel = logs[log_slot(channel_mean[channel])]
                log_tensor = logs[log_slot(tensor_mean[0])]
                log_blend = (log_row * 8 + log_column * 5 + log_channel * 6 - log_tensor * 3) >> 4
                at[0] = coarse(log_row) * 32 + coarse(log_column)
                at[1] = kernel_tap * 32 + coarse(log_row)
                at[2] = (
                    (capped(left, 3) * 4 + capped(left2, 3)) * 4 + capped(up, 3)
                ) * 4 + capped(same_tap, 3)
                at[3] = clamp((log_blend + 1400) >> 3, 0, 511)
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
                given[4] = <int16_t> channel_prior[channel]
                given[5] = clamp(log_column - log_tensor, -STRETCH_LIMIT, STRETCH_LIMIT)
                scale = clamp((log_column + 1024) >> 7, 0, 15)
                for j in range(N_CONTEXTS):
                    own_slots[j] = &slots[(j * CONTEXT_SLOTS + at[j]) * UNARY]

                # The decisions, each predicted before the last is learned from. The order decides
                # nothing but speed, and that by a fourth: measure before you change it.
                value = 0 if decoding else values[i]
                m = magnitude(value)
                coded = in_units(m, shift)
                sign = value > 0
                half = 0
                below = negative_limit
                over = positive_limit
                first_slots = own_slots
                if dependent:
                    half = halves[states[column]]
                    below = (below + half) >> 1
                    over = (over + half) >> 1
                if half:
                    first_slots = half_slots
                    for j in range(N_CONTEXTS):
                        half_slots[j] = &slots[HALF_SLOTS + (j * CONTEXT_SLOTS + at[j]) * BY_HALF]

                level = 0
                if below > 0 or over > 0:
                    first = HALF if half else 0
                    predict(&nonzero, &mixer, first_slots, 0, given, first, scale)
                    level = code_bit(&coder, coded > 0, nonzero.probability)
                    if not level:
                        learn(&nonzero, &mixer, 0)
                if level:
                    if below > 1 << shift or over > 1 << shift:
                        predict(&larger[1], &mixer, first_slots, 1, given, first + 1, scale)
                    if below == 0 or over == 0:
                        sign = over > 0
                        learn(&nonzero, &mixer, 1)
                    else:
                        row_tilt = clamp(row_sign >> 9, -4, 4) + 4
                        column_tilt = clamp(column_sign[column] >> 9, -4, 4) + 4
                        kernel_tilt = clamp(kernel_sum, -4, 4) + 4
                        drift = clamp(column_drift[column + 1] >> 9, -4, 4) + 4
                        beside = clamp(
                            (column_drift[column] + column_drift[column + 2]) >> 9, -4, 4
                        ) + 4
                        at[0] = ((
                            (clamp(kernel_tap, 0, 11) * 3 + sign3(left)) * 3 + sign3(line)
                        ) * 3 + sign3(diagonal)) * 3 + sign3(antidiagonal)
                        at[1] = (kernel_tap * 3 + sign3(left)) * 3 + sign3(line)
                        at[2] = row_tilt * 9 + column_tilt
                        at[3] = (
                            (sign3(left) * 3 + sign3(line)) * 3 + sign3(same_tap)
                        ) * 3 + sign3(up)
                        at[4] = drift * 9 + beside
                        at[LOCAL] = kernel_tap
                        at[6] = (
                            kernel_tilt * 9 + drift
                        ) * 9 + clamp(row_drift >> 8, -4, 4) + 4
                        at[7] = (sign3(left) * 3 + sign3(left2)) * 3 + sign3(up)
                        for j in range(N_CONTEXTS):
                            sign_slots[j] = &slots[SIGN_SLOTS + j * CONTEXT_SLOTS + at[j]]
                        tilts[0] = clamp(left, -6, 6) * 128
                        tilts[1] = clamp(left2, -6, 6) * 128
                        tilts[2] = clamp(line, -6, 6) * 128
                        tilts[3] = clamp(diagonal, -6, 6) * 128
                        tilts[4] = clamp(antidiagonal, -6, 6) * 128
                        tilts[5] = column_drift[column + 1] >> 2
                        predict(&positive, &mixer, sign_slots, 0, tilts, SIGN, scale)
                        sign = code_bit(&coder, sign, positive.probability)
                        learn(&nonzero, &mixer, 1)
                        learn(&positive, &mixer, sign)
                    limit = over if sign else below
                    highest = in_units(limit, shift)
                    last = highest if highest < UNARY else UNARY
                    bit = 1
                    while bit and level < last:
                        asked = &larger[level & 1]
                        bit = code_bit(&coder, coded > level, asked.probability)
                        level += bit
                        if bit and level < last:
                            predict(
                                &larger[level & 1], &mixer, own_slots, level, given, level, scale
                            )
                        learn(asked, &mixer, bit)
                    if level == UNARY and highest > UNARY:
                        level += code_escape(
                            &coder, &escapes[0], coded - UNARY + 1, highest - UNARY + 1
                        ) - 1
                        possible = level >= UNARY
                    place = (level - 1) << shift
                    if shift:
                        j = coarse(log_blend) * PLACE_LEVELS + min(level, PLACE_LEVELS) - 1
                        place += code_place(
                            &coder, &places[j << PLACE_BITS], mixer.counting, m - 1 - place, shift
                        )
                    m = place + 1
                    if m > limit:
                        m = limit
                        possible = False
                if decoding:
                    value = 0 if level == 0 else (m if sign else -m)
                    values[i] = value

                # What the weight teaches.
                fixed = 0
                if level:
                    fixed = <int32_t> (<int64_t> m << 16 >> shift) if level < 255 else 255 << 16
                if dependent:
                    # A level of half 1 stands for half a step less.
                    if half and level:
                        fixed -= (1 << 15) >> shift
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
                kernel_sum = clamp(kernel_sum + in_units(value, shift), -64, 64)
                kernel_total = clamp(kernel_total + level, 0, 64)
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
