"""One self-contained HTML file: tables, pictures, and the protocol behind every number.

The file loads nothing: pictures are data URIs, and a content security policy forbids requests.
Page, style and script are ``report.html``, ``.css`` and ``.js`` beside this file. The script sorts
tables, opens protocols and enlarges pictures; everything can be read without it.
"""
import base64
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime
from itertools import count
from operator import itemgetter
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from ..results.protocol import anchor, is_percent
from .page import environment
from .provenance import origins
from .render import READING

PNG = b'\x89PNG\r\n\x1a\n'
HALF = 40 * 16  # a picture of at most this many CSS pixels shares its line with the next
RUN_FIELDS = ('seed', 'metric', 'value', 'config', 'checkpoint', 'checkpoint_sha256', 'git_commit',
              'device', 'wall_time_s', 'time')


def write_report(out, title, records, sections, pictures=(), notes=()) -> Path:
    """Write the report to ``out`` and return its path.

    records: as ``read_results`` gives them; their protocols are listed.
    sections: the tables (`render.sections`); a last column without any text is left out.
    pictures: (heading, caption, path of a PNG) and, if the heading is not enough, a text on what
        the picture shows. notes: texts, one paragraph each. All texts are escaped.
    """
    out = Path(out)
    texts = {name: Path(__file__).with_suffix(f'.{name}').read_text(encoding='utf-8')
             for name in ('html', 'css', 'js')}
    tables, ids = [section.without_empty_end() for section in sections], count(1)
    tables = [(f'table-{next(ids)}' if table.level == 2 else '', table) for table in tables]
    html = environment().from_string(texts['html']).render(
        title=title, figures=[figure(*picture) for picture in pictures], notes=notes,
        css=Markup(texts['css']), js=Markup(texts['js']),
        js_hash=base64.b64encode(hashlib.sha256(texts['js'].encode()).digest()).decode(),
        tables=tables, facts=facts(records),
        reading=next((id for id, table in tables if table.heading == READING), None),
        has_links=any(any(table.links) for _, table in tables), protocols=protocols(records),
        run_fields=RUN_FIELDS, made=datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC'),
        results=results_tag(records))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding='utf-8', newline='\n')  # the script's hash covers these bytes
    return out


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


def figure(heading, caption, path, alt=''):
    """The fields of a picture in the page. Raises ValueError for an incomplete PNG."""
    content = Path(path).read_bytes()
    if not content.startswith(PNG):
        raise ValueError(f'{path} is not a PNG file; the report takes the pictures of '
                         'semmae.reporting.figures')
    try:
        with Image.open(io.BytesIO(content)) as image:
            scale = 96 / image.info.get('dpi', (96,))[0]
            width, height = (round(side * scale) for side in image.size)
            image.verify()  # checksums: a browser shows a damaged picture in part
    except Exception as error:
        raise ValueError(f'{path} is damaged: {error}. Make the picture again') from None
    return dict(heading=heading, caption=caption, alt=alt or heading,
                width=width, height=height, is_wide=width > HALF,
                data=Markup('data:image/png;base64,' + base64.b64encode(content).decode()))


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
