// What happened? Events as they come, and what the process printed.

import * as api from '../api.js';
import {fill, h, throttle} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {reasonOf} from '../parts/badge.js';

const KINDS = ['opened', 'phase_started', 'phase_ended', 'generation_ended', 'solution_merged', 'workers', 'holdout_opened', 'note', 'ended', 'evaluated'];
const READ = KINDS.filter((kind) => kind !== 'evaluated' && kind !== 'generation_ended');
const KEEP = 2000;
const POLL_MS = 2500;
const TEXT_KEEP = 400_000;

export async function mount(host, {name}, {store, query, keepQuery}) {
  const url = `/studies/${encodeURIComponent(name)}`;
  const trouble = h('div');
  const loadItem = async () => fill(trouble, reasonOf(await api.get(url)));
  await loadItem();
  let kind = query.get('kind') ?? '';
  let events = [];
  let next = 0;
  let at = 0;
  let launch = null;
  let closed = false;
  const rows = h('tbody', {'data-test': 'events'});
  const log = h('pre', {class: 'code-box log', tabindex: 0, role: 'region', 'aria-label': 'What the process printed', 'data-test': 'log'});
  const state = h('span', {class: 'small muted'});
  const follow = h('input', {type: 'checkbox', checked: true, 'data-test': 'follow'});
  const choice = h('select', {'aria-label': 'Kind of event', value: kind, 'data-test': 'event-kind', onchange: () => { kind = choice.value; keepQuery({kind}); again(); }}, h('option', {value: ''}, 'main events'), KINDS.map((each) => h('option', {value: each}, each.replace('_', ' '))));

  async function loadEvents() {
    const first = next === 0;
    const got = await api.get(`${url}/history`, {after: next, limit: 500, kind: kind || READ, newest: first ? true : null});
    if (closed) return;
    if (first) events = [];
    events = [...events, ...got.items].slice(-KEEP);
    if (got.items.length) next = got.items.at(-1).id;
    const shown = events;
    fill(rows, shown.slice(-400).reverse().map((event) => h('tr', null, h('td', {class: 'num nowrap muted', title: say.moment(event.at)}, say.clock(event.at)), h('td', {class: 'nowrap minor'}, event.kind.replace('_', ' ')), h('td', null, event.text))),
      shown.length === 0 && h('tr', null, h('td', {colspan: 3, class: 'muted none'}, 'Nothing of this kind yet.')));
  }

  function again() {
    next = 0;
    return loadEvents();
  }

  async function loadLog() {
    const got = await api.get(`${url}/log`, {from: at});
    if (closed) return;
    if (launch !== null && got.launch !== launch) { // started again: it prints anew
      log.textContent = '';
      launch = got.launch;
      at = 0;
      await loadLog();
      return;
    }
    launch = got.launch;
    const bottom = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    if (got.text) {
      // One text node grows; a long log keeps its end.
      const whole = log.textContent + got.text;
      log.textContent = whole.length > TEXT_KEEP ? whole.slice(-TEXT_KEEP) : whole;
    }
    at = got.next;
    const isLaunched = got.launch !== null;
    state.textContent = !isLaunched ? '' : got.ended ? 'The launched process has ended.' : 'Followed.';
    if (!log.textContent) log.dataset.empty = isLaunched ? 'Nothing was printed yet.' : 'A terminal runs this study, and has what it prints. What is launched prints here.';
    else delete log.dataset.empty;
    if (follow.checked && (bottom || got.text)) log.scrollTop = log.scrollHeight;
  }

  fill(host,
    h('div', {class: 'head'}, h('div', {class: 'head-title'}, h('nav', {class: 'crumbs', 'aria-label': 'Where'}, h('a', {href: '/'}, 'Studies'), ' / ', h('a', {href: `/studies/${encodeURIComponent(name)}`}, name)), h('h1', null, `Log of ${name}`))),
    trouble,
    h('div', {class: 'log-grid'},
      h('div', {class: 'stack'}, h('div', {class: 'row spread'}, h('h2', null, 'Events'), choice), h('div', {class: 'table-scroll tall', tabindex: 0, role: 'region', 'aria-label': 'Events'}, h('table', null, h('thead', null, h('tr', null, h('th', {scope: 'col'}, 'At'), h('th', {scope: 'col', class: 'minor'}, 'Kind'), h('th', {scope: 'col'}, 'What'))), rows))),
      h('div', {class: 'stack'}, h('div', {class: 'row spread'}, h('h2', null, 'Printed'), h('span', {class: 'row'}, state, h('label', {class: 'small'}, follow, 'follow'))), log)));
  await loadEvents().catch((error) => { if (error.status !== 404) throw error; });
  await loadLog().catch((error) => { state.textContent = error.message; });
  requestAnimationFrame(() => { log.scrollTop = log.scrollHeight; });
  const soon = throttle(() => { loadEvents().catch(() => {}); }, 800);
  const stop = store.follow(`${url}/events`, (event) => { if (event.id !== null) soon(); });
  const poll = setInterval(() => { if (!document.hidden) Promise.all([loadLog(), loadItem()]).catch(() => {}); }, POLL_MS);
  return () => {
    closed = true;
    stop();
    soon.cancel();
    clearInterval(poll);
  };
}
