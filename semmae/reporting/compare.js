'use strict';
(() => {
  // Two runs side by side. All texts are set as text, never as HTML.
  function make(tag, content = [], attributes = {}) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...[content].flat().filter((part) => part !== null));
    return element;
  }
  function table(head, rows, name) {
    const cells = (tag, row) => make('tr', row.map((text) => make(tag, text)));
    const text = [head, ...rows].map((row) => row.map((cell) => (
      `"${(/^\s*[=+@-]/.test(cell) && isNaN(cell) ? `'${cell}` : cell).replaceAll('"', '""')}"`
    )).join(',')).join('\n');
    return [make('div', make('table', [make('thead', cells('th', head)),
      make('tbody', rows.map((row) => cells('td', row)))], { class: 'protocol' }),
    { class: 'scroll', role: 'region', 'aria-label': 'Table', tabindex: 0 }),
    make('p', ['Download: ', make('a', 'CSV', {
      download: `${name}.csv`, href: `data:text/csv;charset=utf-8,${encodeURIComponent(text)}` })],
    { class: 'files' })];
  }

  // The score of each image from 0 to 1, decoded from base64.
  function scoresOf(run, test) {
    const bytes = atob(run.scores);
    return Array.from({ length: test.number }, (_, i) => (test.is_classification
      ? (bytes.charCodeAt(i >> 3) >> (7 - (i & 7))) & 1 : bytes.charCodeAt(i) / 255));
  }
  const percent = (value) => `${(100 * value).toFixed(1)} %`;

  function photo(data, alt, label = null) {
    return data ? make('span', [make('img', [], { src: data, alt }), label]) : null;
  }
  // One image of a test set: its name, its label, and what each run says or draws.
  function card(i, test, runs, scores) {
    const shown = test.is_classification ? [photo(test.photos[i], test.images[i])]
      : [photo(test.photos[i], test.images[i], 'image'), photo(test.true[i], 'true labels', 'true'),
        ...runs.map((run) => photo(run.maps[i], `labels of ${run.letter}`, run.letter))];
    const told = runs.map((run, k) => make('span', test.is_classification
      ? `${run.letter}: ${run.told[i]}${scores[k][i] ? ' (right)' : ' (wrong)'}`
      : `${run.letter}: ${percent(scores[k][i])} of the pixels`, { class: 'told' }));
    return make('figure', [make('div', shown, { class: 'photos' }), make('figcaption', [
      make('code', test.images[i]), test.is_classification
        ? make('span', `true: ${test.labels[i]}`, { class: 'told' }) : null, ...told])]);
  }
  function cards(title, list, test, runs, scores) {
    const heading = make('h4', title);
    if (!list.length) return [heading, make('p', 'None of the listed images.')];
    return [heading, make('div', list.slice(0, 12).map((i) => card(i, test, runs, scores)),
      { class: test.is_classification ? 'examples' : 'examples maps' })];
  }

  function worstAndBest(run, test) {
    const scores = [scoresOf(run, test)];
    const what = test.is_classification
      ? ['Wrong with the highest score', 'Right with the highest score']
      : ['Fewest right pixels', 'Most right pixels'];
    return [make('div', [...cards(what[0], run.worst, test, [run], scores)]),
      make('div', [...cards(what[1], run.best, test, [run], scores)])];
  }

  function images(a, b, test) {
    const scores = [scoresOf(a, test), scoresOf(b, test)], found = [];
    const all = [...scores[0].keys()];
    const better = (k) => all.filter((i) => scores[k][i] > scores[1 - k][i]);
    const order = (list, k) => list.filter((i) => test.named.includes(i)).sort((i, j) => (
      Boolean(test.photos[j]) - Boolean(test.photos[i])
      || (scores[k][j] - scores[1 - k][j]) - (scores[k][i] - scores[1 - k][i])));
    const both = test.is_classification ? [
      ['both right', all.filter((i) => scores[0][i] && scores[1][i]).length],
      ['only A right', better(0).length], ['only B right', better(1).length],
      ['both wrong', all.filter((i) => !scores[0][i] && !scores[1][i]).length]] : [
      ['A has more right pixels', better(0).length],
      ['B has more right pixels', better(1).length],
      ['equal', all.length - better(0).length - better(1).length]];
    found.push(...table(['images', 'number'], both.map(([text, n]) => [text, String(n)]),
      'images'));
    const titles = test.is_classification ? ['A right, B wrong', 'B right, A wrong']
      : ['A better than B', 'B better than A'];
    titles.forEach((title, k) => found.push(
      ...cards(title, order(better(k), k), test, [a, b], scores)));
    return found;
  }

  function protocols(a, b, fields) {
    const rows = fields.map(([name, kind], k) => [
      name, a.protocol[k] ?? '(not recorded)', b.protocol[k] ?? '(not recorded)', kind])
      .filter(([, one, two]) => one !== two);
    const measured = rows.filter((row) => row[3] === 'measurement').length;
    if (!Object.keys(a.protocol).length || !Object.keys(b.protocol).length) {
      return [make('p', 'A run without a result has no protocol.')];
    }
    const verdict = make('p', make('b', measured
      ? `Not comparable: ${measured} fields of the measurement differ.`
      : rows.length ? 'Comparable: only the method or its pre-training differs.'
        : 'The same protocol and pre-training.'), { class: 'verdict' });
    // Parts that only one pre-training has, as part learning, have many fields: they are folded.
    const isOfOne = (row) => row[3] === 'pre-training' && row.includes('(not recorded)');
    const head = ['field', 'A', 'B', 'part of'], folded = rows.filter(isOfOne);
    const shown = rows.filter((row) => !isOfOne(row));
    return [verdict, ...(shown.length ? table(head, shown, 'protocols') : []),
      ...(folded.length ? [make('details', [
        make('summary', `${folded.length} fields that only one of the pre-trainings has`),
        ...table(head, folded, 'pre-trainings')])] : [])];
  }

  function about(run) {
    return make('div', [make('h3', `${run.letter}: ${run.name}`),
      make('dl', run.facts.map(([name, text]) => make('div', [make('dt', name), make('dd', text)])),
        { class: 'facts' }),
      make('p', run.links.flatMap(([text, address]) => [make('a', text, { href: address }), ' ']),
        { class: 'links' })]);
  }
  function sheets(run, data) {
    return run.pictures.map(([title, k]) => make('figure', [
      make('div', make('img', [], { src: data.sheets[k], alt: title }), { class: 'plate' }),
      make('figcaption', `${run.letter}: ${title}`)]));
  }

  function show(data, a, b) {
    const sides = (left, right) => make('div', [make('div', left), make('div', right)],
      { class: 'sides' });
    const parts = [sides(about(a), about(b)), make('h3', 'Protocol'),
      ...protocols(a, b, data.fields)];
    const tests = [a, b].map((run) => data.tests[run.test]);
    if (tests.some(Boolean)) parts.push(make('h3', 'Predictions'));
    if (tests[0] && tests[0].why) parts.push(make('p', tests[0].why, { class: 'hint' }));
    if (tests[0] && tests[0] === tests[1] && a.name !== b.name) {
      parts.push(...images(a, b, tests[0]));
    } else if (tests.some(Boolean) && a.name !== b.name) {
      parts.push(make('p', 'The runs have no stored predictions of the same images.'));
    }
    if (tests.some(Boolean)) {
      parts.push(sides(...[a, b].map((run, k) => (tests[k] ? [
        make('h3', `Worst and best images of ${run.letter}`), ...worstAndBest(run, tests[k])]
        : []))));
    }
    if (a.pictures.length + b.pictures.length) {
      parts.push(make('h3', 'Masks and reconstructions of the pre-training'),
        sides(sheets(a, data), sheets(b, data)));
    }
    document.getElementById('compared').replaceChildren(...parts);
  }

  document.addEventListener('DOMContentLoaded', () => {
    const source = document.getElementById('runs-data');
    if (!source) return;
    const data = JSON.parse(source.textContent);
    const selects = ['run-a', 'run-b'].map((id) => document.getElementById(id));
    selects.forEach((select) => {
      select.append(...data.runs.map((run, i) => make('option', run.name, { value: i })));
    });
    // First, a run of another method with predictions of the same images, if there is one.
    selects[1].selectedIndex = Math.max(0, data.runs.findIndex((run) => (
      run.row !== data.runs[0].row && run.test === data.runs[0].test)));
    const update = () => show(data, ...selects.map((select, k) => (
      { ...data.runs[select.value], letter: 'AB'[k] })));
    selects.forEach((select) => select.addEventListener('change', update));
    update();
  });
})();
