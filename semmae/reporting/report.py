"""One self-contained HTML file: tables, pictures, and the protocol behind every number.

Nothing in it is fetched from anywhere: pictures are data URIs, and a content security policy
forbids the rest. Imports neither torch nor mm*.
"""
import base64
import json
import re
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from .tables import visible

PNG = b'\x89PNG\r\n\x1a\n'
RUN_FIELDS = ('seed', 'value', 'config', 'checkpoint', 'checkpoint_sha256', 'git_commit', 'device',
              'wall_time_s', 'time')


def write_report(out, title, records, frames_html, pictures=(), notes=()) -> Path:
    """Write the report to ``out`` and return its path.

    records: as ``read_results`` gives them; their protocols are listed.
    frames_html: the tables, ``semmae.reporting.tables.render(frames, 'html')``. It is the one
        argument that is taken as HTML; all others are escaped.
    pictures: (heading, caption, path of a PNG). notes: texts, one paragraph each.
    """
    out = Path(out)
    figures = [dict(heading=heading, caption=caption, data=data_uri(path))
               for heading, caption, path in pictures]
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    html = page.render(title=visible(title), figures=figures, notes=list(notes), css=Markup(CSS),
                       tables=Markup(table_part(frames_html)), protocols=protocols(records),
                       num_records=len(records), run_fields=RUN_FIELDS,
                       made=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding='utf-8')
    return out


def data_uri(path):
    """A PNG file as the value of ``src``."""
    content = Path(path).read_bytes()
    if not content.startswith(PNG):
        raise ValueError(f'{path} is no PNG file; the report takes the pictures of '
                         'semmae.reporting.figures')
    return 'data:image/png;base64,' + base64.b64encode(content).decode()


def table_part(html):
    """The body of the tables' page, each table in a box of its own that scrolls sideways."""
    body = re.search(r'<body[^>]*>(.*)</body>', html, re.DOTALL)
    html = body.group(1) if body else html
    html = re.sub(r'(<table\b.*?</table>)', r'<div class="scroll" tabindex="0">\1</div>', html,
                  flags=re.DOTALL)
    return re.sub(r'<(/?)h2>', r'<\1h3>', html)


def protocols(records):
    """One entry for each set of runs under one protocol: summary, runs, protocol, all as texts."""
    def key(record):
        return tuple(str(record[name]) for name in
                     ('row', 'dataset', 'split', 'metric', 'fingerprint', 'unit', 'reduced'))

    entries = []
    for _, group in groupby(sorted(records, key=key), key):
        group = list(group)
        first = group[0]
        values = ', '.join(text_of(record['value']) if record['status'] == 'ok' else
                           record['status'] for record in group)
        entries.append(dict(
            row=visible(first['row']), method=visible(first['method']),
            result=visible(f"{first['metric']} {values} {first['unit']} on {first['dataset']} "
                           f"({first['split']})"),
            fingerprint=visible(first['fingerprint']), is_reduced=first['reduced'],
            why=visible(first.get('reduced_why') or ''),
            runs=[[text_of(record.get(name)) for name in RUN_FIELDS] for record in group],
            protocol=[(visible(name), text_of(value))
                      for name, value in sorted(first['protocol'].items())]))
    return entries


def text_of(value):
    """A JSON value as one line of text; nothing for None."""
    if isinstance(value, float):
        return f'{value:.6g}'
    return visible(value if isinstance(value, str) else '' if value is None else json.dumps(value))


PAGE = '''<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>{{ css }}</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p class="made">{{ num_records }} result{{ '' if num_records == 1 else 's' }} · {{ made }}</p>
{% for note in notes %}
<p>{{ note }}</p>
{% endfor %}
<nav><a href="#tables">Tables</a>{% if figures %} <a href="#figures">Figures</a>{% endif %}
{% if protocols %}<a href="#protocols">Protocols</a>{% endif %}</nav>
</header>
<main>
<section id="tables">
<h2>Tables</h2>
{{ tables }}
</section>
{% if figures %}
<section id="figures">
<h2>Figures</h2>
{% for figure in figures %}
<figure>
<h3>{{ figure.heading }}</h3>
<div class="plate"><img src="{{ figure.data }}" alt="{{ figure.heading }}"></div>
<figcaption><b>Figure {{ loop.index }}.</b> {{ figure.caption }}</figcaption>
</figure>
{% endfor %}
</section>
{% endif %}
{% if protocols %}
<section id="protocols">
<h2>Protocols</h2>
<p>How each number was measured. Only numbers of one fingerprint may be compared.</p>
{% for entry in protocols %}
<details>
<summary><code>{{ entry.row }}</code> {{ entry.method }}
{% if entry.is_reduced %}<span class="reduced">reduced</span>{% endif %}
<span class="result">{{ entry.result }}</span></summary>
{% if entry.why %}
<p>Reduced: {{ entry.why }}.</p>
{% endif %}
<div class="scroll" tabindex="0"><table class="runs">
<thead><tr>{% for name in run_fields %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for run in entry.runs %}
<tr>{% for cell in run %}<td><code>{{ cell }}</code></td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p>Protocol <code>{{ entry.fingerprint }}</code></p>
<div class="scroll" tabindex="0"><table class="protocol"><tbody>
{% for name, value in entry.protocol %}
<tr><th>{{ name }}</th><td><code>{{ value }}</code></td></tr>
{% endfor %}
</tbody></table></div>
</details>
{% endfor %}
</section>
{% endif %}
</main>
</body>
</html>
'''

CSS = '''
:root { --ink: #1d2126; --soft: #5c6570; --line: #dfe2e6; --paper: #fff; --box: #f6f7f8;
  --link: #0b5cad; --mark: #8a5300; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e6ea; --soft: #9aa4af; --line: #343a41; --paper: #15181c; --box: #1e2227;
    --link: #7db8f5; --mark: #e8b35c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 80rem; padding: 2.5rem 1.25rem 5rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto,
  "Liberation Sans", Arial, sans-serif; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; font-weight: 600; text-wrap: balance; }
h1 { font-size: 1.9rem; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 3.5rem 0 1rem; padding-bottom: .35rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 2.25rem 0 .6rem; }
header p, section > p { max-width: 44rem; }
.made { color: var(--soft); margin: 0 0 1rem; font-size: .9rem; }
nav { display: flex; gap: 1.25rem; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: .2em; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.45;
  font-variant-numeric: tabular-nums; border-top: 2px solid var(--ink);
  border-bottom: 2px solid var(--ink); }
th, td { padding: .4rem .9rem .4rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
tr:last-child td, tr:last-child th { border-bottom: 0; }
thead th { font-weight: 600; white-space: nowrap; border-bottom: 1px solid var(--ink); }
#tables td:nth-child(n+3):nth-child(-n+5) { white-space: nowrap; }
#tables td:nth-child(1) { min-width: 8rem; }
#tables td:nth-child(2), #tables td:nth-child(6) { min-width: 12rem; }
#tables td:nth-child(7) { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .72rem; white-space: nowrap; color: var(--soft); }
#tables ul { margin: .5rem 0 0; padding-left: 1.1rem; font-size: .85rem; color: var(--soft);
  max-width: 52rem; }
code { font: .82em/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
figure { margin: 0 0 3rem; }
.plate { background: #fff; border: 1px solid var(--line); border-radius: 4px; overflow-x: auto; }
.plate img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { margin-top: .6rem; max-width: 46rem; font-size: .9rem; color: var(--soft); }
figcaption b { color: var(--ink); font-weight: 600; }
details { border-bottom: 1px solid var(--line); padding: .55rem 0; }
summary { cursor: pointer; }
summary code { font-weight: 600; margin-right: .4rem; }
details[open] { padding-bottom: 1.5rem; }
details table { border-color: var(--line); border-width: 1px; }
.result { display: block; color: var(--soft); font-size: .875rem; padding-left: 1.1rem; }
.reduced { color: var(--mark); border: 1px solid; border-radius: 3px; padding: 0 .35rem;
  font-size: .75rem; }
.protocol th { width: 11rem; font-weight: 400; color: var(--soft); }
.runs td { white-space: nowrap; }
@media (max-width: 40rem) { body { padding-top: 1.5rem; } h1 { font-size: 1.5rem; }
  #tables td:nth-child(1) { min-width: 5.5rem; } #tables td:nth-child(2) { min-width: 7.5rem; }
  h2 { margin-top: 2.5rem; } .protocol th { width: 8rem; } }
'''
