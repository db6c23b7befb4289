// Who evaluated what when, and how busy they were.

import * as api from '../api.js';
import {fill, h, throttle} from '../lib/dom.js';
import {timeline} from '../parts/timeline.js';

const EVERY_MS = 4000;

export function workersPanel(panel, {study}) {
  const part = timeline({label: `Evaluations of ${study.name} by worker`});
  const trouble = h('p', {class: 'alert', hidden: true});
  fill(panel, trouble, part.element);
  let closed = false;
  const ask = throttle(async () => {
    try {
      const got = await api.get(`${study.url}/timeline`, {cells: Math.min(1000, Math.max(60, panel.clientWidth / 2 | 0))});
      if (!closed) part.set(got);
      trouble.hidden = true;
    } catch (error) {
      trouble.textContent = error.message;
      trouble.hidden = false;
    }
  }, EVERY_MS);
  ask();
  return {
    changed(topic) { if (topic === 'points') ask(); },
    close() {
      closed = true;
      ask.cancel();
      part.close();
    },
  };
}
