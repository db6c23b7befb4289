// Elements are made here and nowhere else. Text becomes text nodes, so that a study's name or note
// can never become markup; a `style` attribute is refused, because the page's policy forbids it.

const SVG = 'http://www.w3.org/2000/svg';

function assign(element, props) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'style') throw new Error('set styles through classes or element.style');
    if (name.startsWith('on')) element.addEventListener(name.slice(2).toLowerCase(), value);
    else if (name === 'value' && 'value' in element) element.value = value;
    else if (name === 'checked' || name === 'indeterminate') element[name] = Boolean(value);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  return element;
}

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Make an HTML element: `h('p', {class: 'note'}, 'text', otherElement)`. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  if (tag === 'select') {
    // A select takes its value from its options, so these come first.
    const {value, ...rest} = props ?? {};
    add(assign(element, rest), children);
    if (value !== undefined && value !== null) element.value = value;
    return element;
  }
  return add(assign(element, props), children);
}

/** Make an SVG element. */
export function s(tag, props, ...children) {
  return add(assign(document.createElementNS(SVG, tag), props), children);
}

/** Put children in the place of whatever an element holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  return add(element, children);
}

const CONTROLS = 'a[href], button, input, select, textarea, [tabindex]';
const keyOf = (row) => row.dataset.id ?? row.dataset.name;

/** Draw anew, and give the focus back: to the same control of the same row, else to the one in its place. */
export function keepFocus(root, draw) {
  const at = document.activeElement;
  if (!root.contains(at)) {
    draw();
    return;
  }
  const row = at.closest('[data-id], [data-name]');
  const controls = (within) => [within, ...within.querySelectorAll(CONTROLS)];
  const place = controls(row ?? root).indexOf(at);
  draw();
  if (document.contains(at)) return;
  const again = row ? [...root.querySelectorAll('[data-id], [data-name]')].find((each) => keyOf(each) === keyOf(row)) : root;
  if (again) controls(again)[place]?.focus({preventScroll: true});
}

let ids = 0;

/** Return an id that no other element of this page has. */
export function uid(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}

/** Call `fn` once after the last call, `ms` later; `.now()` calls at once what is waiting. */
export function debounce(fn, ms) {
  let timer = 0;
  let last = [];
  const late = (...args) => {
    last = args;
    clearTimeout(timer);
    timer = setTimeout(() => { timer = 0; fn(...last); }, ms);
  };
  late.cancel = () => { clearTimeout(timer); timer = 0; };
  late.now = () => { if (timer) { late.cancel(); fn(...last); } };
  return late;
}

/** Call `fn` at most once in `ms`, the first time soon, the last call never lost. */
export function throttle(fn, ms) {
  let timer = 0;
  let before = -Infinity;
  const soon = () => {
    if (timer) return;
    const wait = Math.max(0, before + ms - performance.now());
    timer = setTimeout(() => { timer = 0; before = performance.now(); fn(); }, wait);
  };
  soon.cancel = () => { clearTimeout(timer); timer = 0; };
  return soon;
}

export const reducedMotion = () => matchMedia('(prefers-reduced-motion: reduce)').matches;

/** Offer text as a file to save. */
export function saveText(name, text, type = 'text/plain') {
  const url = URL.createObjectURL(new Blob([text], {type}));
  const link = h('a', {href: url, download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
