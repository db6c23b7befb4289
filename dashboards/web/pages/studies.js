// What is running, what is done, what needs me?

import * as api from '../api.js';
import {debounce, fill, h, keepFocus, throttle} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {badge, progress, tagList} from '../parts/badge.js';
import {sparkline} from '../parts/sparkline.js';
import {empty, errorBox} from '../parts/states.js';

const LIMIT = 50;
const SORTS = [['updated', 'last change'], ['name', 'name'], ['created', 'age'], ['bytes', 'best size']];
const POLL_MS = 10_000;

export async function mount(host, params, {go, keepQuery, store, query}) {
  const filter = {search: query.get('search') ?? '', status: query.get('status') ?? '', tag: query.get('tag') ?? '', archived: query.get('archived') ?? '', sort: query.get('sort') ?? ''};
  const chosen = new Set();
  let items = [];
  let next = null;
  let total = 0;
  let known = [];

  const heading = h('span', {class: 'muted small', 'data-test': 'studies-total'});
  const list = h('div', {class: 'stack', 'data-test': 'studies'});
  const compare = h('button', {type: 'button', onclick: () => go(`/compare?${[...chosen].map((name) => `study=${encodeURIComponent(name)}`).join('&')}`), 'data-test': 'compare'}, 'Compare');
  const search = h('input', {type: 'search', placeholder: 'Search by name', 'aria-label': 'Search studies by name', value: filter.search, 'data-shortcut': '/', 'data-test': 'search'});
  const status = select('State', 'status', [['', 'any state'], ...Object.entries(say.STATUS).map(([value, [words]]) => [value, words])]);
  const tag = select('Tag', 'tag', [['', 'any tag']]);
  const sort = select('Sort by', 'sort', SORTS.map(([value, words]) => [value === 'updated' ? '' : value, `by ${words}`]));
  const archived = h('input', {type: 'checkbox', checked: filter.archived === 'true', 'data-test': 'filter-archived', onchange: (event) => change('archived', event.target.checked ? 'true' : '')});

  function select(label, name, options) {
    return h('select', {'aria-label': label, value: filter[name], 'data-test': `filter-${name}`, onchange: (event) => change(name, event.target.value)}, options.map(([value, words]) => h('option', {value}, words)));
  }

  function change(name, value) {
    filter[name] = value;
    keepQuery({[name]: value});
    return load();
  }
  const searchSoon = debounce(() => change('search', search.value.trim()), 200);
  search.addEventListener('input', searchSoon);

  async function load(more = false) {
    const asked = {...filter};
    const got = await api.get('/studies', {...asked, limit: more ? LIMIT : Math.max(LIMIT, items.length), after: more ? next : null});
    if (asked.search !== filter.search || asked.status !== filter.status || asked.tag !== filter.tag) return;
    items = more ? [...items, ...got.items] : got.items;
    for (const item of items) store.seen.set(item.name, item);
    next = got.next;
    total = got.total;
    known = [...new Set([...known, ...items.flatMap((item) => item.tags ?? [])])].sort();
    draw();
  }

  function drawTags() {
    if (tag.options.length === known.length + 1) return;
    fill(tag, h('option', {value: ''}, 'any tag'), known.map((each) => h('option', {value: each}, each)));
    tag.value = filter.tag;
  }

  const draw = () => keepFocus(list, drawAll);

  function drawAll() {
    drawTags();
    heading.textContent = say.plural(total, 'study', 'studies');
    compare.disabled = chosen.size < 2;
    compare.textContent = chosen.size ? `Compare ${chosen.size} selected` : 'Compare selected';
    const filtered = filter.search || filter.status || filter.tag || filter.archived;
    if (!items.length) {
      fill(list, filtered
        ? empty('No study matches', 'Nothing has this name, state and tag.', h('button', {type: 'button', onclick: () => { for (const name of Object.keys(filter)) filter[name] = ''; go('/'); }}, 'Show all'))
        : empty('No study yet', 'A study searches how few shared weights a trained network needs. The first one takes seconds: real digits and a small network that ships with moeash.',
          store.mayWrite ? h('a', {class: 'button primary', href: '/new?template=digits', 'data-test': 'first-study'}, 'Start the digits study') : h('p', {class: 'muted'}, 'An operator can start one.')));
      return;
    }
    const bad = items.filter((item) => say.isTrouble(item.status));
    const good = items.filter((item) => !bad.includes(item));
    fill(list,
      bad.length > 0 && group('Needs attention', bad, 'attention'),
      good.length > 0 && group(bad.length ? 'All others' : null, good, 'others'),
      next && h('button', {type: 'button', onclick: () => load(true), 'data-test': 'more'}, `Show more of ${say.count(total)}`));
  }

  function group(title, rows, test) {
    return h('section', {class: 'stack', 'aria-label': title ?? 'Studies'}, title && h('h2', null, title),
      h('div', {class: 'studies', role: 'table', 'aria-label': title ?? 'Studies', 'data-test': test},
        h('div', {class: 'studies-head', role: 'row'}, ['', 'Study', 'State', 'Progress', 'Hypervolume', 'Smallest wanted', 'Changed'].map((words, i) => h('span', {role: 'columnheader'}, i === 0 ? h('span', {class: 'visually-hidden'}, 'Select') : words))),
        rows.map(line)));
  }

  function line(item) {
    const url = `/studies/${encodeURIComponent(item.name)}`;
    const box = h('input', {type: 'checkbox', checked: chosen.has(item.name), 'aria-label': `Select ${item.name}`, 'data-test': 'select', onchange: (event) => {
      if (event.target.checked) chosen.add(item.name);
      else chosen.delete(item.name);
      draw();
    }});
    const about = [item.network, item.dataset, item.method].filter(Boolean).join(' · ');
    const activity = item.status === 'queued' && item.queue_position ? `place ${item.queue_position} in the queue` : say.doing(item.doing) || (item.status === 'running' && item.phase ? `${item.phase}${item.left_s ? `, ${say.duration(item.left_s)} left` : ''}` : '');
    return h('div', {class: `studies-row row-${item.status}`, role: 'row', 'data-test': 'study-row', 'data-name': item.name, onclick: (event) => { if (!event.target.closest('a, button, input')) go(url); }},
      h('span', {role: 'cell', class: 'cell-select'}, box),
      h('span', {role: 'cell', class: 'cell-name'}, h('a', {href: url, class: 'study-name'}, item.name), h('span', {class: 'muted small'}, about, item.max_drop !== null && item.max_drop !== undefined && item.metric_name ? ` · within ${say.drop(item.max_drop, item.metric_name)}` : ''), tagList(item.tags, (name) => { tag.value = name; change('tag', name); })),
      h('span', {role: 'cell', class: 'cell-state'}, badge(item.status), activity && h('span', {class: 'small muted'}, activity), item.workers > 0 && h('span', {class: 'small muted'}, say.plural(item.workers, 'worker')), item.reason && item.status !== 'queued' && h('span', {class: `small about ${say.isTrouble(item.status) ? 'reason' : 'muted'}`, title: item.reason}, item.reason)),
      h('span', {role: 'cell', class: 'cell-progress'}, progress(item)),
      h('span', {role: 'cell', class: 'cell-spark'}, sparkline(item.sparkline, {label: item.hypervolume === null || item.hypervolume === undefined ? 'no hypervolume yet' : `hypervolume ${say.digits(item.hypervolume, 4)}`})),
      h('span', {role: 'cell', class: 'cell-bytes'}, h('span', {class: 'num strong'}, say.bytes(item.smallest_bytes)), item.smallest_bytes && item.original_bytes ? h('span', {class: 'small muted'}, say.ratio(item.original_bytes / item.smallest_bytes)) : null),
      h('span', {role: 'cell', class: 'cell-age small muted', title: say.moment(item.updated_at)}, say.ago(item.updated_at)));
  }

  fill(host,
    h('div', {class: 'row spread'}, h('div', {class: 'row'}, h('h1', null, 'Studies'), heading), store.mayWrite && h('a', {class: 'button primary', href: '/new', 'data-test': 'new-study'}, 'New study')),
    h('div', {class: 'filters', role: 'search'}, search, status, tag, sort, h('label', null, archived, 'archived'), compare),
    list);
  try {
    await load();
  } catch (error) {
    if (error.status === 401) throw error;
    fill(list, errorBox({title: error.title, message: error.message, request: error.request, again: () => go(location.href, {replace: true})}));
  }
  const again = throttle(() => load().catch(() => {}), 2000);
  const stop = store.follow('/events', again);
  const poll = setInterval(() => { if (!document.hidden) again(); }, POLL_MS);
  return () => {
    stop();
    again.cancel();
    searchSoon.cancel();
    clearInterval(poll);
  };
}
