// A table that sorts by its heads, shows as many rows as one can read, and says how many more.

import {fill, h, keepFocus} from '../lib/dom.js';

/**
 * @param {object} options
 * @param {{key: string, title: string, num?: boolean, cell: (row: any) => any, sort?: (row: any) => any, minor?: boolean}[]} options.columns
 * @param {(row: any) => string | number} options.id of a row
 * @param {(row: any) => void} [options.onRow] a row was clicked, or Enter pressed on it
 * @param {{key: string, down: boolean}} [options.sorted] sort by this at first
 * @param {(key: string, down: boolean) => void} [options.onSort] the server sorts, not the table
 * @param {number} [options.page] rows shown at first
 */
export function table({caption, columns, id, onRow, onHover, sorted = null, onSort, rowClass, none = 'Nothing to show.', test, page = 100}) {
  const head = h('tr');
  const body = h('tbody');
  const more = h('div', {class: 'row'});
  const element = h('div', {class: 'table-box'}, h('div', {class: 'table-scroll', tabindex: 0, role: 'region', 'aria-label': caption}, h('table', {'data-test': test}, h('caption', {class: 'visually-hidden'}, caption), h('thead', null, head), body)), more);
  let rows = [];
  let shown = page;
  let order = sorted;

  const drawHead = () => fill(head, columns.map((column) => {
    const active = order?.key === column.key;
    const classes = `${column.num ? 'right' : ''} ${column.minor ? 'minor' : ''}`;
    if (!column.sort) return h('th', {scope: 'col', class: classes}, column.title);
    return h('th', {scope: 'col', class: classes, 'aria-sort': active ? (order.down ? 'descending' : 'ascending') : null},
      h('button', {type: 'button', class: 'sort', onclick: () => sortBy(column)}, column.title, h('span', {'aria-hidden': 'true', class: 'arrow'}, active ? (order.down ? '▼' : '▲') : '')));
  }));

  const sortBy = (column) => {
    order = {key: column.key, down: order?.key === column.key ? !order.down : false};
    if (onSort) onSort(order.key, order.down);
    draw();
  };

  const inOrder = () => {
    const column = !onSort && order && columns.find((c) => c.key === order.key);
    if (!column?.sort) return rows;
    const sign = order.down ? -1 : 1;
    return [...rows].sort((a, b) => {
      const [u, v] = [column.sort(a), column.sort(b)];
      if (u === v) return 0;
      if (u === null || u === undefined) return 1;
      if (v === null || v === undefined) return -1;
      return (u < v ? -1 : 1) * sign;
    });
  };

  const draw = () => keepFocus(element, drawAll);

  const drawAll = () => {
    drawHead();
    const all = inOrder();
    fill(body, all.slice(0, shown).map((row) => {
      const line = h('tr', {class: `${onRow ? 'clickable' : ''} ${rowClass?.(row) ?? ''}`, tabindex: onRow ? 0 : null, 'data-id': id(row)},
        columns.map((column, i) => h(i === 0 ? 'th' : 'td', {scope: i === 0 ? 'row' : null, class: `${column.num ? 'right num' : ''} ${column.minor ? 'minor' : ''}`, 'data-title': column.title}, column.cell(row))));
      if (onRow) {
        line.addEventListener('click', (event) => { if (!event.target.closest('a, button, input, label')) onRow(row); });
        line.addEventListener('keydown', (event) => {
          if (event.target !== line) return;
          if (event.key === 'Enter') onRow(row);
          else if (event.key === 'ArrowDown') line.nextElementSibling?.focus();
          else if (event.key === 'ArrowUp') line.previousElementSibling?.focus();
          else return;
          event.preventDefault();
        });
      }
      if (onHover) {
        line.addEventListener('pointerenter', () => onHover(row));
        line.addEventListener('pointerleave', () => onHover(null));
      }
      return line;
    }), all.length === 0 && h('tr', null, h('td', {colspan: columns.length, class: 'muted none'}, none)));
    fill(more, all.length > shown && h('button', {type: 'button', class: 'small-button', onclick: () => { shown += 4 * page; draw(); }}, `Show more (${all.length - shown} left)`));
  };

  return {
    element,
    set(next) { rows = next; draw(); },
    redraw: draw,
  };
}
