// Above and below the chart: how the pointer chooses, axes, overlays, generations as a film.

import * as api from '../api.js';
import {fill, h, reducedMotion, throttle} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {lookOf} from '../parts/front-chart.js';

const TOOLS = [['box', 'Box'], ['lasso', 'Lasso'], ['zoom', 'Zoom']];
const PLAY_MS = 450;
const MAX_OVERLAYS = 3;

export function chartTools(page) {
  const {study, view, shell} = page;
  const buttons = h('span', {class: 'group', role: 'group', 'aria-label': 'What dragging does'});
  const axis = h('button', {type: 'button', class: 'tool', 'data-test': 'log-axis', onclick: () => { view.logx = !view.logx; view.view = null; shell.keepQuery({x: view.logx ? null : 'linear'}); page.drawChart(); draw(); }}, 'Log bytes');
  const drops = h('button', {type: 'button', class: 'tool', 'data-test': 'log-drop', onclick: () => { view.logy = !page.logy(); view.view = null; shell.keepQuery({y: view.logy ? 'log' : 'linear'}); page.drawChart(); draw(); }}, 'Log drop');
  const reset = h('button', {type: 'button', onclick: () => { view.view = null; page.drawChart(); }, 'data-test': 'reset-view'}, 'Show all');
  const zoom = h('span', {class: 'group', role: 'group', 'aria-label': 'Zoom'}, h('button', {type: 'button', 'aria-label': 'Zoom in', onclick: () => page.chart.zoomBy(0.7)}, '+'), h('button', {type: 'button', 'aria-label': 'Zoom out', onclick: () => page.chart.zoomBy(1 / 0.7)}, '−'));
  const overlay = h('select', {'aria-label': 'Lay another study over this one', 'data-test': 'overlay', hidden: true, onchange: () => add(overlay.value)});
  const overlays = h('span', {class: 'legend'});
  const element = h('div', {class: 'tools'}, buttons, zoom, reset, axis, drops, overlay, overlays);

  const slider = h('input', {type: 'range', min: 1, max: 1, step: 1, 'aria-label': 'Generation', 'data-test': 'generation'});
  const play = h('button', {type: 'button', class: 'small-button', 'data-test': 'play', onclick: () => (timer ? pause() : start())}, '▶ Play');
  const where = h('span', {class: 'small num nowrap'});
  const latest = h('button', {type: 'button', class: 'small-button', onclick: () => goTo(null), 'data-test': 'latest'}, 'Latest');
  const generations = h('div', {class: 'generations'}, play, slider, where, latest);
  let timer = 0;
  let asked = 0;

  function draw() {
    fill(buttons, TOOLS.map(([name, words]) => h('button', {type: 'button', class: 'tool', 'aria-pressed': String(view.tool === name), 'data-test': `tool-${name}`, onclick: () => { view.tool = name; shell.keepQuery({tool: name === 'box' ? null : name}); page.drawChart(); draw(); }}, words)));
    axis.setAttribute('aria-pressed', String(view.logx));
    drops.setAttribute('aria-pressed', String(page.logy()));
  }

  function drawGenerations() {
    const n = study.generations.at(-1)?.index ?? 0;
    generations.hidden = n < 2;
    slider.max = n;
    slider.value = view.generation ?? n;
    const at = study.generations.find((g) => g.index === (view.generation ?? n));
    slider.setAttribute('aria-valuetext', `generation ${slider.value} of ${n}`);
    where.textContent = `generation ${view.generation ?? n} of ${n}${at ? ` · hypervolume ${say.digits(at.hypervolume, 4)}` : ''}`;
    latest.hidden = view.generation === null;
  }

  async function goTo(generation) {
    view.generation = generation;
    shell.keepQuery({generation});
    drawGenerations();
    if (generation === null) {
      view.generationFront = null;
      page.drawChart();
      return;
    }
    asked += 1;
    const mine = asked;
    const {items} = await api.get(`${study.url}/front`, {generation});
    if (mine !== asked || view.generation === null) return;
    view.generationFront = items;
    page.drawChart();
  }
  const goSoon = throttle(() => goTo(slider.valueAsNumber), 60);
  slider.addEventListener('input', () => { pause(); goSoon(); });

  function start() {
    const n = Number(slider.max);
    let at = view.generation !== null && view.generation < n ? view.generation : 0;
    const step = Math.max(1, Math.round(n / 60)); // a film of half a minute at most
    play.textContent = '❚❚ Pause';
    timer = setInterval(() => {
      at = Math.min(n, at + step);
      goTo(at);
      if (at < n) return;
      pause();
      goTo(null);
    }, reducedMotion() ? 1200 : PLAY_MS);
  }

  function pause() {
    clearInterval(timer);
    timer = 0;
    play.textContent = '▶ Play';
  }

  async function offer() {
    const {items} = await api.get('/studies', {limit: 200}).catch(() => ({items: []}));
    const alike = items.filter((item) => item.name !== study.name && item.metric_name === study.item.metric_name && item.evaluations > 0)
      .sort((a, b) => (b.network === study.item.network) - (a.network === study.item.network) || a.name.localeCompare(b.name));
    overlay.hidden = alike.length === 0;
    const same = alike.filter((item) => item.network === study.item.network);
    const others = alike.filter((item) => item.network !== study.item.network);
    const options = (list) => list.map((item) => h('option', {value: item.name}, item.name));
    fill(overlay, h('option', {value: ''}, 'Overlay…'), same.length > 0 && h('optgroup', {label: 'Same network'}, options(same)), others.length > 0 && h('optgroup', {label: 'Other networks'}, options(others)));
  }

  async function add(name) {
    overlay.value = '';
    if (!name || view.overlays.some((each) => each.name === name)) return;
    const {items} = await api.get(`/studies/${encodeURIComponent(name)}/front`);
    view.overlays = [...view.overlays, {name, columns: null, front: items}].slice(-MAX_OVERLAYS);
    drawOverlays();
  }

  function drawOverlays() {
    shell.keepQuery({overlay: view.overlays.map((each) => each.name).join(',')});
    fill(overlays, view.overlays.map((each, i) => h('button', {type: 'button', class: `legend-item overlay overlay-${i + 1}`, title: 'Take it off', 'data-test': 'overlay-remove', 'data-dash': lookOf(i + 1).dash, onclick: () => { view.overlays = view.overlays.filter((other) => other !== each); drawOverlays(); }}, h('span', {class: 'swatch', 'aria-hidden': 'true'}), each.name, ' ✕')));
    page.drawChart();
  }

  draw();
  drawGenerations();
  return {
    element,
    generations,
    changed() { drawGenerations(); drops.setAttribute('aria-pressed', String(page.logy())); },
    restore() {
      offer();
      if (view.generation !== null) goTo(view.generation);
      for (const name of (shell.query.get('overlay') ?? '').split(',').filter(Boolean)) add(name).catch(() => {});
    },
    close() { pause(); goSoon.cancel(); },
  };
}
