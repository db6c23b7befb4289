// The shell: which page a URL means, the bar above it, what happens when the connection is lost.

import * as api from './api.js';
import {fill, h} from './lib/dom.js';
import {duration} from './lib/format.js';
import {confirmThat, openHelp} from './parts/dialog.js';
import {errorBox, skeleton} from './parts/states.js';
import {toast} from './parts/toast.js';
import {store} from './store.js';

const ROUTES = [
  [/^\/$/, 'studies'],
  [/^\/studies\/([^/]+)$/, 'study', 'name'],
  [/^\/studies\/([^/]+)\/solutions\/(\d+)$/, 'solution', 'name', 'id'],
  [/^\/studies\/([^/]+)\/log$/, 'log', 'name'],
  [/^\/compare$/, 'compare'],
  [/^\/new$/, 'new'],
  [/^\/cluster$/, 'cluster'],
  [/^\/admin$/, 'admin'],
];
const NAV = [['/', 'Studies'], ['/new', 'New study'], ['/cluster', 'Cluster'], ['/admin', 'Admin']];

const main = document.getElementById('main');
const bar = document.getElementById('bar');
const offline = document.getElementById('offline');
let leave = null;
let visit = 0;

function match(pathname) {
  for (const [pattern, page, ...names] of ROUTES) {
    const found = pattern.exec(pathname);
    if (!found) continue;
    return {page, params: Object.fromEntries(names.map((name, i) => [name, decodeURIComponent(found[i + 1])]))};
  }
  return {page: null, params: {}};
}

/** Go to a URL of this page. */
export function go(url, {replace = false} = {}) {
  if (replace) history.replaceState(null, '', url);
  else history.pushState(null, '', url);
  return show();
}

/** Keep the state of charts and filters in the query string, without a step in the history. */
export function keepQuery(values) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(values)) {
    if (value === null || value === undefined || value === '' || value === false) query.delete(name);
    else query.set(name, value);
  }
  const text = query.toString();
  history.replaceState(null, '', location.pathname + (text ? `?${text}` : ''));
}

/** Load a page's script; whoever needs it next finds it there. */
const load = (page) => import(`./pages/${page}.js`);

async function show({focus = true} = {}) {
  visit += 1;
  const mine = visit;
  leave?.();
  leave = null;
  const {page, params} = store.session ? match(location.pathname) : {page: 'login', params: {}};
  drawBar();
  fill(main, skeleton(page));
  if (page === null) {
    fill(main, errorBox({title: 'No such page', message: `There is nothing at ${location.pathname}.`, action: h('a', {class: 'button', href: '/'}, 'All studies')}));
    return;
  }
  const host = h('div', {class: `page page-${page}`});
  try {
    const {mount} = await load(page);
    if (mine !== visit) return;
    const shell = {go, keepQuery, store, signedIn, query: new URLSearchParams(location.search)};
    const stop = await mount(host, params, shell);
    if (mine !== visit) {
      stop?.();
      return;
    }
    leave = stop ?? null;
    fill(main, host);
  } catch (error) {
    if (mine !== visit) return;
    if (error.status === 401) {
      await store.loadSession();
      if (!store.session) {
        await show();
        return;
      }
    }
    fill(main, errorBox({title: error.title ?? 'This page failed', message: error.message, request: error.request, again: () => show()}));
  }
  document.title = main.querySelector('h1')?.textContent ? `${main.querySelector('h1').textContent} · moeash` : 'moeash';
  if (focus && !document.activeElement?.closest('main')) {
    main.focus({preventScroll: true});
    scrollTo(0, 0);
  }
}

function drawBar() {
  const links = NAV.filter(([url]) => (url !== '/admin' || store.isAdmin) && (url !== '/new' || store.mayWrite)).map(([url, words]) =>
    h('a', {href: url, 'aria-current': location.pathname === url ? 'page' : null, 'data-test': `nav-${words.toLowerCase().replace(' ', '-')}`}, words));
  fill(
    bar,
    h('a', {class: 'wordmark', href: '/', 'aria-label': 'moeash, all studies'}, h('img', {src: '/static/icon.svg', alt: '', width: 24, height: 24}), 'moeash'),
    store.session && h('nav', {'aria-label': 'Pages'}, links),
    h('div', {class: 'bar-end'},
      store.session && h('span', {class: 'who', 'data-test': 'who'}, `${store.session.name} · ${store.session.role}`),
      themeSwitch(),
      h('button', {type: 'button', class: 'icon', 'aria-label': 'Keyboard shortcuts', title: 'Keyboard shortcuts (?)', onclick: openHelp, 'data-test': 'help'}, '?'),
      store.session && h('button', {type: 'button', class: 'quiet', onclick: signOut, 'data-test': 'sign-out'}, 'Sign out')),
  );
}

const THEMES = {auto: ['◐', 'as the system'], light: ['☀', 'light'], dark: ['☾', 'dark']};

function themeSwitch() {
  const root = document.documentElement;
  const present = () => root.dataset.theme ?? 'auto';
  const button = h('button', {type: 'button', class: 'icon', 'data-test': 'theme'});
  const draw = () => {
    const [sign, words] = THEMES[present()];
    button.textContent = sign;
    button.setAttribute('aria-label', `Theme: ${words}. Change`);
    button.title = `Theme: ${words}`;
  };
  button.addEventListener('click', () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(present()) + 1) % names.length];
    if (next === 'auto') delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      localStorage.setItem('theme', next);
    } catch {
      // not remembered, still shown
    }
    draw();
    dispatchEvent(new Event('themechange'));
  });
  draw();
  return button;
}

async function signOut() {
  if (!await confirmThat({title: 'Sign out?', text: 'This browser forgets its session. Studies go on.', yes: 'Sign out'})) return;
  await api.remove('/session');
  store.session = null;
  await show();
}

async function signedIn() {
  await store.loadSession();
  await show();
}

function drawOffline() {
  const {state, at} = store.connection;
  offline.hidden = state !== 'lost';
  if (state === 'lost') offline.textContent = `Reconnecting, last update ${duration(Math.max(1, (Date.now() - at) / 1000))} ago. Nothing is lost: studies go on without this page.`;
}

document.addEventListener('click', (event) => {
  const link = event.target.closest('a[href]');
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  if (link.target || link.hasAttribute('download') || link.dataset.external !== undefined || link.origin !== location.origin) return;
  if (link.pathname.startsWith('/api/') || link.pathname.startsWith('/static/')) return;
  if (link.hash && link.pathname === location.pathname && link.search === location.search) return;
  event.preventDefault();
  if (link.href !== location.href) go(link.href);
});

document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input, textarea, select, [contenteditable]');
  if (event.key === 'Escape' && typing?.type === 'search') typing.blur();
  if (typing || event.metaKey || event.ctrlKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (event.key === '?') openHelp();
  else if (event.key === '/') document.querySelector('[data-shortcut="/"]')?.focus();
  else if (event.key === 'e') document.querySelector('[data-shortcut="e"]:not(:disabled)')?.click();
  else if (event.key === 'g') go('/');
  else return;
  event.preventDefault();
});

addEventListener('popstate', () => show());
addEventListener('hashchange', () => { if (loginCode()) begin(); }); // the printed link, in a tab that is here already
addEventListener('unhandledrejection', (event) => {
  if (event.reason?.name === 'AbortError') return;
  toast(event.reason?.message ?? String(event.reason), {bad: true});
});
store.listen((topic) => {
  if (topic === 'connection') drawOffline();
  if (topic === 'session' && !store.session && leave) show();
});
setInterval(drawOffline, 1000);

const loginCode = () => /^#login=(.+)$/.exec(location.hash)?.[1];

/** A one-time login comes after `#`, which no server and no log ever sees; it leaves the bar at once. */
async function begin() {
  const code = loginCode();
  if (code) {
    history.replaceState(null, '', location.pathname + location.search);
    try {
      await api.post('/session', {code: decodeURIComponent(code)});
    } catch (error) {
      toast(error.message, {bad: true});
    }
  }
  load(match(location.pathname).page ?? 'studies').catch(() => {}); // told when it is shown
  try {
    await store.loadSession();
  } catch (error) {
    fill(main, errorBox({title: error.title, message: error.message, again: begin}));
    return;
  }
  await show({focus: false});
}

begin();
