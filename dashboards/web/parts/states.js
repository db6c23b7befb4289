// What stands in the place of content: loading, nothing, an error.

import {h} from '../lib/dom.js';

const SHAPES = {
  studies: ['title', 'row', 'row', 'row', 'row', 'row'],
  study: ['title', 'row', 'chart', 'row', 'row'],
  compare: ['title', 'chart', 'row', 'row'],
  solution: ['title', 'row', 'row', 'chart'],
  new: ['title', 'chart'],
  log: ['title', 'chart'],
  login: ['title'],
};

/** Return grey shapes of what comes. */
export function skeleton(page) {
  const shapes = SHAPES[page] ?? ['title', 'row', 'row', 'row'];
  return h('div', {class: 'skeleton', role: 'status', 'aria-label': 'Loading'}, shapes.map((shape) => h('div', {class: `bone bone-${shape}`})));
}

/** Say what would be here, and offer what makes it so. */
export function empty(title, text, action) {
  return h('div', {class: 'empty', 'data-test': 'empty'}, h('h2', null, title), h('p', null, text), action);
}

/** Say what went wrong, why, what to do, and the id under which the server's log has it. */
export function errorBox({title, message, request, again, action}) {
  return h('div', {class: 'error-box', role: 'alert', 'data-test': 'error'},
    h('h1', null, title),
    h('p', null, message),
    request && h('p', {class: 'muted small'}, 'In the server’s log: ', h('code', null, request)),
    h('div', {class: 'row'}, again && h('button', {type: 'button', onclick: again}, 'Try again'), action));
}
