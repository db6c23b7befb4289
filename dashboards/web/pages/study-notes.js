// Notes, tags and pins: what people say of a study.

import * as api from '../api.js';
import {fill, h} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {markdown} from '../lib/markdown.js';
import {attempt} from '../parts/toast.js';

export function notesPanel(panel, {study, shell, pin}) {
  const may = shell.store.mayWrite;
  let editing = false;
  let text = study.item.notes ?? '';

  const save = async (body) => attempt(async () => {
    await api.patch(study.url, body);
    await study.loadItem();
  });

  function draw() {
    const {notes, tags = [], pins = []} = study.item;
    const area = h('textarea', {rows: 12, 'aria-label': 'Notes, in Markdown', value: text, oninput: (event) => { text = event.target.value; }, 'data-test': 'notes-text'});
    const tag = h('input', {type: 'text', placeholder: 'add a tag', 'aria-label': 'Add a tag', maxlength: 40, 'data-test': 'tag-new'});
    fill(panel,
      h('div', {class: 'row spread'}, h('h3', null, 'Notes'), may && !editing && h('button', {type: 'button', class: 'small-button', onclick: () => { editing = true; text = notes ?? ''; draw(); panel.querySelector('textarea').focus(); }, 'data-test': 'notes-edit'}, 'Edit')),
      editing
        ? h('div', {class: 'stack'}, area, h('div', {class: 'row'}, h('button', {type: 'button', class: 'primary', 'data-test': 'notes-save', onclick: async () => { if (await save({notes: text})) { editing = false; draw(); } }}, 'Save'), h('button', {type: 'button', class: 'quiet', onclick: () => { editing = false; draw(); }}, 'Cancel'), h('span', {class: 'small muted'}, 'Markdown: headings, lists, links, emphasis, code')))
        : h('div', {class: 'prose', 'data-test': 'notes'}, notes ? markdown(notes) : h('p', {class: 'muted'}, 'No notes yet.')),
      h('h3', null, 'Tags'),
      h('div', {class: 'row'}, tags.map((each) => h('span', {class: 'tag'}, each, may && h('button', {type: 'button', class: 'tag-remove', 'aria-label': `Remove the tag ${each}`, onclick: () => save({tags: tags.filter((other) => other !== each)})}, '✕'))), !tags.length && h('span', {class: 'muted'}, 'None.'),
        may && h('form', {class: 'row', onsubmit: (event) => { event.preventDefault(); const value = tag.value.trim(); if (value && !tags.includes(value)) save({tags: [...tags, value]}); }}, tag, h('button', {type: 'submit', class: 'small-button', 'data-test': 'tag-add'}, 'Add'))),
      h('h3', null, 'Pinned solutions'),
      pins.length
        ? h('div', {class: 'row'}, pins.map((id) => h('span', {class: 'tag'}, h('a', {href: `/studies/${encodeURIComponent(study.name)}/solutions/${id}`}, `Solution ${id}`), may && h('button', {type: 'button', class: 'tag-remove', 'aria-label': `Unpin solution ${id}`, onclick: () => pin(id)}, '✕'))),
          pins.length > 1 && h('a', {class: 'button small-button', href: `/studies/${encodeURIComponent(study.name)}/solutions/${pins[0]}?with=${pins.slice(1).join(',')}`, 'data-test': 'compare-pins'}, `Compare ${say.count(pins.length)}`))
        : h('p', {class: 'muted'}, 'None. Pin up to four beside the chart to compare them.'));
  }
  draw();
  return {changed: (topic) => { if (topic === 'item' && !editing) draw(); }};
}
