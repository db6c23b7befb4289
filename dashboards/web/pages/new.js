// Start a study: a form and the TOML it means, each changing the other, checked as one types.

import * as api from '../api.js';
import {debounce, fill, h} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {schemaForm} from '../parts/form.js';
import {attempt, toast} from '../parts/toast.js';
import {uploads} from '../parts/uploads.js';

const CHECK_MS = 250;
const PREFERRED = 'digits';

export async function mount(host, params, {go, store, query}) {
  const [schema, templates, files] = await Promise.all([api.get('/schema'), api.get('/templates'), api.get('/files').catch(() => ({items: []}))]);
  const form = schemaForm({schema, onChange: () => fromForm(), suggest: {'network.checkpoint': files.items.map((file) => file.path)}});
  const area = h('textarea', {class: 'mono toml', rows: 24, spellcheck: 'false', 'aria-label': 'The study as TOML', 'data-test': 'toml'});
  const errors = h('ul', {class: 'errors', 'data-test': 'errors'});
  const verdict = h('p', {class: 'verdict', role: 'status', 'data-test': 'verdict'});
  const launch = h('button', {type: 'button', class: 'primary', disabled: true, onclick: start, 'data-test': 'launch'}, 'Launch');
  const template = h('select', {'aria-label': 'Start from', 'data-test': 'template', onchange: () => useTemplate(template.value)}, h('option', {value: ''}, 'Start from…'), templates.items.map((each) => h('option', {value: each.name}, each.name)));
  const about = h('p', {class: 'small muted'});
  const spec = h('input', {type: 'file', accept: '.toml', class: 'visually-hidden', id: 'spec-file', 'data-test': 'spec-file', onchange: async () => { if (spec.files[0]) use(await spec.files[0].text()); spec.value = ''; }});
  const weights = h('input', {type: 'file', accept: '.safetensors,.pt,.pth,.moeash', class: 'visually-hidden', id: 'weights-file', 'data-test': 'weights-file', onchange: send});
  const uploaded = uploads({items: files.items, session: store.session, onUse: (path) => attempt(() => name(path))});
  let checks = 0;
  let changes = 0;

  async function check({toForm}) {
    checks += 1;
    const mine = checks;
    let got;
    try {
      got = await api.post('/specs/check', {toml: area.value});
    } catch (error) {
      got = {valid: false, errors: [{path: '', text: error.message}], spec: null};
    }
    if (mine !== checks) return;
    if (toForm && got.spec) form.set(got.spec);
    const loose = form.mark(got.errors);
    fill(errors, loose.map((each) => h('li', null, each.path && !each.text.includes(each.path) ? h('code', null, each.path) : null, each.path && !each.text.includes(each.path) ? ': ' : null, each.text)));
    area.setAttribute('aria-invalid', String(!got.valid && got.spec === null));
    verdict.textContent = got.valid ? '✓ A valid study.' : `${say.plural(got.errors.length, 'thing')} to mend${loose.length < got.errors.length ? ', marked in the form' : ''}.`;
    verdict.classList.toggle('good', got.valid);
    launch.disabled = !got.valid || !store.mayWrite;
  }
  const checkText = debounce(() => check({toForm: true}), CHECK_MS);
  area.addEventListener('input', () => { hold(); checkText(); });

  const fromForm = debounce(async () => {
    changes += 1;
    const mine = changes;
    try {
      const {toml} = await api.post('/specs/toml', {spec: form.get()});
      if (mine !== changes) return;
      area.value = toml;
      await check({toForm: false});
    } catch (error) {
      verdict.textContent = error.message;
      verdict.classList.remove('good');
    }
  }, CHECK_MS);

  function hold() {
    launch.disabled = true;
  }

  function use(toml) {
    area.value = toml;
    hold();
    return check({toForm: true});
  }

  function useTemplate(name) {
    const found = templates.items.find((each) => each.name === name);
    if (!found) return undefined;
    template.value = name;
    about.textContent = found.title;
    return use(found.toml);
  }

  async function send() {
    const file = weights.files[0];
    weights.value = '';
    if (!file) return;
    await attempt(async () => {
      toast(`Sending ${file.name}, ${say.bytes(file.size)}.`);
      const got = await api.upload('/files', {name: file.name}, file);
      await Promise.all([name(got.path), uploaded.load()]);
      toast(`${got.name} is there; network.checkpoint names it.`);
    });
  }

  /** Let the spec name a file. */
  async function name(path) {
    const {spec: known} = await api.post('/specs/check', {toml: area.value});
    form.set({...known, network: {...known?.network, checkpoint: path}});
    fromForm();
  }

  async function start() {
    hold();
    try {
      const item = await api.post('/studies', {toml: area.value});
      store.seen.set(item.name, item);
      await go(`/studies/${encodeURIComponent(item.name)}`);
    } catch (error) {
      const loose = form.mark(error.errors ?? []);
      fill(errors, h('li', null, error.message), loose.filter((each) => !error.message.includes(each.text)).map((each) => h('li', null, each.text)));
      verdict.textContent = error.title ?? 'Not started.';
      verdict.classList.remove('good');
      launch.disabled = false;
    }
  }

  area.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !launch.disabled) start();
  });
  fill(host,
    h('div', {class: 'head'}, h('div', {class: 'head-title'}, h('nav', {class: 'crumbs', 'aria-label': 'Where'}, h('a', {href: '/'}, 'Studies')), h('h1', null, 'New study')), launch),
    !store.mayWrite && h('p', {class: 'alert info'}, 'A viewer may look and check, not launch; ask an operator.'),
    h('div', {class: 'row'}, template, h('label', {for: 'spec-file', class: 'button'}, 'From a file…'), spec, store.mayWrite && h('label', {for: 'weights-file', class: 'button'}, 'Upload weights…'), store.mayWrite && weights, about),
    uploaded.element,
    h('div', {class: 'split'}, form.element,
      h('div', {class: 'toml-side stack'}, verdict, errors, area, h('p', {class: 'small muted'}, 'Both sides are one study. A change in the form writes this text anew, without its comments. Ctrl+Enter launches.'))));

  const from = query.get('from');
  if (from) {
    const item = await api.get(`/studies/${encodeURIComponent(from)}`);
    about.textContent = `A copy of ${from}, under a name of its own.`;
    // One line of the text is changed, so that the rest keeps its comments.
    const line = `name = ${JSON.stringify(`${from}-2`)}`;
    await use(/^name\s*=.*$/m.test(item.toml) ? item.toml.replace(/^name\s*=.*$/m, () => line) : `${line}\n${item.toml}`);
  } else {
    await useTemplate(query.get('template') ?? (templates.items.some((t) => t.name === PREFERRED) ? PREFERRED : templates.items[0]?.name));
  }
  return () => {
    checkText.cancel();
    fromForm.cancel();
  };
}
