// `moeash report`: one study in one file, drawn by the page's own parts from the data in the file.

import {bestSoFar} from './lib/course.js';
import {fill, h} from './lib/dom.js';
import * as say from './lib/format.js';
import {markdown} from './lib/markdown.js';
import {FrontChart} from './parts/front-chart.js';
import {legend} from './parts/front-legend.js';
import {lineChart} from './parts/line-chart.js';
import {markIcon} from './parts/marks.js';
import {table} from './parts/table.js';

const {study: item, points, front, generations, made_at: madeAt, version} = JSON.parse(document.getElementById('report').textContent);
const metricName = item.metric_name;
const view = {hidden: new Set(), view: null, logx: true, chosen: front[0] ?? null};

const chartHost = h('div');
const legendHost = h('div', {class: 'legend'});
const card = h('dl', {class: 'facts', 'data-test': 'chosen'});
const chart = new FrontChart(chartHost, {
  label: `Pareto chart of ${item.name}: metric over size of the file. Arrows move along the front, space chooses.`,
  onHover: ({point, number, i, stopped}) => (point
    ? [[null, `Solution ${point.id}, ${point.stage}`, true], ['recipe', point.text], ['size', say.exactBytes(point.size_bytes)], ['ratio', say.ratio(point.ratio)], ['drop', say.drop(point.drop, metricName)], ['entries', say.count(point.entries)]]
    : [[null, `Evaluation ${number}${stopped ? ', stopped early' : ''}`, true], ['size', say.bytes(points.size_bytes[i])], [stopped ? 'at most' : say.metricWords(metricName), say.metric(points.metric[i], metricName)]]),
  onWalk: (point, i, n) => `${i + 1} of ${n}: solution ${point.id}, ${say.bytes(point.size_bytes)}, drop ${say.drop(point.drop, metricName)}`,
  onPick: ({point}) => { if (point) choose(point); },
  onView: (next) => { view.view = next; draw(); },
});

function draw() {
  const it = view.chosen;
  chart.set({series: [{name: item.name, columns: points, front}], metricName, baseline: item.baseline, original: item.original_bytes, dropLimit: item.max_drop, hidden: view.hidden, logx: view.logx, logy: say.isDivergence(metricName), view: view.view, tool: 'zoom', rings: it ? [{number: it.id, size_bytes: it.size_bytes, metric: it.metric, label: `solution ${it.id}`, chosen: true}] : []});
  legend(legendHost, points, front, view, draw);
}

const fact = (term, value, note) => h('div', null, h('dt', null, term), h('dd', null, value, note && h('small', null, note)));

function choose(it) {
  view.chosen = it;
  fill(card, fact('solution', String(it.id), it.stage), fact('file', say.bytes(it.size_bytes), say.exactBytes(it.size_bytes)), fact('ratio', say.ratio(it.ratio)), fact('drop', say.drop(it.drop, metricName), say.metric(it.metric, metricName)), fact('entries', say.count(it.entries)), fact('bits per weight', say.bits(it.bits_per_weight)));
  draw();
}

const rows = table({caption: `Front of ${item.name}`, id: (r) => r.id, sorted: {key: 'bytes', down: false}, onRow: choose, columns: [
  {key: 'id', title: 'Solution', sort: (r) => r.id, cell: (r) => h('span', {class: 'nowrap'}, markIcon(r.stage), ` ${r.id}`)}, {key: 'bytes', title: 'Bytes', num: true, sort: (r) => r.size_bytes, cell: (r) => say.count(r.size_bytes)},
  {key: 'ratio', title: 'Ratio', num: true, minor: true, sort: (r) => r.ratio, cell: (r) => say.ratio(r.ratio)}, {key: 'metric', title: say.metricWords(metricName), num: true, minor: true, sort: (r) => r.metric, cell: (r) => say.metric(r.metric, metricName)},
  {key: 'drop', title: 'Drop', num: true, sort: (r) => r.drop, cell: (r) => say.drop(r.drop, metricName)}, {key: 'entries', title: 'Entries', num: true, minor: true, sort: (r) => r.entries, cell: (r) => say.count(r.entries)}, {key: 'text', title: 'Recipe', minor: true, cell: (r) => h('span', {class: 'mono'}, r.text)}]});
const hypervolume = lineChart({label: 'Hypervolume', x: {title: 'generation', whole: true, say: say.count}, y: {title: 'hypervolume', say: (v) => say.digits(v, 5)}});
const best = lineChart({label: 'Smallest file so far, within the wanted drop', x: {title: 'evaluation', whole: true, say: say.count}, y: {title: 'kB', say: (v) => say.exactBytes(v * 1000)}});

fill(document.getElementById('main'), h('div', {class: 'page'},
  h('div', null, h('h1', null, item.name), h('p', {class: 'muted small'}, [item.network, item.dataset, `method ${item.method}`, item.status].filter(Boolean).join(' · '), ` · as of ${say.moment(madeAt)} · moeash ${version}`)),
  h('dl', {class: 'facts'}, fact('smallest file', say.bytes(item.smallest_bytes), item.smallest_bytes ? say.ratio(item.original_bytes / item.smallest_bytes) : null), fact('float network', say.metric(item.baseline, metricName), say.bytes(item.original_bytes)), fact('on the front', say.count(front.length)),
    fact('evaluations', say.count(item.evaluations), `${say.count(item.complete)} complete, ${say.count(item.stopped)} stopped early`), fact('hypervolume', say.digits(item.hypervolume, 4), say.plural(item.generations, 'generation'))),
  h('section', {class: 'stack', 'aria-label': 'Pareto front'}, chartHost, legendHost, h('p', {class: 'small muted', 'data-test': 'points'}, `${say.count(points.shown)} of ${say.plural(points.total, 'evaluation')} drawn`), card),
  rows.element,
  h('div', {class: 'figures'}, hypervolume.element, best.element),
  item.notes && h('section', {class: 'stack'}, h('h2', null, 'Notes'), h('div', {class: 'prose'}, markdown(item.notes))),
  h('details', null, h('summary', null, 'Spec'), h('pre', {class: 'code-box', tabindex: 0}, item.toml))));
rows.set(front);
hypervolume.set([{name: 'hypervolume', points: generations.map((g) => [g.index, g.hypervolume])}]);
best.set([{name: 'smallest file so far', step: true, points: bestSoFar({points, item})}]);
if (view.chosen) choose(view.chosen);
else draw();
