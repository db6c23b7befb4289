// Modal dialogs on the browser's own <dialog>: focus is kept inside and given back, Escape closes.

import {h, uid} from '../lib/dom.js';

/** Open a dialog with content; return {dialog, close}. */
export function openDialog(title, content, {wide = false, test, onclose} = {}) {
  const id = uid('dialog');
  const close = () => dialog.close();
  const dialog = h('dialog', {class: wide ? 'wide' : null, 'aria-labelledby': id, 'data-test': test},
    h('div', {class: 'dialog-head'}, h('h2', {id}, title), h('button', {type: 'button', class: 'icon', 'aria-label': 'Close', onclick: () => close(), 'data-test': 'dialog-close'}, '✕')),
    h('div', {class: 'dialog-body'}, content));
  dialog.addEventListener('close', () => {
    dialog.remove();
    onclose?.();
  });
  dialog.addEventListener('click', (event) => { if (event.target === dialog) close(); });
  document.body.append(dialog);
  dialog.showModal();
  return {dialog, close};
}

/** Ask before something that cannot be taken back. Resolves to whether a person agreed. */
export function confirmThat({title, text, yes, danger = false}) {
  return new Promise((resolve) => {
    let agreed = false;
    const body = [
      h('p', null, text),
      h('div', {class: 'row end'},
        h('button', {type: 'button', class: 'quiet', onclick: () => close(), 'data-test': 'confirm-no'}, 'Cancel'),
        h('button', {type: 'button', class: danger ? 'danger' : 'primary', onclick: () => { agreed = true; close(); }, 'data-test': 'confirm-yes'}, yes)),
    ];
    const {close} = openDialog(title, body, {test: 'confirm', onclose: () => resolve(agreed)});
  });
}

const KEYS = [
  ['/', 'search or filter'], ['← →', 'move along the front, when the chart has the focus'],
  ['Enter', 'open the solution or the row'], ['Space', 'pick the solution the chart points at'],
  ['e', 'export what is picked'], ['+ −', 'zoom the chart; 0 shows all of it'], ['g', 'all studies'],
  ['Esc', 'close a dialog, clear a selection'], ['?', 'this list'],
];

export function openHelp() {
  openDialog('Keyboard', h('dl', {class: 'keys'}, KEYS.map(([key, words]) => [h('dt', null, h('kbd', null, key)), h('dd', null, words)])), {test: 'help-dialog'});
}
