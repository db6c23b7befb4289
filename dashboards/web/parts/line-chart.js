// A chart of a few lines or dots over time or number, with what the pointer is at in words, and the
// same data as a table below.

import {fill, h, s, uid} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {decimalsOf, linear, linearTicks} from '../lib/scale.js';
import {lookOf} from './front-chart.js';

/**
 * @param {object} options `x` and `y` are {title, say}, `x` may be {whole: true} or {seconds: true}, which are drawn in the
 *     unit of time that suits them; a series is {name, points: [[x, y]], step, dots, colour}
 */
export function lineChart({label, x: xAxis, y: yAxis, test}) {
  const svg = s('svg', {'aria-hidden': 'true', focusable: 'false'});
  const tip = h('div', {class: 'tip', hidden: true});
  const box = h('div', {class: 'line-chart', role: 'img', 'aria-label': label, 'data-test': test}, svg, tip);
  const data = h('div');
  const details = h('details', {class: 'data'}, h('summary', null, 'The same as a table'), data);
  const legend = h('div', {class: 'legend'});
  const element = h('figure', {class: 'figure'}, h('figcaption', null, label), box, legend, details);
  let series = [];
  let geometry = null;

  const draw = () => {
    const width = box.clientWidth;
    if (!width) return;
    const height = Math.round(Math.min(280, Math.max(190, width * 0.4)));
    const m = {left: 56, right: 12, top: 22, bottom: 38};
    const all = series.flatMap((each) => each.points);
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.setAttribute('width', width);
    svg.setAttribute('height', height);
    if (!all.length) {
      fill(svg, s('text', {class: 'note', x: width / 2, y: height / 2, 'text-anchor': 'middle'}, 'Nothing measured yet'));
      geometry = null;
      return;
    }
    const extent = (i) => [Math.min(...all.map((p) => p[i])), Math.max(...all.map((p) => p[i]))];
    let [x0, x1] = extent(0);
    let [y0, y1] = extent(1);
    if (x1 === x0) x1 = x0 + 1;
    const pad = (y1 - y0 || Math.abs(y1) || 1) * 0.08;
    y0 = yAxis.zero ? 0 : y0 - pad;
    y1 += pad;
    const x = linear([x0, x1], [m.left, width - m.right]);
    const y = linear([y0, y1], [height - m.bottom, m.top]);
    geometry = {x, y, width, height, m};
    const [unit, unitWords] = xAxis.seconds ? say.unitOfTime(x1 - x0) : [1, ''];
    const xticks = linearTicks([x0 / unit, x1 / unit], width / 100).filter((t) => !xAxis.whole || Number.isInteger(t));
    const yticks = linearTicks([y0, y1], (height - m.top - m.bottom) / 44);
    const [xp, yp] = [decimalsOf(xticks), decimalsOf(yticks)];
    fill(svg,
      yticks.map((t) => [s('line', {class: 'grid', x1: m.left, x2: width - m.right, y1: y(t), y2: y(t)}), s('text', {class: 'tick', x: m.left - 6, y: y(t) + 4, 'text-anchor': 'end'}, t.toFixed(yp))]),
      xticks.map((t) => s('text', {class: 'tick', x: x(t * unit), y: height - m.bottom + 16, 'text-anchor': 'middle'}, t.toFixed(xp))),
      s('line', {class: 'axis', x1: m.left, x2: width - m.right, y1: height - m.bottom, y2: height - m.bottom}),
      s('text', {class: 'axis-title', x: width - m.right, y: height - 6, 'text-anchor': 'end'}, `${unitWords} ${xAxis.title}`.trim()),
      s('text', {class: 'axis-title', x: m.left, y: 12}, yAxis.title),
      series.map((each, i) => {
        const style = each.mark ?? `series-${i}`;
        if (each.dots || each.points.length === 1) return each.points.map(([px, py]) => s('circle', {class: `dot ${style}`, cx: x(px), cy: y(py), r: 2.5}));
        const d = each.points.map(([px, py], k) => (k === 0 ? `M${x(px)} ${y(py)}` : each.step ? `H${x(px)}V${y(py)}` : `L${x(px)} ${y(py)}`)).join('');
        return s('path', {class: `front-line ${style}`, d, 'stroke-dasharray': lookOf(i).dash || null});
      }));
  };

  box.addEventListener('pointermove', (event) => {
    if (!geometry) return;
    const rect = box.getBoundingClientRect();
    const px = event.clientX - rect.left;
    let best = null;
    for (const each of series) {
      for (const point of each.points) {
        const d = Math.abs(geometry.x(point[0]) - px);
        if (!best || d < best.d) best = {d, each, point};
      }
    }
    if (!best) return;
    fill(tip, h('div', {class: 'tip-head'}, best.each.name), h('div', {class: 'tip-line'}, h('span', null, xAxis.title), h('span', {class: 'num'}, xAxis.say(best.point[0]))), h('div', {class: 'tip-line'}, h('span', null, yAxis.title), h('span', {class: 'num'}, yAxis.say(best.point[1]))));
    tip.hidden = false;
    const left = geometry.x(best.point[0]);
    tip.style.setProperty('left', `${left + 16 + tip.offsetWidth > geometry.width ? left - 16 - tip.offsetWidth : left + 16}px`);
    tip.style.setProperty('top', `${Math.min(geometry.y(best.point[1]), geometry.height - tip.offsetHeight)}px`);
  });
  box.addEventListener('pointerleave', () => { tip.hidden = true; });
  const sizes = new ResizeObserver(draw);
  sizes.observe(box);

  const drawTable = () => {
    if (!details.open) return;
    const id = uid('data');
    fill(data, series.map((each) => h('div', {class: 'table-scroll', tabindex: 0, role: 'region', 'aria-labelledby': `${id}-${each.name}`}, h('table', null, h('caption', {id: `${id}-${each.name}`}, each.name), h('thead', null, h('tr', null, h('th', {scope: 'col'}, xAxis.title), h('th', {scope: 'col', class: 'right'}, yAxis.title))), h('tbody', null, each.points.slice(-300).map(([a, b]) => h('tr', null, h('th', {scope: 'row', class: 'num'}, xAxis.say(a)), h('td', {class: 'right num'}, yAxis.say(b)))))))));
  };
  details.addEventListener('toggle', drawTable);

  return {
    element,
    set(next) {
      series = next;
      fill(legend, series.length > 1 && series.map((each, i) => h('span', {class: 'legend-item'}, s('svg', {width: 22, height: 10, 'aria-hidden': 'true'}, each.dots ? s('circle', {class: `dot ${each.mark ?? `series-${i}`}`, cx: 11, cy: 5, r: 3}) : s('path', {class: `front-line ${each.mark ?? `series-${i}`}`, d: 'M1 5H21', 'stroke-dasharray': lookOf(i).dash || null})), each.name)));
      draw();
      drawTable();
    },
    close() { sizes.disconnect(); },
  };
}
