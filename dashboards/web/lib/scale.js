// Scales and ticks. A scale is a function from a value to pixels that knows its inverse.

export function linear([low, high], [from, to]) {
  const span = high - low || 1;
  const scale = (value) => from + ((value - low) / span) * (to - from);
  scale.invert = (pixel) => low + ((pixel - from) / (to - from)) * span;
  scale.domain = [low, high];
  scale.range = [from, to];
  return scale;
}

export function log([low, high], range) {
  const inner = linear([Math.log(low), Math.log(high)], range);
  const scale = (value) => inner(Math.log(value));
  scale.invert = (pixel) => Math.exp(inner.invert(pixel));
  scale.domain = [low, high];
  scale.range = range;
  return scale;
}

/**
 * Place a metric by how far it lies below the float network's, on a log scale whose small drops are
 * at the top. What lies at most `least` below it, or above it, is at the top edge.
 */
export function logDrop([low, high], range, baseline, least) {
  const dropOf = (value) => Math.max(least, baseline - value);
  const inner = linear([-Math.log(dropOf(low)), -Math.log(dropOf(high))], range);
  const scale = (value) => inner(-Math.log(dropOf(value)));
  scale.invert = (pixel) => baseline - Math.exp(-inner.invert(pixel));
  scale.domain = [low, high];
  scale.range = range;
  scale.drops = Object.assign((drop) => inner(-Math.log(drop)), {domain: [dropOf(high), dropOf(low)]});
  return scale;
}

/** Return about `n` round values in a linear domain. */
export function linearTicks([low, high], n) {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const rough = span / Math.max(1, n);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

const STEPS = [
  [1], [2, 5], [3, 7], [1.5, 4, 6, 8], [1.2, 2.5, 9],
  Array.from({length: 90}, (_, i) => (i + 10) / 10),
  Array.from({length: 900}, (_, i) => (i + 100) / 100),
];

/** Return round values at least `gap` pixels apart on any scale of positive values; rounder win. */
export function roundTicks(scale, gap) {
  const [low, high] = scale.domain;
  const ticks = [];
  const places = [];
  for (const mantissas of STEPS) {
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high); decade += 1) {
      for (const mantissa of mantissas) {
        const value = Number((mantissa * 10 ** decade).toPrecision(6));
        if (value < low || value > high) continue;
        const place = scale(value);
        if (places.every((other) => Math.abs(place - other) >= gap)) {
          ticks.push(value);
          places.push(place);
        }
      }
    }
    if (ticks.length >= 3) break;
  }
  return ticks.sort((a, b) => a - b);
}

/** Return how many decimals tell the ticks of an axis apart. */
export function decimalsOf(ticks) {
  if (ticks.length < 2) return Number.isInteger(ticks[0]) ? 0 : 2;
  const step = Math.min(...ticks.slice(1).map((tick, i) => tick - ticks[i]));
  for (let n = 0; n < 8; n += 1) {
    if (Math.abs(step * 10 ** n - Math.round(step * 10 ** n)) < 1e-6 * step * 10 ** n) return n;
  }
  return 8;
}
