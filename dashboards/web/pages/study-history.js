// How the front grew: hypervolume, best file so far, how long evaluations take.

import * as api from '../api.js';
import {fill, h, throttle} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {bestSoFar} from '../lib/course.js';
import {lineChart} from '../parts/line-chart.js';

const RECENT = 500;

export function historyPanel(panel, {study}) {
  const number = {title: 'evaluation', whole: true, say: say.count};
  const hypervolume = lineChart({label: 'Hypervolume', test: 'hypervolume-chart', x: {title: 'generation', whole: true, say: say.count}, y: {title: 'hypervolume', say: (v) => say.digits(v, 5)}});
  const best = lineChart({label: 'Smallest file so far, within the wanted drop', test: 'best-chart', x: number, y: {title: 'kB', say: (v) => say.exactBytes(v * 1000)}});
  const took = lineChart({label: 'How long evaluations take', test: 'duration-chart', x: {title: 'since the first shown', seconds: true, say: say.duration}, y: {title: 'seconds', zero: true, say: say.duration}});
  fill(panel, h('div', {class: 'figures'}, hypervolume.element, best.element, took.element));

  const draw = () => {
    hypervolume.set([{name: 'hypervolume', points: study.generations.map((g) => [g.index, g.hypervolume])}]);
    best.set([{name: 'smallest file so far', step: true, points: bestSoFar(study)}]);
  };
  const askTook = throttle(async () => {
    const {items} = await api.get(`${study.url}/evaluations`, {sort: 'number', order: 'desc', limit: RECENT}).catch(() => ({items: []}));
    const known = items.filter((r) => r.duration_s !== null && r.created_at).reverse();
    const first = known.length ? Date.parse(known[0].created_at) : 0;
    const stages = [...new Set(known.map((r) => r.stage))];
    took.set(stages.map((stage) => ({name: stage, mark: `mark-${stage}`, dots: true, points: known.filter((r) => r.stage === stage).map((r) => [(Date.parse(r.created_at) - first) / 1000, r.duration_s])})));
  }, 4000);
  draw();
  askTook();
  return {
    changed(topic) {
      if (topic === 'points' || topic === 'generations') draw();
      if (topic === 'points') askTook();
    },
    close() {
      askTook.cancel();
      for (const each of [hypervolume, best, took]) each.close();
    },
  };
}
