// What the server is asked, and the stream it sends. Nothing here knows about pages.

/** An answer that says no: RFC 9457 problem details. */
export class Problem extends Error {
  constructor(status, body, where) {
    super(body.detail || body.title || `the server answered ${status}`);
    this.status = status;
    this.title = body.title ?? `Answer ${status}`;
    this.errors = body.errors ?? [];
    this.request = body.request_id ?? null;
    this.where = where;
  }
}

/** The server could not be reached at all. */
export class Unreachable extends Error {
  constructor(cause) {
    super('the server does not answer; is `moeash serve` still running?', {cause});
    this.title = 'No connection';
    this.status = 0;
    this.errors = [];
  }
}

const base = '/api/v1';
export const path = (...parts) => parts.map((part) => `/${encodeURIComponent(part)}`).join('');

function withQuery(url, query) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value === null || value === undefined || value === '') continue;
    for (const each of [value].flat()) search.append(name, each);
  }
  const text = search.toString();
  return base + url + (text ? `?${text}` : '');
}

async function call(method, url, {query, body, raw, signal} = {}) {
  const headers = {Accept: 'application/json'};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  // A browser knows no type for weights, and without one the server takes no file from a page.
  if (raw !== undefined) headers['Content-Type'] = 'application/octet-stream';
  let answer;
  try {
    answer = await fetch(withQuery(url, query), {
      method, headers, signal, credentials: 'same-origin',
      body: raw ?? (body === undefined ? undefined : JSON.stringify(body)),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Unreachable(error);
  }
  if (answer.status === 204) return null;
  const text = await answer.text();
  let value = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    if (answer.ok) throw new Problem(answer.status, {title: 'Not JSON', detail: 'the server answered something else than JSON'}, url);
  }
  if (!answer.ok) throw new Problem(answer.status, value ?? {}, url);
  return value;
}

export const get = (url, query, signal) => call('GET', url, {query, signal});
export const post = (url, body = {}, query) => call('POST', url, {body, query});
export const patch = (url, body) => call('PATCH', url, {body});
export const remove = (url) => call('DELETE', url);
export const upload = (url, query, file) => call('POST', url, {query, raw: file});
export const href = (url, query) => withQuery(url, query);

/** Read one server-sent event after another from pieces of text. */
export function eventReader(receive) {
  let rest = '';
  return (piece) => {
    rest += piece;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const event = {id: null, kind: 'message', data: '', retry: null};
      for (const line of block.split(/\r?\n/)) {
        const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
        if (name === 'id') event.id = value;
        else if (name === 'event') event.kind = value;
        else if (name === 'data') event.data += (event.data ? '\n' : '') + value;
        else if (name === 'retry') event.retry = Number(value);
      }
      receive(event);
    }
  };
}

const STALE_MS = 40_000; // two comments missed
const HIDDEN_MS = 20_000;

/**
 * Follow a stream of events until `close()`.
 *
 * The stream is read with fetch, not EventSource, which gives up for good at the first answer that
 * is no stream (a restarting server behind a proxy) and hears only kinds it was told of. It goes on
 * from the last id it has seen. A page in the background lets go of its connection after a while,
 * because browsers grant six of them to a server; nothing is missed when it comes back.
 */
export function stream(url, {onEvent, onState}) {
  let last = null;
  let abort = null;
  let closed = false;
  let timer = 0;
  let watchdog = 0;
  let wait = 500;
  let hiddenTimer = 0;

  const heard = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => abort?.abort(), STALE_MS);
    onState('live');
  };

  const receive = (event) => {
    if (event.id !== null) last = event.id;
    if (event.data === '') return;
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      return; // a line cut off by the end of a connection; it comes again with its id
    }
    onEvent({kind: event.kind, id: event.id, ...data});
  };

  async function connect() {
    if (closed || document.hidden) return;
    abort = new AbortController();
    try {
      const headers = {Accept: 'text/event-stream'};
      if (last !== null) headers['Last-Event-ID'] = last;
      const answer = await fetch(base + url, {headers, signal: abort.signal, credentials: 'same-origin', cache: 'no-store'});
      if (answer.status === 401 || answer.status === 404) return onState(answer.status === 401 ? 'refused' : 'gone');
      if (!answer.ok) throw new Error(`answer ${answer.status}`);
      wait = 500;
      heard();
      const read = eventReader(receive); // half an event of a broken connection is forgotten
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        heard();
        read(piece.value);
      }
    } catch {
      // every end of a stream is answered alike: by another try
    }
    clearTimeout(watchdog);
    if (closed || document.hidden) return undefined;
    onState('lost');
    timer = setTimeout(connect, wait);
    wait = Math.min(8000, wait * 2);
    return undefined;
  }

  const visibility = () => {
    clearTimeout(hiddenTimer);
    if (document.hidden) hiddenTimer = setTimeout(() => abort?.abort(), HIDDEN_MS);
    else if (!abort || abort.signal.aborted) { clearTimeout(timer); connect(); }
  };
  document.addEventListener('visibilitychange', visibility);
  connect();
  return {
    close() {
      closed = true;
      for (const each of [timer, watchdog, hiddenTimer]) clearTimeout(each);
      document.removeEventListener('visibilitychange', visibility);
      abort?.abort();
    },
  };
}
