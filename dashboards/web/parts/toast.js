// A line at the corner that goes by itself; bad news stay until they are dismissed.

import {h} from '../lib/dom.js';

export function toast(text, {bad = false} = {}) {
  const host = document.getElementById('toasts');
  const close = h('button', {type: 'button', class: 'icon', 'aria-label': 'Dismiss'}, '✕');
  const box = h('div', {class: bad ? 'toast bad' : 'toast', 'data-test': 'toast'}, h('span', null, text), close);
  close.addEventListener('click', () => box.remove());
  host.append(box);
  while (host.children.length > 4) host.firstChild.remove();
  if (!bad) setTimeout(() => box.remove(), 6000);
}

/** Run something a person asked for; say so where it fails, and return whether it went well. */
export async function attempt(what, said) {
  try {
    await what();
    if (said) toast(said);
    return true;
  } catch (error) {
    const fields = (error.errors ?? []).filter((e) => e.text && !error.message.includes(e.text)).map((e) => e.text);
    toast([error.message, ...fields].join(' · '), {bad: true});
    return false;
  }
}
