// A recipe as a sentence: the candidate, then what was done to it.

import {digits, plural} from './format.js';

const VALUES = {k: (v) => `${v} bins asked for`, levels: (v) => `${v} positive levels a layer`, rate: (v) => `a bit worth ${digits(v, 3)}`};
const METHODS = {uniform: 'Uniform bins', feedback: 'Uniform bins with second-order error feedback', gpfq: 'Greedy path-following quantisation', wfn: 'Weight Fixing Networks', pwfn: 'Probabilistic Weight Fixing'};
const STEPS = {merge: 'neighbouring entries merged', refine: 'made again with more effort', distill: 'weights trained on its own entries', tune: 'entries trained'};

const words = (list) => (list.length > 1 ? `${list.slice(0, -1).join(', ')} and ${list.at(-1)}` : list.join(''));

/** Say what a solution is, e.g. `Uniform bins, 12 bins asked for, then neighbouring entries merged: 10 entries.` */
export function sentence(method, {recipe, entries}) {
  const candidate = Object.entries(recipe?.candidate ?? {}).map(([name, value]) => (VALUES[name] ? VALUES[name](value) : `${name} = ${typeof value === 'number' ? digits(value, 4) : JSON.stringify(value)}`));
  const steps = (recipe?.steps ?? []).map(({step}) => STEPS[step] ?? step);
  return `${METHODS[method] ?? `Method ${method ?? 'of your own'}`}${candidate.length ? `, ${words(candidate)}` : ''}${steps.length ? `, then ${words(steps)}` : ''}: ${plural(entries, 'entry', 'entries')} in use.`;
}
