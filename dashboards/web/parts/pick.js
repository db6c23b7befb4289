// Picking: two limits, three rules, one card that says which file one would get and why.

import {fill, h, uid} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {command} from './command.js';
import {markIcon} from './marks.js';

const RULES = [['smallest', 'Smallest'], ['knee', 'Knee'], ['best', 'Best']];
const STEPS = 400;

/**
 * @param {{onLimits, onRule, onExport, onOpen, onPin}} on what a person does
 */
export function pickPanel(on) {
  const bytes = limit('At most this many bytes', 'kB', 'bytes');
  const drop = limit('At most this drop', 'pp', 'drop');
  const choices = h('div', {class: 'choices', role: 'group', 'aria-label': 'Rule'});
  const card = h('div', {class: 'stack', 'aria-live': 'polite', 'data-test': 'pick-card'});
  const element = h('aside', {class: 'panel pick', 'aria-label': 'Pick a solution'}, h('h2', null, 'Pick'), bytes.element, drop.element, choices, card);
  let range = null;
  let data = null;

  function limit(title, unit, name) {
    const id = uid(name);
    const slider = h('input', {type: 'range', min: 0, max: STEPS, step: 1, value: STEPS, 'aria-label': title, 'data-test': `slider-${name}`});
    const box = h('input', {type: 'text', inputmode: 'decimal', id, placeholder: 'no limit', 'data-test': `limit-${name}`, autocomplete: 'off'});
    const words = h('span', {class: 'unit'}, unit);
    return {slider, box, words, element: h('div', {class: 'slider'}, h('div', {class: 'slider-head'}, h('label', {for: id, class: 'small'}, title), h('span', {class: 'row nowrap'}, box, words)), slider)};
  }

  const toBytes = (step) => (step >= STEPS ? null : Math.round(range.bytes[0] * (range.bytes[1] / range.bytes[0]) ** (step / STEPS)));
  // Divergences span decades, as bytes do; drops of an accuracy are a few points from none.
  const isLog = () => say.isDivergence(data.metricName) && range.drop[0] > 0;
  const toDrop = (step) => {
    const [low, high] = range.drop;
    if (step >= STEPS) return null;
    return isLog() ? Number((low * (high / low) ** (step / STEPS)).toPrecision(3)) : low + (high - low) * (step / STEPS);
  };
  const stepOfDrop = (value) => {
    const [low, high] = range.drop;
    return Math.round((STEPS * (isLog() ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : (value - low) / (high - low || 1))));
  };
  const factor = () => say.metricFactor(data.metricName);
  // The box is what holds; three decimals are finer than anyone reads, coarser than rounding noise.
  const round = (value) => Number(value.toFixed(6));

  bytes.slider.addEventListener('input', () => range && on.onLimits({...data.limits, bytes: toBytes(bytes.slider.valueAsNumber)}));
  drop.slider.addEventListener('input', () => {
    const value = range && toDrop(drop.slider.valueAsNumber);
    if (range) on.onLimits({...data.limits, drop: value === null ? null : round(value)});
  });
  bytes.box.addEventListener('change', () => on.onLimits({...data.limits, bytes: number(bytes.box, (v) => Math.round(v * 1000))}));
  drop.box.addEventListener('change', () => on.onLimits({...data.limits, drop: number(drop.box, (v) => round(v / factor()))}));

  function number(box, convert) {
    const text = box.value.trim().replace(',', '.');
    const value = Number(text);
    const good = text === '' || (Number.isFinite(value) && value >= 0);
    box.setAttribute('aria-invalid', String(!good));
    return text === '' || !good ? null : convert(value);
  }

  function drawLimits() {
    const {front, limits, metricName} = data;
    const disabled = front.length === 0;
    for (const each of [bytes, drop]) for (const control of [each.slider, each.box]) control.disabled = disabled;
    drop.words.textContent = say.unitOf(metricName);
    if (disabled) return;
    const sizes = front.map((p) => p.size_bytes);
    const drops = front.map((p) => Math.max(0, p.cautious_drop));
    range = {bytes: [Math.min(...sizes), Math.max(...sizes) * 1.001 + 1], drop: [Math.min(...drops), Math.max(Math.max(...drops), data.dropLimit ?? 0) || 0.01]};
    const [b0, b1] = range.bytes;
    bytes.slider.value = limits.bytes === null ? STEPS : Math.round((STEPS * Math.log(limits.bytes / b0)) / Math.log(b1 / b0));
    drop.slider.value = limits.drop === null ? STEPS : stepOfDrop(limits.drop);
    bytes.slider.setAttribute('aria-valuetext', limits.bytes === null ? 'no limit' : say.bytes(limits.bytes));
    drop.slider.setAttribute('aria-valuetext', limits.drop === null ? 'no limit' : say.drop(limits.drop, metricName));
    if (document.activeElement !== bytes.box) bytes.box.value = limits.bytes === null ? '' : String(Number((limits.bytes / 1000).toFixed(3)));
    if (document.activeElement !== drop.box) drop.box.value = limits.drop === null ? '' : String(Number((limits.drop * factor()).toFixed(say.isDivergence(metricName) ? 6 : 3)));
  }

  function drawChoices() {
    const focused = choices.contains(document.activeElement) ? document.activeElement.dataset.test : null;
    fill(choices, RULES.map(([rule, words]) => {
      const answer = data.answers[rule];
      const solution = answer?.solution;
      return h('button', {type: 'button', class: 'choice', 'aria-pressed': String(data.manual === null && data.rule === rule), onclick: () => on.onRule(rule), 'data-test': `rule-${rule}`, disabled: data.front.length === 0},
        h('b', null, words), h('span', null, solution ? say.bytes(solution.size_bytes) : answer ? 'none' : '…'), solution && h('span', null, say.isDivergence(data.metricName) ? say.bare(say.drop(solution.drop, data.metricName), data.metricName) : say.drop(solution.drop, data.metricName)));
    }));
    if (focused) choices.querySelector(`[data-test="${focused}"]`)?.focus();
  }

  /** Why there is nothing to pick: not yet, or not any more unless the study is run differently. */
  function nothing() {
    if (!data.hasEnded) return 'Nothing on the front yet. The first complete evaluation within the wanted drop will be offered here.';
    if (data.dropLimit === null) return 'Nothing on the front: no evaluation was complete.';
    return `Nothing on the front: no evaluation came within ${say.drop(data.dropLimit, data.metricName)} of the float network. A clone of this study with a larger budget, a wider range of k or a larger evaluation.max_drop may reach it.`;
  }

  function drawCard() {
    const {manual, rule, answers, limits, metricName, name, mayWrite} = data;
    if (!data.front.length) {
      fill(card, h('p', {class: 'muted', 'data-test': 'pick-nothing'}, nothing()));
      return;
    }
    const answer = manual ? {solution: manual, command: `moeash export ${name} --id ${manual.id} --to ${name}.moeash`} : answers[rule];
    if (!answer) return;
    if (!answer.solution) {
      fill(card, h('p', {class: 'alert', 'data-test': 'pick-reason'}, answer.reason));
      return;
    }
    const it = answer.solution;
    const within = [limits.bytes !== null && `at most ${say.bytes(limits.bytes)}`, limits.drop !== null && `at most ${say.drop(limits.drop, metricName)} of drop`].filter(Boolean).join(' and ');
    const why = manual ? 'You pointed at it.' : `The ${rule} of the front${within ? ` within ${within}` : ''}.`;
    const pinned = data.pins.includes(it.id);
    const pair = (term, value, test) => [h('dt', null, term), h('dd', {class: 'num', 'data-test': test}, value)];
    fill(card,
      h('div', {class: 'row spread'}, h('span', {class: 'big', 'data-test': 'pick-bytes', 'data-bytes': it.size_bytes}, say.bytes(it.size_bytes)), h('a', {href: `/studies/${encodeURIComponent(name)}/solutions/${it.id}`, 'data-test': 'pick-open'}, `Solution ${it.id}`)),
      h('p', {class: 'small muted'}, why),
      h('dl', {class: 'picked'},
        pair('file', say.exactBytes(it.size_bytes)), pair('ratio', say.ratio(it.ratio)), pair(say.metricWords(metricName), say.metric(it.metric, metricName)),
        pair('drop', say.noisyDrop(it, metricName), 'pick-drop'), pair('entries', say.count(it.entries)), pair('bits per weight', say.bits(it.bits_per_weight)),
        h('dt', null, 'stage'), h('dd', null, markIcon(it.stage), ` ${it.stage}`)),
      it.noise > 0 && h('p', {class: 'small muted', 'data-test': 'pick-noise'}, `Counted on as many images as the search split has, the drop may well be ${say.drop(it.cautious_drop, metricName)} on others; limits are held against that.`),
      h('div', {class: 'row'},
        h('button', {type: 'button', class: 'primary grow', onclick: () => on.onExport(it), disabled: !mayWrite, title: mayWrite ? null : 'A viewer cannot export; ask an operator', 'data-shortcut': 'e', 'data-test': 'export'}, 'Export'),
        h('button', {type: 'button', onclick: () => on.onPin(it), disabled: !mayWrite, 'aria-pressed': String(pinned), 'data-test': 'pin'}, pinned ? 'Unpin' : 'Pin')),
      h('p', {class: 'small muted'}, 'The same on the command line'),
      command(answer.command, 'pick-command'));
  }

  return {
    element,
    set(next) {
      data = next;
      drawLimits();
      drawChoices();
      drawCard();
    },
  };
}
