// Units as people say them. Numbers come from the server as they are measured: fractions, bytes,
// seconds; here alone they become words.

const ACCURACY = new Set(['top1', 'top5', 'macro_f1', 'agreement']);
const NATS = new Set(['neg_cross_entropy', 'neg_divergence']);
const NAMES = {
  top1: 'top-1 accuracy', top5: 'top-5 accuracy', macro_f1: 'macro F1', agreement: 'agreement',
  neg_cross_entropy: 'negative cross entropy', neg_divergence: 'negative divergence',
};
const NONE = '–';
const MINUS = '−';

const missing = (value) => value === null || value === undefined || Number.isNaN(value);
const signed = (text) => text.replace(/^-/, MINUS);

export const isAccuracy = (name) => ACCURACY.has(name);

/** Return how many shown units one unit of the metric is: percent for accuracies. */
export const metricFactor = (name) => (ACCURACY.has(name) ? 100 : 1);

export function unitOf(name) {
  if (ACCURACY.has(name)) return 'pp';
  return NATS.has(name) ? 'nats' : '';
}

export function metricTitle(name) {
  const words = NAMES[name] ?? String(name ?? 'metric');
  if (ACCURACY.has(name)) return `${words} on the search split (%)`;
  return NATS.has(name) ? `${words} on the search split (nats)` : `${words} on the search split`;
}

/** Title of an axis of drops. */
export function dropTitle(name, short) {
  const unit = unitOf(name);
  return `drop below the float network${short ? '' : ', on the search split'} (${unit ? `${unit}, ` : ''}log)`;
}

export const isDivergence = (name) => NATS.has(name);

export const metricWords = (name) => NAMES[name] ?? String(name ?? 'metric');

export function metric(value, name) {
  if (missing(value)) return NONE;
  if (ACCURACY.has(name)) return `${signed((100 * value).toFixed(2))} %`;
  return signed(digits(value, 4)) + (NATS.has(name) ? ' nats' : '');
}

export function drop(value, name) {
  if (missing(value)) return NONE;
  if (ACCURACY.has(name)) return `${signed(tidyZero((100 * value).toFixed(2)))} pp`;
  return signed(digits(value, 3)) + (NATS.has(name) ? ' nats' : '');
}

/** The drop of a solution, with its standard error where that is large enough to matter. */
export function noisyDrop({drop: value, noise}, name) {
  return noise ? `${drop(value, name).replace(` ${unitOf(name)}`, '')} ± ${drop(noise, name)}` : drop(value, name);
}

/** Leave out the unit that the head of a column says; of accuracies alone the sign of percent stays. */
export function bare(text, name) {
  const unit = unitOf(name);
  return unit ? text.replace(` ${unit}`, '') : text;
}

/** The range of a searched variable. */
export const range = ({name, low, high, log, widest}) => `${name} from ${digits(low, 4)} to ${digits(high, 4)}${widest > high ? `, and on to ${digits(widest, 4)} where the front ends at that bound` : ''}${log ? ' (log scale)' : ''}`;

const tidyZero = (text) => (Number(text) === 0 ? text.replace('-', '') : text);

/** Return a number with so many significant digits and without an exponent where one can do. */
export function digits(value, n = 3) {
  if (missing(value)) return NONE;
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(n - 1).replace('e+', 'e');
  return Number(value.toPrecision(n)).toLocaleString('en', {maximumSignificantDigits: n});
}

export function bytes(value) {
  if (missing(value)) return NONE;
  if (value < 1000) return `${Math.round(value)} B`;
  if (value < 1e6) return `${(value / 1e3).toFixed(1)} kB`;
  if (value < 1e9) return `${(value / 1e6).toFixed(2)} MB`;
  return `${(value / 1e9).toFixed(1)} GB`;
}

export const exactBytes = (value) => (missing(value) ? NONE : `${count(value)} bytes`);
export const count = (value) => (missing(value) ? NONE : Math.round(value).toLocaleString('en'));
export const ratio = (value) => (missing(value) ? NONE : `${digits(value, 3)}×`);
export const bits = (value) => (missing(value) ? NONE : value.toFixed(2));

/** Return `1 study`, `2 studies`. */
export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

export function duration(seconds) {
  if (missing(seconds)) return NONE;
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${digits(seconds / 3600, 2)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const TIMES = [[86400, 'days'], [3600, 'hours'], [60, 'minutes'], [1, 'seconds']];

/** Return the unit an axis of so many seconds is drawn in, in seconds, and its name. */
export const unitOfTime = (seconds) => TIMES.find(([unit]) => seconds >= 2 * unit) ?? TIMES.at(-1);

export function ago(iso, now = Date.now()) {
  if (!iso) return NONE;
  const seconds = (now - Date.parse(iso)) / 1000;
  if (seconds < -60) return `in ${duration(-seconds)}`;
  return seconds < 5 ? 'now' : `${duration(seconds)} ago`;
}

export function moment(iso) {
  if (!iso) return NONE;
  return new Date(iso).toLocaleString('en-GB', {dateStyle: 'medium', timeStyle: 'medium'});
}

export const clock = (iso) => (iso ? new Date(iso).toLocaleTimeString('en-GB') : NONE);

/** Whether a study has come to an end that nobody wanted. */
export const isTrouble = (status) => status === 'crashed' || status === 'failed';

/** A line of a log as the beginning of a sentence. */
export const sentence = (line) => (line ? line[0].toUpperCase() + line.slice(1) : '');

/** Say what a study is doing, from the document the server keeps of it. */
export function doing(activity) {
  if (!activity) return '';
  if (typeof activity === 'string') return activity;
  const {what, text, done, total, left_s: left} = activity.payload ?? activity;
  const words = what ?? text ?? '';
  const far = total ? `, ${count(done ?? 0)} of ${count(total)}` : '';
  return words + far + (left ? `, ${duration(left)} left` : '');
}

export const STATUS = {
  running: ['running', '▶'], queued: ['queued', '…'], finished: ['finished', '✓'],
  interrupted: ['stopped', '❚❚'], crashed: ['crashed', '✕'], failed: ['failed', '✕'],
};
