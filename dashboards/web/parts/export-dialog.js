// An export from its order to its files: what is asked, how far it is, what was verified.

import * as api from '../api.js';
import {fill, h} from '../lib/dom.js';
import * as say from '../lib/format.js';
import {openDialog} from './dialog.js';
import {toast} from './toast.js';
import {verified} from './verified.js';

const FORMATS = [
  ['moeash', 'moeash file: the smallest; read by moeash, checked byte by byte'],
  ['safetensors', 'safetensors: float weights, for whatever reads checkpoints'],
  ['torch', 'torch: float weights as a state_dict'],
  ['onnx', 'ONNX: the whole network on indices and one codebook; run in onnxruntime first'],
  ['c', 'C99: packed weights and the functions that decode them'],
];
const POLL_MS = 700;

/** @param {{study: string, solution: object, request: object, metricName: string, onDone: () => void}} order */
export function exportDialog({study, solution, request, metricName, onDone}) {
  const body = h('div', {class: 'stack'});
  let closed = false;
  const {close} = openDialog(`Export solution ${solution.id}`, body, {test: 'export-dialog', onclose: () => { closed = true; }});
  const boxes = FORMATS.map(([name, words]) => h('label', null, h('input', {type: 'checkbox', value: name, checked: name === 'moeash', 'data-test': `format-${name}`}), words));
  const said = h('p', {class: 'field-error', role: 'alert'});
  const start = h('button', {type: 'button', class: 'primary', onclick: order, 'data-test': 'export-start'}, 'Export');
  fill(body,
    h('p', null, `${say.bytes(solution.size_bytes)}, ${say.ratio(solution.ratio)} smaller than float32, ${say.drop(solution.drop, metricName)} below the float network on the search split.`),
    h('p', {class: 'muted small'}, 'The file is built again from its recipe, written, read back, decoded and compared, then measured on images the search never saw.'),
    h('fieldset', {class: 'plain'}, h('legend', {class: 'field-label'}, 'Format'), boxes.map((box) => h('div', null, box))), said,
    h('div', {class: 'row end'}, h('button', {type: 'button', class: 'quiet', onclick: () => close()}, 'Cancel'), start));
  start.focus();

  async function order() {
    const formats = boxes.map((label) => label.firstChild).filter((box) => box.checked).map((box) => box.value);
    if (!formats.length) {
      said.textContent = 'Choose at least one format.';
      return;
    }
    start.disabled = true;
    try {
      follow(await api.post(`/studies/${encodeURIComponent(study)}/exports`, {...request, formats}));
    } catch (error) {
      start.disabled = false;
      said.textContent = error.message;
    }
  }

  async function follow(first) {
    for (let job = first; ; ) {
      if (!closed) draw(job);
      if (job.status === 'finished' || job.status === 'failed') {
        if (closed) toast(job.status === 'finished' ? `Solution ${solution.id} of ${study} is exported.` : `The export of solution ${solution.id} failed: ${job.error}`, {bad: job.status === 'failed'});
        onDone?.(job);
        return;
      }
      await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
      try {
        job = await api.get(`/exports/${job.id}`);
      } catch (error) {
        if (error.status) throw error;
        // The server is away; its export goes on without it.
      }
    }
  }

  function draw(job) {
    if (job.status === 'queued' || job.status === 'running') {
      const words = job.status === 'queued' ? 'Waiting for a free place' : say.sentence(job.doing) || 'Its process loads Python, network and images';
      if (body.dataset.said === words) return;
      body.dataset.said = words;
      fill(body, h('div', {class: 'export-progress', 'data-test': 'export-progress', 'data-status': job.status, role: 'status'}, h('div', {class: 'progress busy', 'aria-hidden': 'true'}, h('span')), h('p', null, words, '…')), h('p', {class: 'muted small'}, 'You may close this; the export goes on and its files stay with the solution.'));
      return;
    }
    if (job.status === 'failed') {
      fill(body, h('p', {class: 'alert', 'data-test': 'export-failed'}, job.error ?? 'The export failed without a word; its log says more.'), h('div', {class: 'row end'}, h('a', {class: 'button', href: api.href(`/exports/${job.id}/log`), target: '_blank', 'data-external': true}, 'Log'), h('button', {type: 'button', onclick: () => { start.disabled = false; close(); }}, 'Close')));
      return;
    }
    fill(body, verified(job, metricName), downloads(job), h('div', {class: 'row end'}, h('a', {class: 'button', href: `/studies/${encodeURIComponent(study)}/solutions/${solution.id}`, onclick: () => close(), 'data-test': 'export-open'}, 'Bytes by part and tensor')));
    body.querySelector('[data-test="download"]')?.focus();
  }
}

/** The files of an export, each with what it must hash to. */
export function downloads(job) {
  return h('ul', {class: 'downloads'}, job.files.map((file) => h('li', {class: 'download'},
    h('span', null, h('b', null, file.name), ' ', h('span', {class: 'muted num'}, say.exactBytes(file.size_bytes))),
    h('a', {class: 'button primary', href: api.href(`/exports/${job.id}/files/${encodeURIComponent(file.name)}`), download: file.name, 'data-test': 'download'}, 'Download'),
    h('div', {class: 'small muted digest'}, 'sha256 ', h('code', {'data-test': 'sha256'}, file.sha256)))));
}
