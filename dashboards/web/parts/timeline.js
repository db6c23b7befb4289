// Evaluations by worker: a row each, a bar for each evaluation, the busy share at the end. Where a
// row has more evaluations than pixels, a bar is as high as the share of its time that was busy.

import {fill, h, s} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {linear, linearTicks} from '../lib/scale.js';
import {table} from './table.js';

const NARROW = 560;
const TOP = 8;
const BAR = 16;

const share = (value) => `${(100 * value).toFixed(value < 0.995 ? 0 : 1).replace('.0', '')} %`;

/** Return the bar at a time of a row: bars of a worker do not overlap and are in order. */
function barAt(row, seconds, slack) {
  const i = row.end_s.findIndex((end) => end + slack >= seconds);
  return i >= 0 && row.start_s[i] - slack <= seconds ? i : -1;
}

export function timeline({label}) {
  const svg = s('svg', {'aria-hidden': 'true', focusable: 'false'});
  const tip = h('div', {class: 'tip', hidden: true});
  const box = h('div', {class: 'timeline', role: 'img', 'aria-label': `${label}; the table below holds the same data`, 'data-test': 'timeline'}, svg, tip);
  const words = h('p', {class: 'small muted', 'data-test': 'timeline-words'});
  const rows = table({caption: 'Workers', test: 'workers-table', id: (r) => r.worker, none: 'No worker has evaluated anything yet.', columns: [
    {key: 'worker', title: 'Worker', sort: (r) => r.worker, cell: (r) => h('span', {class: 'mono'}, r.worker)},
    {key: 'evaluations', title: 'Evaluations', num: true, sort: (r) => r.evaluations, cell: (r) => say.count(r.evaluations)},
    {key: 'failed', title: 'Failed', num: true, minor: true, sort: (r) => r.failed, cell: (r) => say.count(r.failed)},
    {key: 'busy', title: 'Busy for', num: true, minor: true, sort: (r) => r.busy_s, cell: (r) => say.duration(r.busy_s)},
    {key: 'alive', title: 'Of', num: true, minor: true, sort: (r) => r.alive_s, cell: (r) => say.duration(r.alive_s)},
    {key: 'share', title: 'Busy', num: true, sort: (r) => r.utilisation, cell: (r) => share(r.utilisation)}]});
  const element = h('div', {class: 'stack'}, words, box, rows.element);
  let got = null;
  let geometry = null;

  const draw = () => {
    const width = box.clientWidth;
    geometry = null;
    if (!width || !got?.items.length) {
      fill(svg);
      svg.setAttribute('height', 0);
      return;
    }
    const narrow = width < NARROW;
    const names = got.items.map((row) => row.worker);
    const left = narrow ? 0 : Math.min(220, 16 + 7.6 * Math.max(...names.map((name) => name.length)));
    const fits = Math.floor((narrow ? width - 60 : left - 12) / 7.4);
    const [step, bar] = narrow ? [BAR + 22, 18] : [BAR + 8, 0];
    const bottom = TOP + names.length * step;
    const x = linear([0, got.length_s || 1], [left, width - 56]);
    const [unit, unitWords] = say.unitOfTime(got.length_s);
    const ticks = linearTicks([0, (got.length_s || 1) / unit], (width - left) / 90);
    geometry = {x, step, bar, width};
    svg.setAttribute('viewBox', `0 0 ${width} ${bottom + 40}`);
    svg.setAttribute('width', width);
    svg.setAttribute('height', bottom + 40);
    fill(svg,
      ticks.map((t) => [s('line', {class: 'grid', x1: x(t * unit), x2: x(t * unit), y1: TOP, y2: bottom}), s('text', {class: 'tick', x: x(t * unit), y: bottom + 16, 'text-anchor': t === 0 && narrow ? 'start' : 'middle'}, String(t))]),
      got.pauses.map(({at_s: at}) => s('line', {class: 'pause', x1: x(at), x2: x(at), y1: TOP, y2: bottom})),
      s('text', {class: 'axis-title', x: width - 56, y: bottom + 34, 'text-anchor': 'end'}, `${unitWords} since the first began`),
      got.items.map((row, i) => {
        const top = TOP + i * step;
        const base = top + bar + BAR;
        const d = row.start_s.map((start, k) => {
          const [from, to] = [x(start), x(row.end_s[k])];
          // A hair between bars that touch, where there is room for it.
          const w = Math.max(0.75, to - from - (row.number && to - from > 3 ? 1 : 0));
          const high = Math.max(1, BAR * row.share[k]);
          return `M${from.toFixed(2)} ${base}v${(-high).toFixed(2)}h${w.toFixed(2)}v${high.toFixed(2)}z`;
        }).join('');
        const name = row.worker.length > fits ? `${row.worker.slice(0, fits - 1)}…` : row.worker;
        return [
          s('text', {class: 'worker', x: 0, y: narrow ? top + 13 : base - 3}, name),
          s('line', {class: 'grid', x1: left, x2: width - 56, y1: base + 0.5, y2: base + 0.5}),
          s('path', {class: 'bar', d}),
          s('text', {class: 'busy', x: width, y: base - 3, 'text-anchor': 'end'}, share(row.utilisation)),
        ];
      }));
  };

  box.addEventListener('pointermove', (event) => {
    tip.hidden = true;
    if (!geometry) return;
    const rect = box.getBoundingClientRect();
    const {x, step, bar, width} = geometry;
    const [px, py] = [event.clientX - rect.left, event.clientY - rect.top];
    const row = got.items[Math.floor((py - TOP) / step)];
    const slack = 2 * (got.length_s / (width || 1));
    const k = row ? barAt(row, x.invert(px), slack) : -1;
    if (k < 0) return;
    const line = (term, value) => h('div', {class: 'tip-line'}, h('span', null, term), h('span', {class: 'num'}, value));
    fill(tip, h('div', {class: 'tip-head'}, row.number ? `Evaluation ${row.number[k]}` : 'Evaluations'), line('worker', row.worker),
      line(row.number ? 'took' : 'within', say.duration(row.end_s[k] - row.start_s[k])), !row.number && line('busy', share(row.share[k])));
    tip.hidden = false;
    tip.style.setProperty('left', `${Math.max(0, Math.min(px + 14, width - tip.offsetWidth))}px`);
    tip.style.setProperty('top', `${TOP + got.items.indexOf(row) * step + bar + BAR + 4}px`);
  });
  box.addEventListener('pointerleave', () => { tip.hidden = true; });
  const sizes = new ResizeObserver(draw);
  sizes.observe(box);

  return {
    element,
    set(next) {
      got = next;
      const {items, workers, pauses, lost} = got;
      const [busy, alive] = ['busy_s', 'alive_s'].map((key) => items.reduce((sum, row) => sum + row[key], 0));
      const cells = items.some((row) => !row.number);
      words.textContent = [
        items.length ? `${say.plural(workers, 'worker')}, busy ${share(alive ? Math.min(1, busy / alive) : 1)} of the time between its first and its last evaluation${workers > 1 ? ' each' : ''}.` : '',
        items.length < workers ? `Shown are the ${say.count(items.length)} that worked last.` : '',
        cells ? 'Where evaluations are too many to tell apart, a bar is as high as the share of its time that was busy.' : '',
        pauses.length ? `${say.plural(pauses.length, 'pause')}, ${say.duration(pauses.reduce((sum, p) => sum + p.length_s, 0))} in all, left out where the line is dashed.` : '',
        lost ? `Of ${say.plural(lost, 'evaluation')} no worker is known.` : '',
      ].filter(Boolean).join(' ');
      box.hidden = !items.length;
      draw();
      rows.set(items);
    },
    close() { sizes.disconnect(); },
  };
}
