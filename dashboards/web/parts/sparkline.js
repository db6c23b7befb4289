// A line small enough for a table's cell: the shape of a history, no axis.

import {s} from '../lib/dom.js';

export function sparkline(values, {width = 96, height = 24, label} = {}) {
  const known = (values ?? []).filter((v) => v !== null);
  if (known.length < 2) return s('svg', {class: 'spark', width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label ?? 'no history yet'}, s('line', {x1: 2, x2: width - 2, y1: height - 3, y2: height - 3, class: 'spark-none'}));
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const at = (v, i) => `${(2 + (i / (known.length - 1)) * (width - 6)).toFixed(1)} ${(height - 3 - ((v - low) / span) * (height - 6)).toFixed(1)}`;
  return s('svg', {class: 'spark', width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label ?? 'history'},
    s('path', {d: `M${known.map(at).join('L')}`}), s('circle', {cx: width - 4, cy: at(known.at(-1), known.length - 1).split(' ')[1], r: 2}));
}
