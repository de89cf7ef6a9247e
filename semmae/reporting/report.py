"""One self-contained HTML file: tables, pictures, and the protocol behind every number.

The file loads nothing: pictures and downloads are inside it, and a content security policy forbids
requests. Page and style are ``report.html`` and ``.css`` beside this file. ``report.js`` opens
protocols and enlarges pictures, ``vendor/tablesort.min.js`` sorts tables, ``compare.js`` shows two
runs side by side; everything else can be read without scripts.
"""
import base64
import hashlib
import json
import re
from collections import Counter, defaultdict
from itertools import count
from operator import itemgetter
from pathlib import Path

from markupsafe import Markup

from ..results.protocol import anchor, is_percent
from .downloads import downloads
from .headline import headlines
from .inline import picture
from .page import Section, environment
from .provenance import origins
from .render import READING

HALF = 40 * 16  # a picture of at most this many CSS pixels shares its line with the next
RUN_FIELDS = ('seed', 'metric', 'value', 'config', 'checkpoint', 'checkpoint_sha256', 'git_commit',
              'device', 'wall_time_s', 'time')


def write_report(out, title, records, sections, pictures=(), notes=(), runs=None) -> Path:
    """Write the report to ``out`` and return its path; the same arguments give the same bytes.

    records: as ``read_results`` gives them; their protocols are listed.
    sections: the tables (`render.sections`); a last column without any text is left out.
    pictures: (heading, caption, path of an SVG or PNG, or a list of them) and, if the heading is
        not enough, a text on what the picture shows. notes: texts, one paragraph each.
    runs: of `runs.explorer`, for the side-by-side view; None for no such view.
    All texts are escaped.
    """
    out = Path(out)
    texts = {name: Path(__file__).with_suffix(f'.{name}').read_text(encoding='utf-8')
             for name in ('html', 'css')}
    js = script()
    tables, ids = [section.without_empty_end() for section in sections], count(1)
    tables = [(f'table-{next(ids)}', table) for table in tables]
    html = environment().from_string(texts['html']).render(
        title=title, notes=notes,
        figures=[figure(*found) for found in pictures],
        css=Markup(texts['css']), js=Markup(js),
        js_hash=base64.b64encode(hashlib.sha256(js.encode()).digest()).decode(),
        tables=[(id, table, downloads(table, id)) for id, table in tables], facts=facts(records),
        reading=next((id for id, table in tables if table.heading == READING), None),
        has_links=any(any(table.links) for _, table in tables), protocols=protocols(records),
        run_fields=RUN_FIELDS, results=results_tag(records), cards=headlines(records),
        files=downloads(all_runs(records), 'runs') if records else [],
        runs=runs if runs and runs['runs'] else None)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding='utf-8', newline='\n')  # the script's hash covers these bytes
    return out


def script() -> str:
    """The script of the page: the vendored sorter with its licence, and our own."""
    here = Path(__file__).parent
    licence, sorter, *own = (Path(here, name).read_text(encoding='utf-8') for name in (
        'vendor/tablesort.LICENCE', 'vendor/tablesort.min.js', 'report.js', 'compare.js'))
    sorter = re.sub(r'^/\*!.*?\*/\s*', '', sorter, flags=re.DOTALL)  # it is in the licence
    return '\n'.join([f'/* tablesort\n{licence}*/', sorter, *own])


def all_runs(records) -> Section:
    """A line for each record, to be downloaded."""
    return Section('All runs', columns=('row', *RUN_FIELDS), rows=[
        [text_of(record.get(name)) for name in ('row', *RUN_FIELDS)] for record in records])


def results_tag(records) -> Markup:
    """The element of a report that names its results, by `digest_of`."""
    return Markup('<meta name="results" content="{}">').format(digest_of(records))


def shows(path, records) -> bool:
    """Whether a report was made of these records."""
    return results_tag(records) in Path(path).read_text(encoding='utf-8')


def digest_of(records) -> str:
    """sha256 of the content of records; their order and their files do not count."""
    lines = sorted(json.dumps({k: v for k, v in record.items() if k != 'source'}, sort_keys=True)
                   for record in records)
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


def figure(heading, caption, paths, alt=''):
    """The fields of a picture in the page; paths: one file, or several beside each other.

    Raises ValueError for an incomplete PNG.
    """
    paths = paths if isinstance(paths, (list, tuple)) else [paths]
    pictures = [picture(path, alt or heading) for path in paths]
    return dict(heading=heading, caption=caption, plates=[markup for *_, markup in pictures],
                is_wide=sum(width for width, *_ in pictures) > HALF)


def facts(records):
    """[(name, text)] of all records: how many, where, when and with which versions."""
    def each(name):
        return Counter(str(r.get(name) or 'not recorded') for r in records).most_common()

    def listed(counts):
        return ', '.join(f'{text} ({plural(n, "result")})' if len(counts) > 1 else text
                         for text, n in counts)

    rows, reduced = {r['row'] for r in records}, sum(r['reduced'] for r in records)
    said = [('Results', plural(len(records), 'result') + (
        f' of {plural(len(rows), "row")}, {"all" if reduced == len(records) else reduced or "none"}'
        ' reduced' if records else ''))]
    failed = Counter(r['status'] for r in records if r['status'] != 'ok')
    if failed:
        said.append(('Without a value', ', '.join(f'{n} {name}' for name, n in failed.items())))
    if not records:
        return said
    seeds = sorted({record['seed'] for record in records if record['seed'] is not None})
    said.append(('Seeds', f'{plural(len(seeds), "seed")}: {", ".join(map(str, seeds))}' if seeds
                 else 'none'))
    days = sorted({record['time'][:10] for record in records})
    said += [('Measured', ' to '.join(days[::max(1, len(days) - 1)])),
             ('Machine', listed(each('device'))),
             ('Code', listed([(text[:12] if re.fullmatch('[0-9a-f]{40}', text) else text, n)
                              for text, n in each('git_commit')]))]
    said += [('Provenance', '; '.join(texts))] if (texts := origins(records)) else []
    found = defaultdict(set)
    for record in records:
        versions = record.get('versions')
        for name, version in (versions if isinstance(versions, dict) else {}).items():
            found[str(name)].add(str(version))
    said.append(('Versions', ', '.join(f'{name} {" / ".join(sorted(versions))}'
                                       for name, versions in found.items()) or 'not recorded'))
    return said


def plural(number, word):
    """'1 seed', '2 seeds'."""
    return f'{number} {word}{"" if number == 1 else "s"}'


def protocols(records):
    """One entry for each row and the conditions of its runs: summary, runs, protocol, as texts.

    An entry is found under the `anchor` of its results. The metrics of one test of parts, which are
    lines of their own, share an entry.
    """
    groups = defaultdict(list)
    for record in records:
        of_parts = dict(metric='', unit='') if record['task'].startswith('parts') else {}
        groups[anchor({**record, **of_parts})].append(record)
    entries = []
    for group in sorted(groups.values(), key=lambda group: (
            group[0]['row'], group[0]['dataset'], group[0]['split'], group[0]['fingerprint'],
            group[0]['metric'])):
        first, metrics = group[0], {record['metric'] for record in group}
        values = ', '.join(record['status'] if record['status'] != 'ok' else
                           f"{record['value']:.2f}" if is_percent(record) else
                           text_of(record['value']) for record in group)
        result = (f"{first['metric']} {values} {first['unit']}" if len(metrics) == 1
                  else plural(len(metrics), 'metric'))
        entries.append(dict(
            ids=list(dict.fromkeys(anchor(record) for record in group)),
            row=first['row'], method=first['method'],
            result=f"{result} on {first['dataset']} ({first['split']})",
            fingerprint=first['fingerprint'], is_reduced=first['reduced'],
            why=first.get('reduced_why') or '',
            code='; '.join(origins(group)),
            runs=[[text_of(record.get(name)) for name in RUN_FIELDS] for record in group],
            protocol=[(name, 'null' if value is None else text_of(value))
                      for name, value in sorted(flat(first['protocol']), key=itemgetter(0))]))
    return entries


def flat(nested, prefix=''):
    """[(dotted name, value)] of a dict of dicts; an empty one is a value."""
    return [pair for name, value in nested.items()
            for pair in (flat(value, f'{prefix}{name}.') if isinstance(value, dict) and value
                         else [(f'{prefix}{name}', value)])]


def text_of(value):
    """A JSON value as one line of text; nothing for None."""
    if isinstance(value, float):
        return f'{value:.6g}'
    if value is None:
        return ''
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
