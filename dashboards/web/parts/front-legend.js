// The legend of the Pareto chart: every kind of mark with its count, each a switch.

import {fill, h} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {markIcon, STAGES} from './marks.js';

export function legend(host, points, front, view, onChange) {
  const counts = {dominated: 0, stopped: 0};
  for (const stage of STAGES) counts[stage] = 0;
  const n = points?.numbers.length ?? 0;
  const onFront = new Set(front.map((p) => p.id));
  for (let i = 0; i < n; i += 1) {
    if (points.status[i] !== 'complete') counts.stopped += 1;
    else {
      counts[points.stage[i]] += 1;
      if (!onFront.has(points.numbers[i])) counts.dominated += 1;
    }
  }
  const key = JSON.stringify([counts, [...view.hidden]]);
  if (host.dataset.key === key) return;
  host.dataset.key = key;
  const focused = host.contains(document.activeElement) ? document.activeElement.dataset.test : null;
  const item = (name, icon, words) => counts[name] > 0 && h('button', {type: 'button', class: 'legend-item', 'aria-pressed': String(!view.hidden.has(name)), title: view.hidden.has(name) ? 'Show' : 'Hide', 'data-test': `legend-${name}`, onclick: () => {
    if (!view.hidden.delete(name)) view.hidden.add(name);
    onChange();
  }}, icon, `${words} (${say.count(counts[name])})`);
  fill(host, STAGES.map((stage) => item(stage, markIcon(stage), stage)), item('dominated', markIcon('search', {filled: false, kind: 'dominated'}), 'dominated'), item('stopped', markIcon('stopped'), 'stopped early, at their bound'));
  if (focused) host.querySelector(`[data-test="${focused}"]`)?.focus();
}
