// Uploaded files: what specs may name, and whose they are to delete.

import * as api from '../api.js';
import {fill, h} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {confirmThat} from './dialog.js';
import {table} from './table.js';
import {attempt} from './toast.js';

/** @param {object} options `items` to begin with; `session` says whose files may be deleted; `onUse` takes a path */
export function uploads({items, session, onUse}) {
  const may = (file) => session?.role === 'admin' || (session?.role === 'operator' && file.uploaded_by === session.name);
  const rows = table({caption: 'Uploaded files', test: 'uploads-table', page: 20, id: (r) => r.name, sorted: {key: 'name', down: false}, none: 'None yet.', columns: [
    {key: 'name', title: 'File', sort: (r) => r.name, cell: (r) => h('span', {class: 'mono wrap-text'}, r.name)},
    {key: 'size', title: 'Bytes', num: true, sort: (r) => r.size_bytes, cell: (r) => say.count(r.size_bytes)},
    {key: 'by', title: 'Uploaded by', minor: true, sort: (r) => r.uploaded_by, cell: (r) => r.uploaded_by ?? '–'},
    {key: 'end', title: 'Use or delete', cell: (r) => h('div', {class: 'row end-of-row'},
      !r.name.endsWith('.toml') && h('button', {type: 'button', class: 'small-button', onclick: () => onUse(r.path), 'data-test': 'use-upload', 'aria-label': `Use ${r.name}`}, 'Use'),
      h('button', {type: 'button', class: 'small-button danger', disabled: !may(r), title: may(r) ? null : `It is ${r.uploaded_by ?? 'nobody'}'s; ask them, or an admin`, onclick: () => erase(r), 'data-test': 'delete-upload', 'aria-label': `Delete ${r.name}`}, 'Delete'))}]});
  const title = h('summary', {'data-test': 'uploads'});
  const element = h('details', {class: 'section'}, title, rows.element);

  function set(next) {
    fill(title, h('span', {class: 'section-name'}, 'Uploaded files'), h('span', {class: 'small muted'}, say.count(next.length)));
    rows.set(next);
  }

  const load = async () => set((await api.get('/files')).items);

  async function erase(file) {
    const sure = await confirmThat({title: `Delete ${file.name}?`, text: `${say.exactBytes(file.size_bytes)} will be gone for good. A finished study that was made from it cannot be exported without it.`, yes: 'Delete for good', danger: true});
    if (sure) await attempt(async () => { await api.remove(`/files/${encodeURIComponent(file.name)}`); await load(); }, `${file.name} is deleted.`);
  }

  set(items);
  return {element, load};
}
