// How good is the front, and is it still growing? The chart is the page; the pick stands beside it.

import * as api from '../api.js';
import {debounce, fill, h, reducedMotion} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {badge, progress, reasonOf, tagList} from '../parts/badge.js';
import {FrontChart} from '../parts/front-chart.js';
import {exportDialog} from '../parts/export-dialog.js';
import {legend} from '../parts/front-legend.js';
import {pickPanel} from '../parts/pick.js';
import {attempt} from '../parts/toast.js';
import {StudyKnowledge} from '../store.js';
import {drawActions} from './study-actions.js';
import {studyTabs} from './study-tabs.js';
import {chartTools} from './study-tools.js';

const RULES = ['smallest', 'knee', 'best'];
const POLL_MS = 5000;
const MAX_PINS = 4;

const numberOf = (text) => (text === null || text === '' || Number.isNaN(Number(text)) ? null : Number(text));

export async function mount(host, {name}, shell) {
  const {go, keepQuery, store, query} = shell;
  const study = new StudyKnowledge(name);
  await study.load();

  const view = {
    limits: {bytes: numberOf(query.get('max_bytes')), drop: numberOf(query.get('max_drop'))}, ownDrop: query.has('max_drop'),
    rule: RULES.includes(query.get('pick')) ? query.get('pick') : 'smallest',
    manual: null, answers: {}, selected: null, overlays: [], generation: numberOf(query.get('generation')),
    generationFront: null, logx: query.get('x') !== 'linear', logy: null, tool: query.get('tool') ?? 'box', view: null,
    hidden: new Set((query.get('hide') ?? '').split(',').filter(Boolean)),
  };
  const page = {study, view, shell, facts: new Map(), drawChart, drawPick, choose, select, open, logy};

  // ------------------------------------------------------------------------------ parts
  const title = h('div', {class: 'row'});
  const about = h('p', {class: 'muted small'});
  const actions = h('div', {class: 'row'});
  const trouble = h('div');
  const facts = h('dl', {class: 'facts', 'data-test': 'facts'});
  const chartHost = h('div');
  const legendHost = h('div', {class: 'legend'});
  const points = h('p', {class: 'small muted', 'data-test': 'points'});
  const notices = h('ul', {class: 'notices small', 'aria-label': 'What the study noted', 'data-test': 'notices'});
  const chart = new FrontChart(chartHost, {
    label: `Pareto chart of ${name}: metric over size of the file. Arrows move along the front, Enter opens a solution, space picks it.`,
    onHover: hover,
    onWalk: (point, i, n) => `${i + 1} of ${n}: solution ${point.id}, ${say.bytes(point.size_bytes)}, drop ${say.drop(point.drop, point.metric_name)}, ${say.plural(point.entries, 'entry', 'entries')}`,
    onOpen: (point) => open(point.id),
    onPick: (place) => choosePlace(place),
    onSelect: select,
    onView: (next) => { view.view = next; drawChart(); },
  });
  page.chart = chart;
  const tools = chartTools(page);
  const pick = pickPanel({
    onLimits: (limits) => {
      if (limits.drop !== view.limits.drop) view.ownDrop = true;
      view.limits = limits;
      view.manual = null;
      keepQuery({max_bytes: limits.bytes, max_drop: view.ownDrop ? limits.drop ?? 'none' : null});
      drawChart();
      drawPick();
      askSoon();
    },
    onRule: (rule) => {
      view.rule = rule;
      view.manual = null;
      keepQuery({pick: rule === 'smallest' ? null : rule});
      drawPick();
      drawChart();
    },
    onExport: (solution) => exportDialog({study: name, solution, metricName: study.item.metric_name, request: exportRequest(), onDone: () => study.loadExports()}),
    onPin: (solution) => pin(solution.id),
  });
  let lower = studyTabs(page);

  // ------------------------------------------------------------------------------ picking
  /** The drop within which the study itself takes its solution: where picking begins. */
  const wantedDrop = () => study.item.spec?.output?.max_drop ?? null;

  function takeWantedDrop() {
    if (!view.ownDrop && view.limits.drop !== wantedDrop()) view.limits = {...view.limits, drop: wantedDrop()};
  }
  takeWantedDrop();

  function exportRequest() {
    if (view.manual) return {id: view.manual.id};
    return {pick: view.rule, ...(view.limits.drop !== null && {max_drop: view.limits.drop}), ...(view.limits.bytes !== null && {max_bytes: view.limits.bytes})};
  }

  let asked = 0;
  async function ask() {
    if (!study.front.length) return;
    asked += 1;
    const mine = asked;
    const {bytes, drop} = view.limits;
    const answers = await Promise.all(RULES.map((how) => api.get(`${study.url}/pick`, {how, max_bytes: bytes, max_drop: drop})));
    if (mine !== asked) return;
    view.answers = Object.fromEntries(RULES.map((how, i) => [how, answers[i]]));
    drawPick();
    drawChart();
  }
  const askSoon = debounce(() => ask().catch(() => {}), 120);

  async function choosePlace(place) {
    if (place.si !== 0) return;
    const solution = place.point ?? await api.get(`${study.url}/solutions/${place.number}`);
    choose(solution);
  }

  function choose(solution) {
    view.manual = solution;
    drawPick();
    drawChart();
  }

  function select(numbers) {
    view.selected = numbers?.length ? new Set(numbers) : null;
    drawChart();
    lower.selectionChanged();
  }

  function open(id) {
    return go(`/studies/${encodeURIComponent(name)}/solutions/${id}`);
  }

  async function pin(id) {
    const pins = study.item.pins ?? [];
    const next = pins.includes(id) ? pins.filter((each) => each !== id) : [...pins, id].slice(-MAX_PINS);
    await attempt(async () => { await api.patch(study.url, {pins: next}); await study.loadItem(); });
  }
  page.pin = pin;

  // ------------------------------------------------------------------------------ hovering
  function hover(place, show) {
    const metricName = study.item.metric_name;
    const series = chart.state.series[place.si];
    if (place.stopped) {
      const {columns} = series;
      return [[null, `Evaluation ${place.number}, stopped early`, true], ['size', say.bytes(columns.size_bytes[place.i])], [`${say.metricWords(metricName)}, at most`, say.metric(columns.metric[place.i], metricName)]];
    }
    const point = place.point ?? page.facts.get(`${place.si}/${place.number}`);
    if (point) return words(point, series, metricName);
    const {columns} = series;
    const size = columns.size_bytes[place.i];
    hoverSoon(place, show, series);
    return [[null, `Solution ${place.number}, ${columns.stage[place.i]}`, true], ['size', say.bytes(size)], ['ratio', say.ratio(study.item.original_bytes / size)], ['drop', say.drop(study.item.baseline - columns.metric[place.i], metricName)]];
  }
  const hoverSoon = debounce(async (place, show, series) => {
    if (chart.hovered !== place) return;
    const point = await api.get(`/studies/${encodeURIComponent(series.name)}/solutions/${place.number}`).catch(() => null);
    if (!point) return;
    page.facts.set(`${place.si}/${place.number}`, point);
    show(words(point, series, study.item.metric_name));
  }, 150);

  function words(point, series, metricName) {
    return [
      [null, `${series.name === name ? '' : `${series.name}: `}Solution ${point.id}, ${point.stage}`, true], ['recipe', point.text ?? ''], ['size', say.exactBytes(point.size_bytes)],
      ['ratio', say.ratio(point.ratio)], ['drop', say.noisyDrop(point, metricName)], ['entries', say.count(point.entries)], ['bits per weight', say.bits(point.bits_per_weight)],
    ];
  }

  // ------------------------------------------------------------------------------ drawing
  function drawHead() {
    const {item} = study;
    fill(title, h('h1', null, name), badge(item.status), tagList(item.tags));
    fill(about, [item.network, item.dataset, item.method && `method ${item.method}`].filter(Boolean).join(' · '), item.archived && ' · archived');
    drawActions(actions, study, shell);
    const doing = item.status === 'running' ? say.doing(item.doing) || (study.isStored ? '' : `Starting: ${view.printed || 'its process loads Python, network and images, and measures the float network'}…`) : '';
    const position = item.status === 'queued' && item.queue_position ? `Place ${item.queue_position} in the queue.` : null;
    fill(trouble,
      reasonOf(item),
      (doing || position) && h('p', {class: 'small', 'data-test': 'doing'}, position ?? doing));
    const fact = (term, value, note, test) => h('div', null, h('dt', null, term), h('dd', {'data-test': test}, value, note && h('small', null, note)));
    const limit = wantedDrop() ?? item.max_drop ?? null;
    const within = limit === null || !study.isStored ? 'on the front' : `within ${say.drop(limit, item.metric_name)}`;
    // Of a study that takes its solution from nearer the float network, that one; luck allowed for.
    const smallest = wantedDrop() === null ? item.smallest_bytes : study.front.find((p) => p.cautious_drop <= limit + 1e-12)?.size_bytes ?? null;
    fill(facts,
      fact('smallest file', say.bytes(smallest), smallest ? `${say.ratio(item.original_bytes / smallest)}, ${within}` : within, 'smallest'),
      fact('float network', say.metric(item.baseline, item.metric_name), item.original_bytes ? say.bytes(item.original_bytes) : null),
      fact('on the front', say.count(item.front_size ?? study.front.length), 'solutions', 'front-size'),
      fact('evaluations', say.count(item.evaluations), `${say.count(item.complete)} complete, ${say.count(item.stopped)} stopped early${item.failed ? `, ${say.count(item.failed)} failed` : ''}`, 'evaluations'),
      fact('hypervolume', say.digits(item.hypervolume, 4), say.plural(item.generations ?? 0, 'generation'), 'hypervolume'),
      item.status === 'running' ? fact(item.phase ?? 'running', progress(item), [item.workers > 0 && say.plural(item.workers, 'worker'), item.left_s && `about ${say.duration(item.left_s)} left`].filter(Boolean).join(', ')) : fact('changed', say.ago(item.updated_at), say.moment(item.updated_at)));
    fill(notices, (item.notices ?? []).map((text) => h('li', null, `${text[0].toUpperCase()}${text.slice(1)}.`)));
    document.title = `${name} · ${item.status} · moeash`;
  }

  /** Divergences span decades, accuracies a few points: the axis follows, until a person chooses. */
  function logy() {
    const asked = query.get('y');
    return view.logy ?? (asked ? asked === 'log' : say.isDivergence(study.item.metric_name));
  }

  function drawChart(fresh = []) {
    const {item} = study;
    const front = view.generationFront ?? study.front;
    const rings = [];
    for (const rule of view.manual ? [] : RULES) {
      const it = view.answers[rule]?.solution;
      if (!it || view.generation !== null) continue;
      const same = rings.find((ring) => ring.number === it.id);
      if (same) Object.assign(same, {label: `${same.label}, ${rule}`, chosen: same.chosen || rule === view.rule});
      else rings.push({number: it.id, size_bytes: it.size_bytes, metric: it.metric, label: rule, chosen: rule === view.rule});
    }
    if (view.manual) rings.push({number: view.manual.id, size_bytes: view.manual.size_bytes, metric: view.manual.metric, label: `solution ${view.manual.id}`, chosen: true});
    const pins = (item.pins ?? []).map((id) => study.front.find((p) => p.id === id)).filter(Boolean);
    chart.set({
      series: [{name, columns: study.points, front}, ...view.overlays], metricName: item.metric_name, baseline: item.baseline ?? null,
      last: study.front, original: item.original_bytes ?? null, dropLimit: item.max_drop ?? null, generation: view.generation, logx: view.logx, logy: logy(), hidden: view.hidden,
      limits: view.limits, rings, selected: view.selected, pins, view: view.view, tool: view.tool, fresh,
    });
    const got = study.points;
    points.textContent = got?.total ? `${say.count(got.shown)} of ${say.plural(got.total, 'evaluation')} drawn${got.shown < got.total ? '; the front in full, the rest thinned where marks would cover each other' : ''}` : 'No evaluation yet';
    if (got) Object.assign(points.dataset, {shown: got.shown, total: got.total});
    legend(legendHost, study.points, front, view, () => { keepQuery({hide: [...view.hidden].join(',')}); drawChart(); });
  }

  function drawPick() {
    const {item} = study;
    pick.set({name, front: study.front, limits: view.limits, rule: view.rule, manual: view.manual, answers: view.answers, metricName: item.metric_name, dropLimit: item.max_drop ?? null, hasEnded: item.status === 'finished', pins: item.pins ?? [], mayWrite: store.mayWrite});
  }

  fill(host,
    h('div', {class: 'head'}, h('div', {class: 'head-title'}, h('nav', {class: 'crumbs', 'aria-label': 'Where'}, h('a', {href: '/'}, 'Studies')), title, about), actions),
    trouble, facts,
    h('div', {class: 'workbench'}, h('section', {class: 'stack', 'aria-label': 'Pareto front'}, tools.element, chartHost, legendHost, tools.generations, points, notices), pick.element),
    lower.element);
  drawHead();
  drawChart();
  drawPick();
  askSoon();
  tools.restore();

  /** Before a study is stored it has no events; what its process printed says how far it is. */
  async function readStart() {
    const {text} = await api.get(`${study.url}/log`, {from: 0});
    view.printed = text.trim().split('\n').at(-1);
    drawHead();
  }

  // What the tables are called by is known once the study is stored.
  let {isStored} = study;
  function storedNow() {
    if (isStored || !study.isStored) return;
    isStored = true;
    lower.close();
    const next = studyTabs(page);
    lower.element.replaceWith(next.element);
    lower = next;
  }

  let frontKey = study.frontKey;
  const unlisten = study.listen((topic, value) => {
    if (topic === 'item') { takeWantedDrop(); storedNow(); drawHead(); drawPick(); drawChart(); lower.changed('item'); }
    if (topic === 'points') {
      drawChart(reducedMotion() ? [] : study.fresh);
      tools.changed();
      lower.changed('points');
      if (frontKey !== study.frontKey) { frontKey = study.frontKey; askSoon(); drawPick(); drawHead(); }
    }
    if (topic === 'generations') { tools.changed(); lower.changed('generations'); }
    if (topic === 'exports') lower.changed('exports');
    if (topic === 'event') lower.changed('event', value);
  });
  if (study.isStored) study.loadRest();
  const stop = store.follow(`${study.url}/events`, (event) => study.receive(event));
  const poll = setInterval(() => {
    if (document.hidden || !['running', 'queued'].includes(study.item.status)) return;
    study.poll();
    if (study.item.status === 'running' && !study.isStored) readStart().catch(() => {});
  }, POLL_MS);
  return () => {
    stop();
    unlisten();
    clearInterval(poll);
    askSoon.cancel();
    hoverSoon.cancel();
    tools.close();
    lower.close();
    chart.close();
    study.close();
  };
}
