import base64
import hashlib
import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from semmae.reporting.curves import alpha_curves
from semmae.reporting.page import Section
from semmae.reporting.render import sections
from semmae.reporting.report import figure, write_report
from semmae.reporting.tables import build_tables
from semmae.results.protocol import anchor, fingerprint

from . import records
from .records import Page

SCRIPT = '<script>alert(1)</script>'
a_record = partial(records.a_record, dataset='imagenet')


def report(tmp_path, found=None, title='A report', pictures=(), notes=()):
    found = [a_record()] if found is None else found
    path = write_report(tmp_path / 'out' / 'report.html', title, found,
                        sections(build_tables(found)), pictures, notes)
    return path.read_text(encoding='utf-8')


@pytest.fixture
def picture(tmp_path):
    return alpha_curves(tmp_path / 'alpha.png')


def test_nothing_is_fetched_from_anywhere(tmp_path, picture):
    html = report(tmp_path, pictures=[('Alpha', 'Figure 3 of the paper.', picture)])
    assert 'http://' not in html and 'https://' not in html
    assert 'url(' not in html and '@import' not in html
    for tag, attrs, _ in Page(html).tags:
        assert tag not in ('link', 'iframe', 'object', 'embed')
        assert attrs.get('href', '#').startswith(('data:text/csv;', 'data:application/x-tex;')
                                                 if 'download' in attrs else '#')
        assert attrs.get('src', 'data:').startswith('data:image/png;base64,') or 'src' not in attrs
    assert "default-src 'none'" in html


def test_the_policy_allows_the_one_script_inside_and_no_other(tmp_path):
    html = report(tmp_path, title=SCRIPT, notes=[SCRIPT])
    (script,) = html.split('<script>')[1:]
    policy = next(attrs['content'] for tag, attrs, _ in Page(html).tags
                  if attrs.get('http-equiv') == 'Content-Security-Policy')
    digest = hashlib.sha256(script.split('</script>')[0].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}';" in policy
    assert not any(name.startswith('on') for _, attrs, _ in Page(html).tags for name in attrs)


def test_scripts_in_names_notes_captions_and_protocols_are_text(tmp_path, picture):
    record = a_record('linprobe/<script>', method=SCRIPT, reduced=True, reduced_why=SCRIPT,
                      config=SCRIPT, protocol={SCRIPT: SCRIPT, 'lr': .1})
    html = report(tmp_path, [record], SCRIPT, [(SCRIPT + '"', SCRIPT, picture)], [SCRIPT])
    page = Page(html)
    assert html.count('<script') == 1 and not page.crossed and not page.open
    assert sum(SCRIPT in text for text, _ in page.text) >= 8
    assert [attrs['alt'] for tag, attrs, _ in page.tags if attrs.get('alt')] == [
        SCRIPT + '"']


def test_pictures_are_inside_and_unchanged(tmp_path, picture):
    html = report(tmp_path, pictures=[('Alpha', 'A caption.', picture)] * 2)
    page = Page(html)
    sources = [attrs['src'] for tag, attrs, _ in page.tags if attrs.get('alt')]
    content = base64.b64decode(sources[0].partition(',')[2])
    assert len(sources) == 2 and content == picture.read_bytes()
    Image.open(io.BytesIO(content)).verify()
    captions = page.texts('figcaption')
    assert captions == ['Figure 1.', 'A caption.', 'Figure 2.', 'A caption.']


def test_a_picture_has_its_size_and_says_what_is_seen(tmp_path, picture):
    html = report(tmp_path, pictures=[('Alpha', '', picture, 'Five curves'), ('Beta', '', picture)])
    images = [attrs for _, attrs, _ in Page(html).tags if attrs.get('alt')]
    assert [image['alt'] for image in images] == ['Five curves', 'Beta']
    assert (images[0]['width'], images[0]['height']) == ('614', '384')  # 6.4 by 4 inches


def test_a_picture_of_which_a_byte_changed_is_refused_and_named(tmp_path):
    content = bytearray(alpha_curves(tmp_path / 'x.png', [1.]).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / 'x.png').write_bytes(content)
    with pytest.raises(ValueError, match=r'x\.png is damaged'):
        figure('heading', 'caption', tmp_path / 'x.png')


def test_a_file_that_is_no_png_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / 'x.jpg')
    with pytest.raises(ValueError, match=r'x\.jpg is not a PNG'):
        report(tmp_path, pictures=[('x', '', tmp_path / 'x.jpg')])


def test_every_table_scrolls_in_a_box_of_its_own_and_the_page_is_well_formed(tmp_path, picture):
    page = Page(report(tmp_path, pictures=[('a', 'b', picture)], notes=['one', 'two']))
    assert not page.crossed and not page.open
    tables = [inside for tag, _, inside in page.tags if tag == 'table']
    boxes = [attrs for _, attrs, _ in page.tags if attrs.get('class') == 'scroll']
    # Seven of the paper, one of the reduced result; runs and protocol of that.
    assert len(tables) == len(boxes) == 7 + 1 + 2
    assert all(inside[-1] == 'div' for inside in tables)
    assert [tag for tag, *_ in page.tags].count('body') == 1


def test_the_page_adapts_to_phones_and_to_dark_mode(tmp_path):
    html = report(tmp_path)
    assert 'width=device-width' in html and 'color-scheme: light dark' in html


def test_each_protocol_stands_once_with_all_its_runs(tmp_path):
    records = [a_record(seed=seed, value=60. + seed) for seed in range(3)]
    records.append(a_record(protocol={'epochs': 20, 'schedule': ['a', 'b']}, seed=9,
                            reduced=True, reduced_why='20 of 90 epochs'))
    page = Page(report(tmp_path, records))
    details = [inside for tag, _, inside in page.tags if tag == 'details']
    summaries = page.texts('summary')
    assert len(details) == 2
    assert sum('60.00, 61.00, 62.00 %' in text for text in summaries) == 1
    assert summaries.count('reduced') == 1 and 'Reduced: 20 of 90 epochs.' in page.texts('details')
    codes = page.texts('code')
    assert '["a", "b"]' in codes and '224' in codes and fingerprint({'input_size': 224,
                                                                     'epochs': 90}) in codes


def test_an_entry_is_found_under_the_anchor_of_its_results(tmp_path):
    records = [a_record(seed=0), a_record(seed=1), a_record('linprobe/semmae_p16', seed=0),
               a_record(seed=0, reduced=True, reduced_why='few images')]
    ids = [attrs['id'] for tag, attrs, _ in Page(report(tmp_path, records)).tags
           if tag == 'details']
    assert len(ids) == 3 and set(ids) == {anchor(record) for record in records}


def test_the_metrics_of_one_test_of_parts_share_an_entry_that_each_of_them_leads_to(tmp_path):
    records = [a_record('parts/heads', task='parts', metric=metric, value=value, unit=unit)
               for metric, value, unit in (('parts/ARI', 30., '%'), ('parts/used', 3., 'parts'))]
    page = Page(report(tmp_path, records))
    inside = [attrs['id'] for tag, attrs, open_ in page.tags
              if 'id' in attrs and (tag == 'details' or 'details' in open_)]
    assert [tag for tag, *_ in page.tags].count('details') == 1
    assert inside == [anchor(record) for record in records]
    assert any('2 metrics on imagenet' in text for text in page.texts('summary'))
    assert {'parts/ARI', 'parts/used', '30', '3'} <= set(page.texts('code'))


def test_a_nested_protocol_is_listed_by_dotted_names(tmp_path):
    nested = {'arch': {'depth': 12, 'heads': {'q': 3}}, 'batch_augments': {}, 'clip_grad': None}
    page = Page(report(tmp_path, [a_record(protocol=nested)]))
    assert [text for text in page.texts('th') if '.' in text] == ['arch.depth', 'arch.heads.q']
    assert {'12', '3', '{}', 'null'} <= set(page.texts('code'))


def test_the_head_of_the_page_says_what_the_records_say(tmp_path):
    common = dict(device='cpu', git_commit='0123456789abcdef' * 2 + '01234567',
                  versions={'torch': '2.6'})
    records = [a_record(seed=0, **common), a_record(seed=1, **common), a_record(
        'cub/mae_p16', value=None, status='non-finite', seed=1, time='2025-02-03T00:00:00+00:00',
        reduced=True, device='H100', versions={'torch': '2.7'})]
    said = Page(report(tmp_path, records)).texts('dd')
    for text in ('3 results of 2 rows, 1 reduced', '1 non-finite', '2 seeds: 0, 1',
                 '2025-01-01 to 2025-02-03', 'cpu (2 results), H100 (1 result)',
                 '0123456789ab (2 results), not recorded (1 result)', 'torch 2.6 / 2.7',
                 'Table 1. Integrating semantic information into MAE: linear probing on '
                 'ImageNet-1k'):
        assert text in said


def test_headings_of_tables_are_linked_from_the_head_of_the_page(tmp_path):
    page = Page(report(tmp_path))
    linked = [attrs['href'][1:] for tag, attrs, inside in page.tags
              if tag == 'a' and 'dd' in inside]
    assert linked == [attrs['id'] for tag, attrs, _ in page.tags if tag == 'h3' and 'id' in attrs]
    assert len(linked) >= 7


def test_an_empty_last_column_is_left_out_and_an_empty_cell_is_not(tmp_path):
    def rows(*last):
        table = Section('Table', columns=('a', 'b'), rows=[('1', cell) for cell in last])
        page = Page(write_report(tmp_path / 'r.html', 'T', [], [table]).read_text())
        return page.texts('th'), [tag for tag, *_ in page.tags].count('td')

    assert rows('', '') == (['a'], 2)
    assert rows('', '2') == (['a', 'b'], 4)


def test_cells_of_results_have_the_name_of_their_column_as_class(tmp_path):
    cells = [attrs.get('class') for tag, attrs, inside in Page(report(tmp_path)).tags
             if tag == 'td' and 'details' not in inside]
    assert {'method', 'setting', 'paper', 'ours', 'difference', 'note', 'to-fill'} <= set(cells)
    assert None not in cells


def test_a_failed_run_is_named_and_has_no_value(tmp_path):
    page = Page(report(tmp_path, [a_record(value=None, status='non-finite')]))
    assert any('non-finite' in text for text in page.texts('summary'))


def test_without_results_and_pictures_there_are_only_tables(tmp_path):
    page = Page(report(tmp_path, []))
    assert page.texts('h2') == ['Tables'] and '0 results' in page.texts('dd')
