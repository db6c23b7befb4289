// Tabs after the ARIA pattern: arrows move between them, the panel is drawn when it is first shown.

import {fill, h, uid} from '../lib/dom.js';

/** @param {{id: string, title: string, draw: (panel: HTMLElement) => void}[]} tabs */
export function tabs(label, list, {chosen, onChoose}) {
  const base = uid('tabs');
  const panel = h('div', {class: 'tab-panel', role: 'tabpanel', id: `${base}-panel`, tabindex: 0});
  const bar = h('div', {class: 'tabs', role: 'tablist', 'aria-label': label});
  let present = null;

  const choose = (id, focus) => {
    present = id;
    for (const button of bar.children) {
      const mine = button.dataset.tab === id;
      button.setAttribute('aria-selected', String(mine));
      button.tabIndex = mine ? 0 : -1;
      if (mine) {
        panel.setAttribute('aria-labelledby', button.id);
        if (focus) button.focus();
      }
    }
    panel.replaceChildren();
    list.find((tab) => tab.id === id).draw(panel);
  };

  const draw = () => fill(bar, list.map((tab) => h('button', {type: 'button', role: 'tab', id: `${base}-${tab.id}`, 'aria-controls': `${base}-panel`, 'data-tab': tab.id, 'data-test': `tab-${tab.id}`, onclick: () => { choose(tab.id); onChoose?.(tab.id); }}, tab.title)));

  bar.addEventListener('keydown', (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    const i = list.findIndex((tab) => tab.id === present);
    const next = list[(i + step + list.length) % list.length].id;
    choose(next, true);
    onChoose?.(next);
  });

  draw();
  choose(list.some((tab) => tab.id === chosen) ? chosen : list[0].id);
  return {
    element: h('section', null, bar, panel),
    get present() { return present; },
    choose,
    retitle(id, title) {
      const button = [...bar.children].find((each) => each.dataset.tab === id);
      if (button && button.textContent !== title) button.textContent = title;
    },
  };
}
