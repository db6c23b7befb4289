// Who works, and what waits?

import * as api from '../api.js';
import {fill, h, throttle} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {table} from '../parts/table.js';

const POLL_MS = 4000;
const KINDS = {run: 'study', export: 'export'};
const LAUNCHERS = {process: 'this machine', ray: 'a Ray cluster'};

export async function mount(host, params, {store}) {
  const work = h('dl', {class: 'facts'});
  const machine = h('dl', {class: 'facts', 'data-test': 'host'});
  const link = (name) => h('a', {href: `/studies/${encodeURIComponent(name)}`, class: 'long-name'}, name);
  const running = table({caption: 'Running', test: 'running-table', id: (r) => r.id ?? r.study, none: 'Nothing runs.', columns: [
    {key: 'study', title: 'Study', cell: (r) => link(r.study)}, {key: 'kind', title: 'Kind', cell: (r) => KINDS[r.kind] ?? r.kind}, {key: 'workers', title: 'Workers', num: true, cell: (r) => say.count(r.workers)},
    {key: 'doing', title: 'Doing', minor: true, cell: (r) => say.doing(r.doing) || (r.workers > 0 ? 'evaluating' : 'starting')}, {key: 'since', title: 'For', num: true, cell: (r) => say.duration((Date.now() - Date.parse(r.started_at)) / 1000)}]});
  const queue = table({caption: 'Waiting', test: 'queue-table', id: (r) => r.id, none: 'Nobody waits.', columns: [
    {key: 'position', title: 'Place', cell: (r) => say.count(r.position)}, {key: 'study', title: 'Study', cell: (r) => link(r.study)}, {key: 'kind', title: 'Kind', cell: (r) => KINDS[r.kind] ?? r.kind},
    {key: 'by', title: 'Asked by', minor: true, cell: (r) => r.requested_by ?? '–'}, {key: 'at', title: 'Waits', num: true, cell: (r) => say.duration((Date.now() - Date.parse(r.requested_at)) / 1000)}]});
  const nodes = h('div', {class: 'stack'});

  const words = {cores: 'cores', cpus: 'cores', load: 'load, last minute', name: 'machine', hostname: 'machine', python: 'Python', platform: 'system'};
  const value = (key, v) => (key.endsWith('_bytes') ? say.bytes(v) : typeof v === 'number' ? say.digits(v, 3) : Array.isArray(v) ? v.map((each) => (typeof each === 'number' ? say.digits(each, 3) : String(each))).join(', ') : String(v));

  async function load() {
    const got = await api.get('/cluster');
    const fact = (term, shown, note) => h('div', null, h('dt', null, term), h('dd', null, shown, note && h('small', null, note)));
    const studies = got.running.filter((r) => r.kind === 'run').length;
    const exports = got.running.length - studies;
    fill(work,
      fact('running', `${studies}${got.max_running ? ` of ${got.max_running}` : ''}`, exports ? `studies, and ${say.plural(exports, 'export')}` : 'studies'), fact('waiting', say.count(got.queue.length)),
      fact('workers', say.count(got.running.reduce((sum, r) => sum + (r.workers ?? 0), 0))), fact('studies run on', LAUNCHERS[got.launcher] ?? got.launcher));
    fill(machine,
      Object.entries(got.host ?? {}).filter(([, v]) => v !== null && (typeof v !== 'object' || Array.isArray(v))).map(([key, v]) => fact(words[key] ?? key.replace(/_bytes$/, '').replaceAll('_', ' '), value(key, v))));
    running.set(got.running);
    queue.set(got.queue);
    fill(nodes, got.nodes?.length > 0 && [h('h2', null, 'Nodes'), nodeTable(got.nodes)]);
  }

  function nodeTable(list) {
    const keys = [...new Set(list.flatMap((node) => Object.keys(node)))].filter((key) => list.every((node) => typeof node[key] !== 'object' || node[key] === null));
    const rows = table({caption: 'Nodes', id: (r) => JSON.stringify(r), columns: keys.map((key) => ({key, title: key.replaceAll('_', ' '), num: typeof list[0][key] === 'number', cell: (r) => (r[key] === null || r[key] === undefined ? '–' : value(key, r[key]))}))});
    rows.set(list);
    return rows.element;
  }

  fill(host, h('h1', null, 'Cluster'), work, h('section', {class: 'stack'}, h('h2', null, 'Running'), running.element), h('section', {class: 'stack'}, h('h2', null, 'Waiting'), queue.element),
    h('section', {class: 'stack'}, h('h2', null, 'Machine of the server'), machine), nodes);
  await load();
  const again = throttle(() => { load().catch(() => {}); }, 1500);
  const stop = store.follow('/events', (event) => { if (event.kind !== 'evaluated') again(); });
  const poll = setInterval(() => { if (!document.hidden) again(); }, POLL_MS);
  return () => {
    stop();
    again.cancel();
    clearInterval(poll);
  };
}
