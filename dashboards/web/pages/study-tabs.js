// Below the chart: the same points as tables, how the front grew, what failed, what people wrote.

import {fill, h} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {command} from '../parts/command.js';
import {markIcon} from '../parts/marks.js';
import {table} from '../parts/table.js';
import {tabs} from '../parts/tabs.js';
import {attempt} from '../parts/toast.js';
import * as api from '../api.js';
import {downloads} from '../parts/export-dialog.js';
import {historyPanel} from './study-history.js';
import {notesPanel} from './study-notes.js';

const LIMIT = 100;

export function studyTabs(page) {
  const {study, view, shell} = page;
  let live = null; // {changed(topic), close()} of the panel shown
  const show = (make) => (panel) => {
    live?.close?.();
    live = make(panel);
  };
  const list = [
    {id: 'front', title: 'Front', draw: show(frontPanel)},
    {id: 'selection', title: 'Selection', draw: show(selectionPanel)},
    {id: 'all', title: 'All evaluations', draw: show(allPanel)},
    {id: 'history', title: 'Over time', draw: show((panel) => historyPanel(panel, page))},
    {id: 'workers', title: 'Workers', draw: show(workersTab)},
    ...(study.item.variables?.length > 1 ? [{id: 'parallel', title: 'Variables', draw: show(parallelPanel)}] : []),
    {id: 'failures', title: failuresTitle(), draw: show(failuresPanel)},
    {id: 'exports', title: 'Exports', draw: show(exportsPanel)},
    {id: 'notes', title: 'Notes', draw: show((panel) => notesPanel(panel, page))},
    {id: 'spec', title: 'Spec', draw: show(specPanel)},
  ];
  const bar = tabs('More about this study', list, {chosen: shell.query.get('tab') ?? 'front', onChoose: (id) => shell.keepQuery({tab: id === 'front' ? null : id})});

  function failuresTitle() {
    return study.item.failed ? `Failures (${say.count(study.item.failed)})` : 'Failures';
  }

  function columns({facts = true} = {}) {
    const {metric_name: name} = study.item;
    return [
      {key: 'id', title: 'Solution', sort: (r) => r.id, cell: (r) => h('span', {class: 'nowrap'}, markIcon(r.stage, {filled: r.on_front !== false}), ' ', r.status === 'stopped' || r.status === 'failed' ? String(r.id) : h('a', {href: `/studies/${encodeURIComponent(study.name)}/solutions/${r.id}`}, String(r.id)))},
      {key: 'size_bytes', title: 'Bytes', num: true, sort: (r) => r.size_bytes, cell: (r) => say.count(r.size_bytes)},
      {key: 'ratio', title: 'Ratio', num: true, minor: true, sort: (r) => r.ratio, cell: (r) => say.ratio(r.ratio)},
      {key: 'metric', title: say.isDivergence(name) ? `${say.metricWords(name)} (nats)` : say.metricWords(name), num: true, minor: true, sort: (r) => r.metric ?? r.bound, cell: (r) => (r.metric === null || r.metric === undefined ? (r.bound === null || r.bound === undefined ? '–' : `≤ ${say.bare(say.metric(r.bound, name), name)}`) : say.bare(say.metric(r.metric, name), name))},
      {key: 'drop', title: say.unitOf(name) ? `Drop (${say.unitOf(name)})` : 'Drop', num: true, sort: (r) => r.drop, cell: (r) => say.bare(say.noisyDrop(r, name), name)},
      ...(facts ? [{key: 'entries', title: 'Entries', num: true, sort: (r) => r.entries, cell: (r) => say.count(r.entries)}, {key: 'bits', title: 'Bits / weight', num: true, minor: true, sort: (r) => r.bits_per_weight, cell: (r) => say.bits(r.bits_per_weight)}] : []),
      {key: 'generation', title: 'Generation', num: true, minor: true, sort: (r) => r.generation, cell: (r) => say.count(r.generation)},
      ...(facts ? [{key: 'text', title: 'Recipe', minor: true, cell: (r) => h('span', {class: 'mono'}, r.text ?? '')}] : []),
    ];
  }

  function frontPanel(panel) {
    const rows = table({caption: `Front of ${study.name}`, test: 'front-table', columns: columns(), id: (r) => r.id, sorted: {key: 'size_bytes', down: false}, onRow: (r) => page.choose(r), rowClass: (r) => (view.manual?.id === r.id ? 'current' : ''), none: 'No solution within the wanted drop yet.'});
    fill(panel, h('p', {class: 'small muted'}, 'Solutions that no other beats in both bytes and metric. A row clicked is picked; its number opens it.'), rows.element);
    const draw = () => rows.set(study.front);
    draw();
    return {changed: (topic) => { if (topic === 'points' || topic === 'item') draw(); }};
  }

  function selectionPanel(panel) {
    const rows = table({caption: 'Selected points', test: 'selection-table', columns: columns({facts: false}), id: (r) => r.id, sorted: {key: 'size_bytes', down: false}, onRow: (r) => page.open(r.id), none: 'Drag a box or a lasso over the chart; what lies inside is listed here.'});
    const words = h('span', {class: 'small muted', 'data-test': 'selection-count'});
    const clear = h('button', {type: 'button', class: 'small-button', onclick: () => page.select(null)}, 'Clear');
    fill(panel, h('div', {class: 'row'}, words, clear), rows.element);
    const draw = () => {
      const {points} = study;
      const chosen = [];
      for (let i = 0; view.selected && i < points.numbers.length; i += 1) {
        if (!view.selected.has(points.numbers[i])) continue;
        const stopped = points.status[i] !== 'complete';
        const size = points.size_bytes[i];
        chosen.push({id: points.numbers[i], stage: points.stage[i], status: points.status[i], size_bytes: size, ratio: study.item.original_bytes / size, metric: stopped ? null : points.metric[i], bound: stopped ? points.metric[i] : null, drop: stopped ? null : study.item.baseline - points.metric[i], generation: points.generation[i], on_front: points.front.includes(points.numbers[i])});
      }
      words.textContent = say.plural(chosen.length, 'point');
      clear.hidden = chosen.length === 0;
      rows.set(chosen);
    };
    draw();
    return {changed: (topic) => { if (topic === 'selection') draw(); }};
  }

  function allPanel(panel) {
    const ask = {stage: '', status: '', sort: 'number', order: 'desc'};
    let items = [];
    let next = null;
    const server = columns().map((c) => (({id: 'number', size_bytes: 'size_bytes', metric: 'metric'})[c.key] ? c : {...c, sort: undefined}));
    server.push({key: 'duration', title: 'Took', num: true, minor: true, cell: (r) => say.duration(r.duration_s)}, {key: 'status', title: 'Status', minor: true, cell: (r) => r.status});
    const rows = table({caption: `Evaluations of ${study.name}`, test: 'evaluations-table', columns: server, id: (r) => r.id, sorted: {key: 'id', down: true}, onRow: (r) => { if (r.status === 'complete') page.open(r.id); }, onSort: (key, down) => { ask.sort = key === 'id' ? 'number' : key; ask.order = down ? 'desc' : 'asc'; load(); }, none: 'No evaluation is like this.'});
    const total = h('span', {class: 'small muted'});
    const more = h('button', {type: 'button', class: 'small-button', onclick: () => load(true), 'data-test': 'more-evaluations'}, 'Load more');
    const choice = (label, name, options) => h('select', {'aria-label': label, onchange: (event) => { ask[name] = event.target.value; load(); }}, options.map((value) => h('option', {value}, value || `any ${name}`)));
    fill(panel, h('div', {class: 'row'}, choice('Stage', 'stage', ['', 'search', 'refined', 'merged', 'distilled', 'tuned']), choice('Status', 'status', ['', 'complete', 'stopped', 'failed']), total), rows.element, h('div', {class: 'row'}, more));
    async function load(on = false) {
      const got = await api.get(`${study.url}/evaluations`, {...ask, limit: LIMIT, after: on ? next : null});
      items = on ? [...items, ...got.items] : got.items;
      next = got.next;
      total.textContent = `${say.count(items.length)} of ${say.plural(got.total, 'evaluation')}`;
      more.hidden = next === null;
      rows.set(items);
    }
    load().catch((error) => fill(panel, h('p', {class: 'alert'}, error.message)));
    return {};
  }

  function parallelPanel(panel) {
    let closed = false;
    let part = null;
    import('../parts/parallel.js').then(async ({parallel}) => {
      const got = await api.get(`${study.url}/evaluations`, {status: 'complete', sort: 'number', order: 'desc', limit: 400});
      if (closed) return;
      part = parallel({variables: study.item.variables, metricName: study.item.metric_name, onOpen: (row) => page.open(row.id)});
      const front = new Set(study.front.map((p) => p.id));
      const rows = new Map([...got.items, ...study.front].map((r) => [r.id, {...r, on_front: front.has(r.id)}]));
      fill(panel, part.element);
      part.set([...rows.values()]);
    }).catch((error) => fill(panel, h('p', {class: 'alert'}, error.message)));
    return {close() { closed = true; part?.close(); }};
  }

  function workersTab(panel) {
    let closed = false;
    let part = null;
    import('./study-workers.js').then(({workersPanel}) => { if (!closed) part = workersPanel(panel, page); });
    return {changed(topic) { part?.changed(topic); }, close() { closed = true; part?.close(); }};
  }

  function failuresPanel(panel) {
    const draw = () => {
      const {errors = [], retriable, failed, status} = study.item;
      if (!failed) {
        fill(panel, h('p', {class: 'muted'}, 'No evaluation has failed.'));
        return;
      }
      const busy = status === 'running' || status === 'queued';
      const retry = h('button', {type: 'button', disabled: !shell.store.mayWrite || busy, 'data-test': 'retry', onclick: () => attempt(async () => { await api.post(`${study.url}/start`, {retry_failed: true}); await study.loadItem(); }, 'The failures are tried again.')}, `Retry ${say.plural(retriable ?? 0, 'evaluation')}`);
      const rows = table({caption: 'Failed evaluations', test: 'failures-table', id: (r) => r.id, columns: [
        {key: 'id', title: 'Evaluation', sort: (r) => r.id, cell: (r) => String(r.id)}, {key: 'text', title: 'Recipe', cell: (r) => h('span', {class: 'mono'}, r.text)},
        {key: 'error', title: 'Reason', cell: (r) => h('span', {class: 'wrap-text'}, r.error)}, {key: 'retriable', title: 'Can be retried', minor: true, cell: (r) => (r.retriable ? 'yes' : 'no')}]});
      rows.set(errors);
      fill(panel, h('div', {class: 'row spread'}, h('p', null, `${say.plural(failed, 'evaluation')} failed; the study went on without them. ${say.plural(retriable ?? 0, 'was', 'were')} not at fault ${retriable === 1 ? 'itself' : 'themselves'}.`), retriable > 0 && retry), rows.element);
    };
    draw();
    return {changed: (topic) => { if (topic === 'item') draw(); }};
  }

  function exportsPanel(panel) {
    const draw = () => {
      if (!study.exports.length) {
        fill(panel, h('p', {class: 'muted'}, 'Nothing was exported yet. Pick a solution beside the chart, then Export.'));
        return;
      }
      fill(panel, study.exports.map((job) => {
        const id = job.report?.solution?.id ?? job.request?.id;
        return h('div', {class: 'panel', 'data-test': 'export-row'}, h('div', {class: 'row spread'}, h('h3', null, id ? h('a', {href: `/studies/${encodeURIComponent(study.name)}/solutions/${id}`}, `Solution ${id}`) : `Export ${job.id}`), h('span', {class: 'small muted'}, `${job.status}, ${say.moment(job.ended_at ?? job.requested_at)}`)), job.error && h('p', {class: 'alert'}, say.sentence(job.error)), job.doing && h('p', {class: 'small'}, `${say.sentence(job.doing)}…`),
          job.status !== 'finished' && h('p', {class: 'small muted'}, `${(job.request?.formats ?? []).join(', ')}; `, h('a', {href: api.href(`/exports/${job.id}/log`), target: '_blank', 'data-external': true, 'data-test': 'export-log'}, 'what its process printed')),
          downloads(job));
      }));
    };
    draw();
    return {changed: (topic) => { if (topic === 'exports') draw(); }};
  }

  function specPanel(panel) {
    const {item} = study;
    fill(panel,
      h('pre', {class: 'code-box', tabindex: 0, 'aria-label': 'Spec of the study', 'data-test': 'spec'}, item.toml ?? ''),
      item.space?.length > 0 && h('p', {'data-test': 'space'}, 'Searched: ', h('b', null, item.space.map(say.range).join('; ')), '. Bounds that the spec leaves open follow from the network.'),
      h('p', {class: 'small muted'}, 'On the command line'), command(`moeash run ${study.name}.toml`),
      item.environment && h('dl', {class: 'picked narrow'}, Object.entries(item.environment).map(([term, value]) => [h('dt', null, term), h('dd', {class: 'num'}, String(value))])));
    return {};
  }

  return {
    element: bar.element,
    changed(topic, value) {
      if (topic === 'item') bar.retitle('failures', failuresTitle());
      live?.changed?.(topic, value);
    },
    selectionChanged() {
      bar.retitle('selection', view.selected ? `Selection (${say.count(view.selected.size)})` : 'Selection');
      if (view.selected && bar.present !== 'selection') bar.choose('selection');
      else live?.changed?.('selection');
    },
    close() { live?.close?.(); },
  };
}
