"""The report as a tool: headline numbers, classes, downloads, curves, and two runs side by side."""
import base64
import json
import re
from collections import Counter
from functools import partial

import numpy as np
import pytest
from PIL import Image

from semmae.reporting.classes import class_sections, confusions, iou_of_classes, pairs_of
from semmae.reporting.compared import PredictionSets
from semmae.reporting.downloads import downloads
from semmae.reporting.headline import headlines
from semmae.reporting.inline import picture
from semmae.reporting.page import Section
from semmae.reporting.panels import curve_figures
from semmae.reporting.report import write_report
from semmae.reporting.runs import explorer, work_dirs
from semmae.results.results import append_result, read_results
from semmae.visualization.examples import Examples, class_names
from semmae.visualization.folder_report import write_folder_report

from .records import Page, a_suite
from .records import a_record as any_record

a_record = partial(any_record, reduced=True, reduced_why='few images')
@pytest.fixture(scope='module')
def suite(tmp_path_factory):
    return a_suite(tmp_path_factory.mktemp('suite'))


@pytest.fixture(scope='module')
def html(suite, tmp_path_factory):
    return write_folder_report(suite, 'none', tmp_path_factory.mktemp('out') / 'report.html')


def data_of(path):
    """The JSON values of the side-by-side view in a report."""
    text = re.search(r'id="runs-data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text[1])


def test_headlines_put_the_best_first_with_its_interval_and_say_what_is_known():
    records = [a_record(seed=seed, value=60. + seed) for seed in range(3)]
    records += [a_record('linprobe/semmae_p16', method='SemMAE', seed=seed, value=80. + seed)
                for seed in range(3)]
    (card,) = headlines(records)
    best, other = card['lines']
    assert (best['method'], best['value']) == ('SemMAE', '81.00 ± 1.00 (n=3)')
    assert best['interval'] == '78.52 to 83.48' and best['difference'] == ''  # t: 4.303 / sqrt(3)
    assert other['difference'].startswith('-20.00 [seeds -22.27, -17.73]')
    assert card['meaning'].startswith('SemMAE is better than every other method')
    assert 0 < other['left'] < other['dot'] < best['left'] < best['dot'] < 100


def test_headlines_of_one_run_have_no_interval_and_no_winner():
    (card,) = headlines([a_record(value=60.), a_record('linprobe/scratch', method='untrained')])
    assert [line['interval'] for line in card['lines']] == ['one run: no interval'] * 2
    assert card['meaning'].endswith('not known to be better than every other method: a method has '
                                    'one run only.')


def test_the_lowest_error_is_the_best_and_part_metrics_have_no_headline():
    of = partial(a_record, task='depth_linear', metric='rmse', unit='m')
    (card,) = headlines([of(value=.5, method='A'), of('depth/b', value=.4, method='B'), a_record(
        'parts/heads', task='parts', metric='parts/ARI')])
    assert [line['method'] for line in card['lines']] == ['B', 'A']
    assert card['direction'] == 'lower is better'


def test_classes_are_means_over_seeds_with_the_names_of_their_folders(suite):
    records, _ = read_results([suite])
    found = {section.heading: section for section in class_sections(records, class_names)}
    # SemMAE has another protocol, so that it stands in a table of its own.
    classes = next(section for section in class_sections(records, class_names)
                   if 'MAE: accuracy' in section.columns)
    # Seed 0 has 3 and 3 of 4 right, seed 1 has 4 and 2.
    assert list(classes.columns) == ['class', 'images', 'MAE: accuracy']
    assert classes.rows == [['cat', '4', '87.50'], ['dog', '4', '62.50']]
    matrix = found['Confusions of MAE: linprobe on ImageNet-1k']
    assert matrix.rows == [['cat', '87.5', '12.5'], ['dog', '37.5', '62.5']] and matrix.is_shaded


def test_iou_of_classes_is_the_intersection_over_the_union():
    found = dict(label=np.array([[4, 0, 0], [2, 2, 0]]), predicted=np.array([[3, 1, 0], [2, 2, 0]]),
                 intersection=np.array([[3, 0, 0], [2, 2, 0]]))
    assert iou_of_classes(found, 3)[:2].tolist() == pytest.approx([100 * 5 / 6, 100 * 2 / 3])
    assert np.isnan(iou_of_classes(found, 3)[2])


def test_confusions_of_a_segmentation_count_pixels():
    seed = dict(intersection=np.array([[3, 1], [2, 0]]), confused=np.array([
        [0, 0, 1, 1], [1, 1, 0, 4]]))
    pairs = pairs_of([seed, seed])
    assert pairs == Counter({(0, 0): 10, (1, 1): 2, (0, 1): 2, (1, 0): 8})
    found = confusions('C', ['road', 'sky'], pairs, 'pixels')
    assert 'Percent of the pixels' in found.text
    assert found.rows == [['road', '83.3', '16.7'], ['sky', '80.0', '20.0']]


def test_many_classes_have_a_list_of_the_most_frequent_confusions():
    names = [f'class {k}' for k in range(30)]
    found = confusions('C', names, Counter({(1, 2): 3, (2, 1): 5, (1, 1): 7, (2, 2): 5}))
    assert found.rows == [['class 2', 'class 1', '5', '50.0'], ['class 1', 'class 2', '3', '30.0']]


def test_predictions_that_are_no_classes_are_left_out(tmp_path):
    (tmp_path / 'predictions').mkdir()
    np.savez(tmp_path / 'predictions/p.npz', images=['a'], labels=[10 ** 12], predicted=[10 ** 12])
    append_result(tmp_path / 'results.jsonl', {**a_record(value=100.),
                                               'predictions': 'predictions/p.npz'})
    records, _ = read_results([tmp_path])
    assert class_sections(records, class_names) == []


def test_a_table_is_downloaded_as_csv_and_latex_without_formulas():
    table = Section('A & B', columns=('name', 'ours'), rows=[('=1+1', '9.5')], bold=[0],
                    legend=['to fill x: command', 'a legend'])
    found = {title: (name, base64.b64decode(data.partition(',')[2]).decode())
             for title, name, data in downloads(table, 't')}
    assert found['CSV'] == ('t.csv', "name,ours\n'=1+1,9.5\n")
    name, latex = found['LaTeX']
    assert name == 't.tex' and r'\caption{A \& B}' in latex and r'\textbf{9.5}' in latex
    assert 'a legend' in latex and 'command' not in latex
    assert downloads(Section('text only', text='x'), 't') == []


def test_every_table_of_a_report_has_its_downloads(html):
    page = Page(html.read_text())
    names = [attrs['download'] for attrs in page.attributes('a') if 'download' in attrs]
    tables = [inside for tag, _, inside in page.tags if tag == 'table' and 'details' not in inside]
    assert len(names) == 2 * len(tables) + 2 and len(set(names)) == len(names) >= 8
    assert {'runs.csv', 'runs.tex', 'table-1.csv'} <= set(names)


def test_seeds_of_a_recipe_are_a_mean_and_a_band_and_validations_stand_beside(suite, tmp_path):
    (heading, caption, paths, seen), = curve_figures(work_dirs(suite), tmp_path)
    assert heading == 'linprobe: training loss and validation accuracy/top1' and len(paths) == 2
    assert 'band' in caption and 'mae_p16, semmae_p16' in seen
    for path in paths:
        width, height, markup = picture(path, seen)
        assert 'mae_p16 (mean of 2 seeds)' in markup and 'FillBetween' in markup
        assert '>semmae_p16<' in markup  # one seed: a line alone


def test_curves_have_the_colours_of_the_page_and_ids_of_their_own(suite, tmp_path):
    (_, _, paths, seen), = curve_figures(work_dirs(suite), tmp_path)
    first, second = (picture(path, '<b>"')[2] for path in paths)
    assert first.startswith('<svg ') and 'aria-label="&lt;b&gt;&#34;"' in first
    for markup in (first, second):
        assert not re.search('#[0-9a-f]{6}|url\\(|http|<style', markup)
        assert 'var(--ink)' in markup and 'var(--line-0)' in markup
    ids = [set(re.findall(' id="([^"]+)"', markup)) for markup in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    assert set(re.findall('href="#([^"]+)"', first)) <= ids[0]


def test_runs_have_their_config_and_log_as_relative_links(suite, html):
    run = next(run for run in data_of(html)['runs'] if 'MAE (mae_p16), seed 1' in run['name'])
    links = dict(run['links'])
    assert list(links) == ['config', 'log', 'results']
    for address in links.values():
        assert not address.startswith('/') and (html.parent / address).is_file()
    assert links['log'].endswith('20250102_000000/20250102_000000.log')


def test_scores_and_named_images_of_a_run_are_those_of_its_predictions(html):
    data = data_of(html)
    (test,) = data['tests']
    runs = {run['name']: run for run in data['runs']}
    run = runs['linprobe on ImageNet-1k: MAE (mae_p16), seed 0']
    bits = np.unpackbits(np.frombuffer(base64.b64decode(run['scores']), np.uint8))
    assert bits[:test['number']].tolist() == [1, 1, 1, 0, 1, 1, 1, 0]
    assert run['worst'] == [7, 3] and run['best'] == [6, 5, 4, 2, 1, 0]  # the most confident first
    assert run['told']['3'] == 'dog' and test['labels']['3'] == 'cat'
    assert test['images']['3'] == 'cat/3.png' and test['why'] == ''
    photos = [test['photos'][str(k)] for k in range(8)]
    assert len(set(photos)) == 8 and all(p.startswith('data:image/jpeg;base64,') for p in photos)


def test_images_that_are_gone_are_named_and_not_drawn(suite, tmp_path):
    records, _ = read_results([suite])
    dirs = [work._replace(config={'val_dataloader': {'dataset': {'data_root': str(tmp_path)}}})
            for work in work_dirs(suite)]
    (test,) = explorer(records, dirs, tmp_path / 'r.html', class_names, Examples())['tests']
    assert test['photos'] == {} and test['why'].startswith(f'No images: {tmp_path} does not have')
    assert test['images']


def test_an_image_outside_the_folder_of_the_test_set_is_not_read(tmp_path):
    (tmp_path / 'inside').mkdir()
    Image.new('RGB', (4, 4)).save(tmp_path / 'secret.png')
    Image.new('RGB', (4, 4)).save(tmp_path / 'inside' / 'a.png')
    work = type('Work', (), dict(config={'val_dataloader': {'dataset': {
        'data_root': str(tmp_path / 'inside')}}}))
    drawn = Examples()
    assert list(drawn.photos(work, ['a.png', '../secret.png'])) == ['a.png']
    assert 'secret.png: outside' in drawn.why


def test_a_report_has_a_limited_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr('semmae.visualization.examples.MOST_PICTURES', 2)
    for k in range(3):
        Image.new('RGB', (4, 4)).save(tmp_path / f'{k}.png')
    work = type('Work', (), dict(config={'val_dataloader': {'dataset': {
        'data_root': str(tmp_path)}}}))
    drawn = Examples()
    assert list(drawn.photos(work, ['0.png', '1.png', '2.png'])) == ['0.png', '1.png']
    assert drawn.why == 'The report shows at most 2 images.'


def test_named_images_of_a_large_test_set_are_limited(tmp_path):
    drawn = type('None_', (), dict(why='', photos=lambda *_: {}))()
    sets, rng = PredictionSets(lambda record: [], drawn), np.random.default_rng(0)
    found = [dict(images=np.array([f'{k:05}' for k in range(5000)]), labels=np.zeros(5000, int),
                  predicted=rng.integers(0, 2, 5000)) for _ in range(2)]
    runs = [{}, {}]
    test = sets.test_of([(run, {}, one, None) for run, one in zip(runs, found)])
    assert len(test['named']) <= 60 + 2 * 12 and len(runs[0]['scores']) < 1000


def test_the_same_inputs_give_the_same_bytes(suite, tmp_path):
    first = write_folder_report(suite, 'none', tmp_path / 'report.html').read_bytes()
    assert write_folder_report(suite, 'none', tmp_path / 'report.html').read_bytes() == first


def test_hostile_texts_in_the_data_of_the_view_end_no_element(tmp_path):
    hostile = '</script><script>alert(1)</script>\u202e'
    record = a_record(f'linprobe/{hostile}', method=hostile, dataset=hostile)
    record['source'] = str(tmp_path / 'results.jsonl')
    runs = explorer([record], [], tmp_path / 'r.html', class_names, Examples())
    page = write_report(tmp_path / 'r.html', 'T', [record], [], runs=runs).read_text()
    assert page.count('</script>') == 2 and '\u202e' not in page
    assert '</script><script>alert(1)</script>(U+202E)' in data_of(tmp_path / 'r.html')[
        'runs'][0]['name']
