// Who may, and who did what.

import * as api from '../api.js';
import {fill, h} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {copyText} from '../parts/command.js';
import {confirmThat, openDialog} from '../parts/dialog.js';
import {empty} from '../parts/states.js';
import {table} from '../parts/table.js';
import {attempt} from '../parts/toast.js';

const ROLES = [['viewer', 'viewer: sees'], ['operator', 'operator: launches, stops, exports'], ['admin', 'admin: manages tokens']];
const LIMIT = 100;

/** What an operation of the service is called, and which part of its path says on what. */
const ACTIONS = {
  'POST /session': 'signed in', 'DELETE /session': 'signed out',
  'POST /studies': 'launched', 'POST /studies/{name}/start': 'started', 'POST /studies/{name}/stop': 'stopped',
  'PATCH /studies/{name}': 'changed notes, tags, pins or archive', 'DELETE /studies/{name}': 'deleted', 'POST /studies/{name}/exports': 'exported from',
  'POST /tokens': 'made a token', 'DELETE /tokens/{id}': 'revoked a token', 'POST /files': 'uploaded', 'DELETE /files/{file}': 'deleted a file',
};
const plainAction = (action) => action.replace('/api/v1', '');
const said = ({action, status}) => `${status >= 400 ? 'refused: ' : ''}${ACTIONS[plainAction(action)] ?? plainAction(action)}`;

function on({target}) {
  const [, kind, name, ...rest] = target.replace('/api/v1', '').split('/').map(decodeURIComponent);
  if (kind === 'studies' && name) return h('span', null, h('a', {href: `/studies/${encodeURIComponent(name)}`}, name), rest[0] === 'exports' && rest[1] ? `, export ${rest[1]}` : null);
  return kind === 'tokens' && /^\d+$/.test(name ?? '') ? `token ${name}` : name ?? '';
}

export async function mount(host, params, {store}) {
  if (!store.isAdmin) {
    fill(host, h('h1', null, 'Admin'), empty('Only for admins', 'Tokens and the audit log are for those who answer for this server.', null));
    return undefined;
  }
  const tokens = table({caption: 'Tokens', test: 'tokens-table', id: (r) => r.id, none: 'No token yet.', columns: [
    {key: 'name', title: 'Name', sort: (r) => r.name, cell: (r) => r.name}, {key: 'role', title: 'Role', sort: (r) => r.role, cell: (r) => r.role},
    {key: 'created', title: 'Made', minor: true, sort: (r) => r.created_at, cell: (r) => say.ago(r.created_at)}, {key: 'used', title: 'Last used', minor: true, cell: (r) => (r.used_at ? say.ago(r.used_at) : 'never')}, {key: 'expires', title: 'Expires', minor: true, cell: (r) => (r.expires_at ? say.ago(r.expires_at) : 'never')},
    {key: 'end', title: 'Revoke', cell: (r) => (r.state !== 'valid' ? h('span', {class: 'muted'}, r.state) : h('button', {type: 'button', class: 'small-button danger', onclick: () => revoke(r), 'data-test': 'revoke'}, 'Revoke'))}]});
  const audit = table({caption: 'Audit log', test: 'audit-table', id: (r) => r.id, none: 'Nothing was done yet.', columns: [
    {key: 'at', title: 'When', cell: (r) => h('span', {class: 'num', title: r.at}, say.moment(r.at).split(', ').map((words, i) => [i > 0 && ' ', h('span', {class: 'nowrap'}, words)]))}, {key: 'who', title: 'Who', cell: (r) => r.who ?? '–'}, {key: 'role', title: 'Role', minor: true, cell: (r) => r.role ?? '–'},
    {key: 'action', title: 'What', cell: (r) => h('span', {title: `${r.action}: ${r.target}`}, said(r))}, {key: 'target', title: 'On', cell: on}, {key: 'status', title: 'Answer', num: true, minor: true, cell: (r) => String(r.status)}, {key: 'from', title: 'From', minor: true, cell: (r) => r.address ?? '–'}]});
  const name = h('input', {type: 'text', id: 'token-name', required: true, maxlength: 100, 'data-test': 'token-name'});
  const role = h('select', {id: 'token-role', 'data-test': 'token-role'}, ROLES.map(([value, words]) => h('option', {value}, words)));
  const days = h('input', {type: 'number', id: 'token-days', min: 1, max: 3650, placeholder: 'never', 'data-test': 'token-days'});
  const more = h('button', {type: 'button', class: 'small-button', hidden: true, onclick: () => loadAudit(true)}, 'Older');
  let entries = [];
  let next = null;

  const loadTokens = async () => tokens.set((await api.get('/tokens')).items);
  async function loadAudit(on = false) {
    const got = await api.get('/audit', {limit: LIMIT, after: on ? next : null});
    entries = on ? [...entries, ...got.items] : got.items;
    next = got.next ?? null;
    more.hidden = next === null;
    audit.set(entries);
  }

  async function make(event) {
    event.preventDefault();
    await attempt(async () => {
      const made = await api.post('/tokens', {name: name.value.trim(), role: role.value, ...(days.value && {expires_days: Number(days.value)})});
      name.value = '';
      const box = h('input', {type: 'text', readonly: true, value: made.token, class: 'mono', 'aria-label': 'The token', 'data-test': 'token-made'});
      openDialog(`Token for ${made.name}`, [h('p', null, 'It is shown this once; the server keeps only a digest of it.'), box, h('div', {class: 'row end'}, h('button', {type: 'button', class: 'primary', onclick: () => copyText(made.token)}, 'Copy'))], {test: 'token-dialog'});
      box.select();
      await loadTokens();
    });
  }

  async function revoke(token) {
    if (!await confirmThat({title: `Revoke ${token.name}?`, text: `Whoever uses the token ${token.name} (${token.role}) is out at once. It cannot be given back, only made anew.`, yes: 'Revoke', danger: true})) return;
    await attempt(async () => { await api.remove(`/tokens/${token.id}`); await loadTokens(); }, `${token.name} is revoked.`);
  }

  const field = (label, control) => h('div', {class: 'field'}, h('label', {for: control.id, class: 'field-label'}, label), control);
  fill(host, h('h1', null, 'Admin'),
    h('section', {class: 'stack'}, h('h2', null, 'Tokens'), h('form', {class: 'row token-form', onsubmit: make}, field('Name', name), field('Role', role), field('Days until it expires', days), h('button', {type: 'submit', class: 'primary', 'data-test': 'token-create'}, 'Make a token')), tokens.element),
    h('section', {class: 'stack'}, h('h2', null, 'Audit log'), audit.element, more));
  await Promise.all([loadTokens(), loadAudit()]);
  return undefined;
}
