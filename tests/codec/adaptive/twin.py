"""The adaptive coder in plain Python: the definition the kernel is compared with.

It shares the tables and the numbers of :mod:`moeash.codec.adaptive.model`, nothing else: model and
geometry are written out per weight, and the interval of the range coder is an unbounded integer, so
there is neither a carry nor a window to get wrong.
"""

from math import prod

from moeash.codec.adaptive import model

TABLES = model.tables()
STRETCH, SQUASH, LOGS = TABLES.stretch.tolist(), TABLES.squash.tolist(), TABLES.logs.tolist()
LEARNING, COUNTING = TABLES.learning.tolist(), TABLES.counting.tolist()
SIGN = model.UNARY
HALF = SIGN + 1

# Every step of a trellis: half, then the next state after an even and after an odd level.
TRELLISES = {
    0: [(0, 0, 0)],
    4: [(0, 0, 2), (0, 2, 0), (1, 1, 3), (1, 3, 1)],
    8: [
        *((0, 0, 2), (0, 2, 0), (0, 4, 6), (0, 6, 4)),
        *((1, 5, 7), (1, 7, 5), (1, 1, 3), (1, 3, 1)),
    ],
    16: [
        *((0, 0, 4), (0, 2, 6), (0, 4, 0), (0, 6, 2)),
        *((0, 8, 12), (0, 10, 14), (0, 12, 8), (0, 14, 10)),
        *((1, 9, 13), (1, 11, 15), (1, 13, 9), (1, 15, 11)),
        *((1, 1, 5), (1, 3, 7), (1, 5, 1), (1, 7, 3)),
    ],
}


class Encoder:
    """The lower end of the interval as one growing integer, and the interval's width."""

    def __init__(self):
        self.low, self.span, self.renormalised = 0, (1 << 64) - 1, 0

    def code(self, bit, probability):
        split = (self.span >> 16) * probability
        if bit:
            self.span = split
        else:
            self.low += split
            self.span -= split
        if self.span < 1 << 32:
            self.low <<= 32
            self.span <<= 32
            self.renormalised += 1
        return bit

    def finish(self):
        tail = 1
        while 1 << (64 - 8 * tail) > self.span:
            tail += 1
        number = -(-self.low >> (64 - 8 * tail))  # rounded up
        return number.to_bytes(4 * self.renormalised + tail, "big")


class Decoder:
    """Where the stream points inside the interval, and the interval's width."""

    def __init__(self, data):
        self.data, self.span, self.position = data, (1 << 64) - 1, 8
        self.offset = int.from_bytes(data[:8].ljust(8, b"\0"), "big")

    def code(self, _, probability):
        split = (self.span >> 16) * probability
        bit = int(self.offset < split)
        if bit:
            self.span = split
        else:
            self.offset -= split
            self.span -= split
        if self.span < 1 << 32:
            word = self.data[self.position : self.position + 4].ljust(4, b"\0")
            self.offset = (self.offset << 32) + int.from_bytes(word, "big")
            self.span <<= 32
            self.position += 4
        return bit


def clamp(x, low, high):
    return min(max(x, low), high)


def log(mean):
    return LOGS[mean >> 6 if mean < 1 << 18 else 4096 + (mean >> 12)]


def coarse(x):
    return clamp((x + 1088) >> 6, 0, 31)


def toward(x, y, divisor):
    return x + ((y - x) * (65536 // divisor) >> 16)


def sign3(x):
    return 2 if x > 0 else 1 if x < 0 else 0


def wrap32(x):
    return (x + (1 << 31)) % (1 << 32) - (1 << 31)


def in_units(x, unit):
    """Return x in units, rounded away from zero."""
    return (abs(x) + unit - 1) // unit * ((x > 0) - (x < 0))


class Model:
    """Everything learned, in dictionaries that hold only what has been seen."""

    def __init__(self, coder, n_entries, zero, shift=0):
        self.coder = coder
        self.below, self.above = zero, n_entries - 1 - zero
        self.shift, self.unit = shift, 2**shift
        self.places = {}  # (scale, units, leading bits) -> [probability of 22 bits, count]
        self.slots = {}  # (decision, context, value) -> [probability of 22 bits, count]
        self.weights = [
            [12288] * model.N_CONTEXTS + [0] * (model.N_STATISTICS + 1)
            for _ in range(model.N_DECISIONS)
        ]
        self.refinements = {}
        self.steps = [0] * model.N_DECISIONS
        self.escapes = {}
        self.mean = 1 << 15
        self.row_logs = [0]

    def decide(self, decision, bit, contexts, statistics, scale):
        """Code one modelled decision and learn from it."""
        slots = [
            self.slots.setdefault((decision, j, value), [1 << 21, 0])
            for j, value in enumerate(contexts)
        ]
        inputs = [STRETCH[slot[0] >> 10] for slot in slots] + [*statistics, 256]
        weights = self.weights[decision]
        x = sum(w * i for w, i in zip(weights, inputs, strict=True)) >> 16
        x = clamp(x, -2047, 2047)
        mixed = SQUASH[x + 2048]

        knot, fraction = divmod(x + 2048, 128)
        low, high = (
            self.refinements.setdefault((scale, decision, k), [SQUASH[min(k * 128, 4095)] << 14])
            for k in (knot, knot + 1)
        )
        refined = ((low[0] >> 14) * (128 - fraction) + (high[0] >> 14) * fraction) >> 7
        bit = self.coder.code(bit, clamp((mixed + refined) >> 1, 24, 65536 - 24))

        error = ((bit << 16) - mixed) * LEARNING[self.steps[decision]]
        self.steps[decision] = min(self.steps[decision] + 1, model.STEP_LIMIT)
        for j, i in enumerate(inputs):
            weights[j] = wrap32(weights[j] + ((i * error + (1 << 17)) >> 18))
        for slot in slots:
            self.observe(slot, bit)
        nearer = high if fraction >= 64 else low
        nearer[0] += (bit * ((1 << 30) - 1) - nearer[0]) >> 7
        return bit

    def decide_escape(self, key, bit):
        p = self.escapes.get(key, 1 << 31)
        bit = self.coder.code(bit, clamp(p >> 16, 512, 65536 - 512))
        self.escapes[key] = p + ((2**32 - 1 - p) >> 5) if bit else p - (p >> 5)
        return bit

    def escape(self, m):
        """Code ``m >= UNARY`` as Elias' gamma code of ``m - UNARY + 1``."""
        excess, width = m - model.UNARY + 1, 0
        while self.decide_escape(width, int(excess >> (width + 1) > 0)):
            width += 1
        seen = 1
        for j in range(width):
            bit = excess >> (width - 1 - j) & 1
            bit = self.decide_escape((width, seen), bit) if j < 2 else self.coder.code(bit, 32768)
            seen = 2 * seen + bit
        return seen + model.UNARY - 1

    def observe(self, slot, bit):
        slot[0] += (bit * ((1 << 22) - 1) - slot[0]) * COUNTING[slot[1]] >> 16
        slot[1] = min(slot[1] + 1, model.COUNT_LIMIT)

    def place(self, m, units, scale):
        """Code where in its last unit a magnitude lies."""
        bits = f"{m - 1 - (units - 1) * self.unit:0{self.shift}b}" if m else "0" * self.shift
        seen = ""
        for bit in bits:
            if len(seen) < 4:
                slot = self.places.setdefault((scale, min(units, 4), seen), [1 << 21, 0])
                bit = self.coder.code(int(bit), clamp(slot[0] >> 6, 512, 65536 - 512))
                self.observe(slot, bit)
            else:
                bit = self.coder.code(int(bit), 32768)
            seen += str(bit)
        return (units - 1) * self.unit + 1 + int(seen, 2)

    def tensor(self, shape, values, n_states=0):
        """Code one tensor; ``values`` is what to encode, or None to decode; return the values.

        ``out`` and everything learned are the levels of a trellis, ``found`` its values.
        """
        trellis = TRELLISES[n_states]
        if len(shape) < 2:
            shape = (1, prod(shape))
        rows, channels, taps = shape[0], shape[1], prod(shape[2:])
        row_size = channels * taps
        if rows * row_size == 0:
            return []
        self.slots = {k: v for k, v in self.slots.items() if k[1] != model.LOCAL}
        self.steps = [min(n, model.RESTART_STEPS) for n in self.steps]
        prior = [0] * channels
        if len(self.row_logs) > 1 and channels % len(self.row_logs) == 0:
            share = channels // len(self.row_logs)
            prior = [self.row_logs[c // share] for c in range(channels)]

        out, found = [], []
        states = [0] * row_size
        tap_width = shape[-1] if len(shape) > 2 else 1
        lags = 1, 2, row_size, (taps if taps > 1 else 2), (tap_width if taps > 1 else 2)
        column_mean = [self.mean] * (row_size + 2)
        column_sign, column_drift = [0] * row_size, [0] * (row_size + 2)
        channel_mean = [self.mean] * channels
        seen = 0
        for row in range(rows):
            row_mean = recent = self.mean
            row_sign = row_drift = kernel_sum = kernel_total = 0
            for column in range(row_size):
                channel, tap = divmod(column, taps)
                kernel_tap = min(tap, 31)
                if tap == 0:
                    kernel_sum = kernel_total = 0
                neighbours = [
                    in_units(out[-lag], self.unit) if lag <= len(out) else 0 for lag in lags
                ]
                left, left2, up, same_tap, line = neighbours
                kernel_line, kernel_column = divmod(tap, tap_width)
                inside = kernel_line > 0 and kernel_column > 0
                diagonal = in_units(out[-tap_width - 1], self.unit) if inside else 0
                inside = kernel_line > 0 and kernel_column < tap_width - 1
                antidiagonal = in_units(out[-tap_width + 1], self.unit) if inside else 0

                log_row, log_column = log(row_mean), log(column_mean[column + 1])
                log_beside = log((column_mean[column] + column_mean[column + 2]) >> 1)
                log_channel, log_tensor = log(channel_mean[channel]), log(self.mean)
                near = [min(abs(v), 3) for v in (left, left2, up, same_tap)]
                blend = (8 * log_row + 5 * log_column + 6 * log_channel - 3 * log_tensor) >> 4
                contexts = [
                    (coarse(log_row), coarse(log_column)),
                    (kernel_tap, coarse(log_row)),
                    tuple(near),
                    clamp((blend + 1400) >> 3, 0, 511),
                    (coarse(log_column), coarse(log_beside)),
                    (kernel_tap, min(near[0], 2)),
                    (min(near[0], 2), min(near[3], 2), min(abs(line), 2), kernel_tap),
                    (min(tap, 11), min(kernel_total, 15)),
                ]
                statistics = [
                    clamp(x - log_tensor, -2047, 2047)
                    for x in (log_row, log_channel, log_beside, log(recent))
                ]
                statistics += [prior[channel], clamp(log_column - log_tensor, -2047, 2047)]
                scale = clamp((log_column + 1024) >> 7, 0, 15)

                value = 0 if values is None else values[len(out)]
                half, *following = trellis[states[column]]
                below, above = self.below, self.above
                if n_states:
                    assert value == 0 or value % 2 == half, "the values leave their trellis"
                    below, above = (below + half) // 2, (above + half) // 2
                    value = (abs(value) + 1) // 2 * ((value > 0) - (value < 0))
                whole = abs(value)
                coded = in_units(whole, self.unit)
                m = 0
                if below or above:
                    m = self.decide(
                        HALF if half else 0, int(coded > 0), contexts, statistics, scale
                    )
                if m:
                    sign = int(above > 0)
                    if below and above:
                        drift = column_drift[column + 1]
                        beside = column_drift[column] + column_drift[column + 2]
                        row_tilt, column_tilt, drift_tilt, beside_tilt = (
                            clamp(x >> 9, -4, 4)
                            for x in (row_sign, column_sign[column], drift, beside)
                        )
                        kernel_tilt = clamp(kernel_sum, -4, 4)
                        drifts = (kernel_tilt, drift_tilt, clamp(row_drift >> 8, -4, 4))
                        signs = [sign3(v) for v in neighbours]
                        diagonals = sign3(diagonal), sign3(antidiagonal)
                        signed = left, left2, line, diagonal, antidiagonal
                        sign = self.decide(
                            SIGN,
                            int(value > 0),
                            [
                                (min(tap, 11), signs[0], signs[4], *diagonals),
                                (kernel_tap, signs[0], signs[4]),
                                (row_tilt, column_tilt),
                                (signs[0], signs[4], signs[3], signs[2]),
                                (drift_tilt, beside_tilt),
                                kernel_tap,
                                drifts,
                                (signs[0], signs[1], signs[2]),
                            ],
                            [*(clamp(v, -6, 6) * 128 for v in signed), drift >> 2],
                            scale,
                        )
                    limit = in_units(above if sign else below, self.unit)
                    while m < min(limit, model.UNARY) and self.decide(
                        HALF + m if half and m < 2 else m,
                        int(coded > m),
                        contexts,
                        statistics,
                        scale,
                    ):
                        m += 1
                    if m == model.UNARY < limit:
                        m = self.escape(coded)
                    whole = self.place(whole, m, coarse(blend)) if self.shift else m
                    value = whole if sign else -whole
                else:
                    value = 0
                out.append(value)
                found.append(value)
                if n_states:
                    found[-1] = 2 * value - half * ((value > 0) - (value < 0))
                states[column] = following[value % 2]

                size = 255 << 16 if m >= 255 else (abs(value) << 16) >> self.shift
                if half and m:
                    size -= (1 << 15) >> self.shift
                row_mean = toward(row_mean, size, min(column, 1000) + 9)
                recent += (size - recent) >> 3
                column_mean[column + 1] = toward(column_mean[column + 1], size, min(row, 300) + 3)
                channel_mean[channel] = toward(
                    channel_mean[channel], size, min(row * taps + tap, 2000) + 6
                )
                self.mean = toward(self.mean, size, seen + 50)
                seen = min(seen + 1, 4000)
                kernel_sum = clamp(kernel_sum + in_units(value, self.unit), -64, 64)
                kernel_total = min(kernel_total + m, 64)
                size = 4096 * ((value > 0) - (value < 0))
                row_sign += (size - row_sign) >> 4
                row_drift += (size - row_drift) >> 7
                column_sign[column] += (size - column_sign[column]) >> 3
                column_drift[column + 1] += 3 * (size - column_drift[column + 1]) >> 7

        self.row_logs = []
        for start in range(0, len(out), row_size):
            total = sum(min(abs(v), 255 * self.unit) for v in out[start : start + row_size])
            total //= self.unit
            relative = log((total << 16) // row_size) - log(self.mean)
            self.row_logs.append(clamp(relative, -2047, 2047))
        return found


def encode(tensors, n_entries, zero, trellises=None, shift=0):
    """As ``adaptive.encode``, for lists of integers."""
    if n_entries == 1 or not any(prod(shape) for _, shape in tensors):
        return b""
    encoder = Encoder()
    model = Model(encoder, n_entries, zero, shift)
    for position, (indices, shape) in enumerate(tensors):
        n_states = trellises[position] if trellises else 0
        model.tensor(shape, [index - zero for index in indices], n_states)
    return encoder.finish()


def decode(data, shapes, n_entries, zero, trellises=None, shift=0):
    """As ``adaptive.decode``, for a stream that was encoded."""
    if n_entries == 1:
        return [[0] * prod(shape) for shape in shapes]
    model = Model(Decoder(data), n_entries, zero, shift)
    return [
        [value + zero for value in model.tensor(shape, None, n_states)]
        for shape, n_states in zip(shapes, trellises or [0] * len(shapes), strict=True)
    ]
