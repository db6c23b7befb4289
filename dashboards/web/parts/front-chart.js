// The Pareto chart: points on a canvas, everything that is few or must be read on an SVG above it.
// It draws what it is given and tells what a person did; it never fetches.

import {fill, h, reducedMotion, s, uid} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {decimalsOf, linear, linearTicks, log, logDrop, roundTicks} from '../lib/scale.js';
import {drive} from './front-pointer.js';
import {Sprites, STAGES} from './marks.js';

const FADE_MS = 700;
const SERIES_COLOURS = ['--search', '--overlay-1', '--overlay-2', '--overlay-3', '--merged', '--refined'];
const DASHES = ['', '7 3', '2 3', '9 3 2 3', '4 2', '1 2'];

/** Return the colour variable and the dash of the front of a series. */
export const lookOf = (i) => ({colour: SERIES_COLOURS[i % SERIES_COLOURS.length], dash: DASHES[i % DASHES.length]});

const START = {
  series: [], metricName: 'top1', baseline: null, original: null, dropLimit: null, generation: null,
  logx: true, logy: false, hidden: new Set(), limits: {bytes: null, drop: null}, rings: [], selected: null,
  pins: [], view: null, tool: 'box', byStage: true, fresh: [], last: [],
};

export class FrontChart {
  /**
   * @param {HTMLElement} host takes the chart's size from its width
   * @param {{label, onHover, onSelect, onOpen, onPick, onView}} on what to call
   */
  constructor(host, on) {
    this.host = host;
    this.on = on;
    this.state = {...START};
    this.places = [];
    this.focus = -1;
    this.born = new Map();
    this.canvas = h('canvas', {'aria-hidden': 'true'});
    this.svg = s('svg', {'aria-hidden': 'true', focusable: 'false'});
    this.tip = h('div', {class: 'tip', hidden: true});
    this.live = h('div', {class: 'visually-hidden', 'aria-live': 'polite', id: uid('front-live')});
    this.box = h('div', {class: 'front-chart', tabindex: 0, role: 'application', 'aria-roledescription': 'Pareto chart', 'aria-label': on.label, 'aria-describedby': this.live.id, 'data-test': 'front-chart'}, this.canvas, this.svg, this.tip);
    fill(host, this.box, this.live);
    this.undrive = drive(this);
    this.sizes = new ResizeObserver(() => this.draw());
    this.sizes.observe(this.box);
    this.themes = () => this.draw();
    addEventListener('themechange', this.themes);
    this.dark = matchMedia('(prefers-color-scheme: dark)');
    this.dark.addEventListener('change', this.themes);
  }

  close() {
    this.sizes.disconnect();
    this.undrive();
    removeEventListener('themechange', this.themes);
    this.dark.removeEventListener('change', this.themes);
    cancelAnimationFrame(this.frame);
  }

  set(changes) {
    Object.assign(this.state, changes);
    if (changes.fresh?.length && !reducedMotion()) {
      const now = performance.now();
      for (const number of changes.fresh.slice(-200)) this.born.set(number, now);
    }
    this.draw();
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.#render();
    });
  }

  /** The front of the first series, which keys move along. */
  get line() {
    return this.state.series[0]?.front ?? [];
  }

  /** Drops of no network of its own to drop from have no logarithm, nor has one alone a scale. */
  get #logarithmic() {
    return this.state.logy && this.state.baseline !== null;
  }

  #colours() {
    const style = getComputedStyle(this.box);
    const read = (name) => style.getPropertyValue(name).trim();
    return {read, ground: read('--ground'), stopped: read('--stopped'), stages: Object.fromEntries(STAGES.map((stage) => [stage, read(`--${stage}`)]))};
  }

  /** What there is to see: all of the front, and points not far below it. */
  #domains() {
    const {baseline, dropLimit, view} = this.state;
    let least = Infinity; // above no drop; what a log axis of drops ends at
    // A film's axes are those of its last picture, so that what moves is the front.
    const series = [...this.state.series, {columns: null, front: this.state.last}];
    let [low, top, lowest] = [Infinity, -Infinity, Infinity];
    for (const {columns, front} of series) {
      for (const {metric} of front) {
        if (metric < baseline) least = Math.min(least, baseline - metric);
        low = Math.min(low, metric);
        top = Math.max(top, metric);
      }
      const n = columns?.numbers.length ?? 0;
      for (let i = 0; i < n; i += 1) {
        const value = columns.metric[i];
        if (value === null) continue;
        lowest = Math.min(lowest, value);
        if (columns.status[i] === 'complete') top = Math.max(top, value);
      }
    }
    if (baseline !== null) top = Math.max(top, baseline);
    // Below the last solution there is nothing to see, however far down solutions are wanted.
    // Without any, what was stopped on the way there is all there is.
    if (low === Infinity && baseline !== null && dropLimit !== null) low = Math.min(baseline - dropLimit, lowest);
    if (!Number.isFinite(top)) top = Number.isFinite(lowest) ? lowest : 1;
    if (!Number.isFinite(low)) low = Number.isFinite(lowest) ? lowest : top - 0.1;
    const span = top - low || Math.abs(top) * 0.02 || 1;
    if (lowest < low) low = Math.max(lowest, low - 0.3 * span);
    const all = top - low || span;
    low -= 0.05 * all;
    let [x0, x1] = [Infinity, 0];
    const reach = (size, value) => {
      if (size === null || value === null || value < low) return;
      x0 = Math.min(x0, size);
      x1 = Math.max(x1, size);
    };
    for (const {columns, front} of series) {
      for (const point of front) reach(point.size_bytes, point.metric);
      for (let i = (columns?.numbers.length ?? 0) - 1; i >= 0; i -= 1) reach(columns.size_bytes[i], columns.metric[i]);
    }
    if (!(x1 > 0)) [x0, x1] = [1000, 10000];
    const wide = x1 / x0 < 1.2 ? 0.1 : Math.log(x1 / x0) * 0.04;
    if (this.#logarithmic && Number.isFinite(least)) top = baseline - least / 1.5;
    else [least, top] = [null, top + 0.08 * all];
    return {
      least,
      x: view?.x ?? [x0 / Math.exp(wide), x1 * Math.exp(wide)],
      y: view?.y ?? [low, top],
    };
  }

  #render() {
    const width = this.box.clientWidth;
    if (!width) return;
    const narrow = width < 520;
    const height = Math.round(Math.min(Math.max(width * (narrow ? 0.95 : 0.56), 300), 560));
    this.box.style.setProperty('height', `${height}px`);
    const m = {left: narrow ? (this.#logarithmic ? 54 : 46) : 60, right: 14, top: 42, bottom: 46};
    const domains = this.#domains();
    const range = {x: [m.left, width - m.right], y: [height - m.bottom, m.top]};
    const x = (this.state.logx ? log : linear)(domains.x, range.x);
    const y = domains.least === null ? linear(domains.y, range.y) : logDrop(domains.y, range.y, this.state.baseline, Math.min(domains.least / 1.5, Math.max(this.state.baseline - domains.y[1], 1e-12)));
    if (this.geometry && this.geometry.width !== width) this.tip.hidden = true; // its place is no more
    this.geometry = {width, height, m, x, y};
    const colours = this.#colours();
    // Sliders, rings and the walk along the front change the SVG alone; points are the costly part.
    const {series, hidden, generation, selected, logx, byStage} = this.state;
    const key = JSON.stringify([width, height, devicePixelRatio, domains, logx, byStage, generation, [...hidden], colours.ground, colours.stages]);
    const same = this.drawn && this.drawn.key === key && this.drawn.selected === selected && this.drawn.count === this.#count() && series.every((each, i) => each.front === this.drawn.fronts[i]) && series.length === this.drawn.fronts.length;
    if (!same || this.born.size) this.#points(colours);
    this.drawn = {key, selected, count: this.#count(), fronts: series.map((each) => each.front)};
    fill(this.svg, this.#axes(narrow), this.#bands(narrow), this.#lines(), this.#rings(), this.#empty());
    this.svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.svg.setAttribute('width', width);
    this.svg.setAttribute('height', height);
    if (this.born.size) this.draw();
  }

  #count() {
    return this.state.series.map(({columns}) => columns?.numbers.length ?? 0).join();
  }

  get #isEmpty() {
    return !this.state.series.some(({columns, front}) => columns?.numbers.length || front.length);
  }

  #empty() {
    if (!this.#isEmpty) return null;
    const {width, height} = this.geometry;
    return s('text', {class: 'note', x: width / 2, y: height / 2, 'text-anchor': 'middle'}, 'Points appear here as they are measured');
  }

  inside(px, py) {
    const {width, height, m} = this.geometry;
    return px >= m.left - 1 && px <= width - m.right + 1 && py >= m.top - 1 && py <= height - m.bottom + 1;
  }

  #points(colours) {
    const {width, height, x, y} = this.geometry;
    const ratio = devicePixelRatio || 1;
    const canvas = this.canvas;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.setProperty('width', `${width}px`);
    canvas.style.setProperty('height', `${height}px`);
    const g = canvas.getContext('2d');
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.sprites?.ratio !== ratio) this.sprites = new Sprites(ratio);
    const now = performance.now();
    for (const [number, at] of this.born) if (now - at > FADE_MS) this.born.delete(number);
    this.places = [];
    const {hidden, generation, selected, byStage} = this.state;
    const late = [];
    this.state.series.forEach((series, si) => {
      const {columns, front} = series;
      const own = colours.read(lookOf(si).colour);
      const colourOf = (stage) => (byStage && si === 0 ? colours.stages[stage] : own);
      const onFront = new Set(front.map((point) => point.id));
      const n = columns?.numbers.length ?? 0;
      const many = n > 4000;
      const looks = {};
      for (let i = 0; i < n; i += 1) {
        const stage = columns.stage[i];
        const stopped = columns.status[i] !== 'complete';
        const number = columns.numbers[i];
        if (columns.metric[i] === null || columns.size_bytes[i] === null || onFront.has(number)) continue;
        if (generation !== null && columns.generation[i] > generation) continue;
        if (hidden.has(stopped ? 'stopped' : 'dominated') || hidden.has(stage)) continue;
        const px = x(columns.size_bytes[i]);
        const py = y(columns.metric[i]);
        if (!this.inside(px, py)) continue;
        this.places.push({px, py, si, i, number, stopped});
        const chosen = selected?.has(number) && si === 0;
        if (chosen) { late.push([px, py, stage, colourOf(stage)]); continue; }
        const sprite = (looks[stopped ? 'stopped' : stage] ??= stopped ? this.sprites.get('stopped', colours.stopped, 3, false, '') : this.sprites.get(stage, colourOf(stage), many ? 2.4 : 3.2, false, ''));
        let alpha = stopped ? 0.45 : many ? 0.3 : 0.55;
        const at = this.born.get(number);
        if (at !== undefined) alpha *= (now - at) / FADE_MS;
        g.globalAlpha = selected && si === 0 ? alpha * 0.35 : alpha;
        g.drawImage(sprite.canvas, px - sprite.half, py - sprite.half, 2 * sprite.half, 2 * sprite.half);
      }
      for (const [px, py, stage, colour] of late.splice(0)) this.#stamp(g, stage, colour, 3.6, px, py, colours.ground);
    });
    this.state.series.forEach((series, si) => {
      const own = colours.read(lookOf(si).colour);
      for (const point of series.front) {
        if (hidden.has(point.stage)) continue;
        const px = x(point.size_bytes);
        const py = y(point.metric);
        if (!this.inside(px, py)) continue;
        this.places.push({px, py, si, i: -1, number: point.id, point, stopped: false});
        g.globalAlpha = selected && si === 0 && !selected.has(point.id) ? 0.45 : 1;
        this.#stamp(g, point.stage, byStage && si === 0 ? colours.stages[point.stage] : own, 5, px, py, colours.ground);
      }
    });
    g.globalAlpha = 1;
  }

  #stamp(g, stage, colour, r, px, py, ground) {
    const sprite = this.sprites.get(stage, colour, r, true, ground);
    g.drawImage(sprite.canvas, px - sprite.half, py - sprite.half, 2 * sprite.half, 2 * sprite.half);
  }

  #axes(narrow) {
    const {width, height, m, x, y} = this.geometry;
    const {metricName, original, logx} = this.state;
    if (this.#isEmpty) return s('rect', {class: 'frame', x: m.left, y: m.top, width: width - m.right - m.left, height: height - m.bottom - m.top}); // no scale is made up
    const factor = say.metricFactor(metricName);
    const bottom = height - m.bottom;
    const right = width - m.right;
    const gap = narrow ? 64 : 76;
    const xticks = logx ? roundTicks(x, gap) : linearTicks(x.domain, (right - m.left) / 90).filter((t) => t > 0);
    const yticks = this.#yticks(factor, bottom - m.top);
    const megabytes = x.domain[1] >= 2e6;
    const unit = megabytes ? 1e6 : 1e3;
    const parts = [];
    for (const tick of xticks) {
      const px = x(tick);
      parts.push(s('line', {class: 'grid', x1: px, x2: px, y1: m.top, y2: bottom}), s('text', {class: 'tick', x: px, y: bottom + 16, 'text-anchor': 'middle'}, say.digits(tick / unit, 4)));
    }
    for (const [py, words] of yticks) {
      if (py < m.top - 1 || py > bottom + 1) continue;
      parts.push(s('line', {class: 'grid', x1: m.left, x2: right, y1: py, y2: py}), s('text', {class: 'tick', x: m.left - 6, y: py + 4, 'text-anchor': 'end'}, words));
    }
    if (original) {
      const ratios = roundTicks(Object.assign((r) => x(original / r), {domain: [original / x.domain[1], original / x.domain[0]]}), gap);
      for (const r of ratios) parts.push(s('text', {class: 'tick', x: x(original / r), y: m.top - 8, 'text-anchor': 'middle'}, say.ratio(r)));
    }
    parts.push(
      s('text', {class: 'axis-title', x: m.left, y: 14}, y.drops ? say.dropTitle(metricName, narrow) : say.metricTitle(metricName)),
      s('text', {class: 'axis-title', x: right, y: height - 8, 'text-anchor': 'end'}, `size of the file (${megabytes ? 'MB' : 'kB'}${logx ? ', log' : ''})`),
      s('rect', {class: 'frame', x: m.left, y: m.top, width: right - m.left, height: bottom - m.top}),
    );
    if (original && !narrow) parts.push(s('text', {class: 'axis-title', x: right, y: 14, 'text-anchor': 'end'}, 'times smaller than float32'));
    return parts;
  }

  /** Places and words of the vertical axis. */
  #yticks(factor, tall) {
    const {y} = this.geometry;
    if (y.drops) return roundTicks(y.drops, 40).map((tick) => [y.drops(tick), say.digits(tick * factor, 2)]);
    const ticks = linearTicks(y.domain.map((v) => v * factor), tall / 56);
    const places = decimalsOf(ticks);
    return ticks.map((tick) => [y(tick / factor), tick.toFixed(places).replace('-', '−')]);
  }

  #bands(narrow) {
    const {width, height, m, x, y} = this.geometry;
    const {baseline, dropLimit, limits, metricName} = this.state;
    const right = width - m.right;
    const bottom = height - m.bottom;
    const clampY = (v) => Math.min(bottom, Math.max(m.top, y(v)));
    const parts = [];
    this.notes = []; // what labels of rings keep clear of
    const note = (text, at, base, anchor) => {
      const x0 = anchor === 'end' ? at - 6.5 * text.length : at;
      this.notes.push({x0, x1: x0 + 6.5 * text.length, y0: base - 11, y1: base + 3});
      parts.push(s('text', {class: 'note', x: at, y: base, 'text-anchor': anchor}, text));
    };
    if (baseline !== null && dropLimit !== null) {
      const [top, low] = [clampY(baseline), clampY(baseline - dropLimit)];
      parts.push(s('rect', {class: 'band', x: m.left, y: top, width: right - m.left, height: Math.max(0, low - top)}));
      if (bottom - low > 18) note(`${narrow ? '' : 'wanted: '}at most ${say.drop(dropLimit, metricName)} below`, right - 6, low + 14, 'end');
    }
    if (limits.bytes !== null) {
      const at = Math.min(right, Math.max(m.left, x(limits.bytes)));
      parts.push(s('rect', {class: 'shade', x: at, y: m.top, width: right - at, height: bottom - m.top}), s('line', {class: 'limit', x1: at, x2: at, y1: m.top, y2: bottom}));
    }
    if (limits.drop !== null && baseline !== null) {
      const at = clampY(baseline - limits.drop);
      parts.push(s('rect', {class: 'shade', x: m.left, y: at, width: right - m.left, height: bottom - at}), s('line', {class: 'limit', x1: m.left, x2: right, y1: at, y2: at}));
    }
    if (baseline !== null && !y.drops && y(baseline) >= m.top && y(baseline) <= bottom) {
      parts.push(s('line', {class: 'float', x1: m.left, x2: right, y1: y(baseline), y2: y(baseline)}));
      note(`float${narrow ? '' : ' network'} ${say.metric(baseline, metricName)}`, m.left + 6, y(baseline) - 5, 'start');
    }
    return parts;
  }

  #lines() {
    const {width, height, m, x, y} = this.geometry;
    const right = width - m.right;
    const id = uid('clip');
    const parts = [s('clipPath', {id}, s('rect', {x: m.left, y: m.top, width: right - m.left, height: height - m.top - m.bottom}))];
    this.state.series.forEach((series, si) => {
      let best = -Infinity;
      let d = '';
      for (const point of series.front) {
        if (point.metric <= best) continue;
        best = point.metric;
        const [px, py] = [x(point.size_bytes).toFixed(1), y(point.metric).toFixed(1)];
        d += d ? `H${px}V${py}` : `M${px} ${py}`;
      }
      if (!d) return;
      const {dash} = lookOf(si);
      parts.push(s('path', {class: `front-line series-${si}`, d: `${d}H${right}`, 'clip-path': `url(#${id})`, 'stroke-dasharray': dash || null}));
    });
    return parts;
  }

  /** Find a side of a ring where its label covers no other. */
  #room(labels, px, py, r, width) {
    const {width: all, m} = this.geometry;
    const sides = [[r, r + 3], [r, -r + 4], [-r, r + 3], [-r, -r + 4], [r, 2 * r + 6]];
    const boxOf = ([dx, dy]) => ({x0: dx < 0 ? px + dx - width : px + dx, x1: dx < 0 ? px + dx : px + dx + width, y0: py + dy - 11, y1: py + dy + 3});
    const clear = (box) => box.x0 > m.left && box.x1 < all - m.right && labels.every((o) => box.x0 > o.x1 || box.x1 < o.x0 || box.y0 > o.y1 || box.y1 < o.y0);
    const side = sides.find((each) => clear(boxOf(each))) ?? sides[px > all - 130 ? 2 : 0];
    labels.push(boxOf(side));
    return side;
  }

  #rings() {
    const {x, y} = this.geometry;
    const {rings, pins} = this.state;
    const parts = [];
    const taken = new Map();
    const labels = [...this.notes];
    for (const ring of rings) {
      const [px, py] = [x(ring.size_bytes), y(ring.metric)];
      if (!this.inside(px, py)) continue;
      const key = `${Math.round(px / 14)},${Math.round(py / 14)}`;
      const nth = taken.get(key) ?? 0;
      taken.set(key, nth + 1);
      const r = 9 + 4 * nth;
      const [dx, dy] = this.#room(labels, px, py, r + 5, 7 * ring.label.length);
      parts.push(s('circle', {class: ring.chosen ? 'ring chosen' : 'ring', cx: px, cy: py, r}));
      parts.push(s('text', {class: 'ring-label', x: px + dx, y: py + dy, 'text-anchor': dx < 0 ? 'end' : 'start'}, ring.label));
    }
    for (const pin of pins) {
      const [px, py] = [x(pin.size_bytes), y(pin.metric)];
      if (this.inside(px, py)) parts.push(s('path', {class: 'pin', d: `M${px} ${py - 7}l-5 -11h10z`}));
    }
    const at = this.focus >= 0 ? this.line[this.focus] : null;
    if (at && document.activeElement === this.box) parts.push(s('circle', {class: 'focus-ring', cx: x(at.size_bytes), cy: y(at.metric), r: 12}));
    return parts;
  }
}
