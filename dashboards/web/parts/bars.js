// Lengths side by side: bytes of parts and tensors, bits of layers, weights of entries.

import {h, s} from '../lib/dom.js';
import {linear, linearTicks} from '../lib/scale.js';

/** A table whose rows carry a bar: the chart and its data in one. */
export function bars({caption, rows, say, columns = [], test, most}) {
  const top = most ?? Math.max(...rows.map((row) => row.value), 1e-12);
  return h('div', {class: 'table-scroll', tabindex: 0, role: 'region', 'aria-label': caption},
    h('table', {class: 'bars', 'data-test': test}, h('caption', {class: 'visually-hidden'}, caption),
      h('thead', null, h('tr', null, h('th', {scope: 'col'}, columns[0] ?? 'what'), h('th', {scope: 'col', class: 'right'}, columns[1] ?? 'value'), h('th', {scope: 'col', class: 'minor'}, h('span', {class: 'visually-hidden'}, 'as a bar')), columns.slice(2).map((words) => h('th', {scope: 'col', class: 'right minor'}, words)))),
      h('tbody', null, rows.map((row) => {
        const bar = h('span', {class: `bar-fill ${row.look ?? ''}`, 'aria-hidden': 'true'});
        bar.style.setProperty('width', `${Math.max(0.4, (100 * row.value) / top)}%`);
        return h('tr', null, h('th', {scope: 'row'}, row.name), h('td', {class: 'right num nowrap'}, say(row.value)), h('td', {class: 'bar-cell minor'}, bar), (row.more ?? []).map((words) => h('td', {class: 'right num nowrap minor'}, words)));
      }))));
}

const MOST_STEMS = 400;

/** Put neighbouring entries together where there are more than one can tell apart. */
function gathered(values, counts) {
  if (values.length <= MOST_STEMS) return {stems: values, heights: counts};
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const heights = new Array(MOST_STEMS).fill(0);
  values.forEach((value, i) => { heights[Math.min(MOST_STEMS - 1, Math.floor(((value - low) / (high - low)) * MOST_STEMS))] += counts[i]; });
  return {stems: heights.map((_, i) => low + ((i + 0.5) * (high - low)) / MOST_STEMS), heights};
}

/** The outline of a histogram of float weights over a scale, as high as there is room. */
function hill({low, high, counts}, x, top, base) {
  const most = Math.max(...counts, 1);
  const width = (high - low) / counts.length;
  const steps = counts.map((n, i) => `L${x(low + i * width).toFixed(1)} ${(base - ((base - top) * n) / most).toFixed(1)}H${x(low + (i + 1) * width).toFixed(1)}`);
  return s('path', {class: 'hill', d: `M${x(low)} ${base}${steps.join('')}V${base}Z`});
}

/**
 * Codebook entries at their values, as high as the weights they stand for; zero is marked. Behind
 * them lie the float weights, where the study has kept how.
 */
export function codebookChart({name, values, counts, histogram = null}) {
  const {stems, heights} = gathered(values, counts);
  const [width, height] = [640, 220];
  const m = {left: 80, right: 10, top: 14, bottom: 50}; // room for the larger letters of narrow pages
  const ends = histogram && histogram.high > histogram.low ? [...values, histogram.low, histogram.high] : values;
  const x = linear([Math.min(...ends), Math.max(...ends)], [m.left + 6, width - m.right - 6]);
  const most = Math.max(...heights, 1);
  const y = linear([0, most * 1.05], [height - m.bottom, m.top]);
  const total = counts.reduce((a, b) => a + b, 0);
  const count = (n) => n.toLocaleString('en');
  return h('figure', {class: 'figure'},
    s('svg', {class: 'codebook', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `Codebook ${name}: ${values.length} entries for ${count(total)} weights`},
      linearTicks([0, most], 4).map((t) => [s('line', {class: 'grid', x1: m.left, x2: width - m.right, y1: y(t), y2: y(t)}), s('text', {class: 'tick', x: m.left - 6, y: y(t) + 4, 'text-anchor': 'end'}, count(t))]),
      linearTicks(x.domain, 7).map((t) => s('text', {class: 'tick', x: x(t), y: height - m.bottom + 20, 'text-anchor': 'middle'}, String(t).replace('-', '−'))),
      x.domain[0] < 0 && x.domain[1] > 0 && s('line', {class: 'zero', x1: x(0), x2: x(0), y1: m.top, y2: height - m.bottom}),
      ends !== values && hill(histogram, x, m.top, height - m.bottom),
      stems.map((value, i) => [s('line', {class: 'stem', x1: x(value), x2: x(value), y1: y(0), y2: y(heights[i])}), stems.length <= 80 && s('circle', {class: 'dot', cx: x(value), cy: y(heights[i]), r: 3})]),
      s('line', {class: 'axis', x1: m.left, x2: width - m.right, y1: y(0), y2: y(0)}),
      s('text', {class: 'axis-title', x: width - m.right, y: height - 4, 'text-anchor': 'end'}, 'value of the entry')),
    h('figcaption', {class: 'small muted'}, `Every stem is ${stems === values ? 'an entry of the codebook' : 'some neighbouring entries'}, as high as the number of weights it stands for. ${count(values.length)} entries, ${count(total)} weights.${ends === values ? '' : ' Behind them lie the float weights, on a scale of their own.'}`),
    h('details', {class: 'data'}, h('summary', null, 'The same as a table'), h('div', {class: 'table-scroll tall-data', tabindex: 0, role: 'region', 'aria-label': `Entries of ${name}`}, h('table', null, h('thead', null, h('tr', null, h('th', {scope: 'col', class: 'right'}, 'Value'), h('th', {scope: 'col', class: 'right'}, 'Weights'), h('th', {scope: 'col', class: 'right'}, 'Share'))), h('tbody', null, values.slice(0, 1000).map((value, i) => h('tr', null, h('th', {scope: 'row', class: 'right num'}, value.toPrecision(5)), h('td', {class: 'right num'}, count(counts[i])), h('td', {class: 'right num'}, `${((100 * counts[i]) / total).toFixed(1)} %`))))))));
}
