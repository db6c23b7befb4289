// A form made from a JSON schema. A field that holds the schema's default, or nothing, is left out
// of the value, so that a spec says what a person decided and no more.

import {fill, h, uid} from '../lib/dom.js';
import {inlineText, parseInline, parseLoose, parseValueOrList} from '../lib/inline.js';

const KNOWN_KEYS = {'data.splits': ['search', 'holdout', 'calibration', 'train']};
const FIRST = ['network', 'data', 'method', 'evaluation', 'budget'];

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const shownDefault = (schema) => (schema.default === undefined || (typeof schema.default === 'object' && !Array.isArray(schema.default)) ? '' : Array.isArray(schema.default) ? schema.default.join(' to ') : String(schema.default));

/** Return the built-in names that a description lists before `package.module:...`. */
function suggestions(description) {
  if (!/package\.module:/.test(description ?? '')) return [];
  return description.split(/,| or /).map((word) => word.trim()).filter((word) => /^[a-z][a-z0-9_-]*$/.test(word));
}

/** @param {{schema: object, onChange: () => void, suggest?: Record<string, string[]>}} options */
export function schemaForm({schema, onChange, suggest = {}}) {
  const fields = new Map();

  function wrap(path, label, schemaOf, control, required) {
    const error = h('p', {class: 'field-error', id: uid('error')});
    const help = h('p', {class: 'small muted', id: uid('help')}, schemaOf.description ?? '');
    const main = control.input ?? control.element;
    main.id = uid('field');
    main.setAttribute('aria-describedby', `${help.id} ${error.id}`);
    main.dataset.test = `field-${path}`;
    if (required) main.setAttribute('aria-required', 'true');
    const name = [label, required && h('span', {class: 'muted small'}, ' needed')];
    const isGroup = main.getAttribute('role') === 'group';
    const title = isGroup ? h('span', {class: 'field-label', id: uid('label')}, name) : h('label', {for: main.id, class: 'field-label'}, name);
    if (isGroup) main.setAttribute('aria-labelledby', title.id);
    const element = h('div', {class: 'field'}, title, control.element, error, schemaOf.description && help);
    fields.set(path, {error, input: main, element});
    return {...control, element};
  }

  function text(path, schemaOf, {parse, show, placeholder}) {
    const options = [...suggestions(schemaOf.description), ...(suggest[path] ?? [])];
    const list = options.length ? h('datalist', {id: uid('list')}, options.map((value) => h('option', {value}))) : null;
    const input = h('input', {type: 'text', placeholder: placeholder ?? shownDefault(schemaOf), list: list?.id, spellcheck: 'false', autocomplete: 'off'});
    input.addEventListener('input', () => onChange());
    return {
      element: list ? h('div', null, input, list) : input,
      input,
      get() {
        const value = input.value.trim() === '' ? undefined : parse(input.value.trim());
        return same(value, schemaOf.default) ? undefined : value;
      },
      set(value) { if (document.activeElement !== input) input.value = value === undefined || value === null || same(value, schemaOf.default) ? '' : show(value); },
    };
  }

  const number = (value) => (Number.isNaN(Number(value)) ? value : Number(value));

  function select(schemaOf) {
    const input = h('select', {onchange: () => onChange()}, h('option', {value: ''}, schemaOf.default === undefined ? 'not set' : `${schemaOf.default} (default)`), schemaOf.enum.filter((v) => v !== schemaOf.default).map((v) => h('option', {value: JSON.stringify(v)}, String(v))));
    return {element: input, input, get: () => (input.value === '' ? undefined : JSON.parse(input.value)), set: (value) => { input.value = value === undefined || value === null || value === schemaOf.default ? '' : JSON.stringify(value); }};
  }

  function checkbox(schemaOf) {
    const input = h('input', {type: 'checkbox', checked: schemaOf.default === true, onchange: () => onChange()});
    return {element: input, input, get: () => (input.checked === (schemaOf.default ?? false) ? undefined : input.checked), set: (value) => { input.checked = value ?? schemaOf.default ?? false; }};
  }

  /** Any of several words, in the order they were chosen in. */
  function choices(path, schemaOf) {
    let chosen = [...(schemaOf.default ?? [])];
    const boxes = schemaOf.items.enum.map((word) => h('input', {
      type: 'checkbox',
      value: word,
      checked: chosen.includes(word),
      'data-test': `field-${path}.${word}`,
      onchange(event) {
        chosen = chosen.filter((each) => each !== word);
        if (event.target.checked) chosen.push(word);
        onChange();
      },
    }));
    return {
      element: h('div', {class: 'row', role: 'group'}, boxes.map((box) => h('label', null, box, box.value))),
      get: () => (same(chosen, schemaOf.default) ? undefined : [...chosen]),
      set(value) {
        chosen = [...(value ?? schemaOf.default ?? [])];
        for (const box of boxes) box.checked = chosen.includes(box.value);
      },
    };
  }

  function list(path, schemaOf) {
    const each = ['integer', 'number'].includes(schemaOf.items?.type) ? number : String;
    const show = (v) => v.join(', ');
    return text(path, schemaOf, {parse: (v) => v.split(',').map((one) => one.trim()).filter(Boolean).map(each), show, placeholder: schemaOf.default?.length ? show(schemaOf.default) : 'a, b'});
  }

  function pair(schemaOf) {
    const inputs = schemaOf.prefixItems.map((_, i) => h('input', {type: 'text', inputmode: 'decimal', placeholder: schemaOf.default === undefined ? '' : String(schemaOf.default[i]), 'aria-label': i ? 'highest' : 'lowest', oninput: () => onChange()}));
    return {
      element: h('div', {class: 'row pair'}, inputs[0], h('span', {class: 'muted'}, 'to'), inputs[1]),
      input: inputs[0],
      get() {
        const given = inputs.map((input) => input.value.trim());
        if (given.every((v) => v === '')) return undefined;
        const value = given.map((v, i) => (v === '' ? schemaOf.default?.[i] : number(v)));
        return same(value, schemaOf.default) ? undefined : value;
      },
      set(value) { if (!inputs.includes(document.activeElement)) inputs.forEach((input, i) => { input.value = value === undefined || value === null || same(value, schemaOf.default) ? '' : String(value[i]); }); },
    };
  }

  function map(path) {
    const rows = new Map();
    const host = h('div', {class: 'stack'});
    const add = (key) => {
      if (rows.has(key)) return rows.get(key);
      const input = h('input', {type: 'text', class: 'mono', 'aria-label': `${path}.${key}`, placeholder: 'part = "all", count = 450, seed = 0', spellcheck: 'false', oninput: () => onChange(), 'data-test': `field-${path}.${key}`});
      rows.set(key, input);
      host.append(h('div', {class: 'map-row'}, h('span', {class: 'mono small'}, key), input));
      fields.set(`${path}.${key}`, {input, error: null, element: host});
      return input;
    };
    for (const key of KNOWN_KEYS[path] ?? []) add(key);
    return {
      element: host,
      input: h('input', {type: 'hidden'}),
      get() {
        const value = Object.fromEntries([...rows].filter(([, input]) => input.value.trim() !== '').map(([key, input]) => [key, parseInline(input.value)]));
        return Object.keys(value).length ? value : undefined;
      },
      set(value) {
        for (const key of Object.keys(value ?? {})) add(key);
        for (const [key, input] of rows) if (document.activeElement !== input) input.value = value?.[key] === undefined ? '' : inlineText(value[key]);
      },
    };
  }

  function object(path, schemaOf, {bare = false} = {}) {
    const parts = Object.entries(schemaOf.properties).map(([name, inner]) => [name, make(path ? `${path}.${name}` : name, name, inner, schemaOf.required?.includes(name))]).filter(([, part]) => part !== null);
    const body = h('div', {class: 'fields'}, parts.map(([, part]) => part.element));
    return {
      element: bare ? body : h('div', null, body),
      get() {
        const value = Object.fromEntries(parts.map(([name, part]) => [name, part.get()]).filter(([, v]) => v !== undefined));
        return Object.keys(value).length ? value : undefined;
      },
      set(value) { for (const [name, part] of parts) part.set(value?.[name]); },
    };
  }

  /** One of several objects, told apart by their `name`. */
  function union(path, schemaOf) {
    const variants = schemaOf.oneOf.map((each) => {
      const {name, ...properties} = each.properties;
      return {name: name.const, about: each.description, fallback: name.default !== undefined, part: object(path, {...each, properties}, {bare: true})};
    });
    const chooser = h('select', {id: uid('field'), 'aria-label': path, 'data-test': `field-${path}.name`, onchange: () => { show(chooser.value); onChange(); }}, variants.map((v) => h('option', {value: v.name}, v.name)));
    const about = h('p', {class: 'small muted'});
    const body = h('div');
    const find = (name) => variants.find((v) => v.name === name) ?? variants.find((v) => v.fallback) ?? variants[0];
    const show = (name) => {
      const variant = find(name);
      chooser.value = variant.name;
      about.textContent = variant.about ?? '';
      fill(body, variant.part.element);
    };
    show();
    fields.set(`${path}.name`, {input: chooser, error: null, element: body});
    return {
      element: h('div', {class: 'stack'}, h('div', {class: 'field'}, h('span', {class: 'field-label'}, 'name'), chooser, about), body),
      get() {
        const variant = find(chooser.value);
        const value = variant.part.get();
        if (variant.fallback) return value;
        return {name: variant.name, ...value};
      },
      set(value) {
        show(value?.name);
        find(value?.name).part.set(value);
      },
    };
  }

  function make(path, name, schemaOf, required = false) {
    if (schemaOf.oneOf) return section(path, name, schemaOf, union(path, schemaOf));
    if (schemaOf.type === 'object' && schemaOf.properties) {
      const inner = object(path, schemaOf);
      return path.includes('.') ? inner : section(path, name, schemaOf, inner);
    }
    const deep = schemaOf.additionalProperties;
    if (schemaOf.type === 'object' && deep?.type === 'object') return wrap(path, name, schemaOf, map(path), required);
    if (schemaOf.type === 'object') return wrap(path, name, schemaOf, text(path, schemaOf, {parse: parseInline, show: (v) => (Object.keys(v).length ? inlineText(v) : ''), placeholder: 'key = value, …'}), required);
    if (schemaOf.enum) return schemaOf.enum.length === 1 ? null : wrap(path, name, schemaOf, select(schemaOf), required);
    if (schemaOf.type === 'boolean') return wrap(path, name, schemaOf, checkbox(schemaOf), required);
    if (schemaOf.prefixItems) return wrap(path, name, schemaOf, pair(schemaOf), required);
    if (schemaOf.type === 'array' && schemaOf.items?.enum) return wrap(path, name, schemaOf, choices(path, schemaOf), required);
    if (schemaOf.type === 'array') return wrap(path, name, schemaOf, list(path, schemaOf), required);
    if (schemaOf.type === 'integer' || schemaOf.type === 'number') return wrap(path, name, schemaOf, text(path, schemaOf, {parse: number, show: String}), required);
    if (schemaOf.anyOf) {
      // Where a list may be, values with commas between them are one, as where nothing else may be.
      const parse = schemaOf.anyOf.some((each) => each.type === 'array') ? parseValueOrList : parseLoose;
      return wrap(path, name, schemaOf, text(path, schemaOf, {parse, show: (v) => (Array.isArray(v) ? JSON.stringify(v) : String(v))}), required);
    }
    return wrap(path, name, schemaOf, text(path, schemaOf, {parse: String, show: String}), required);
  }

  function section(path, name, schemaOf, inner) {
    const needed = FIRST.includes(name);
    const summary = h('summary', null, h('span', {class: 'section-name'}, name), h('span', {class: 'small muted'}, schemaOf.description ?? ''));
    const element = h('details', {class: 'section', open: needed, 'data-section': path}, summary, inner.element);
    return {...inner, element, set(value) { inner.set(value); if (value && Object.keys(value).length) element.open = true; }};
  }

  const root = object('', {...schema, properties: ordered(schema.properties)});
  root.element.classList.add('schema-form');
  return {
    element: root.element,
    get: () => root.get() ?? {},
    set: (spec) => root.set(spec ?? {}),
    /** Mark what is wrong; return the errors that belong to no field. */
    mark(errors) {
      for (const {input, error} of fields.values()) {
        input.removeAttribute('aria-invalid');
        if (error) error.textContent = '';
      }
      return errors.filter(({path, text: words}) => {
        let key = path ?? '';
        while (key && !fields.has(key)) key = key.includes('.') ? key.slice(0, key.lastIndexOf('.')) : '';
        const field = fields.get(key);
        if (!field) return true;
        field.input.setAttribute('aria-invalid', 'true');
        if (field.error) field.error.textContent = words;
        field.element.closest('details')?.setAttribute('open', '');
        return !field.error;
      });
    },
  };
}

/** Put what every study needs before what few do. */
function ordered(properties) {
  const names = Object.keys(properties);
  const rank = (name) => (properties[name].type === 'object' ? 100 + (FIRST.includes(name) ? FIRST.indexOf(name) : 10 + names.indexOf(name)) : names.indexOf(name));
  return Object.fromEntries(names.sort((a, b) => rank(a) - rank(b)).map((name) => [name, properties[name]]));
}
