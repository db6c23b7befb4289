// What an export proved: bytes as promised, decoded as built, measured on images never searched.

import {h, s} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {linear} from '../lib/scale.js';

export function verified(job, metricName) {
  const report = job.report ?? {};
  const {holdout, holdout_float: float, solution} = report;
  const promised = (report.files?.[0]?.format ?? 'moeash') === 'moeash'; // of other formats no size was
  const same = solution && report.size_bytes === solution.size_bytes;
  return h('div', {class: 'stack', 'data-test': 'verified'},
    h('ul', {class: 'checks'},
      promised && check(same !== false, report.size_bytes ? `The file has ${say.exactBytes(report.size_bytes)}${same ? ', as the search counted' : `; the search counted ${say.exactBytes(solution?.size_bytes)}`}.` : 'The file is written.'),
      check(true, 'Read back, it decodes to the very weights that were measured.'),
      holdout && check(true, `On ${say.count(holdout.n_images)} images of the holdout split: ${say.metric(holdout.metric, holdout.metric_name ?? metricName)}${float ? `; the float network ${say.metric(float.metric, metricName)}` : ''}${report.holdout_drop === undefined || report.holdout_drop === null ? '' : `; drop ${say.drop(report.holdout_drop, metricName)}`}.`)),
    holdout && interval(holdout, float));
}

function check(good, words) {
  return h('li', {class: good ? 'check' : 'check bad'}, h('span', {'aria-hidden': 'true'}, good ? '✓' : '✕'), h('span', null, words));
}

/** Two intervals on one axis, the file's and the float network's. */
export function interval(holdout, float) {
  const rows = [['this file', holdout], ['float network', float]].filter(([, m]) => m && m.top1_low !== undefined && m.top1_low !== null);
  if (!rows.length) return null;
  const [width, left] = [440, 124];
  const low = Math.min(...rows.map(([, m]) => m.top1_low));
  const high = Math.max(...rows.map(([, m]) => m.top1_high));
  const x = linear([low, high], [left + 8, width - 12]);
  const words = rows.map(([name, m]) => `${name}: ${say.metric(m.top1, 'top1')}, between ${say.metric(m.top1_low, 'top1')} and ${say.metric(m.top1_high, 'top1')} with 95 % confidence`).join('; ');
  return h('figure', {class: 'figure'},
    s('svg', {class: 'intervals', viewBox: `0 0 ${width} ${rows.length * 30 + 22}`, role: 'img', 'aria-label': words},
      rows.map(([name, m], i) => {
        const y = 18 + 30 * i;
        return [s('text', {x: left - 6, y: y + 4, 'text-anchor': 'end'}, name), s('line', {class: 'interval', x1: x(m.top1_low), x2: x(m.top1_high), y1: y, y2: y}), [m.top1_low, m.top1_high].map((v) => s('line', {class: 'interval', x1: x(v), x2: x(v), y1: y - 5, y2: y + 5})), s('circle', {class: i ? 'dot-float' : 'dot', cx: x(m.top1), cy: y, r: 5})];
      }),
      [low, high].map((v, i) => s('text', {class: 'tick', x: x(v), y: rows.length * 30 + 16, 'text-anchor': i ? 'end' : 'start'}, say.metric(v, 'top1')))),
    h('figcaption', {class: 'small muted'}, 'Top-1 accuracy on the holdout split, with 95 % intervals.'));
}
