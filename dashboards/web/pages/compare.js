// Which is better, and where?

import * as api from '../api.js';
import {fill, h, s} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {badge} from '../parts/badge.js';
import {FrontChart, lookOf} from '../parts/front-chart.js';
import {lineChart} from '../parts/line-chart.js';
import {empty} from '../parts/states.js';

const MAX_STUDIES = 6;
const LEVELS = 7;

export async function mount(host, params, {go, keepQuery, store, query}) {
  const names = [...new Set(query.getAll('study'))].slice(0, MAX_STUDIES);
  if (names.length < 2) {
    fill(host, h('h1', null, 'Compare'), empty('Two studies or more', 'Select them in the list of studies, then press Compare.', h('a', {class: 'button primary', href: '/'}, 'Studies')));
    return undefined;
  }
  const studies = await Promise.all(names.map(async (name) => {
    const url = `/studies/${encodeURIComponent(name)}`;
    const [item, front, generations] = await Promise.all([api.get(url), api.get(`${url}/front`), api.get(`${url}/generations`).catch(() => ({items: []}))]);
    return {name, item, front: front.items, generations: generations.items};
  }));
  const metrics = new Set(studies.map((each) => each.item.metric_name));
  const metricName = studies[0].item.metric_name;
  const link = (each) => h('a', {href: `/studies/${encodeURIComponent(each.name)}`}, each.name);
  const key = (i) => s('svg', {width: 26, height: 10, 'aria-hidden': 'true', class: 'key'}, s('path', {class: `front-line series-${i}`, d: 'M1 5H25', 'stroke-dasharray': lookOf(i).dash || null}));
  const heads = studies.map((each, i) => h('th', {scope: 'col', class: 'right'}, h('span', {class: 'row end-of-row'}, key(i), link(each))));
  const chartHost = h('div');
  let logx = query.get('x') !== 'linear';
  let logy = query.get('y') ? query.get('y') === 'log' : say.isDivergence(metricName);
  let view = null;

  const chart = new FrontChart(chartHost, {
    label: `Fronts of ${names.join(', ')}: metric over size of the file`,
    onHover: (place) => {
      const point = place.point;
      return point && [[null, `${names[place.si]}: solution ${point.id}`, true], ['size', say.exactBytes(point.size_bytes)], ['ratio', say.ratio(point.ratio)], ['drop', say.drop(point.drop, metricName)], ['entries', say.count(point.entries)], ['recipe', point.text ?? '']];
    },
    onWalk: (point, i, n) => `${names[0]}, ${i + 1} of ${n}: ${say.bytes(point.size_bytes)}, drop ${say.drop(point.drop, metricName)}`,
    onOpen: (point) => go(`/studies/${encodeURIComponent(names[0])}/solutions/${point.id}`),
    onPick: (place) => go(`/studies/${encodeURIComponent(names[place.si])}/solutions/${place.number}`),
    onView: (next) => { view = next; draw(); },
  });
  const baselines = new Set(studies.map((each) => each.item.baseline));
  const originals = new Set(studies.map((each) => each.item.original_bytes));
  const draw = () => chart.set({series: studies.map((each) => ({name: each.name, columns: null, front: each.front})), byStage: false, metricName, baseline: baselines.size === 1 ? studies[0].item.baseline : null, original: originals.size === 1 ? studies[0].item.original_bytes : null, dropLimit: null, logx, logy, view, tool: 'zoom'});
  const axis = h('button', {type: 'button', class: 'tool', 'aria-pressed': String(logx), onclick: () => { logx = !logx; view = null; axis.setAttribute('aria-pressed', String(logx)); keepQuery({x: logx ? null : 'linear'}); draw(); }}, 'Log bytes');
  const logDrops = h('button', {type: 'button', class: 'tool', 'aria-pressed': String(logy), onclick: () => { logy = !logy; view = null; logDrops.setAttribute('aria-pressed', String(logy)); keepQuery({y: logy ? 'log' : 'linear'}); draw(); }}, 'Log drop');
  const hypervolume = lineChart({label: 'Hypervolume over generations', x: {title: 'generation', whole: true, say: say.count}, y: {title: 'hypervolume', say: (v) => say.digits(v, 5)}});

  // ------------------------------------------------------------------------ tables
  const sizes = studies.flatMap((each) => each.front.map((p) => p.size_bytes));
  const drops = studies.flatMap((each) => each.front.map((p) => p.drop)).filter((d) => d > 0);
  const spread = (low, high, n) => Array.from({length: n}, (_, i) => low * (high / low) ** (i / (n - 1)));
  const rounded = (v) => Number(v.toPrecision(2));

  function levelTable({caption, first, levels, answer, better, words, level}) {
    return h('div', {class: 'table-scroll', tabindex: 0, role: 'region', 'aria-label': caption}, h('table', null, h('caption', null, caption), h('thead', null, h('tr', null, h('th', {scope: 'col'}, first), heads.map((th) => th.cloneNode(true)))),
      h('tbody', null, levels.map((at) => {
        const answers = studies.map((each) => answer(each, at));
        const known = answers.filter((a) => a !== null);
        const best = known.length > 1 ? known.reduce((a, b) => (better(a, b) ? a : b)) : null;
        return h('tr', null, h('th', {scope: 'row', class: 'num nowrap'}, level(at)), answers.map((a) => h('td', {class: 'right num'}, a === null ? h('span', {class: 'muted'}, 'none') : a === best ? h('b', null, `${words(a)} `, h('span', {class: 'visually-hidden'}, '(best)')) : words(a))));
      }))));
  }

  const atBytes = sizes.length ? levelTable({caption: 'Best at equal bytes', first: 'at most', levels: [...new Set(spread(Math.min(...sizes) * 1.02, Math.max(...sizes), LEVELS).map(rounded))], level: say.bytes, words: (v) => say.metric(v, metricName), better: (a, b) => a > b,
    answer: (each, at) => { const fit = each.front.filter((p) => p.size_bytes <= at).map((p) => p.metric); return fit.length ? Math.max(...fit) : null; }}) : null;
  const atDrop = drops.length ? levelTable({caption: 'Smallest at equal drop', first: 'at most', levels: [0, ...new Set(spread(Math.min(...drops) * 1.02, Math.max(...drops), LEVELS - 1).map(rounded))], level: (v) => say.drop(v, metricName), words: say.bytes, better: (a, b) => a < b,
    answer: (each, at) => { const fit = each.front.filter((p) => p.drop <= at + 1e-12).map((p) => p.size_bytes); return fit.length ? Math.min(...fit) : null; }}) : null;

  fill(host,
    h('div', {class: 'head'}, h('div', {class: 'head-title'}, h('nav', {class: 'crumbs', 'aria-label': 'Where'}, h('a', {href: '/'}, 'Studies')), h('h1', null, 'Compare')), h('div', {class: 'row'}, axis, baselines.size === 1 && logDrops)),
    metrics.size > 1 && h('p', {class: 'alert'}, `These studies measure different things (${[...metrics].map(say.metricWords).join(', ')}); their fronts cannot be read against one another.`),
    baselines.size > 1 && h('p', {class: 'alert info'}, 'The float networks differ; equal drops are measured from each one’s own.'),
    h('div', {class: 'legend', 'data-test': 'compare-legend'}, studies.map((each, i) => h('span', {class: 'legend-item'}, key(i), link(each), badge(each.item.status)))),
    chartHost,
    h('div', {class: 'two'}, atBytes, atDrop),
    h('div', {class: 'table-scroll', tabindex: 0, role: 'region', 'aria-label': 'Studies'}, h('table', {'data-test': 'compare-table'}, h('caption', null, 'The studies'), h('thead', null, h('tr', null, h('th', {scope: 'col'}, 'fact'), heads)), h('tbody', null,
      [['network', (i) => i.network], ['data', (i) => i.dataset], ['method', (i) => i.method], ['float network', (i) => say.metric(i.baseline, i.metric_name)], ['hypervolume', (i) => say.digits(i.hypervolume, 4)], ['evaluations', (i) => say.count(i.evaluations)], ['smallest file wanted', (i) => say.bytes(i.smallest_bytes)]].map(([term, get]) => h('tr', null, h('th', {scope: 'row'}, term), studies.map((each) => h('td', {class: 'right num'}, get(each.item) ?? '–'))))))),
    hypervolume.element);
  draw();
  hypervolume.set(studies.map((each) => ({name: each.name, points: each.generations.map((g) => [g.index, g.hypervolume])})));
  const stop = store.follow('/events', () => {});
  return () => {
    stop();
    chart.close();
    hypervolume.close();
  };
}
