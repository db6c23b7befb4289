// What one may do with a study: start, stop, resume, clone, archive, delete, take its data away.

import * as api from '../api.js';
import {fill, h} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {confirmThat} from '../parts/dialog.js';
import {attempt} from '../parts/toast.js';

const ACTIVE = new Set(['running', 'queued']);

/** Fill the place of the buttons for a study in its present state. */
export function drawActions(host, study, {store, go}) {
  const {item, url} = study;
  const active = ACTIVE.has(item.status);
  const {isStored} = study;
  const key = [item.status, item.reason, item.archived, item.retriable, isStored, store.mayWrite].join();
  if (host.dataset.key === key) return;
  host.dataset.key = key;
  const reload = () => study.loadItem();
  const run = (what, said) => attempt(async () => { await what(); await reload(); }, said);
  const may = store.mayWrite;
  const why = may ? null : 'A viewer cannot do this; ask an operator';
  const start = (body, said) => run(() => api.post(`${url}/start`, body), said);
  const words = item.status === 'finished' ? 'Run again' : item.evaluations ? 'Resume' : 'Start';
  const menu = h('details', {class: 'menu'}, h('summary', {class: 'button', 'data-test': 'more-actions'}, 'More'), h('div', null,
    item.retriable > 0 && !active && button(`Retry ${say.plural(item.retriable, 'failure')}`, () => start({retry_failed: true}, 'The failures are tried again.'), 'retry-failed'),
    item.status === 'failed' && (item.reason ?? '').includes('accept_baseline') && button('Start, accept the baseline', () => start({accept_baseline: true}, 'Started.'), 'accept-baseline'),
    may && h('a', {class: 'button', href: `/new?from=${encodeURIComponent(study.name)}`, 'data-test': 'clone'}, 'Clone with changes'),
    isStored && ['csv', 'json', 'parquet'].map((kind) => h('a', {class: 'button', href: api.href(`${url}/evaluations.${kind}`), download: `${study.name}.${kind}`, 'data-test': `evaluations-${kind}`}, `Evaluations as ${kind === 'parquet' ? 'Parquet' : kind.toUpperCase()}`)),
    isStored && button(item.archived ? 'Take out of the archive' : 'Archive', () => run(() => api.patch(url, {archived: !item.archived}), item.archived ? 'Back among the studies.' : 'Archived. It can be deleted now.'), 'archive'),
    (item.archived || !isStored) && !active && button('Delete', erase, 'delete', 'danger')));

  function button(text, action, test, look) {
    return h('button', {type: 'button', class: look ?? null, disabled: !may, title: why, onclick: () => { menu.open = false; action(); }, 'data-test': test}, text);
  }

  async function erase() {
    const text = isStored
      ? `${say.plural(item.evaluations, 'evaluation')}, ${say.plural(item.front_size ?? 0, 'solution')} on the front, its exports and its notes will be gone for good.`
      : 'It never got as far as being stored: its spec and its log will be gone for good.';
    const sure = await confirmThat({title: `Delete ${study.name}?`, text, yes: 'Delete for good', danger: true});
    if (sure && await attempt(() => api.remove(url), `${study.name} is deleted.`)) go('/');
  }

  menu.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    menu.open = false;
    menu.firstChild.focus();
  });
  menu.addEventListener('focusout', (event) => { if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false; });
  fill(host,
    h('a', {class: 'button quiet', href: `/studies/${encodeURIComponent(study.name)}/log`, 'data-test': 'open-log'}, 'Log'),
    active
      ? h('button', {type: 'button', disabled: !may, title: why, onclick: () => run(() => api.post(`${url}/stop`), item.status === 'queued' ? 'Taken out of the queue.' : 'Stopping. What is evaluated is kept.'), 'data-test': 'stop'}, item.status === 'queued' ? 'Leave the queue' : 'Stop')
      : h('button', {type: 'button', class: item.status === 'finished' ? null : 'primary', disabled: !may, title: why, onclick: () => start({}, 'Started.'), 'data-test': 'resume'}, words),
    menu);
}
