"""Part quality in tables: mean, spread and n; protocols apart; text escaped."""
from semmae.reporting.part_tables import part_tables, to_html, to_markdown


def line(method, value, seed=0, metric='parts/ARI', fingerprint='a', grid=12, **more):
    return dict(dict(task='parts', method=method, dataset='toy', metric=metric, value=value,
                     seed=seed, fingerprint=fingerprint, status='ok', split='val',
                     protocol=dict(grid=grid, num_parts=6)), **more)


def test_a_cell_is_mean_spread_and_number_of_seeds_and_the_best_comes_first():
    frames = part_tables([line('a', 10, 0), line('a', 20, 1), line('b', 30)])
    (key, frame), = frames.items()
    assert key == ('Parts, all patches', 'toy', '6 parts, 12x12 patches, val')
    assert frame.to_dict() == {'ARI': {'b': '30.0', 'a': '15.0 ± 7.1 (2)'}}
    assert list(frame.index) == ['b', 'a']


def test_other_protocols_and_other_tasks_do_not_share_a_table():
    frames = part_tables([line('a', 1), line('a', 2, fingerprint='b', grid=8),
                          line('a', 3, task='linprobe'), line('a', None, status='non-finite')])
    assert [key[2] for key in frames] == [f'6 parts, {g}x{g} patches, val' for g in (12, 8)]
    assert [frame.ARI.item() for frame in frames.values()] == ['1.0', '2.0']


def test_a_value_that_was_not_measured_is_an_empty_cell():
    frames = part_tables([line('a', 1), line('b', 2), line('b', 3, metric='parts/NMI')])
    assert next(iter(frames.values())).loc['a', 'NMI'] == ''


def test_names_come_out_literally():
    frames = part_tables([line('<script>', 1)])
    assert '<script>' in to_markdown(frames) and '<script>' not in to_html(frames)
    assert to_markdown({}) == to_html({}) == ''
