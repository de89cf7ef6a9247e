'use strict';
(() => {
  const root = document.documentElement;
  root.classList.add('js');

  // Light or dark: what the reader chose last, else what the system says.
  const stored = (value) => {
    try {
      if (value) localStorage.setItem('semmae-theme', value);
      return localStorage.getItem('semmae-theme');
    } catch { return null; }  // storage may be forbidden
  };
  const isDark = () => (root.dataset.theme
    || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
  if (['light', 'dark'].includes(stored())) root.dataset.theme = stored();

  function themeButton(button) {
    const label = () => { button.textContent = isDark() ? 'Light' : 'Dark'; };
    button.addEventListener('click', () => {
      root.dataset.theme = stored(isDark() ? 'light' : 'dark') || (isDark() ? 'light' : 'dark');
      label();
    });
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', label);
    label();
    button.hidden = false;
  }

  // Sorting: by the leading number, then as text.
  const EMPTY = /^[-\u2013\u2014]?$/;
  const collator = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });
  function keyOf(content) {
    const text = content.trim().replace(/[\u2212\u2013](?=\d)/, '-');
    const number = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?/i.exec(text);
    return { text, number: number ? Number(number[0]) : NaN };
  }
  function compare(a, b) {
    if (isNaN(a.number) !== isNaN(b.number)) return isNaN(a.number) - isNaN(b.number);
    return a.number - b.number || collator.compare(a.text, b.text);
  }
  // Tablesort sorts rows in reverse for "ascending", so that its comparisons are reversed too.
  Tablesort.extend('cell', () => true, (a, b) => compare(keyOf(b), keyOf(a)));
  function sortable(table) {
    const body = table.tBodies[0], head = table.tHead && table.tHead.rows[0];
    if (!head || !body || body.rows.length < 2) return;
    if (body.querySelector('[rowspan], [colspan]') || table.tHead.rows.length > 1) return;
    const original = [...body.rows], sorter = new Tablesort(table);
    let before = null;
    table.addEventListener('beforeSort', () => { before = sorter.current.ariaSort; });
    table.addEventListener('afterSort', () => {  // empty cells last; the third click restores
      const { current } = sorter, isEmpty = (row) => EMPTY.test(row.cells[current.cellIndex]
        .textContent.trim());
      if (before === 'descending') current.removeAttribute('aria-sort');
      body.append(...(before === 'descending' ? original : original.filter(isEmpty)));
    });
  }

  // A number leads to its protocol, and the protocol back to the number it was opened from.
  let from = null;
  function reveal(id) {
    const target = id && document.getElementById(id), entry = target && target.closest('details');
    if (!entry) return false;
    document.querySelectorAll('details.here').forEach((other) => other.classList.remove('here'));
    entry.classList.add('here');
    entry.open = true;
    entry.scrollIntoView();
    return true;
  }
  function follow(event) {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    if (link.classList.contains('back') && from) {
      event.preventDefault();
      from.scrollIntoView({ block: 'center', inline: 'center' });
      from.focus();
    } else if (reveal(link.hash.slice(1))) {
      from = link;
      event.preventDefault();
      history.pushState(null, '', link.hash);
      document.getElementById(link.hash.slice(1)).closest('details').querySelector('summary')
        .focus({ preventScroll: true });
    }
  }

  function enlargeable(picture, dialog) {
    const button = document.createElement('button');
    button.type = 'button';
    button.title = 'Enlarge';
    picture.replaceWith(button);
    button.append(picture);
    button.addEventListener('click', () => {
      dialog.querySelector('.plate').replaceChildren(picture.cloneNode(true));
      dialog.querySelector('.bar span').textContent = button.closest('figure')
        .querySelector('h3').textContent;
      dialog.showModal();
      dialog.scrollTo(0, 0);
    });
  }

  document.addEventListener('DOMContentLoaded', () => {
    themeButton(document.getElementById('theme'));
    document.querySelectorAll('table').forEach(sortable);
    const dialog = document.getElementById('enlarged');
    document.querySelectorAll('figure :is(img, svg)').forEach((one) => enlargeable(one, dialog));
    dialog.addEventListener('click', () => dialog.close());
    document.addEventListener('click', follow);
    const here = () => reveal(location.hash.slice(1));
    addEventListener('hashchange', here);
    addEventListener('popstate', here);
    here();
  });
})();
