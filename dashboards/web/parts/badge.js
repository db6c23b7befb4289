// A study's state as a sign, a colour and a word; progress as a bar that says its numbers.

import {h} from '../lib/dom.js';
import * as say from '../lib/format.js';

export function badge(status, extra) {
  const [words, sign] = say.STATUS[status] ?? [status, '·'];
  return h('span', {class: `badge badge-${status}`, 'data-test': 'status', 'data-status': status}, h('span', {class: 'sign', 'aria-hidden': 'true'}, sign), words, extra && ` ${extra}`);
}

export function progress(item) {
  const {evaluations: n, planned, status} = item;
  const words = planned ? `${say.count(n)} of ${say.count(Math.max(planned, n))} evaluations` : say.plural(n ?? 0, 'evaluation');
  if (!planned) return h('div', {class: 'progress-words small'}, words);
  // A finished study may have needed fewer evaluations than it was allowed.
  const done = status === 'finished' ? 1 : Math.min(1, n / planned);
  const bar = h('div', {class: `progress progress-${status}`, role: 'progressbar', 'aria-label': 'evaluations', 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': Math.round(100 * done), 'aria-valuetext': words}, h('span'));
  bar.firstChild.style.setProperty('width', `${100 * done}%`);
  return h('div', {class: 'progress-words small'}, bar, status === 'finished' ? say.plural(n, 'evaluation') : words);
}

export const tagList = (tags, onclick) => (tags?.length ? h('span', {class: 'tags'}, tags.map((tag) => (onclick ? h('button', {type: 'button', class: 'tag', onclick: (event) => { event.stopPropagation(); onclick(tag); }}, tag) : h('span', {class: 'tag'}, tag)))) : null);

/** Why a study stands where it does: an alarm only where something went wrong; a queue is none. */
export function reasonOf({status, reason}) {
  if (!reason || status === 'queued') return null;
  // What a process said last comes in one line, which an alert has the room to take apart.
  const [why, ...said] = reason.split('; it said last: ');
  const lines = said.join('').split(' / ').filter(Boolean);
  return h('div', {class: say.isTrouble(status) ? 'alert' : 'alert info', 'data-test': 'reason'}, say.sentence(why), lines.length > 0 && '; it said last:', lines.map((line) => h('code', {class: 'said'}, line)));
}
