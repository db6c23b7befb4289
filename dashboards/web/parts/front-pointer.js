// What mouse, finger and keys do on the Pareto chart: point, choose by box or lasso, zoom, walk.

import {fill, h, s} from '../lib/dom.js';

const REACH = 14;

/** Attach handlers to a chart; return what takes them off. */
export function drive(chart) {
  const {box, svg} = chart;
  let path = null;
  let rubber = null;

  const at = (event) => {
    const rect = box.getBoundingClientRect();
    return [event.clientX - rect.left, event.clientY - rect.top];
  };

  const nearest = ([px, py]) => {
    let best = null;
    let least = REACH * REACH;
    for (const place of chart.places) {
      // A point of the front wins over what lies around it.
      const d = ((place.px - px) ** 2 + (place.py - py) ** 2) * (place.point ? 0.35 : 1);
      if (d < least) [best, least] = [place, d];
    }
    return best;
  };

  const hover = async (place) => {
    chart.hovered = place;
    box.classList.toggle('pointing', place !== null);
    if (!place) {
      chart.tip.hidden = true;
      return;
    }
    const show = (facts) => {
      if (chart.hovered !== place) return;
      fill(chart.tip, facts.map(([name, value, strong]) => h('div', {class: strong ? 'tip-head' : 'tip-line'}, name && h('span', null, name), h('span', {class: name ? 'num' : null}, value))));
      chart.tip.hidden = false;
      const {width, height} = chart.geometry;
      const [w, tall] = [chart.tip.offsetWidth, chart.tip.offsetHeight];
      const left = place.px + 16 + w > width ? Math.max(4, place.px - 16 - w) : place.px + 16;
      const top = Math.min(Math.max(4, place.py - tall / 2), height - tall - 4);
      chart.tip.style.setProperty('left', `${left}px`);
      chart.tip.style.setProperty('top', `${top}px`);
    };
    const facts = chart.on.onHover?.(place, show);
    if (facts) show(facts);
  };

  const down = (event) => {
    if (event.button !== 0 || !chart.geometry || !chart.inside(...at(event))) return;
    if (event.pointerType === 'touch' && chart.state.tool !== 'lasso') return; // a finger scrolls
    path = [at(event)];
    box.setPointerCapture(event.pointerId);
  };

  const move = (event) => {
    if (!path) {
      if (event.pointerType !== 'touch') hover(nearest(at(event)));
      return;
    }
    path.push(at(event));
    const [[x0, y0], [x1, y1]] = [path[0], path.at(-1)];
    if (Math.hypot(x1 - x0, y1 - y0) < 4 && !rubber) return;
    hover(null);
    rubber?.remove();
    const d = chart.state.tool === 'lasso' ? `M${path.map((p) => p.join(' ')).join('L')}Z` : `M${x0} ${y0}H${x1}V${y1}H${x0}Z`;
    rubber = s('path', {class: chart.state.tool === 'zoom' ? 'rubber zoom' : 'rubber', d});
    svg.append(rubber);
  };

  const up = (event) => {
    if (!path) return;
    const done = path;
    path = null;
    if (!rubber) {
      const place = nearest(at(event));
      if (place && !place.stopped) chart.on.onPick?.(place);
      else if (!place && chart.state.selected) chart.on.onSelect?.(null);
      return;
    }
    rubber.remove();
    rubber = null;
    const xs = done.map((p) => p[0]);
    const ys = done.map((p) => p[1]);
    const [first, last] = [done[0], done.at(-1)];
    const [x0, x1] = [first[0], last[0]].sort((a, b) => a - b);
    const [y0, y1] = [first[1], last[1]].sort((a, b) => a - b);
    if (chart.state.tool === 'zoom') {
      if (x1 - x0 > 8 && y1 - y0 > 8) zoomTo(x0, x1, y0, y1);
      return;
    }
    const within = chart.state.tool === 'lasso'
      ? (p) => p.px >= Math.min(...xs) && p.px <= Math.max(...xs) && polygonHas(done, p.px, p.py, ys)
      : (p) => p.px >= x0 && p.px <= x1 && p.py >= y0 && p.py <= y1;
    chart.on.onSelect?.(chart.places.filter((p) => p.si === 0 && within(p)).map((p) => p.number));
  };

  const zoomTo = (x0, x1, y0, y1) => {
    const {x, y} = chart.geometry;
    chart.on.onView?.({x: [x.invert(x0), x.invert(x1)], y: [y.invert(y1), y.invert(y0)]});
  };

  const zoomBy = (factor, cx, cy) => {
    const {width, height, m} = chart.geometry;
    const grow = (low, high, c) => [c - (c - low) * factor, c + (high - c) * factor];
    const px = cx ?? (m.left + width - m.right) / 2;
    const py = cy ?? (m.top + height - m.bottom) / 2;
    zoomTo(...grow(m.left, width - m.right, px), ...grow(m.top, height - m.bottom, py));
  };
  chart.zoomBy = zoomBy;

  const wheel = (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
    event.preventDefault();
    zoomBy(Math.exp(event.deltaY * 0.002), ...at(event));
  };

  const walk = (step) => {
    const n = chart.line.length;
    if (!n) return;
    if (step === 'first' || step === 'last') chart.focus = step === 'first' ? 0 : n - 1;
    else chart.focus = chart.focus < 0 ? (step > 0 ? 0 : n - 1) : Math.min(n - 1, Math.max(0, chart.focus + step));
    const point = chart.line[chart.focus];
    chart.live.textContent = chart.on.onWalk?.(point, chart.focus, n) ?? '';
    const {x, y} = chart.geometry;
    hover({px: x(point.size_bytes), py: y(point.metric), si: 0, i: -1, number: point.id, point, stopped: false});
    chart.draw();
  };

  const key = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const point = chart.line[chart.focus];
    if (event.key === 'ArrowRight' || event.key === 'ArrowUp') walk(1);
    else if (event.key === 'ArrowLeft' || event.key === 'ArrowDown') walk(-1);
    else if (event.key === 'Home') walk('first');
    else if (event.key === 'End') walk('last');
    else if (event.key === 'Enter' && point) chart.on.onOpen?.(point);
    else if (event.key === ' ' && point) chart.on.onPick?.({si: 0, number: point.id, point});
    else if (event.key === '+' || event.key === '=') zoomBy(0.7);
    else if (event.key === '-') zoomBy(1 / 0.7);
    else if (event.key === '0') chart.on.onView?.(null);
    else if (event.key === 'Escape') { hover(null); chart.on.onSelect?.(null); }
    else return;
    event.preventDefault();
  };

  const handlers = {
    pointerdown: down, pointermove: move, pointerup: up, pointerleave: () => { if (!path) hover(null); },
    pointercancel: () => { path = null; rubber?.remove(); rubber = null; },
    dblclick: () => chart.on.onView?.(null), keydown: key, focus: () => chart.draw(), blur: () => { hover(null); chart.draw(); },
  };
  for (const [name, fn] of Object.entries(handlers)) box.addEventListener(name, fn);
  box.addEventListener('wheel', wheel, {passive: false});
  return () => {
    for (const [name, fn] of Object.entries(handlers)) box.removeEventListener(name, fn);
    box.removeEventListener('wheel', wheel);
  };
}

function polygonHas(points, px, py) {
  let inside = false;
  for (let i = 0, j = points.length - 1; i < points.length; j = i, i += 1) {
    const [xi, yi] = points[i];
    const [xj, yj] = points[j];
    if (yi > py !== yj > py && px < ((xj - xi) * (py - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}
