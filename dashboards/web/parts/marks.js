// The mark of each stage: a shape and a colour, so that either alone tells them apart.

import {s} from '../lib/dom.js';

export const STAGES = ['search', 'refined', 'merged', 'distilled', 'tuned'];
export const STAGE_WORDS = {search: 'search', refined: 'refined', merged: 'merged', distilled: 'distilled', tuned: 'tuned'};

/** Trace a stage's shape around (x, y) on anything with canvas path methods. */
export function trace(path, stage, x, y, r) {
  if (stage === 'refined') {
    const a = r * 0.88;
    path.rect(x - a, y - a, 2 * a, 2 * a);
  } else if (stage === 'merged') {
    const a = r * 1.25;
    path.moveTo(x, y - a);
    path.lineTo(x + a, y);
    path.lineTo(x, y + a);
    path.lineTo(x - a, y);
    path.closePath();
  } else if (stage === 'distilled' || stage === 'tuned') {
    const a = r * 1.3;
    const up = stage === 'distilled' ? 1 : -1;
    path.moveTo(x, y - up * a);
    path.lineTo(x + a * 0.95, y + up * a * 0.75);
    path.lineTo(x - a * 0.95, y + up * a * 0.75);
    path.closePath();
  } else {
    path.moveTo(x + r, y);
    path.arc(x, y, r, 0, 2 * Math.PI);
  }
}

/** Return a stage's mark as a small picture for a legend or a table. */
export function markIcon(stage, {filled = true, kind = stage} = {}) {
  const shapes = {
    search: () => s('circle', {cx: 7, cy: 7, r: 4.5}),
    refined: () => s('rect', {x: 3, y: 3, width: 8, height: 8}),
    merged: () => s('path', {d: 'M7 1.500 12.500 7 7 12.500 1.500 7Z'}),
    distilled: () => s('path', {d: 'M7 1.500 12.500 11.500H1.500Z'}),
    tuned: () => s('path', {d: 'M7 12.500 12.500 2.500H1.500Z'}),
    stopped: () => s('path', {d: 'M2 7H12', 'stroke-width': 2}),
  };
  return s('svg', {class: `mark mark-${kind} ${filled ? 'filled' : 'hollow'}`, viewBox: '0 0 14 14', width: 14, height: 14, 'aria-hidden': 'true', focusable: 'false'}, (shapes[stage] ?? shapes.search)());
}

/** Draw each mark once; a chart of many points then copies pictures, which is many times faster. */
export class Sprites {
  #made = new Map();

  constructor(ratio) {
    this.ratio = ratio;
  }

  get(stage, colour, r, filled, ground) {
    const key = `${stage}|${colour}|${r}|${filled}|${ground}`;
    let sprite = this.#made.get(key);
    if (!sprite) {
      sprite = this.#make(stage, colour, r, filled, ground);
      this.#made.set(key, sprite);
    }
    return sprite;
  }

  #make(stage, colour, r, filled, ground) {
    const half = Math.ceil(r * 1.4) + 2;
    const canvas = document.createElement('canvas');
    canvas.width = 2 * half * this.ratio;
    canvas.height = 2 * half * this.ratio;
    const g = canvas.getContext('2d');
    g.scale(this.ratio, this.ratio);
    g.beginPath();
    if (stage === 'stopped') {
      g.moveTo(half - r, half);
      g.lineTo(half + r, half);
      g.strokeStyle = colour;
      g.lineWidth = 1.25;
      g.stroke();
    } else {
      trace(g, stage, half, half, r);
      if (filled) {
        g.fillStyle = colour;
        g.fill();
        g.strokeStyle = ground;
        g.lineWidth = 1;
      } else {
        g.strokeStyle = colour;
        g.lineWidth = 1.1;
      }
      g.stroke();
    }
    return {canvas, half};
  }
}
