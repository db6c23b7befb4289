# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The range coder of _rows.pyx and what is coded without a mixture, inline.

Definition: tests/codec/adaptive/twin.py.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

# Numbers of the format.
cdef enum:
    COUNT_LIMIT = 250
    ESCAPE_LENGTHS = 32
    PLACE_BITS = 4            # leading bits of a place within its unit that are adaptive
    MIN_ESCAPE = 512
    MAX_ESCAPE = 65536 - MIN_ESCAPE

cdef struct RangeCoder:
    bint decoding
    uint64_t span             # width of the interval, at least 2**32 between decisions
    uint64_t code             # the interval's lower end, or the stream's offset into the interval
    Py_ssize_t position       # bytes written or read
    Py_ssize_t length         # bytes there are to read
    const uint8_t* stream
    uint8_t* output


cdef inline int32_t clamp(int32_t x, int32_t low, int32_t high) noexcept nogil:
    return low if x < low else (high if x > high else x)


cdef inline bint code_bit(RangeCoder* coder, bint bit, int32_t probability) noexcept nogil:
    """Code ``bit``, one with ``probability`` / 65536, or return the decoded one.

    Source: range coding after G. N. N. Martin (1979) with a 64-bit interval, so that its precision
    costs nothing measurable; a carry is walked back into the bytes already written.
    """
    cdef:
        uint64_t split = (coder.span >> 16) * <uint64_t> probability
        uint64_t skipped
        uint32_t word = 0
        Py_ssize_t j
    # Without a branch on the bit, which nobody can foresee.
    if coder.decoding:
        bit = coder.code < split
        skipped = split & (<uint64_t> bit - 1)
        coder.code -= skipped
    else:
        skipped = split & (<uint64_t> bit - 1)
        coder.code += skipped
        if coder.code < skipped:
            j = coder.position - 1
            while coder.output[j] == 255:
                coder.output[j] = 0
                j -= 1
            coder.output[j] += 1
    coder.span = (split & -<uint64_t> bit) + ((coder.span - split) & (<uint64_t> bit - 1))
    if coder.span >> 32 == 0:
        coder.span <<= 32
        if coder.decoding:
            for j in range(coder.position, coder.position + 4):
                word = (word << 8) | (coder.stream[j] if j < coder.length else 0)
            coder.code = (coder.code << 32) | word
        else:
            for j in range(4):
                coder.output[coder.position + j] = <uint8_t> (coder.code >> (56 - 8 * j))
            coder.code <<= 32
        coder.position += 4
    return bit


cdef inline uint32_t observed(uint32_t slot, bint bit, const int64_t* counting) noexcept nogil:
    """Return a slot, 22 bits of probability and 10 of count, after one more observation."""
    cdef:
        uint32_t count = slot & 1023
        uint32_t more = (count - COUNT_LIMIT) >> 31
        int64_t way = (((1 << 22) - 1) & -<int64_t> bit) - <int64_t> (slot >> 10)
    return slot + (<uint32_t> ((way * counting[count]) >> 16) << 10) + more


cdef inline bint code_drifting(RangeCoder* coder, bint bit, uint32_t* state) noexcept nogil:
    """Code ``bit`` by a probability of 32 bits that adapts at one rate."""
    bit = code_bit(coder, bit, clamp(<int32_t> (state[0] >> 16), MIN_ESCAPE, MAX_ESCAPE))
    state[0] = state[0] + (~state[0] >> 5) if bit else state[0] - (state[0] >> 5)
    return bit


cdef inline int32_t code_escape(
    RangeCoder* coder, uint32_t* escapes, int32_t excess, int32_t highest,
) noexcept nogil:
    """Code ``excess``, 1 or more, in Elias' gamma code; return it, or 0 if it exceeds ``highest``.

    The code's length and two leading bits are adaptive.
    """
    cdef:
        int32_t width = 0
        int32_t number = 1
        int32_t j
        bint bit
    while code_drifting(coder, excess >> (width + 1) > 0, &escapes[width]):
        width += 1
        if (<int64_t> 1 << width) > highest:
            return 0
    for j in range(width):
        bit = (excess >> (width - 1 - j)) & 1
        if j < 2:
            bit = code_drifting(coder, bit, &escapes[ESCAPE_LENGTHS + width * 4 + number])
        else:
            bit = code_bit(coder, bit, 32768)
        number = number * 2 + bit
    return number if number <= highest else 0


cdef inline int32_t code_place(
    RangeCoder* coder, uint32_t* slots, const int64_t* counting, int32_t place, int32_t shift,
) noexcept nogil:
    """Code the place of a magnitude within its unit, ``shift`` bits, and return it."""
    cdef:
        int32_t number = 1
        int32_t j
        bint bit
    for j in range(shift):
        bit = (place >> (shift - 1 - j)) & 1
        if j < PLACE_BITS:
            bit = code_bit(
                coder, bit, clamp(<int32_t> (slots[number] >> 16), MIN_ESCAPE, MAX_ESCAPE)
            )
            slots[number] = observed(slots[number], bit, counting)
        else:
            bit = code_bit(coder, bit, 32768)
        number = number * 2 + bit
    return number - (1 << shift)
