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

  // Sorting: by the leading number, then as text; what is empty or '-' comes last either way.
  const collator = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });
  function keyOf(cell) {
    const text = cell.textContent.trim().replace(/[\u2212\u2013](?=\d)/, '-');
    const number = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?/i.exec(text);
    return { text, number: number ? Number(number[0]) : NaN, isEmpty: /^[-\u2013\u2014]?$/.test(text) };
  }
  function compare(a, b, sign) {
    if (a.isEmpty || b.isEmpty) return a.isEmpty - b.isEmpty;
    if (isNaN(a.number) !== isNaN(b.number)) return sign * (isNaN(a.number) - isNaN(b.number));
    return sign * (a.number - b.number || collator.compare(a.text, b.text));
  }
  function sortable(table) {
    const body = table.tBodies[0], head = table.tHead && table.tHead.rows[0];
    if (!head || !body || body.rows.length < 2) return;
    if (body.querySelector('[rowspan], [colspan]') || table.tHead.rows.length > 1) return;
    const original = [...body.rows], heads = [...head.cells];
    heads.forEach((cell, column) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener('click', () => {
        const next = { ascending: 'descending', descending: null }[cell.ariaSort];
        const order = next === undefined ? 'ascending' : next;
        heads.forEach((other) => other.removeAttribute('aria-sort'));
        if (order) cell.setAttribute('aria-sort', order);
        const sign = order === 'descending' ? -1 : 1;
        const keyed = original.map((row) => [row, keyOf(row.cells[column])]);
        if (order) keyed.sort((a, b) => compare(a[1], b[1], sign));
        body.append(...keyed.map(([row]) => row));
      });
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

  function enlargeable(image, dialog) {
    const button = document.createElement('button');
    button.type = 'button';
    button.title = 'Enlarge';
    image.replaceWith(button);
    button.append(image);
    button.addEventListener('click', () => {
      const shown = dialog.querySelector('img');
      shown.src = image.src;
      shown.alt = image.alt;
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
    document.querySelectorAll('figure img').forEach((image) => enlargeable(image, dialog));
    dialog.addEventListener('click', () => dialog.close());
    document.addEventListener('click', follow);
    const here = () => reveal(location.hash.slice(1));
    addEventListener('hashchange', here);
    addEventListener('popstate', here);
    here();
  });
})();
