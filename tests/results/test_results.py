import json
import re
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semmae.results.protocol import DOCUMENTED, fingerprint, protocol_difference
from semmae.results.results import append_result, read_results
from tests.tiny import fork, wait


def a_record(**changes):
    return {'row': 'linprobe/mae_p16', 'method': 'MAE', 'recipe': 'mae_p16', 'task': 'linprobe',
            'dataset': 'imagenet', 'split': 'val', 'metric': 'accuracy/top1', 'value': 65.0,
            'unit': '%', 'seed': 0, 'protocol': {'input_size': 224, 'epochs': 90},
            'config': 'mm_configs/semmae_linprobe.py', 'checkpoint': 'epoch_800.pth',
            'checkpoint_sha256': 'aa', 'reduced': False, **changes}


def file_with(tmp_path, *records):
    file = tmp_path / 'results.jsonl'
    for record in records:
        append_result(file, record)
    return file


def foreign_text(file):
    """The lines of a file as another writer leaves them: without a checksum."""
    return re.sub(r', "crc": "[0-9a-f]{8}"', '', file.read_text())


def test_a_record_comes_back_as_it_was_appended(tmp_path):
    written = append_result(tmp_path / 'run' / 'results.jsonl', a_record())
    records, problems = read_results([tmp_path])
    assert records == [{**written, 'source': str(tmp_path / 'run/results.jsonl')}]
    assert problems == []
    assert written['status'] == 'ok'
    assert written['fingerprint'] == fingerprint({'epochs': 90, 'input_size': 224})
    assert written['load_report'] is None and written['tables'] == []


def test_numpy_numbers_become_plain_json_numbers(tmp_path):
    file = file_with(tmp_path, a_record(
        value=np.float32(65.5), seed=np.int64(3), epochs=np.int32(90),
        wall_time_s=np.float64('inf'), tables=(1, 5)))
    line = json.loads(file.read_text())
    assert (line['value'], line['seed'], line['epochs']) == (65.5, 3, 90)
    assert line['wall_time_s'] is None and line['tables'] == [1, 5]


@pytest.mark.parametrize('value', [float('nan'), float('-inf'), np.float32('nan')])
def test_a_value_that_is_not_finite_is_recorded_as_such_and_not_as_a_number(tmp_path, value):
    file = file_with(tmp_path, a_record(value=value))
    line = json.loads(file.read_text(), parse_constant=lambda token: pytest.fail(token))
    assert line['value'] is None and line['status'] == 'non-finite'
    assert [record['status'] for record in read_results([file])[0]] == ['non-finite']


@pytest.mark.parametrize('token', ['NaN', 'Infinity', '1' + '0' * 400])
def test_a_foreign_line_with_a_nan_token_is_kept_as_non_finite(tmp_path, token):
    file = file_with(tmp_path, a_record())
    file.write_text(foreign_text(file).replace('"value": 65.0', f'"value": {token}'))
    records, problems = read_results([file])
    assert [(r['status'], r['value']) for r in records] == [('non-finite', None)] and not problems


@pytest.mark.parametrize('field', ['row', 'seed', 'protocol', 'reduced', 'checkpoint_sha256'])
def test_a_record_without_a_required_field_is_refused_and_nothing_is_written(tmp_path, field):
    record = a_record()
    del record[field]
    with pytest.raises(ValueError, match=field):
        append_result(tmp_path / 'results.jsonl', record)
    assert not (tmp_path / 'results.jsonl').exists()


def test_a_fingerprint_that_is_not_that_of_the_protocol_is_refused_and_reported(tmp_path):
    with pytest.raises(ValueError, match='fingerprint'):
        append_result(tmp_path / 'results.jsonl', a_record(fingerprint='of something else'))
    file = file_with(tmp_path, a_record())
    file.write_text(foreign_text(file).replace('"input_size": 224', '"input_size": 192'))
    records, problems = read_results([file])
    assert records[0]['fingerprint'] == fingerprint({'input_size': 192, 'epochs': 90})
    assert 'fingerprint' in problems[0]


def test_a_value_that_was_changed_in_its_line_is_skipped_and_reported(tmp_path):
    file = file_with(tmp_path, a_record(), a_record(seed=1, checkpoint_sha256='bb', value=65.5))
    file.write_text(file.read_text().replace('65.0', '66.0'))
    records, (problem,) = read_results([file])
    assert [record['value'] for record in records] == [65.5]
    assert f'{file}: 1 of 2 lines changed since they were written (crc)' in problem


def test_other_spaces_and_another_order_of_keys_leave_a_line_valid(tmp_path):
    file = file_with(tmp_path, a_record(why='\ud800 \u202e é'))
    before = read_results([file])
    file.write_text(json.dumps(dict(sorted(json.loads(file.read_text()).items())),
                               separators=(',', ':')))
    assert read_results([file]) == before and before[0] and not before[1]
    assert 'crc' not in before[0][0]


def test_a_torn_last_line_is_skipped_counted_and_does_not_swallow_the_next_record(tmp_path):
    file = file_with(tmp_path, a_record(seed=0), a_record(seed=1, checkpoint_sha256='bb'))
    file.write_bytes(file.read_bytes()[:-40])
    append_result(file, a_record(seed=2, checkpoint_sha256='cc'))
    records, problems = read_results([file])
    assert [record['seed'] for record in records] == [0, 2]
    assert len(problems) == 1 and '1 of 3 lines damaged' in problems[0] and 'line 2' in problems[0]


def test_damage_of_every_kind_is_skipped_with_its_line_number(tmp_path):
    good = foreign_text(file_with(tmp_path, a_record())).encode()
    half = good[:100].strip()
    bad = [half, half + good.strip(), b'\xff\xfe\x00', b'null', b'[1]', b'\0' * 50, b'[' * 100_000,
           b'{"row": "x"}', good.strip().replace(b'"seed": 0', b'"seed": "zero"')]
    file = tmp_path / 'results.jsonl'
    file.write_bytes(b'\xef\xbb\xbf' + good + b'\n\r\n' + b'\n'.join(bad))
    records, problems = read_results([file])
    assert len(records) == 1
    told = '\n'.join(problems)
    assert '7 of 10 lines damaged and skipped' in told
    assert 'lacks method' in told and 'seed is str, expected int or null' in told


def test_an_empty_file_and_an_empty_folder_are_no_problem(tmp_path):
    (tmp_path / 'results.jsonl').touch()
    assert read_results([tmp_path]) == ([], [])


def test_a_path_that_does_not_exist_is_named_in_the_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='gone'):
        read_results([tmp_path, tmp_path / 'gone'])


def test_a_file_reached_twice_is_read_once_and_links_are_followed(tmp_path):
    file = file_with(tmp_path / 'store', a_record())
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'link').symlink_to(tmp_path / 'store')
    (tmp_path / 'work' / 'loop').symlink_to(tmp_path / 'work')
    records, problems = read_results([tmp_path / 'work', tmp_path, file])
    assert len(records) == 1 and not problems


def test_a_repeated_evaluation_replaces_the_earlier_one_in_any_order_of_lines(tmp_path):
    file = file_with(tmp_path, a_record(value=70.0, time='2025-02-01T12:00:00+00:00'),
                     a_record(value=60.0, time='2025-02-01T13:00:00+03:00'))
    assert [record['value'] for record in read_results([file])[0]] == [70.0]


def test_other_seeds_checkpoints_metrics_and_protocols_are_not_repetitions(tmp_path):
    file = file_with(tmp_path, a_record(), a_record(seed=1, checkpoint_sha256='cc'),
                     a_record(checkpoint_sha256='bb'), a_record(metric='accuracy/top5'),
                     a_record(protocol={'input_size': 192}))
    assert len(read_results([file])[0]) == 5


def test_a_probe_repeated_from_the_same_weights_and_seed_does_not_count_twice(tmp_path):
    probe = dict(load_report={'sha256': 'weights'}, time='2025-01-01T00:00:00Z')
    again = dict(probe, checkpoint_sha256='bb', time='2025-01-02T00:00:00Z')
    file = file_with(tmp_path, a_record(**probe), a_record(**again),
                     a_record(**{**again, 'seed': 1, 'checkpoint_sha256': 'cc'}))
    assert [record['checkpoint_sha256'] for record in read_results([file])[0]] == ['bb', 'cc']


def test_a_test_of_a_checkpoint_does_not_count_as_a_run_even_with_another_seed(tmp_path):
    trained = a_record(seed=1, time='2025-01-01T00:00:00Z')
    tested = a_record(seed=0, time='2025-01-02T00:00:00Z', value=65.1)
    (found,), _ = read_results([file_with(tmp_path, tested, trained)])
    assert (found['seed'], found['value']) == (1, 65.1)


@pytest.mark.parametrize('metric, unit, value, status', [
    ('top1', '%', -5., 'impossible'), ('top1', '%', 100.1, 'impossible'),
    ('top1', '%', 1e308, 'impossible'), ('top1', '', -5., 'ok'), ('top1', '', 1e308, 'ok'),
    ('parts/NMI', '%', -5., 'impossible'), ('parts/ARI', '%', -101., 'impossible'),
    ('parts/ARI', '%', -5., 'ok'), ('parts/pooled_ARI', '%', -100., 'ok')])
def test_a_percentage_outside_0_to_100_is_impossible_except_a_negative_rand_index(
        tmp_path, metric, unit, value, status):
    (found,), _ = read_results([file_with(tmp_path, a_record(
        metric=metric, unit=unit, value=value))])
    assert found['status'] == status
    assert (f'{value:g}' in found.get('why', '')) == (status == 'impossible')


@pytest.mark.parametrize('field, value', [
    ('tables', 5), ('tables', [[1]]), ('versions', '2.1'), ('predictions', ['a']),
    ('reduced_why', ['x']), ('load_report', 'x')])
def test_a_field_of_a_wrong_type_is_left_out_and_reported(tmp_path, field, value):
    file = tmp_path / 'results.jsonl'
    file_with(tmp_path, a_record())
    record = json.loads(foreign_text(file))
    file.write_text(json.dumps({**record, field: value}) + '\n')
    (found,), (problem,) = read_results([file])
    assert found[field] is None and f'left out: {field}' in problem


def test_a_failed_repetition_does_not_replace_a_good_number(tmp_path):
    good = a_record(value=65.0, time='2025-01-02T00:00:00Z')
    later = a_record(value=None, status='incomplete', time='2025-01-03T00:00:00Z')
    earlier = a_record(value=None, status='incomplete', time='2025-01-01T00:00:00Z')
    found, _ = read_results([file_with(tmp_path / 'a', good, later)])
    assert sorted(record['status'] for record in found) == ['incomplete', 'ok']
    found, _ = read_results([file_with(tmp_path / 'b', good, earlier)])
    assert [record['status'] for record in found] == ['ok']


def test_processes_that_append_at_once_never_mix_their_lines(tmp_path):
    file = tmp_path / 'results.jsonl'

    def append(first):
        for seed in range(first, first + 100):
            append_result(file, a_record(
                reduced_why='x' * 20_000, seed=seed, checkpoint_sha256=str(seed)))
    writers = [fork(partial(append, first), tmp_path / f'{first}.txt') for first in (0, 1000)]
    assert [wait(writer) for writer in writers] == [0, 0]
    records, problems = read_results([file])
    assert len(records) == 200 and not problems


def test_fields_that_only_document_do_not_change_the_fingerprint():
    protocol = {'input_size': 224, 'lr': 0.1}
    noted = {**protocol, **dict.fromkeys(DOCUMENTED, 'anything')}
    assert fingerprint(noted) == fingerprint(protocol)
    assert protocol_difference(noted, protocol) == {}


def test_the_order_of_fields_and_the_type_of_sequences_and_numbers_change_no_protocol():
    a = {'epochs': 100, 'betas': (0.9, 0.95), 'test': {'mode': 'slide', 'crop': [512, 512]}}
    b = {'test': {'crop': (512, 512), 'mode': 'slide'}, 'betas': [0.9, 0.95], 'epochs': 100.0}
    assert fingerprint(a) == fingerprint(b)


def test_a_difference_names_nested_fields_and_those_only_one_side_recorded():
    a = {'lr': 1e-3, 'test': {'crop': 512}, 'drop_path': None}
    b = {'lr': 1e-3, 'test': {'crop': 640}}
    assert protocol_difference(a, b) == {
        'drop_path': (None, '(not recorded)'), 'test.crop': (512, 640)}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from('xyz'), inner, max_size=2), max_leaves=4)
PROTOCOLS = st.dictionaries(st.sampled_from(['lr', 'epochs', 'test', 'device']), VALUES, max_size=3)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(PROTOCOLS, PROTOCOLS)
def test_fingerprints_are_equal_exactly_when_no_field_differs(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (protocol_difference(a, b) == {})
    assert fingerprint(a) == fingerprint(json.loads(json.dumps(a)))
