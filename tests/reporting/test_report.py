import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from semmae.evaluation.protocol import fingerprint
from semmae.reporting.figures import alpha_curves
from semmae.reporting.report import write_report
from semmae.reporting.tables import build_tables, render

SCRIPT = '<script>alert(1)</script>'
VOID = {'meta', 'img', 'br', 'hr', 'link', 'input'}


def a_record(row='linprobe/mae_p16', **changes):
    protocol = changes.setdefault('protocol', {'input_size': 224, 'epochs': 90})
    task, recipe = row.split('/', 1)
    return {'row': row, 'method': 'MAE', 'recipe': recipe, 'task': task, 'dataset': 'imagenet',
            'split': 'val', 'metric': 'accuracy/top1', 'value': 65.0, 'unit': '%', 'seed': 0,
            'fingerprint': fingerprint(protocol), 'config': 'c.py', 'checkpoint': 'c.pth',
            'checkpoint_sha256': 'aa', 'reduced': False, 'reduced_why': None, 'status': 'ok',
            'time': '2025-01-01T00:00:00+00:00', **changes}


class Page(HTMLParser):
    """Tags with attributes, text by tag, and whether every element is closed in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text, self.crossed = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), list(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data):
        if data.strip():
            self.text.append((data.strip(), list(self.open)))

    def texts(self, tag):
        return [text for text, inside in self.text if tag in inside]


def report(tmp_path, records=None, title='A report', pictures=(), notes=()):
    records = [a_record()] if records is None else records
    path = write_report(tmp_path / 'out' / 'report.html', title, records,
                        render(build_tables(records), 'html'), pictures, notes)
    return path.read_text(encoding='utf-8')


@pytest.fixture
def picture(tmp_path):
    return alpha_curves(tmp_path / 'alpha.png')


def test_nothing_is_fetched_from_anywhere(tmp_path, picture):
    html = report(tmp_path, pictures=[('Alpha', 'Figure 3 of the paper.', picture)])
    assert 'http://' not in html and 'https://' not in html
    assert 'url(' not in html and '@import' not in html
    for tag, attrs, _ in Page(html).tags:
        assert tag not in ('script', 'link', 'iframe', 'object', 'embed')
        assert attrs.get('href', '#').startswith('#')
        assert attrs.get('src', 'data:').startswith('data:image/png;base64,') or 'src' not in attrs
    assert "default-src 'none'" in html


def test_scripts_in_names_notes_captions_and_protocols_are_text(tmp_path, picture):
    record = a_record('linprobe/<script>', method=SCRIPT, reduced=True, reduced_why=SCRIPT,
                      config=SCRIPT, protocol={SCRIPT: SCRIPT, 'lr': .1})
    html = report(tmp_path, [record], SCRIPT, [(SCRIPT + '"', SCRIPT, picture)], [SCRIPT])
    page = Page(html)
    assert '<script' not in html and not page.crossed and not page.open
    assert sum(SCRIPT in text for text, _ in page.text) >= 8
    assert [attrs['alt'] for tag, attrs, _ in page.tags if tag == 'img'] == [SCRIPT + '"']


def test_pictures_are_inside_and_unchanged(tmp_path, picture):
    html = report(tmp_path, pictures=[('Alpha', 'A caption.', picture)] * 2)
    page = Page(html)
    sources = [attrs['src'] for tag, attrs, _ in page.tags if tag == 'img']
    content = base64.b64decode(sources[0].partition(',')[2])
    assert len(sources) == 2 and content == picture.read_bytes()
    Image.open(io.BytesIO(content)).verify()
    captions = page.texts('figcaption')
    assert captions == ['Figure 1.', 'A caption.', 'Figure 2.', 'A caption.']


def test_a_file_that_is_no_png_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / 'x.jpg')
    with pytest.raises(ValueError, match=r'x\.jpg is no PNG'):
        report(tmp_path, pictures=[('x', '', tmp_path / 'x.jpg')])


def test_every_table_scrolls_in_a_box_of_its_own_and_the_page_is_well_formed(tmp_path, picture):
    page = Page(report(tmp_path, pictures=[('a', 'b', picture)], notes=['one', 'two']))
    assert not page.crossed and not page.open
    tables = [inside for tag, _, inside in page.tags if tag == 'table']
    boxes = [attrs for tag, attrs, _ in page.tags if attrs.get('class') == 'scroll']
    assert len(tables) == len(boxes) == 7 + 2  # seven of the paper; runs and protocol of a result
    assert all(inside[-1] == 'div' for inside in tables)
    assert [tag for tag, *_ in page.tags].count('body') == 1


def test_the_page_adapts_to_phones_and_to_dark_mode(tmp_path):
    html = report(tmp_path)
    assert 'width=device-width' in html and 'prefers-color-scheme: dark' in html


def test_each_protocol_stands_once_with_all_its_runs(tmp_path):
    records = [a_record(seed=seed, value=60. + seed) for seed in range(3)]
    records.append(a_record(protocol={'epochs': 20, 'schedule': ['a', 'b']}, seed=9,
                            reduced=True, reduced_why='20 of 90 epochs'))
    page = Page(report(tmp_path, records))
    details = [inside for tag, _, inside in page.tags if tag == 'details']
    summaries = page.texts('summary')
    assert len(details) == 2
    assert sum('60, 61, 62 %' in text for text in summaries) == 1
    assert summaries.count('reduced') == 1 and 'Reduced: 20 of 90 epochs.' in page.texts('details')
    codes = page.texts('code')
    assert '["a", "b"]' in codes and '224' in codes and fingerprint({'input_size': 224,
                                                                     'epochs': 90}) in codes


def test_a_failed_run_is_named_and_has_no_value(tmp_path):
    page = Page(report(tmp_path, [a_record(value=None, status='non-finite')]))
    assert any('non-finite' in text for text in page.texts('summary'))


def test_without_results_and_pictures_there_are_only_tables(tmp_path):
    page = Page(report(tmp_path, records=[]))
    assert page.texts('h2') == ['Tables'] and '0 results' in page.texts('header')[1]


def test_tables_without_a_page_around_them_are_taken_as_they_are(tmp_path):
    path = write_report(tmp_path / 'r.html', 'T', [], '<table><tr><td>1</td></tr></table>')
    assert '<table><tr><td>1</td></tr></table></div>' in path.read_text()
