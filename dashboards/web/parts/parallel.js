// Parallel coordinates: every axis a variable or an outcome, every line a solution. Dragging along
// an axis keeps the lines that cross there; all brushes together choose what is listed below.

import {fill, h, s} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {linear, log} from '../lib/scale.js';
import {table} from './table.js';

export function parallel({variables, metricName, onOpen}) {
  const svg = s('svg', {'aria-hidden': 'true', focusable: 'false'});
  const box = h('div', {class: 'parallel', role: 'img', 'aria-label': 'Parallel coordinates of the search variables, size and drop; the table below holds the same data'}, svg);
  const words = h('p', {class: 'small muted', 'data-test': 'parallel-count'});
  const list = table({caption: 'Solutions between the brushes', test: 'parallel-table', page: 20, id: (r) => r.id, onRow: onOpen, onHover: (row) => { hovered = row?.id ?? null; draw(); }, sorted: {key: 'size', down: false}, columns: [
    {key: 'id', title: 'Solution', sort: (r) => r.id, cell: (r) => String(r.id)}, ...variables.map((name) => ({key: name, title: name, num: true, sort: (r) => valueOf(r, name), cell: (r) => say.digits(valueOf(r, name), 4)})),
    {key: 'size', title: 'Bytes', num: true, sort: (r) => r.size_bytes, cell: (r) => say.count(r.size_bytes)}, {key: 'drop', title: 'Drop', num: true, sort: (r) => r.drop, cell: (r) => say.drop(r.drop, metricName)}]});
  const clear = h('button', {type: 'button', class: 'small-button', onclick: () => { brushes.clear(); all(); }}, 'Clear brushes');
  const element = h('div', {class: 'stack'}, h('p', {class: 'small muted'}, 'Drag along an axis to keep what crosses there; double-click an axis to let go.'), box, h('div', {class: 'row'}, words, clear), list.element);
  const brushes = new Map();
  let rows = [];
  let axes = [];
  let hovered = null;

  function valueOf(row, name) {
    const value = row.recipe?.candidate?.[name];
    return Array.isArray(value) ? value[0] : value;
  }

  function layOut() {
    const width = box.clientWidth;
    const height = 300;
    const wanted = [...variables.map((name) => ({name, get: (r) => valueOf(r, name), words: (v) => say.digits(v, 3)})), {name: 'entries', get: (r) => r.entries, words: say.count}, {name: 'bytes', get: (r) => r.size_bytes, words: say.bytes}, {name: 'drop', get: (r) => r.drop, words: (v) => say.drop(v, metricName)}];
    axes = wanted.filter((axis) => rows.some((r) => typeof axis.get(r) === 'number')).map((axis, i, kept) => {
      const values = rows.map(axis.get).filter((v) => typeof v === 'number');
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const scale = low > 0 && high / low > 8 ? log : linear;
      return {...axis, low, high, x: 44 + (i * (width - 88)) / Math.max(1, kept.length - 1), y: scale([low, high > low ? high : low + 1], [height - 28, 34])};
    });
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.setAttribute('width', width);
    svg.setAttribute('height', height);
  }

  const kept = () => rows.filter((row) => [...brushes].every(([name, [low, high]]) => { const v = axes.find((a) => a.name === name)?.get(row); return v >= low && v <= high; }));

  function draw() {
    if (!box.clientWidth || !rows.length) return;
    layOut();
    const inside = new Set(kept());
    const line = (row) => `M${axes.map((axis) => `${axis.x.toFixed(1)} ${axis.y(axis.get(row) ?? axis.low).toFixed(1)}`).join('L')}`;
    fill(svg,
      rows.filter((row) => !inside.has(row)).map((row) => s('path', {class: 'pc-line out', d: line(row)})),
      [...inside].sort((a, b) => a.on_front - b.on_front).map((row) => s('path', {class: `pc-line ${row.on_front ? 'front' : ''} ${row.id === hovered ? 'hovered' : ''}`, d: line(row)})),
      axes.map((axis) => {
        const brush = brushes.get(axis.name);
        return [s('line', {class: 'axis', x1: axis.x, x2: axis.x, y1: 34, y2: 272}), s('text', {class: 'axis-title', x: axis.x, y: 14, 'text-anchor': 'middle'}, axis.name), s('text', {class: 'tick', x: axis.x, y: 29, 'text-anchor': 'middle'}, axis.words(axis.high)), s('text', {class: 'tick', x: axis.x, y: 288, 'text-anchor': 'middle'}, axis.words(axis.low)),
          brush && s('rect', {class: 'brush', x: axis.x - 7, width: 14, y: axis.y(brush[1]), height: Math.max(2, axis.y(brush[0]) - axis.y(brush[1]))})];
      }));
    words.textContent = `${say.plural(inside.size, 'solution')} of ${say.count(rows.length)} between the brushes; the front in colour`;
    clear.hidden = brushes.size === 0;
  }

  function all() {
    draw();
    list.set(kept());
  }

  let drag = null;
  const at = (event) => { const rect = box.getBoundingClientRect(); return [event.clientX - rect.left, event.clientY - rect.top]; };
  box.addEventListener('pointerdown', (event) => {
    const [px, py] = at(event);
    const axis = axes.find((each) => Math.abs(each.x - px) < 20);
    if (!axis) return;
    drag = {axis, from: py};
    box.setPointerCapture(event.pointerId);
  });
  box.addEventListener('pointermove', (event) => {
    if (!drag) return;
    const py = Math.min(272, Math.max(34, at(event)[1]));
    if (Math.abs(py - drag.from) < 4) return;
    brushes.set(drag.axis.name, [drag.axis.y.invert(drag.from), drag.axis.y.invert(py)].sort((a, b) => a - b));
    draw();
  });
  box.addEventListener('pointerup', () => { if (drag) { drag = null; all(); } });
  box.addEventListener('dblclick', (event) => {
    const axis = axes.find((each) => Math.abs(each.x - at(event)[0]) < 20);
    if (axis) { brushes.delete(axis.name); all(); }
  });
  const sizes = new ResizeObserver(draw);
  sizes.observe(box);
  return {element, set(next) { rows = next; draw(); all(); }, close() { sizes.disconnect(); }};
}
