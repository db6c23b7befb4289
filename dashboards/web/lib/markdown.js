// Notes are Markdown, written by whoever may write. They become elements one by one, never HTML:
// what is not known stays the text it is. Headings, lists, quotes, code, emphasis, links.

import {h} from './dom.js';

const SPAN = /(`[^`]+`)|(\*\*[^*]+\*\*)|(\*[^*\s][^*]*\*)|(\[[^\]]+\]\([^)\s]+\))|(https?:\/\/[^\s<>()]+)/;

function link(text, target) {
  let url;
  try {
    url = new URL(target, location.href);
  } catch {
    return text;
  }
  if (!['http:', 'https:', 'mailto:'].includes(url.protocol)) return text;
  return h('a', {href: url.href, rel: 'noopener noreferrer', target: '_blank', 'data-external': true}, text);
}

/** Return the nodes of one line of text. */
export function inline(text) {
  const nodes = [];
  let rest = text;
  for (let found = SPAN.exec(rest); found; found = SPAN.exec(rest)) {
    const [all, code, strong, emphasis, named, bare] = found;
    nodes.push(rest.slice(0, found.index));
    if (code) nodes.push(h('code', null, all.slice(1, -1)));
    else if (strong) nodes.push(h('strong', null, inline(all.slice(2, -2))));
    else if (emphasis) nodes.push(h('em', null, inline(all.slice(1, -1))));
    else if (named) {
      const [, words, target] = /^\[([^\]]+)\]\(([^)\s]+)\)$/.exec(named);
      nodes.push(link(words, target));
    } else if (bare) nodes.push(link(bare, bare));
    rest = rest.slice(found.index + all.length);
  }
  nodes.push(rest);
  return nodes;
}

const BLOCKS = [
  [/^(#{1,4})\s+(.*)$/, 'heading'], [/^\s*[-*+]\s+(.*)$/, 'ul'], [/^\s*\d+[.)]\s+(.*)$/, 'ol'],
  [/^>\s?(.*)$/, 'blockquote'],
];

/** Return the nodes of a note. Headings start at level 3, below the page's own. */
export function markdown(source) {
  const lines = String(source ?? '').replace(/\r\n?/g, '\n').split('\n');
  const nodes = [];
  let list = null;
  let paragraph = [];
  const close = () => {
    if (paragraph.length) nodes.push(h('p', null, inline(paragraph.join(' '))));
    paragraph = [];
    list = null;
  };
  for (let i = 0; i < lines.length; i += 1) {
    const line = lines[i];
    if (line.startsWith('```')) {
      close();
      const code = [];
      for (i += 1; i < lines.length && !lines[i].startsWith('```'); i += 1) code.push(lines[i]);
      nodes.push(h('pre', {tabindex: 0}, h('code', null, code.join('\n'))));
      continue;
    }
    const [pattern, kind] = BLOCKS.find(([test]) => test.test(line)) ?? [];
    if (!pattern) {
      if (line.trim() === '') close();
      else { list = null; paragraph.push(line.trim()); }
      continue;
    }
    const found = pattern.exec(line);
    if (kind === 'heading') {
      close();
      nodes.push(h(`h${Math.min(6, found[1].length + 2)}`, null, inline(found[2])));
    } else if (kind === 'blockquote') {
      close();
      nodes.push(h('blockquote', null, inline(found[1])));
    } else {
      if (list?.localName !== kind) { close(); list = h(kind); nodes.push(list); }
      list.append(h('li', null, inline(found[1])));
    }
  }
  close();
  return nodes;
}
