"""One self-contained HTML file: tables, pictures, and the protocol behind every number.

Nothing in it is fetched from anywhere: pictures are data URIs, and a content security policy
forbids the rest. Page, style and script are ``report.html``, ``.css`` and ``.js`` beside this file;
the script sorts, opens and enlarges, and without it all there is can be read. Imports neither torch
nor mm*.
"""
import base64
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from datetime import datetime, timezone
from html import unescape
from itertools import cycle
from operator import itemgetter
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup
from PIL import Image

from ..results.protocol import anchor, is_percent
from .provenance import origins
from .render import visible

PNG = b'\x89PNG\r\n\x1a\n'
READING = 'How to read these tables'  # the heading of the tables' common legend
HALF = 40 * 16  # a picture of at most this many CSS pixels shares its line with the next
RUN_FIELDS = ('seed', 'metric', 'value', 'config', 'checkpoint', 'checkpoint_sha256', 'git_commit',
              'device', 'wall_time_s', 'time')


def write_report(out, title, records, frames_html, pictures=(), notes=()) -> Path:
    """Write the report to ``out`` and return its path.

    records: as ``read_results`` gives them; their protocols are listed.
    frames_html: the tables, ``semmae.reporting.render.render(frames, 'html')``. It is the one
        argument that is taken as HTML; all others are escaped.
    pictures: (heading, caption, path of a PNG) and, where the heading does not say it, what is
        seen. notes: texts, one paragraph each.
    """
    out = Path(out)
    texts = {name: Path(__file__).with_suffix(f'.{name}').read_text(encoding='utf-8')
             for name in ('html', 'css', 'js')}
    tables, headings = table_part(frames_html)
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        texts['html'])
    html = page.render(
        title=visible(title), figures=[figure(*picture) for picture in pictures],
        notes=[visible(note) for note in notes], css=Markup(texts['css']), js=Markup(texts['js']),
        js_hash=base64.b64encode(hashlib.sha256(texts['js'].encode()).digest()).decode(),
        tables=Markup(tables), headings=headings, facts=facts(records),
        reading=next((id for id, heading in headings if heading == READING), None),
        has_links='href="#p-' in tables, protocols=protocols(records), run_fields=RUN_FIELDS,
        made=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        results=digest_of(records))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding='utf-8', newline='\n')  # the hash of the script is over these
    return out


def digest_of(records) -> str:
    """sha256 of what records say; neither their order nor the file they were read from counts."""
    lines = sorted(json.dumps({k: v for k, v in record.items() if k != 'source'}, sort_keys=True)
                   for record in records)
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


def digest_in(path) -> str:
    """The `digest_of` the records that a report was made of; '' where it does not tell."""
    found = re.search(r'<meta name="results" content="([0-9a-f]{64})">',
                      Path(path).read_text(encoding='utf-8')[:4096])
    return found[1] if found else ''


def figure(heading, caption, path, alt=''):
    """What the page needs of a picture; its size keeps the text in place while it loads."""
    content = Path(path).read_bytes()
    if not content.startswith(PNG):
        raise ValueError(f'{path} is no PNG file; the report takes the pictures of '
                         'semmae.reporting.figures')
    try:
        with Image.open(io.BytesIO(content)) as image:
            scale = 96 / image.info.get('dpi', (96,))[0]
            width, height = (round(side * scale) for side in image.size)
            image.verify()  # the checksums: a browser shows a damaged picture as far as it can
    except Exception as error:
        raise ValueError(f'{path} is damaged: {error}. Make the picture again') from None
    return dict(heading=visible(heading), caption=visible(caption), alt=visible(alt or heading),
                width=width, height=height, is_wide=width > HALF,
                data='data:image/png;base64,' + base64.b64encode(content).decode())


def table_part(html):
    """(the body of the tables' page, [(id, heading)] of its tables).

    Each table stands in a box of its own that scrolls sideways, without a last column in which all
    cells are empty; those of results, and their cells by the names of their columns, have classes.
    Headings become those of a section.
    """
    body = re.search(r'<body[^>]*>(.*)</body>', html, re.DOTALL)
    html = body.group(1) if body else html
    html = re.sub(r'<(/?)h3\b', r'<\1h4', html)
    headings = []

    def boxed(match):
        table = match.group()
        if len(re.findall(r'<td></td>\s*</tr>', table)) == len(re.findall('<tr', table)) - 1 > 0:
            table = re.sub(r'<td></td>(?=\s*</tr>)|<th\b[^>]*>[^<]*</th>(?=\s*</tr>\s*</thead>)',
                           '', table)
        names = re.findall(r'<th\b[^>]*>([^<]*)</th>', table)
        if 'ours' in names:
            table = re.sub(r'<table\b[^>]*>', '<table class="results">', table)
            cells = cycle(re.sub(r'\W+', '-', name) for name in names)
            table = re.sub('<td>', lambda _: f'<td class="{next(cells)}">', table)
        return f'<div class="scroll" role="region" aria-label="Table" tabindex="0">{table}</div>'

    def numbered(match):
        headings.append((f'table-{len(headings) + 1}', unescape(match.group(1))))
        return f'<h3 id="{headings[-1][0]}">{match.group(1)}</h3>'

    html = re.sub(r'<table\b.*?</table>', boxed, html, flags=re.DOTALL)
    return re.sub(r'<h2>(.*?)</h2>', numbered, html, flags=re.DOTALL), headings


def facts(records):
    """[(name, text)] of what all records say of themselves: how many, where, when, with what."""
    def each(name):
        return Counter(visible(r.get(name) or 'not recorded') for r in records).most_common()

    def listed(counts):
        return ', '.join(f'{text} ({plural(n, "result")})' if len(counts) > 1 else text
                         for text, n in counts)

    rows, reduced = {r['row'] for r in records}, sum(r['reduced'] for r in records)
    said = [('Results', plural(len(records), 'result') + (
        f' of {plural(len(rows), "row")}, {"all" if reduced == len(records) else reduced or "none"}'
        ' reduced' if records else ''))]
    failed = Counter(visible(r['status']) for r in records if r['status'] != 'ok')
    if failed:
        said.append(('Without a value', ', '.join(f'{n} {name}' for name, n in failed.items())))
    if not records:
        return said
    seeds = sorted({record['seed'] for record in records if record['seed'] is not None})
    said.append(('Seeds', f'{plural(len(seeds), "seed")}: {", ".join(map(str, seeds))}' if seeds
                 else 'none'))
    days = sorted({visible(record['time'])[:10] for record in records})
    said += [('Measured', ' to '.join(days[::max(1, len(days) - 1)])),
             ('Machine', listed(each('device'))),
             ('Code', listed([(text[:12] if re.fullmatch('[0-9a-f]{40}', text) else text, n)
                              for text, n in each('git_commit')]))]
    said += [('Provenance', visible('; '.join(texts)))] if (texts := origins(records)) else []
    found = defaultdict(set)
    for record in records:
        versions = record.get('versions')
        for name, version in (versions if isinstance(versions, dict) else {}).items():
            found[visible(name)].add(visible(version))
    said.append(('Versions', ', '.join(f'{name} {" / ".join(sorted(versions))}'
                                       for name, versions in found.items()) or 'not recorded'))
    return said


def plural(number, word):
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
            row=visible(first['row']), method=visible(first['method']),
            result=visible(f"{result} on {first['dataset']} ({first['split']})"),
            fingerprint=visible(first['fingerprint']), is_reduced=first['reduced'],
            why=visible(first.get('reduced_why') or ''),
            code=visible('; '.join(origins(group))),
            runs=[[text_of(record.get(name)) for name in RUN_FIELDS] for record in group],
            protocol=[(visible(name), 'null' if value is None else text_of(value))
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
    return visible(value if isinstance(value, str) else '' if value is None else
                   json.dumps(value, ensure_ascii=False))
