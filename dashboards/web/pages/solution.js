// What exactly is this solution, and what would one get?

import * as api from '../api.js';
import {fill, h} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {bars, codebookChart} from '../parts/bars.js';
import {downloads, exportDialog} from '../parts/export-dialog.js';
import {markIcon} from '../parts/marks.js';
import {verified} from '../parts/verified.js';
import {attempt} from '../parts/toast.js';
import {sentence} from '../lib/recipe.js';

const MAX_OTHERS = 3;
const MAX_EXPORTS = 30;

export async function mount(host, {name, id}, {store, query, keepQuery}) {
  const url = `/studies/${encodeURIComponent(name)}`;
  const [study, first, front] = await Promise.all([api.get(url), whole(id), api.get(`${url}/front`).catch(() => ({items: []}))]);

  /** A solution with the exports made of it; a list of exports leaves their reports out. */
  async function whole(number) {
    const [solution, {items}] = await Promise.all([api.get(`${url}/solutions/${number}`), api.get(`${url}/exports`).catch(() => ({items: []}))]);
    const recent = items.slice(-MAX_EXPORTS).filter((each) => each.request?.id === undefined || each.request.id === null || each.request.id === solution.id);
    const full = await Promise.all(recent.map((each) => (each.report || each.status !== 'finished' ? each : api.get(`/exports/${each.id}`))));
    return {...solution, exports: full.filter((each) => (each.report?.solution?.id ?? each.request?.id) === solution.id).sort((a, b) => a.id - b.id)};
  }

  const metricName = study.metric_name;
  let it = first;
  let others = [];
  const place = front.items.findIndex((p) => p.id === it.id);
  const linkTo = (other, words) => h('a', {href: `/studies/${encodeURIComponent(name)}/solutions/${other.id}`}, words ?? `Solution ${other.id}`);
  const contents = h('div', {class: 'stack sections'});
  const versus = h('section', {class: 'stack', 'aria-label': 'Compare'});

  const job = () => it.exports?.filter((each) => each.status === 'finished').at(-1) ?? null;
  const latest = () => it.exports?.at(-1) ?? null;

  function facts() {
    const holdout = job()?.report?.holdout;
    const fact = (term, value, note, test) => h('div', null, h('dt', null, term), h('dd', {'data-test': test}, value, note && h('small', null, note)));
    return h('dl', {class: 'facts'},
      fact('file', say.bytes(it.size_bytes), say.exactBytes(it.size_bytes), 'solution-bytes'), fact('ratio', say.ratio(it.ratio), 'times smaller than float32'),
      fact('drop', say.noisyDrop(it, metricName), `${say.metricWords(metricName)} ${say.metric(it.metric, metricName)} on the search split`),
      holdout && fact('drop on the holdout split', say.drop(job().report.holdout_drop ?? null, metricName), holdout.top1_low === undefined || holdout.top1_low === null ? `${say.metricWords(metricName)} ${say.metric(holdout.metric, metricName)}` : `top-1 accuracy ${say.metric(holdout.top1_low, 'top1')} to ${say.metric(holdout.top1_high, 'top1')}`),
      fact('entries', say.count(it.entries), 'in the codebook'), fact('bits per weight', say.bits(it.bits_per_weight), study.n_shared ? `${say.count(study.n_shared)} shared weights` : null));
  }

  function lineage() {
    const chain = [...(it.parents ?? [])].reverse();
    if (!chain.length) return null;
    return h('section', {class: 'stack'}, h('h2', null, 'Made from'), h('ol', {class: 'chain'}, [...chain, it].map((each, i) => h('li', null, markIcon(each.stage), h('span', null, each.id === it.id ? h('b', null, `Solution ${each.id}`) : linkTo(each), ` ${each.stage}`), h('span', {class: 'muted num small'}, `${say.bytes(each.size_bytes)}, ${say.plural(each.entries, 'entry', 'entries')}, drop ${say.drop(each.drop, metricName)}`, i > 0 && chain[i - 1] ? ` (${change(each.size_bytes - chain[i - 1].size_bytes)})` : '')))));
  }

  const change = (n) => `${n > 0 ? '+' : '−'}${say.count(Math.abs(n))} bytes`;

  function draw() {
    const done = job();
    const last = latest();
    const inspection = done?.inspection;
    fill(contents,
      facts(), lineage(),
      last?.status === 'failed' && !done && h('p', {class: 'alert'}, `The last export failed: ${last.error}`),
      done
        ? h('section', {class: 'stack'}, h('h2', null, 'Exported and verified'), h('div', {class: 'two'}, h('div', {class: 'stack'}, verified(done, metricName)), h('div', {class: 'panel'}, h('p', {class: 'small muted'}, say.moment(done.ended_at)), downloads(done))))
        : h('div', {class: 'empty'}, h('h2', null, 'Not exported yet'), h('p', null, 'An export builds the file, verifies it, measures it on the holdout split, and shows here where its bytes go.'), h('button', {type: 'button', disabled: !store.mayWrite, onclick: order, 'data-test': 'export-here'}, 'Export')),
      inspection?.codebooks?.length > 0 && h('section', {class: 'stack'}, h('h2', null, inspection.codebooks.length > 1 ? 'Codebooks' : 'Codebook'), inspection.codebooks.length > 1 ? inspection.codebooks.map((book, i) => h('details', {class: 'section', open: i === 0}, h('summary', null, h('span', {class: 'section-name'}, nameOf(book)), h('span', {class: 'small muted'}, say.plural(book.values.length, 'entry', 'entries'))), codebookChart({...book, name: nameOf(book)}))) : codebookChart({...inspection.codebooks[0], name: nameOf(inspection.codebooks[0]), histogram: it.histogram})),
      inspection && h('section', {class: 'stack'}, h('h2', null, 'Where the bytes go'), h('div', {class: 'two'}, bars({caption: 'Bytes by part', test: 'bytes-by-part', columns: ['Part of the file', 'Bytes', 'Share'], say: say.count, rows: Object.entries(inspection.parts).map(([part, value]) => ({name: part, value, more: [share(value, inspection.size_bytes)]}))}), bitsTable(inspection))),
      inspection && h('section', {class: 'stack'}, h('h2', null, 'Bytes by tensor'), bars({caption: 'Bytes by tensor', test: 'bytes-by-tensor', columns: ['Tensor', 'Bytes', 'Elements', 'Bits / element'], say: say.count, rows: [...inspection.tensors].sort((a, b) => b.bytes - a.bytes).map((t) => ({name: t.name, value: t.bytes, look: t.role === 'shared' ? '' : 'kept', more: [say.count(t.elements), say.bits(t.bits_per_element)]}))}), h('p', {class: 'small muted'}, 'Shared tensors in colour, kept ones grey.')));
  }

  const nameOf = ({tensors}) => (tensors.length > 3 ? `${tensors[0]} and ${tensors.length - 1} more` : tensors.join(', '));

  const share = (value, total) => `${((100 * value) / total).toFixed(1)} %`;

  function bitsTable(inspection) {
    const shared = inspection.tensors.filter((t) => t.role === 'shared');
    return bars({caption: 'Bits per weight by layer', test: 'bits-by-layer', columns: ['Shared layer', 'Bits / weight', 'Weights'], say: say.bits, rows: shared.map((t) => ({name: t.name, value: t.bits_per_element, more: [say.count(t.elements)]}))});
  }

  function order() {
    exportDialog({study: name, solution: it, metricName, request: {id: it.id}, onDone: async () => { it = await whole(id); draw(); }});
  }

  // ------------------------------------------------------------------------- comparing
  async function add(other) {
    if (!other || String(other) === String(id) || others.some((each) => String(each.id) === String(other))) return;
    await attempt(async () => { others = [...others, await whole(other)].slice(-MAX_OTHERS); });
    keepQuery({with: others.map((each) => each.id).join(',')});
    drawVersus();
  }

  function drawVersus() {
    const choice = h('select', {'aria-label': 'Compare with', 'data-test': 'compare-with', onchange: (event) => add(event.target.value)}, h('option', {value: ''}, 'Compare with…'), front.items.filter((p) => p.id !== it.id).map((p) => h('option', {value: p.id}, `${p.id}: ${say.bytes(p.size_bytes)}, ${say.drop(p.drop, metricName)}${(study.pins ?? []).includes(p.id) ? ', pinned' : ''}`)));
    const all = [it, ...others];
    const row = (term, get, better) => h('tr', null, h('th', {scope: 'row'}, term), all.map((each) => h('td', {class: 'right num'}, get(each), each !== it && better && h('div', {class: 'small muted'}, better(each)))));
    const delta = (key, words) => (each) => { const d = each[key] - it[key]; return d === 0 ? 'the same' : `${d > 0 ? '+' : '−'}${words(Math.abs(d))}`; };
    const inspected = all.map((each) => each.exports?.filter((e) => e.status === 'finished').at(-1)?.inspection);
    const tensors = inspected.filter(Boolean).length > 1 ? [...new Set(inspected.filter(Boolean).flatMap((i) => i.tensors.filter((t) => t.role === 'shared').map((t) => t.name)))] : [];
    fill(versus, h('div', {class: 'row spread'}, h('h2', null, 'Compared with others'), h('span', {class: 'row'}, choice, others.length > 0 && h('button', {type: 'button', class: 'small-button', onclick: () => { others = []; keepQuery({with: null}); drawVersus(); }}, 'Clear'))),
      others.length > 0 && h('div', {class: 'table-scroll', tabindex: 0, role: 'region', 'aria-label': 'Comparison'}, h('table', {'data-test': 'comparison'}, h('thead', null, h('tr', null, h('th', {scope: 'col'}, 'fact'), all.map((each) => h('th', {scope: 'col', class: 'right'}, each === it ? `Solution ${each.id}` : linkTo(each))))),
        h('tbody', null,
          row('recipe', (e) => h('span', {class: 'recipe'}, e.text)), row('stage', (e) => h('span', null, markIcon(e.stage), ` ${e.stage}`)), row('bytes', (e) => say.count(e.size_bytes), delta('size_bytes', say.count)), row('ratio', (e) => say.ratio(e.ratio)),
          row('drop', (e) => say.noisyDrop(e, metricName), delta('drop', (d) => say.drop(d, metricName))), row('entries', (e) => say.count(e.entries), delta('entries', say.count)), row('bits per weight', (e) => say.bits(e.bits_per_weight), delta('bits_per_weight', say.bits)),
          tensors.map((tensor) => h('tr', null, h('th', {scope: 'row', class: 'mono'}, tensor), inspected.map((i) => { const t = i?.tensors.find((each) => each.name === tensor); return h('td', {class: 'right num'}, t ? `${say.bits(t.bits_per_element)} bits` : '–'); })))))),
      others.length > 0 && tensors.length === 0 && h('p', {class: 'small muted'}, 'Layer by layer once both are exported.'));
  }

  fill(host,
    h('div', {class: 'head'}, h('div', {class: 'head-title'}, h('nav', {class: 'crumbs', 'aria-label': 'Where'}, h('a', {href: '/'}, 'Studies'), ' / ', h('a', {href: `/studies/${encodeURIComponent(name)}`}, name)),
      h('div', {class: 'row'}, h('h1', null, `Solution ${it.id}`), h('span', {class: 'badge'}, markIcon(it.stage), it.stage), it.on_front ? h('span', {class: 'badge badge-finished'}, place >= 0 ? `on the front, ${place + 1} of ${front.items.length}` : 'on the front') : h('span', {class: 'badge'}, 'dominated')),
      h('p', {'data-test': 'sentence'}, it.sentence ?? sentence(study.method, it)), h('p', {class: 'muted small mono'}, it.text)),
    h('div', {class: 'row'}, place > 0 && h('a', {class: 'button', href: `/studies/${encodeURIComponent(name)}/solutions/${front.items[place - 1].id}`, 'data-test': 'smaller'}, '← smaller'), place >= 0 && place < front.items.length - 1 && h('a', {class: 'button', href: `/studies/${encodeURIComponent(name)}/solutions/${front.items[place + 1].id}`, 'data-test': 'larger'}, 'larger →'),
      h('button', {type: 'button', class: 'primary', disabled: !store.mayWrite, onclick: order, 'data-shortcut': 'e', 'data-test': 'export'}, job() ? 'Export again' : 'Export'))),
    contents, versus);
  draw();
  drawVersus();
  for (const other of (query.get('with') ?? '').split(',').filter(Boolean)) await add(other);
  const stop = store.follow(`${url}/events`, () => {});
  return stop;
}
