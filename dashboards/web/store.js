// What is known, merged from answers and events. Pages draw from here and ask here; they never
// keep a second truth. Listeners are called with the topic that changed.

import * as api from './api.js';
import {throttle} from './lib/dom.js';

// A mark is five pixels wide: cells no smaller than one show nothing more.
const GRID = {columns: 180, rows: 110};

const isStored = ({baseline}) => baseline !== null && baseline !== undefined;

class Topics {
  #listeners = new Set();

  listen(fn) {
    this.#listeners.add(fn);
    return () => this.#listeners.delete(fn);
  }

  tell(topic, value) {
    for (const fn of [...this.#listeners]) fn(topic, value);
  }
}

/** One study: its item, its points (columns that only grow), its front, generations, exports. */
export class StudyKnowledge extends Topics {
  constructor(name) {
    super();
    this.name = name;
    this.url = `/studies/${encodeURIComponent(name)}`;
    this.item = null;
    this.points = null;
    this.front = [];
    this.generations = [];
    this.exports = [];
    this.fresh = [];
    this.closed = false;
    this.askPoints = throttle(() => this.#quietly(this.loadPoints()), 500);
    this.askItem = throttle(() => this.#quietly(this.loadItem()), 1500);
    this.askGenerations = throttle(() => this.#quietly(this.loadGenerations()), 1500);
  }

  close() {
    this.closed = true;
    for (const ask of [this.askPoints, this.askItem, this.askGenerations]) ask.cancel();
  }

  /** Load what the chart is drawn from; the item's errors are the caller's. The rest is told later. */
  async load() {
    // Both at once, unless the study is known to wait in the queue and would have no points.
    const known = store.seen.get(this.name);
    const points = known && !isStored(known) ? null : this.#quietly(this.loadPoints());
    await this.loadItem();
    await (points ?? (this.isStored ? this.#quietly(this.loadPoints()) : null));
  }

  /** Load what stands below the chart: after it, as a server's time is better spent on the chart. */
  loadRest() {
    return Promise.all([this.loadGenerations(), this.loadExports()].map((p) => this.#quietly(p)));
  }

  /** A study that waits in the queue, or loads its network still, is not stored: it has no more. */
  get isStored() {
    return isStored(this.item);
  }

  async loadItem() {
    this.item = await api.get(this.url);
    this.tell('item');
    // Points of before the stream began, of a study that ended at once, are told of by nothing else.
    if (this.points && this.item.complete + this.item.stopped > this.points.total) this.askPoints();
  }

  /** Load what is new; one request at a time, or points would be counted twice. */
  loadPoints() {
    this.loading = (this.loading ?? Promise.resolve()).catch(() => {}).then(() => (this.closed ? null : this.#loadPoints()));
    return this.loading;
  }

  async #loadPoints() {
    const first = this.points === null;
    // Awaited together: were one left alone, its failure would be nobody's.
    const [got] = await Promise.all([api.get(`${this.url}/points`, {...GRID, after: this.points?.last ?? null}), first ? this.#loadFront() : null]);
    if (first) this.points = {...got};
    else this.#append(got);
    // A failure that was tried again keeps its number, which is not among the newer ones.
    if (this.points.total !== got.drawable) this.points = {...await api.get(`${this.url}/points`, GRID)};
    const ids = new Set(got.front);
    const same = ids.size === this.front.length && this.front.every(({id}) => ids.has(id));
    if (!same) await this.#loadFront();
    this.tell('points');
  }

  async #loadFront() {
    this.front = (await api.get(`${this.url}/front`)).items;
    this.frontKey = this.front.map(({id}) => id).join();
  }

  #append(got) {
    const points = this.points;
    const known = new Set(points.numbers.slice(-500));
    this.fresh = [];
    got.numbers.forEach((number, i) => {
      if (known.has(number)) return;
      this.fresh.push(number);
      for (const column of ['numbers', 'stage', 'status', 'size_bytes', 'metric', 'generation']) {
        points[column].push(got[column][i]);
      }
    });
    points.front = got.front;
    points.shown += this.fresh.length;
    points.total += got.total - (got.numbers.length - this.fresh.length);
    points.last = Math.max(points.last ?? 0, got.last ?? 0);
  }

  async loadGenerations() {
    this.generations = (await api.get(`${this.url}/generations`)).items;
    this.tell('generations');
  }

  async loadExports() {
    this.exports = (await api.get(`${this.url}/exports`)).items;
    this.tell('exports');
  }

  receive(event) {
    if (event.kind === 'doing' && this.item) {
      this.item = {...this.item, doing: event};
      this.tell('item');
      return;
    }
    if (event.kind === 'evaluated') this.askPoints();
    if (event.kind === 'generation_ended') this.askGenerations();
    this.askItem();
    this.tell('event', event);
  }

  /** Ask again for what no event tells: queue, crash, what a missed event would have told. */
  poll() {
    this.askItem();
    if (!this.isStored) return;
    if (this.points === null) this.askPoints();
  }

  async #quietly(promise) {
    try {
      await promise;
    } catch (error) {
      if (!this.closed && error.status !== 404) this.tell('error', error);
    }
  }
}

class Store extends Topics {
  session = null;

  /** Items of studies by name, as they were last listed or made. */
  seen = new Map();

  connection = {state: 'idle', at: Date.now()};

  #stream = null;

  async loadSession() {
    try {
      this.session = await api.get('/session');
    } catch (error) {
      if (error.status !== 401) throw error;
      this.session = null;
    }
    this.tell('session');
    return this.session;
  }

  get mayWrite() {
    return this.session !== null && this.session.role !== 'viewer';
  }

  get isAdmin() {
    return this.session?.role === 'admin';
  }

  /** Follow events: of one study, or of all. One stream at a time, that of the page shown. */
  follow(url, onEvent) {
    this.#stream?.close();
    const mine = api.stream(url, {
      onEvent: (event) => {
        this.connection.at = Date.now();
        onEvent(event);
      },
      onState: (state) => {
        if (state === 'live') this.connection.at = Date.now();
        if (state === this.connection.state) return;
        this.connection.state = state;
        this.tell('connection');
        if (state === 'refused') this.loadSession();
      },
    });
    this.#stream = mine;
    return () => {
      mine.close();
      if (this.#stream !== mine) return;
      this.#stream = null;
      this.connection.state = 'idle';
      this.tell('connection');
    };
  }
}

export const store = new Store();
