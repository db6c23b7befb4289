// The same thing on the command line, to copy.

import {h} from '../lib/dom.js';
import {toast} from './toast.js';

export function command(text, test) {
  const copy = h('button', {type: 'button', class: 'small-button', 'aria-label': 'Copy the command', onclick: () => copyText(text)}, 'Copy');
  return h('div', {class: 'command'}, h('code', {'data-test': test}, text), copy);
}

/** Copy text; where the browser has no clipboard (plain HTTP), by a selection. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h('textarea', {class: 'visually-hidden', readonly: true, value: text});
    (document.querySelector('dialog[open]') ?? document.body).append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  toast('Copied.');
}
