// Sign in with a token. The one-time login of `moeash serve` never reaches this page.

import * as api from '../api.js';
import {fill, h} from '../lib/dom.js';

export function mount(host, params, {signedIn}) {
  const said = h('p', {class: 'field-error', role: 'alert'});
  const token = h('input', {type: 'password', id: 'token', autocomplete: 'current-password', required: true, spellcheck: 'false', 'data-test': 'token'});
  const form = h('form', {class: 'login stack', onsubmit: async (event) => {
    event.preventDefault();
    said.textContent = '';
    try {
      await api.post('/session', {token: token.value.trim()});
      await signedIn();
    } catch (error) {
      said.textContent = error.message;
      token.select();
    }
  }},
  h('h1', null, 'Sign in'),
  h('p', {class: 'muted'}, 'With the address that ', h('code', null, 'moeash serve'), ' printed, which works once, or with a token.'),
  h('label', {for: 'token', class: 'field-label'}, 'Token'), token, said,
  h('button', {type: 'submit', class: 'primary', 'data-test': 'login'}, 'Sign in'),
  h('p', {class: 'muted small'}, 'An admin makes tokens: ', h('code', null, 'moeash token create --role viewer'), '.'));
  fill(host, form);
}
